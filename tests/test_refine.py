"""Graphs of items, label propagation and Correct-and-Smooth: cases worked by hand, and against a loop over users.

Held-out labels reach nothing.
"""

import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.sparse import csr_matrix
from sklearn.metrics.pairwise import cosine_similarity
from trained import as_trained

import fastrec.scorers.refine as refine
from fastrec.data.features import ItemFeatures
from fastrec.evaluation.compare import compare_models, plot_gains
from fastrec.evaluation.evaluate import evaluate
from fastrec.evaluation.metrics import rmse, roc_auc_score
from fastrec.scorers.artifact import load_recommender, save_recommender
from fastrec.scorers.baselines import BiasOnly, Popularity
from fastrec.scorers.refine import ItemGraph, LabelPropagation, correct_and_smooth, item_graph
from fastrec.scorers.scorer import Scorer
from fastrec.training.builders import collab_learner
from fastrec.training.dataloaders import RecDataLoaders


class Given(Scorer):
    """Scores as they are given, (n_users, n_items)."""

    def __init__(self, dls, scores, scale):
        self.catalog = dls.catalog
        self.scores = scores
        self.scale = scale

    def score_items(self, users):
        return self.scores[users].clone()

    def score(self, users, items):
        return self.scores[users, items]


def path_graph():
    return item_graph(pd.DataFrame(dict(src=[1, 2, 3], dst=[2, 3, 4], weight=[1.0, 1.0, 3.0])))


def small(target='liked'):
    """User a likes item 1 and not item 2 (mean 3); item 5 is in no edge."""
    df = pd.DataFrame(dict(user=list('aabbbb'), item=[1, 2, 1, 3, 4, 5], rating=[4, 2, 3, 3, 5, 1.0]))
    return RecDataLoaders.from_df(df, target=target, splitter=([0, 1, 2, 3, 5], [4]), bs=2)


@pytest.fixture()
def liked(synthetic):
    ratings, items, _ = synthetic
    return RecDataLoaders.from_df(ratings, item_df=items, target='liked', valid_pct=0.2, seed=3, bs=64)


@pytest.fixture()
def feats(synthetic):
    return ItemFeatures.from_df(synthetic[1], text='title', multilabel='genres')


def probabilities(dls, seed=0):
    return torch.rand(dls.n_users, dls.n_items, generator=torch.Generator().manual_seed(seed))


# --- graphs


def test_rows_of_the_matrix_sum_to_one_and_weights_are_symmetric():
    g = path_graph()
    assert g.weights.toarray().tolist() == [[0, 1, 0, 0], [1, 0, 1, 0], [0, 1, 0, 3], [0, 0, 3, 0]]
    assert g.matrix.toarray().tolist() == [[0, 1, 0, 0], [0.5, 0, 0.5, 0], [0, 0.25, 0, 0.75], [0, 0, 1, 0]]
    assert g.degrees.tolist() == [1, 2, 2, 1]


def test_edges_once_in_both_directions_without_loops():
    g = item_graph(pd.DataFrame(dict(source=['b', 'a', 'b', 'c'], target=['a', 'b', 'a', 'c'], weight=[1, 2, 4, 9.0])))
    assert list(g.ids) == ['a', 'b', 'c']
    assert g.weights.toarray().tolist() == [[0, 4, 0], [4, 0, 0], [0, 0, 0]]


def test_nearest_is_the_cosine():
    x = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)
    x[7] = 0
    g = item_graph((np.arange(30) + 100, x), k=3)
    cosine = cosine_similarity(x)
    np.fill_diagonal(cosine, -1)
    want = np.zeros_like(cosine)
    for i in range(30):
        for j in np.argsort(-cosine[i])[:3]:
            if cosine[i, j] > 1e-6:
                want[i, j] = want[j, i] = cosine[i, j]
    np.testing.assert_allclose(g.weights.toarray(), want, atol=1e-5)
    assert g.degrees[7] == 0
    assert list(g.neighbors(105, 2).item) == list(100 + np.argsort(-want[5])[:2])


def test_shared_labels_by_hand():
    df = pd.DataFrame(dict(item=[1, 2, 3, 4], people=['x|y', 'x|y', 'x', 'z']))
    g = item_graph(ItemFeatures.from_df(df, multilabel='people'), link='shared')
    x = 1 / np.log(3)
    y = 1 / np.log(2)
    want = [[0, x + y, x, 0], [x + y, 0, x, 0], [x, x, 0, 0], [0, 0, 0, 0]]
    np.testing.assert_allclose(g.weights.toarray(), want, rtol=1e-6)


def test_had_together_by_hand(monkeypatch):
    dls = small()
    want = np.zeros((5, 5))
    counts = [2, 1, 1, 1, 1]
    for i, j in ((0, 1), (0, 2), (0, 4), (2, 4)):  # item 4 is in valid only
        want[i, j] = want[j, i] = 1 / (counts[i] ** 0.5 * counts[j] ** 0.5 + 100)
    np.testing.assert_allclose(item_graph(dls, k=None).weights.toarray(), want, rtol=1e-6)
    monkeypatch.setattr(refine, 'PRODUCT_BUDGET', 1)  # a chunk a row
    np.testing.assert_allclose(item_graph(dls, k=None).weights.toarray(), want, rtol=1e-6)


def test_k_bounds_what_each_item_looks_for(liked):
    g = item_graph(liked, k=4)
    assert (g.degrees >= 4).all()
    assert g.weights.nnz <= 2 * 4 * len(g)


def test_cold_items_have_no_neighbours_by_learned_vectors():
    learn = collab_learner(small(), n_factors=2)
    with torch.no_grad():
        learn.model.item_factors.weight.abs_()  # cosines above 0
    assert item_graph(learn, k=3).degrees.tolist() == [3, 3, 3, 0, 3]


def test_align_and_sum():
    g = path_graph()
    assert g.align([4, 3, 9]).weights.toarray().tolist() == [[0, 3, 0], [3, 0, 0], [0, 0, 0]]
    both = g + item_graph(pd.DataFrame(dict(src=[1], dst=[5])))
    assert list(both.ids) == [1, 2, 3, 4, 5]
    assert both.degrees.tolist() == [2, 2, 2, 1, 1]
    with pytest.raises(ValueError, match='no item of the model is in the graph'):
        g.align(['a'])


@pytest.mark.parametrize(
    'source, kwargs, text',
    [
        (pd.DataFrame(dict(a=[1], b=[2])), {}, 'columns src, dst'),
        (pd.DataFrame(dict(src=[1], dst=[2], weight=[-1.0])), {}, 'not negative'),
        (pd.DataFrame(dict(src=[1, None], dst=[2, 3])), {}, '1 of 2 edges'),
        (([1, 2], np.zeros((3, 2))), {}, 'a row each'),
        (path_graph(), {}, 'an item graph is made of'),
        (([1], np.zeros((1, 2))), dict(k=0), 'at least one neighbor'),
        (([1], np.zeros((1, 2))), dict(link='shared'), 'for ItemFeatures'),
    ],
)
def test_errors_of_graphs(source, kwargs, text):
    with pytest.raises((ValueError, TypeError), match=text):
        item_graph(source, **kwargs)


def test_errors_of_shared_and_of_scorers_without_vectors(liked):
    numbers = ItemFeatures.from_df(pd.DataFrame(dict(item=[1, 2], year=[1990, 2000.0])), numeric='year')
    with pytest.raises(ValueError, match='hold\\(s\\) numbers'):
        item_graph(numbers, link='shared')
    with pytest.raises(TypeError, match='no vectors of items'):
        item_graph(Popularity().fit(liked))


# --- Correct-and-Smooth


def test_anchor_by_hand():
    dls = small()
    y = torch.tensor([[0.5, 0.5, 0.6, 0.2, 0.9], [0.5] * 5])
    got = correct_and_smooth(Given(dls, y, 'probability'), path_graph(), alpha=0.8, beta=0.5).score_items(
        torch.tensor([0])
    )
    # anchored: .9, .1, .6, .2, .9; then each half itself, half the mean of its neighbors (item 5 has none)
    want = [
        0.5 * 0.9 + 0.5 * 0.1,
        0.5 * 0.1 + 0.5 * (0.9 + 0.6) / 2,
        0.5 * 0.6 + 0.5 * (0.1 + 3 * 0.2) / 4,
        0.5 * 0.2 + 0.5 * 0.6,
        0.9,
    ]
    assert got[0].tolist() == pytest.approx(want)


def test_residual_by_hand():
    dls = small()
    y = torch.tensor([[0.5, 0.5, 0.6, 0.2, 0.9], [0.5] * 5])
    got = correct_and_smooth(
        Given(dls, y, 'probability'), path_graph(), alpha=0.8, beta=0.5, mode='residual'
    ).score_items(torch.tensor([0]))
    # E(0) = .5, -.5, 0, 0; E(1) = .2 E(0) + .8 A E(0): -.3 (from item 2), .1, -.1, 0
    corrected = [1.0, 0.0, 0.6 + 0.8 * -0.5 / 4, 0.2, 0.9]  # training items get their labels
    want = [0.5, 0.5 * 0 + 0.5 * (1 + 0.5) / 2, 0.5 * 0.5 + 0.5 * (0 + 3 * 0.2) / 4, 0.5 * 0.2 + 0.5 * 0.5, 0.9]
    assert corrected[2] == pytest.approx(0.5)
    assert got[0].tolist() == pytest.approx(want)


def naive(y, labels, a, alpha, beta, n_steps, mode, alpha_rows, clip=True):
    """One user: y (n,), labels {item: label}, a (n, n)."""
    y = y.astype(np.float64).copy()
    has = a.sum(1) > 0
    n = len(labels)
    if n and alpha_rows:
        alpha = alpha * n / (n + alpha_rows)
    if mode == 'anchor':
        for i, label in labels.items():
            y[i] += alpha * (label - y[i])
        for _ in range(n_steps):
            y = np.array([(1 - beta) * y[i] + beta * (a[i] @ y) if has[i] else y[i] for i in range(len(y))])
    else:
        e0 = np.zeros_like(y)
        for i, label in labels.items():
            e0[i] = label - y[i]
        e = e0
        for _ in range(n_steps):
            e = (1 - alpha) * e0 + alpha * (a @ e)
        y = y + e
        for i, label in labels.items():
            y[i] = label
        g = y
        for _ in range(n_steps):
            g = np.array([(1 - beta) * y[i] + beta * (a[i] @ g) if has[i] else g[i] for i in range(len(y))])
        y = g
    return np.clip(y, 0, 1) if clip else y


@pytest.mark.parametrize('mode', ['anchor', 'residual'])
@pytest.mark.parametrize('scale', ['probability', 'logit', 'rating'])
def test_against_a_loop_over_users(liked, feats, mode, scale, monkeypatch):
    scores = probabilities(liked)
    if scale == 'logit':
        scores = torch.logit(scores)
    if scale == 'rating':
        scores = 1 + 4 * scores
    graph = item_graph(feats[['genres']], k=5)
    graph.weights.data *= np.random.default_rng(0).random(graph.weights.nnz).astype(np.float32)
    graph = ItemGraph(graph.ids, graph.weights)
    options = dict(alpha=0.7, beta=0.4, n_steps=3, mode=mode, alpha_rows=10.0)
    refined = correct_and_smooth(Given(liked, scores, scale), graph, **options)
    monkeypatch.setattr(type(refined), '_step', property(lambda self: 7))  # several chunks
    users = torch.randperm(liked.n_users)[:40]
    got = refined.score_items(users)
    catalog = liked.catalog
    assert refined.scale == ('rating' if scale == 'rating' else 'probability')
    inter = catalog.interactions
    train = catalog.split.train
    values = inter.ratings[train] if scale == 'rating' else catalog.liked(train).astype(float)
    a = graph.matrix.toarray().astype(np.float64)
    for row, u in zip(got.numpy(), users.tolist()):
        at = inter.users[train] == u
        y = scores[u].sigmoid().numpy() if scale == 'logit' else scores[u].numpy()
        np.testing.assert_allclose(
            row,
            naive(y, dict(zip(inter.items[train][at], values[at])), a, **options, clip=scale != 'rating'),
            atol=2e-5,
        )
    pairs = torch.arange(40).repeat(3), torch.arange(120)
    assert torch.allclose(refined.score(users[pairs[0]], pairs[1]), got[pairs], atol=1e-5)


def test_limits(liked, feats):
    scores = probabilities(liked)
    graph = item_graph(feats)
    users = torch.arange(5)
    base = Given(liked, scores, 'probability')
    untouched = correct_and_smooth(base, graph, alpha=0, beta=0)  # nothing asked, nothing done
    assert torch.equal(untouched.score_items(users), scores[:5])
    no_edges = item_graph(pd.DataFrame(dict(src=[1000], dst=[1000])))  # scores stay
    assert torch.equal(correct_and_smooth(base, no_edges, alpha=0, beta=1).score_items(users), scores[:5])
    anchored = correct_and_smooth(base, graph, alpha=1, n_steps=0)
    rows = anchored.score_items(users)
    seen = anchored.labels[:5].tocoo()
    assert torch.equal(rows[seen.row, seen.col], torch.from_numpy(seen.data))  # the labels themselves
    flat = Given(liked, torch.full_like(scores, 0.3), 'probability')
    smoothed = correct_and_smooth(flat, graph, alpha=0, beta=0.7, n_steps=5)  # smoothing keeps what is constant
    assert torch.allclose(smoothed.score_items(users), torch.tensor(0.3), atol=1e-5)
    assert torch.equal(scores, probabilities(liked))  # the base is unchanged


def test_alpha_grows_with_history():
    dls = small()
    y = torch.full((2, 5), 0.5)
    got = correct_and_smooth(
        Given(dls, y, 'probability'), path_graph(), alpha=1.0, n_steps=0, alpha_rows=2.0
    ).score_items(torch.tensor([0, 1]))
    assert got[0, 0] == pytest.approx(0.5 + 0.5 * 2 / 4)
    assert got[1, 0] == pytest.approx(0.5 + 0.5 * 3 / 5)


def test_a_user_without_history_is_only_smoothed():
    df = pd.DataFrame(dict(user=list('aabc'), item=[1, 2, 3, 4], rating=[4, 2, 3, 3.0]))
    dls = RecDataLoaders.from_df(df, target='liked', splitter=([0, 1, 2], [3]), bs=2)
    y = torch.rand(3, 4)
    got = correct_and_smooth(Given(dls, y, 'probability'), path_graph(), beta=0.5).score_items(torch.tensor([2]))[0]
    assert torch.allclose(got, 0.5 * y[2] + 0.5 * torch.from_numpy(path_graph().matrix.toarray()) @ y[2], atol=1e-5)
    assert torch.isfinite(LabelPropagation(path_graph()).fit(dls).score_items(torch.tensor([2]))).all()


def test_ratings_are_refined_as_ratings(dls, feats):
    base = BiasOnly().fit(dls)
    refined = correct_and_smooth(base, item_graph(feats[['genres']]), alpha=0.5, beta=0.0, mode='residual')
    assert refined.scale == 'rating'
    assert evaluate(refined, dls, rmse).loc['all', 'rmse'] < evaluate(base, dls, rmse).loc['all', 'rmse']


def test_a_new_relation_helps_where_the_base_does_not_know_it(liked, feats):
    refined = correct_and_smooth(BiasOnly().fit(liked), item_graph(feats[['genres']]), alpha=0.8, beta=0.5)
    table = compare_models(refined.sides(), metrics=roc_auc_score(), plot=False, n_boot=20)
    assert table.loc[('roc_auc', 'refined'), 'mean'] > table.loc[('roc_auc', 'base'), 'mean'] + 0.02


def test_held_out_labels_reach_nothing(synthetic, feats):
    """Ratings of valid and test turned round: graph, labels, thresholds and scores stay as they were."""
    ratings, _items, _ = synthetic
    order = np.random.default_rng(0).permutation(len(ratings))
    split = order[600:], order[300:600], order[:300]
    other = ratings.copy()
    other.loc[order[:600], 'rating'] = 6 - other.rating[order[:600]]
    results = []
    for df in (ratings, other):
        dls = RecDataLoaders.from_df(df, target='liked', splitter=split, bs=256)
        torch.manual_seed(0)
        base = collab_learner(dls, n_factors=4)
        with base.no_bar(), base.no_logging():
            base.fit(1, 1e-2)
        users = torch.arange(dls.n_users)
        graphs = [item_graph(dls), item_graph(base)]
        results.append(
            [
                *(torch.from_numpy(g.weights.toarray()) for g in graphs),
                torch.from_numpy(dls.catalog.thresholds),
                *(s.score_items(users) for g in graphs for s in correct_and_smooth(base, g).sides().values()),
            ]
        )
    assert all(torch.equal(a, b) for a, b in zip(*results))
    first = RecDataLoaders.from_df(ratings, target='liked', splitter=split, bs=256)
    changed = first.catalog.liked(split[1]) != dls.catalog.liked(split[1])
    assert changed.mean() > 0.5  # the labels themselves did change


def test_a_graph_of_another_split_is_refused(synthetic, liked):
    other = RecDataLoaders.from_df(synthetic[0], target='liked', valid_pct=0.2, seed=4, bs=64)
    with pytest.raises(ValueError, match='training rows of the scorer'):
        correct_and_smooth(BiasOnly().fit(liked), item_graph(other))


def test_errors(liked, feats):
    base = Given(liked, probabilities(liked), 'probability')
    graph = item_graph(feats)
    for kwargs, text in (
        (dict(alpha=1.1), 'alpha=1.1'),
        (dict(beta=-1), 'beta=-1'),
        (dict(n_steps=0.5), 'n_steps'),
        (dict(mode='smooth'), "'anchor' or 'residual'"),
        (dict(alpha_rows=-1), 'alpha_rows'),
    ):
        with pytest.raises(ValueError, match=text):
            correct_and_smooth(base, graph, **kwargs)
    with pytest.raises(ValueError, match='only ranks'):
        correct_and_smooth(Popularity().fit(liked), graph)
    with pytest.raises(TypeError, match='item_graph'):
        correct_and_smooth(base, feats)
    with pytest.raises(ValueError, match='not fitted'):
        correct_and_smooth(BiasOnly(), graph)
    grown = correct_and_smooth(base, graph)
    base.scores = torch.cat([base.scores, base.scores[:, :1]], 1)
    with pytest.raises(ValueError, match='has taken in items since'):
        grown.score_items(torch.arange(2))
    with pytest.raises(ValueError, match='has taken in items since'):
        grown.recommend(grown.vocab['user'].ids[0])


def test_probabilities_need_labels(dls, feats):
    with pytest.raises(ValueError, match='probabilities of what'):
        correct_and_smooth(Given(dls, probabilities(dls), 'probability'), item_graph(feats))


# --- label propagation


def test_propagation_by_hand():
    dls = small()
    got = LabelPropagation(path_graph(), beta=0.5, n_steps=1, prior=0.1).fit(dls).score_items(torch.tensor([0]))[0]
    # L(0) = 1, 0, .., N(0) = 1, 1, 0, ..; one step: L = .5, .25, 0, 0, 0, N = 1, .75, .125, 0, 0; the user's mean is .5
    assert got[:4].tolist() == pytest.approx([0.55 / 1.1, 0.3 / 0.85, 0.05 / 0.225, 0.5])
    assert got[4] == pytest.approx(0.5)


def test_propagation_stays_between_the_labels(liked, feats):
    scorer = LabelPropagation(item_graph(feats)).fit(liked)
    scores = scorer.score_items(torch.arange(liked.n_users))
    assert scorer.scale == 'probability'
    assert scores.min() >= 0
    assert scores.max() <= 1
    rated = LabelPropagation(item_graph(feats)).fit(BiasOnly().fit(liked))
    assert rated.scale == 'rating'
    assert rated.score_items(torch.arange(9)).min() >= 1


# --- a scorer like any other


def test_recommend_and_save(liked, feats, tmp_path):
    refined = correct_and_smooth(as_trained(collab_learner(liked, n_factors=2)), item_graph(feats))
    user = liked.vocab['user'].ids[0]
    recs = refined.recommend(user, k=3)
    assert len(recs) == 3
    assert not set(recs.item) & set(refined.history(user).query('part == "train"').item)
    users = torch.arange(3)
    again = pickle.loads(pickle.dumps(correct_and_smooth(BiasOnly().fit(liked), item_graph(feats))))
    assert torch.isfinite(again.score_items(users)).all()
    save_recommender(refined, tmp_path, history=True)
    assert torch.allclose(load_recommender(tmp_path).score_items(users), refined.score_items(users), atol=1e-5)


def test_gains_beside_base_and_propagation(liked, feats):
    refined = correct_and_smooth(BiasOnly().fit(liked), item_graph(feats[['genres']]))
    table = compare_models(refined.sides(), against='base', plot=False, n_boot=20)
    assert set(table.index.get_level_values('model')) == {'base', 'label propagation', 'refined'}
    assert set(table.index.get_level_values('metric')) == {'roc_auc', 'f1', 'precision', 'recall', 'accuracy', 'ndcg'}
    assert table.loc[('f1', 'base'), 'difference'] == 0
    assert np.isnan(table.loc[('f1', 'base'), 'p'])
    per_user = table.attrs['per_user']
    assert table.loc[('roc_auc', 'refined'), 'difference'] == pytest.approx(
        (per_user['refined', 'roc_auc'] - per_user['base', 'roc_auc']).mean()
    )
    assert len(per_user) + table.attrs['one_class'] == len(
        np.unique(liked.catalog.interactions.users[liked.catalog.split.valid])
    )
    axes = plot_gains(table, 'roc_auc')
    gains = per_user['refined', 'roc_auc'] - per_user['base', 'roc_auc']
    assert axes[1].get_title().startswith('refined')
    assert f'{(gains > 0).mean():.0%} of users gain' in axes[1].get_title()
    assert sum(bar.get_height() for bar in axes[1].patches) == len(gains)
    with pytest.raises(ValueError, match="against='no'"):
        compare_models(refined.sides(), against='no')
    with pytest.raises(ValueError, match="metric='hr'"):
        plot_gains(table, 'hr')


@pytest.mark.parametrize('sparse', [False, True])
def test_neighbours_by_an_index(sparse, monkeypatch):
    pytest.importorskip('faiss')
    rng = np.random.default_rng(0)
    x = np.repeat(rng.normal(size=(60, 8)), 5, 0) + 0.05 * rng.normal(size=(300, 8))  # groups of five
    if sparse:
        x = csr_matrix(np.where(np.abs(x) > 0.3, x, 0) @ np.eye(8, 200))
    exact = item_graph((range(300), x), k=4)
    monkeypatch.setattr(refine, 'INDEX_FROM', 100)
    monkeypatch.setattr(refine, 'INDEX_DIM', 16)
    found = item_graph((range(300), x), k=4)
    shared = exact.weights.multiply(found.weights > 0)
    assert shared.nnz > 0.95 * exact.weights.nnz
    assert abs(shared - found.weights.multiply(exact.weights > 0)).max() < 0.02
