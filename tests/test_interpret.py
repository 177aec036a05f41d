"""Interpretation: the numbers are the model's, the pictures say what they show."""

import re

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from fastai.basics import noop, set_seed
from fastai.callback.all import ProgressCallback
from matplotlib.text import Text
from scipy.sparse import csr_matrix

from fastrec.all import (
    EASE,
    BCELoss,
    BiasOnly,
    Blend,
    Popularity,
    RecDataLoaders,
    collab_learner,
    evaluate,
    evaluate_users,
    load_recommender,
    mae,
    mlp_learner,
    ndcg,
    save_recommender,
    svdpp_learner,
    two_tower_learner,
)
from fastrec.interpretation.clusters import Clusters, lifts, marked
from fastrec.interpretation.interpret import RecInterpretation
from fastrec.interpretation.text import place_labels, shortened, width_of, wrapped
from fastrec.models.base import from_range


@pytest.fixture(scope='module')
def learn(synthetic):
    ratings, items, _ = synthetic
    dls = RecDataLoaders.from_df(ratings, item_df=items, valid_pct=0.1, seed=3, bs=64)
    set_seed(0)
    learn = collab_learner(dls, n_factors=8, y_range=(0.5, 5.5))
    learn.remove_cb(ProgressCallback)
    learn.logger = noop
    learn.fit_one_cycle(5, 1e-2)
    return learn


@pytest.fixture(scope='module')
def interp(learn):
    return RecInterpretation.from_learner(learn)


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close('all')


def test_biases(interp, learn):
    top = interp.top_bias(5)
    bottom = interp.bottom_bias(5)
    bias = pd.Series(learn.biases('item').numpy(), index=learn.vocab['item'].ids)
    assert top.item.tolist() == bias.nlargest(5).index.tolist()
    assert bottom.item.tolist() == bias.nsmallest(5).index.tolist()
    assert list(top.columns) == ['item', 'title', 'bias', 'rows']
    assert (top.rows > 0).all()
    assert (interp.top_bias(99, min_rows=40).rows >= 40).all()
    assert list(interp.top_bias(3, 'user').columns) == ['user', 'bias', 'rows']


def test_explain_adds_up_to_the_prediction(interp, learn, synthetic):
    for user, item in zip(synthetic[0].user[:5], synthetic[0].item[:5]):
        df = interp.explain(user, item)
        prediction = learn.predict(user, item)
        assert df.value.sum() == pytest.approx(from_range(prediction, (0.5, 5.5)), abs=1e-5)
        assert df.attrs['prediction'] == pytest.approx(prediction, abs=1e-5)
        assert df.attrs['score'] == pytest.approx(df.value.sum())
        assert list(df.index[:3]) == ['global mean', 'user bias', 'item bias']
        assert df.index[-1] == '3 other factors'
    title = learn.catalog.titles([4])[0]
    assert interp.explain(user, title).equals(interp.explain(user, learn.vocab['item'].ids[4]))


def test_pca_is_of_the_vectors(interp, learn):
    df = interp.pca(2, k=50)
    assert len(df) == 50
    assert df.rows.is_monotonic_decreasing
    assert df[['pc1', 'pc2']].var().is_monotonic_decreasing
    codes = learn.vocab['item'].encode(df.item)
    vectors = learn.vectors('item')[torch.from_numpy(codes)].numpy()
    centred = vectors - vectors.mean(0)
    singular = np.linalg.svd(centred, compute_uv=False)
    assert df.attrs['explained'] == pytest.approx((singular**2 / (singular**2).sum())[:2].tolist(), rel=1e-4)


def test_genres_are_separated_in_the_vectors(interp, learn, synthetic):
    """Items of one planted genre share a factor, so their vectors are nearer to each other than to others."""
    genre = synthetic[1].set_index('item').genres
    near = interp.similar_items(learn.vocab['item'].ids[0], 5)
    share = np.mean([(genre[interp.similar_items(i, 3).item] == genre[i]).mean() for i in learn.vocab['item'].ids])
    assert len(near) == 5
    assert share > 0.75


def test_worst_users_and_top_losses(interp, learn):
    inter = learn.catalog.interactions
    rows = learn.catalog.split.valid
    preds, targ = learn.get_preds()
    df = inter.to_df(rows).assign(square=(preds - targ).numpy() ** 2)
    want = df.groupby('user').square.agg(['mean', 'size']).query('size >= 6')['mean'].nlargest(3) ** 0.5
    got = interp.worst_users(3, min_rows=6)
    assert got.user.tolist() == want.index.tolist()
    assert got.rmse.tolist() == pytest.approx(want.tolist(), rel=1e-4)
    worst = interp.plot_top_losses(4, show=False)
    assert worst.loss.tolist() == pytest.approx(sorted(df.square, reverse=True)[:4], rel=1e-4)
    assert ((worst.rating - worst.prediction) ** 2).tolist() == pytest.approx(worst.loss.tolist(), rel=1e-4)


def test_plots_name_their_axes(interp, synthetic):
    user = synthetic[0].user[0]
    item = synthetic[0].item[0]
    for ax in (
        interp.plot_bias(4),
        interp.plot_pca(20),
        interp.plot_pca(10, side='user'),
        interp.plot_tsne('genres', k=40),
        interp.plot_tsne('year', k=40),
        interp.plot_explain(user, item),
        *interp.plot_ratings(),
    ):
        assert ax.get_title()
        assert ax.get_xlabel()
    with pytest.raises(ValueError, match=r"no column 'color'.*'genres'"):
        interp.plot_tsne('color')


def test_bars_of_plot_bias_are_the_biases(interp):
    ax = interp.plot_bias(3)
    want = interp.top_bias(3).bias.tolist() + interp.bottom_bias(3).bias.tolist()[::-1]
    assert [p.get_width() for p in ax.patches] == pytest.approx(want)


def test_labels_never_overlap():
    _fig, ax = plt.subplots(figsize=(6, 5))
    xy = np.random.default_rng(0).normal(size=(2, 80))
    ax.scatter(*xy)
    place_labels(ax, *xy, [f'a label of some length {i}' for i in range(80)])
    _fig.draw_without_rendering()
    boxes = [Text.get_window_extent(t) for t in ax.texts]  # without the line that leads to the dot
    assert 5 < len(boxes) < 80
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    frame = ax.get_window_extent()
    assert all(frame.x0 <= b.x0 and b.x1 <= frame.x1 and frame.y0 <= b.y0 and b.y1 <= frame.y1 for b in boxes)


def test_a_model_that_cannot_explain_says_so(learn):
    other = mlp_learner(learn.dls, n_factors=4, layers=(8,), y_range=(0.5, 5.5))
    other.remove_cb(ProgressCallback)
    interp = RecInterpretation.from_learner(other)
    interp.plot_pca(10)
    with pytest.raises(TypeError, match='MLP has no method explain'):
        interp.explain(learn.vocab['user'].ids[0], 1000)


def test_nothing_is_changed(interp, learn):
    before = [p.clone() for p in learn.model.parameters()]
    interp.plot_pca(5)
    interp.explain(learn.vocab['user'].ids[0], 1001)
    interp.worst_users()
    assert all(torch.equal(a, b) for a, b in zip(before, learn.model.parameters()))


# --- every method, of every kind of loaders

KINDS = ('rating', 'liked', 'negatives', 'in_batch', 'catalogue', 'stream', 'context')
# method -> a call of it on an interpretation, a user and an item
CALLS = {
    'top_bias': lambda interp, user, item: interp.top_bias(3),
    'bottom_bias': lambda interp, user, item: interp.bottom_bias(3, 'user'),
    'plot_bias': lambda interp, user, item: interp.plot_bias(3),
    'pca': lambda interp, user, item: interp.pca(2),
    'plot_pca': lambda interp, user, item: interp.plot_pca(5),
    'plot_tsne': lambda interp, user, item: interp.plot_tsne(k=20, n_labels=2),
    'similar_items': lambda interp, user, item: interp.similar_items(item),
    'explain': lambda interp, user, item: interp.explain(user, item),
    'plot_explain': lambda interp, user, item: interp.plot_explain(user, item),
    'plot_because': lambda interp, user, item: interp.plot_because(user, item),
    'gates': lambda interp, user, item: interp.gates(),
    'plot_gates': lambda interp, user, item: interp.plot_gates(),
    'losses': lambda interp, user, item: interp.losses,
    'top_losses': lambda interp, user, item: interp.top_losses(3, items=True),
    'plot_top_losses': lambda interp, user, item: interp.plot_top_losses(3),
    'worst_users': lambda interp, user, item: interp.worst_users(3, min_rows=1),
    'worst_ranks': lambda interp, user, item: interp.worst_ranks(3, relevant=4),
    'plot_errors': lambda interp, user, item: interp.plot_errors('history'),
    'clusters': lambda interp, user, item: interp.clusters(3),
    'plot_clusters': lambda interp, user, item: interp.plot_clusters(2, 'item', n=20),
    'plot_ratings': lambda interp, user, item: interp.plot_ratings(5, 5),
    'show_results': lambda interp, user, item: interp.show_results([0, 1]),
    '__getitem__': lambda interp, user, item: interp[[1, 0]],
}
# drawn of vectors, biases and rows, whatever the loaders are: of some kinds is enough
DRAWN_ALIKE = {'plot_bias', 'plot_pca', 'plot_tsne', 'plot_clusters', 'plot_ratings', 'plot_errors'}
DRAWN_OF = ('rating', 'catalogue', 'stream')
NAMES_A_CALL = r'\w\(|\w=|gated_learner'


@pytest.fixture(scope='module')
def small(synthetic):
    ratings = synthetic[0]
    ratings = ratings[ratings.user.isin(ratings.user.unique()[:100]) & ratings.item.isin(ratings.item.unique()[:60])]
    return ratings.assign(device=np.where(np.arange(len(ratings)) % 3, 'phone', 'tv'))


@pytest.fixture(scope='module')
def trained(small, tmp_path_factory):
    """kind -> a learner of such loaders."""
    clicks = small[['user', 'item']]
    file = tmp_path_factory.mktemp('stream') / 'ratings.parquet'
    small[['user', 'item', 'rating']].to_parquet(file)
    dls = dict(
        rating=RecDataLoaders.from_df(small, seed=1),
        liked=RecDataLoaders.from_df(small, target='liked', seed=1),
        negatives=RecDataLoaders.from_df(clicks, target='implicit', seed=1),
        in_batch=RecDataLoaders.from_df(clicks, target='implicit', n_neg=0, seed=1),
        catalogue=RecDataLoaders.from_df(clicks, target='implicit', n_neg=None, seed=1),
        stream=RecDataLoaders.from_parquet(file, stream=True),
        context=RecDataLoaders.from_df(small, context=['device'], seed=1),
    )
    learners = {}
    for kind, loaders in dls.items():
        learn = collab_learner(loaders, n_factors=4)
        learn.remove_cb(ProgressCallback)
        with learn.no_logging():
            learn.fit_one_cycle(2, 1e-2)
        learners[kind] = learn
    return learners


def test_all_methods_are_called():
    public = {name for name in dir(RecInterpretation) if not name.startswith('_')}
    assert public - set(CALLS) == {'from_learner', 'catalog'}


@pytest.mark.parametrize('method', CALLS)
@pytest.mark.parametrize('kind', KINDS)
def test_a_method_works_or_names_another_call(trained, kind, method):
    if method in DRAWN_ALIKE and kind not in DRAWN_OF:
        return
    learn = trained[kind]
    user, item = (learn.vocab[side].ids[0] for side in ('user', 'item'))
    interp = RecInterpretation.from_learner(learn)
    try:
        result = CALLS[method](interp, user, item)
    except (TypeError, ValueError) as e:
        assert re.search(NAMES_A_CALL, str(e)), e
        assert kind in ('in_batch', 'stream', 'negatives', 'catalogue') or 'gate' in method
    else:
        assert result is not None or method in ('plot_top_losses', 'show_results')


def test_liked_is_compared_with_probabilities(trained):
    learn = trained['liked']
    interp = RecInterpretation.from_learner(learn)
    inter, rows = learn.catalog.interactions, learn.catalog.split.valid
    users, items = (torch.from_numpy(o[rows].astype(np.int64)) for o in (inter.users, inter.items))
    logits = learn.score(users, items)
    labels = torch.from_numpy(learn.catalog.liked(rows)).float()
    losses = BCELoss(reduction='none')(logits, labels)
    worst = interp.plot_top_losses(5, show=False)
    order = losses.argsort(descending=True)[:5]
    assert worst.loss.tolist() == pytest.approx(losses[order].tolist(), rel=1e-4)
    assert worst.prediction.tolist() == pytest.approx(logits[order].sigmoid().tolist(), rel=1e-4)
    assert worst.liked.tolist() == labels[order].tolist()
    df = pd.DataFrame(dict(user=inter.vocab['user'].decode(users.numpy()), loss=losses, liked=labels))
    df['bias'] = logits.sigmoid() - labels
    want = df.groupby('user')[['loss', 'bias', 'liked']].mean().nlargest(4, 'loss')
    got = interp.worst_users(4, min_rows=1)
    assert list(got.columns) == ['user', 'rows', 'loss', 'bias', 'liked']
    assert got.user.tolist() == want.index.tolist()
    for column in want:
        assert got[column].tolist() == pytest.approx(want[column].tolist(), rel=1e-4, abs=1e-5)
    user, item = worst.user[0], worst.item[0]
    assert worst.prediction[0] == pytest.approx(learn.predict(user, item), abs=1e-5)
    assert interp.explain(user, item).attrs['prediction'] == pytest.approx(learn.predict(user, item), abs=1e-5)
    assert interp[[0, 1]][2].tolist() == labels[:2].tolist()


def test_losses_of_positives_and_of_a_catalogue(trained):
    learn = trained['negatives']
    interp = RecInterpretation.from_learner(learn)
    batches = list(learn.dls.valid)
    losses = torch.cat([BCELoss(reduction='none')(learn.model.eval()(u, i), y) for u, i, y in batches]).detach()
    worst = interp.plot_top_losses(3, show=False)
    assert list(worst.columns) == ['user', 'item', 'prediction', 'loss']
    assert worst.loss.tolist() == pytest.approx(losses.topk(3).values.tolist(), rel=1e-4)
    assert worst.prediction[0] == pytest.approx(learn.predict(worst.user[0], worst.item[0]), abs=1e-5)

    learn = trained['catalogue']
    interp = RecInterpretation.from_learner(learn)
    want = {}
    for users, target in learn.dls.valid:
        scores = learn.model.eval()(users).detach().masked_fill(target < 0, -torch.inf)
        shares = scores.log_softmax(1)
        for user, row, positives in zip(users.tolist(), shares, target > 0):
            want[learn.vocab['user'].ids[user]] = -row[positives].mean().item()
    got = interp.worst_users(len(want), min_rows=1)
    assert dict(zip(got.user, got.loss)) == pytest.approx(want, rel=1e-4)
    assert got.loss.is_monotonic_decreasing


def test_streamed_rows_are_those_of_the_file(trained):
    learn = trained['stream']
    worst = RecInterpretation.from_learner(learn).plot_top_losses(5, show=False)
    for row in worst.itertuples():
        assert row.prediction == pytest.approx(learn.predict(row.user, row.item), abs=1e-4)
        assert row.loss == pytest.approx((row.prediction - row.rating) ** 2, rel=1e-3, abs=1e-5)


def test_more_losses_than_rows_and_too_many_rows_asked_for(trained):
    interp = RecInterpretation.from_learner(trained['rating'])
    n = len(interp.dl.dataset)
    assert len(interp.plot_top_losses(10 * n, show=False)) == n
    with pytest.raises(ValueError, match=r'min_rows=999 rows here, the most have (\d+): worst_users\(10, \1\)') as e:
        interp.worst_users(min_rows=999)
    most = int(re.search(r'have (\d+)', str(e.value))[1])
    assert len(interp.worst_users(10, most))


def test_no_rows_are_held_out(small):
    learn = collab_learner(RecDataLoaders.from_df(small, valid_pct=0), n_factors=4)
    with pytest.raises(ValueError, match='ds_idx=0'):
        RecInterpretation.from_learner(learn).worst_users()
    assert len(RecInterpretation.from_learner(learn, ds_idx=0).worst_users(3)) == 3


def test_rows_of_a_test_dl(trained, small):
    learn = trained['rating']
    labelled = learn.dls.test_dl(small[:20], with_labels=True)
    worst = RecInterpretation.from_learner(learn, dl=labelled).plot_top_losses(20, show=False)
    assert sorted(worst.rating) == sorted(small.rating[:20])
    with pytest.raises(ValueError, match='with_labels=True'):
        RecInterpretation.from_learner(learn, dl=learn.dls.test_dl(small[:20])).worst_users()


def test_in_batch_losses_do_not_compare(small):
    dls = RecDataLoaders.from_df(small[['user', 'item']], target='implicit', seed=1)
    learn = two_tower_learner(dls, n_factors=4, layers=())
    learn.remove_cb(ProgressCallback)
    with learn.no_logging():
        learn.fit_one_cycle(1, 1e-2)
    interp = RecInterpretation.from_learner(learn)
    for call in (interp.plot_top_losses, interp.top_losses):
        with pytest.raises(TypeError, match=r'worst_ranks\(k\).*worst_users\(k\)'):
            call()
    served = evaluate_users(learn, metrics=ndcg(10))['ndcg@10']
    got = interp.worst_users(len(served))
    assert got['ndcg@10'].tolist() == pytest.approx(sorted(served))
    assert (served[got['user']].to_numpy() == got['ndcg@10']).all()
    interp.plot_pca(5)


def test_worst_ranks_are_those_of_the_scores(trained):
    """Counted by hand from the scores of each user, ties at their mean rank."""
    for kind, relevant in (('negatives', None), ('rating', 4)):
        learn = trained[kind]
        inter, split = learn.catalog.interactions, learn.catalog.split
        got = RecInterpretation.from_learner(learn).worst_ranks(10**6, relevant=relevant)
        rows = split.valid if relevant is None else split.valid[inter.ratings[split.valid] >= relevant]
        assert len(got) == len(rows)
        assert got['rank'].is_monotonic_decreasing
        for row in [*got.head(5).itertuples(), *got.tail(5).itertuples()]:
            user, item = (int(learn.vocab[side].encode([getattr(row, side)])[0]) for side in ('user', 'item'))
            scores = learn.score_items(torch.tensor([user]))[0]
            own = scores[item].item()
            seen = inter.items[split.train][inter.users[split.train] == user]
            left = np.delete(scores.numpy(), seen)
            assert row.candidates == len(left)
            assert row.rank == (left > own).sum() + ((left == own).sum() + 1) / 2
            assert row.rows == learn.catalog.counts['item'][item]


def test_errors_are_drawn_in_quarters(trained):
    learn = trained['rating']
    interp = RecInterpretation.from_learner(learn)
    for by in ('popularity', 'history'):
        ax = interp.plot_errors(by, 'mae')
        want = evaluate(learn, metrics=mae, by=by)
        assert [bar.get_height() for bar in ax.patches] == pytest.approx(want['mae'].tolist())
        (line,) = ax.lines
        assert line.get_ydata()[0] == pytest.approx(evaluate(learn, metrics=mae)['mae'].iloc[0])
        assert str(want['rows'].iloc[0]) in ax.get_xticklabels()[0].get_text()
    ax = RecInterpretation.from_learner(trained['negatives']).plot_errors('history')
    assert ax.get_ylabel() == 'ndcg@10 (higher is better)'
    assert RecInterpretation.from_learner(trained['liked']).plot_errors().get_ylabel().startswith('roc_auc')
    ax = interp.plot_errors('history', relevant=4)
    assert 'ndcg@10' in ax.get_title()


def test_what_marks_a_cluster_is_its_lift():
    codes = np.arange(40)
    found = Clusters(codes, np.repeat([0, 1], [30, 10]), np.array([30, 10]))
    has = np.zeros((40, 2))
    has[30:38, 0] = 1  # eight of the ten in the second cluster, two of the others
    has[:2, 0] = 1
    lift = lifts(csr_matrix(has), found)
    assert lift[1, 0] == pytest.approx((8 + 10) / (2.5 + 10))
    assert lift[0, 0] == pytest.approx((2 + 10) / (7.5 + 10))
    assert lift[:, 1].tolist() == [1, 1]
    assert marked(np.array(['A', 'B'], dtype=object), lift[1], 5, least=1.2) == 'A ×1.4'


def test_clusters_find_the_planted_genres(learn, synthetic):
    """Items of one planted genre are near each other, and the genre is what marks their cluster."""
    interp = RecInterpretation.from_learner(learn)
    n = synthetic[1].genres.nunique()
    df = interp.clusters(n, side='item', n_marks=1)
    assert list(df.columns) == ['cluster', 'items', 'share', 'rows', 'titles', 'traits']
    assert df['items'].sum() == (learn.catalog.counts['item'] > 0).sum()
    assert df['items'].is_monotonic_decreasing
    assert df['share'].sum() == pytest.approx(1)
    genre = synthetic[1].set_index('item').genres
    cluster_of = pd.Series(df.attrs['cluster_of'])
    agree = pd.crosstab(cluster_of, genre[cluster_of.index]).max(axis=1).sum() / len(cluster_of)
    assert agree > 0.75
    assert df['traits'].str.startswith('genres').sum() >= n - 1
    users = interp.clusters(3)
    assert list(users.columns) == ['cluster', 'users', 'share', 'rows', 'titles']
    assert users['titles'].str.contains('×').all()
    ax = interp.plot_clusters(3)
    assert [o.get_text()[0] for o in ax.get_legend().get_texts()] == ['1', '2', '3']
    with pytest.raises(ValueError, match='k=1 clusters'):
        interp.clusters(1)


def test_a_scorer_without_loaders_has_errors_where_its_rows_came_along(trained, small, tmp_path):
    learn = trained['rating']
    ours = RecInterpretation.from_learner(learn)
    save_recommender(learn, tmp_path / 'bare')
    save_recommender(learn, tmp_path / 'whole', history=True)
    scorers = [
        RecInterpretation.from_learner(load_recommender(tmp_path / 'whole')),
        RecInterpretation.from_learner(load_recommender(tmp_path / 'bare'), dl=learn.dls),
    ]
    want, worst = ours.worst_users(5, min_rows=1), ours.plot_top_losses(5, show=False)
    for interp in scorers:
        got = interp.worst_users(5, min_rows=1)
        assert got['user'].tolist() == want['user'].tolist()
        assert got['rmse'].tolist() == pytest.approx(want['rmse'].tolist(), rel=1e-4)
        shown = interp.plot_top_losses(5, show=False)
        assert list(shown.columns) == list(worst.columns)
        assert shown['loss'].tolist() == pytest.approx(worst['loss'].tolist(), rel=1e-4)
        assert interp.plot_errors().get_title()
    baseline = BiasOnly().fit(learn.dls)
    interp = RecInterpretation.from_learner(baseline)
    inter, rows = learn.catalog.interactions, learn.catalog.split.valid
    square = (baseline.score_rows(inter, rows).numpy() - inter.ratings[rows]) ** 2
    assert interp.plot_top_losses(3, show=False)['loss'].tolist() == pytest.approx(sorted(square)[:-4:-1], rel=1e-4)
    biases = pd.Series(baseline.item_biases, index=learn.vocab['item'].ids)
    assert interp.top_bias(3)['bias'].tolist() == pytest.approx(biases.nlargest(3).tolist())
    with pytest.raises(ValueError, match=r'from_learner\(scorer, dl=dls\)'):
        RecInterpretation.from_learner(load_recommender(tmp_path / 'bare')).worst_users()


def test_parts_of_a_blend_are_named(small):
    dls = RecDataLoaders.from_df(small[['user', 'item']], target='implicit', seed=1)
    blend = Blend([EASE().fit(dls), Popularity().fit(dls)])
    interp = RecInterpretation.from_learner(blend)
    for call in (interp.plot_pca, interp.top_bias, interp.clusters):
        with pytest.raises(TypeError, match=r'its parts \(EASE, Popularity\): RecInterpretation.from_learner'):
            call()
    assert len(interp.worst_users(3)) == 3
    assert len(interp.worst_ranks(3)) == 3
    assert interp.plot_errors().get_title()


def test_tables_have_the_columns_of_the_ratings(small):
    stars = small.rename(columns=dict(user='reader', item='book', rating='stars'))[['reader', 'book', 'stars']]
    learn = collab_learner(RecDataLoaders.from_df(stars, seed=1), n_factors=4)
    learn.remove_cb(ProgressCallback)
    with learn.no_logging():
        learn.fit_one_cycle(1, 1e-2)
    interp = RecInterpretation.from_learner(learn)
    assert list(interp.top_bias(2)) == ['book', 'bias', 'rows']
    assert list(interp.plot_top_losses(2, show=False)) == ['reader', 'book', 'stars', 'prediction', 'loss']
    assert list(interp.worst_users(2)) == ['reader', 'rows', 'rmse', 'bias', 'mean_rating']
    assert list(interp.worst_users(2, metric=ndcg(10), relevant=4)) == ['reader', 'rows', 'ndcg@10']
    assert list(interp.worst_ranks(2, relevant=4)) == ['reader', 'book', 'rank', 'candidates', 'rows']
    assert interp.plot_ratings(5, 5)[0].get_xlabel() == 'stars'


def test_labels_cover_no_dots_and_say_how_many_there_are(interp):
    ax = interp.plot_pca(30)
    ax.figure.draw_without_rendering()
    blue = np.concatenate([o.get_offsets() for o in ax.collections[1:]])
    places = ax.transData.transform(blue)
    for text in ax.texts:
        box = Text.get_window_extent(text)
        assert not ((places > box.min) & (places < box.max)).all(1).any(), text.get_text()
    said = f'{len(ax.texts)} of 30 labels shown' if len(ax.texts) < 30 else '30 labeled'
    assert said in ax.get_title().replace('\n', ' ')


def test_text_fits(interp, learn):
    assert shortened('Alien', 100, 10) == 'Alien'
    short = shortened('A very long title that does not fit', 60, 10)
    assert short.endswith('…')
    assert width_of(short, 10) <= 60
    lines = wrapped('one two three four five six seven', 60, 10)
    assert len(lines) > 2
    assert ' '.join(lines) == 'one two three four five six seven'
    assert all(width_of(line, 10) <= 60 for line in lines)
    user, item = (learn.vocab[side].ids[0] for side in ('user', 'item'))
    for draw in (interp.plot_bias, lambda ax: interp.plot_explain(user, item, ax=ax)):
        fig, ax = plt.subplots(figsize=(3, 3), layout='constrained')
        draw(ax=ax)
        fig.draw_without_rendering()
        texts = [ax.title, ax.xaxis.label, *ax.get_yticklabels()]
        inside = fig.bbox.padded(2)
        for box in [o.get_window_extent() for o in texts if o.get_text()]:
            assert inside.x0 <= box.x0, box
            assert box.x1 <= inside.x1, box
        assert ax.get_window_extent().width > 0.3 * fig.bbox.width


def test_dollars_are_no_formulas():
    _fig, ax = plt.subplots()
    place_labels(ax, np.array([0.5]), np.array([0.5]), ['Paid $5 and $6'])
    assert ax.texts[0].get_text() == r'Paid \$5 and \$6'


def test_parts_of_a_prediction_without_a_range_stand_on_the_mean(trained):
    learn = trained['rating']
    interp = RecInterpretation.from_learner(learn)
    user, item = (learn.vocab[side].ids[0] for side in ('user', 'item'))
    df = interp.explain(user, item, k=2)
    ax = interp.plot_explain(user, item, k=2)
    assert [p.get_width() for p in ax.patches] == pytest.approx(df['value'].tolist()[1:])
    assert f'mean of {df["value"].iloc[0]:.2f}' in ax.get_xlabel().replace('\n', ' ')


def test_ratings_of_clicks_are_counted(small):
    clicks = small[['user', 'item']]
    dls = RecDataLoaders.from_df(clicks, target='implicit', seed=1)
    learn = collab_learner(dls, n_factors=4)
    first, _, matrix = RecInterpretation.from_learner(learn).plot_ratings(6, 6)
    assert first.get_xlabel() == 'rows of the user'
    assert sum(bar.get_height() for bar in first.patches) == (learn.catalog.counts['user'] > 0).sum()
    assert matrix.images[0].colorbar is None  # all have the one value
    plays = small.rename(columns=dict(rating='plays'))[['user', 'item', 'plays']]
    dls = RecDataLoaders.from_df(plays, rating_name='plays', target='implicit', weighted=True, seed=1)
    _, _, matrix = RecInterpretation.from_learner(collab_learner(dls, n_factors=4)).plot_ratings(6, 6)
    assert matrix.images[0].colorbar.ax.get_ylabel() == 'weight'


def test_scorers_without_loaders(trained, small, tmp_path):
    save_recommender(trained['rating'], tmp_path / 'saved')
    loaded = load_recommender(tmp_path / 'saved')
    user, item = loaded.vocab['user'].ids[0], loaded.vocab['item'].ids[0]
    ours, theirs = RecInterpretation.from_learner(trained['rating']), RecInterpretation.from_learner(loaded)
    assert theirs.top_bias(5).equals(ours.top_bias(5))
    assert theirs.explain(user, item).equals(ours.explain(user, item))
    dls = RecDataLoaders.from_df(small[['user', 'item']], target='implicit', seed=1)
    scorers = [loaded, EASE().fit(dls), Popularity().fit(dls)]
    for scorer in scorers:
        interp = RecInterpretation.from_learner(scorer)
        for name, call in CALLS.items():
            if scorer is loaded and name in DRAWN_ALIKE:
                continue
            try:
                call(interp, user, item)
            except (TypeError, ValueError) as e:
                assert re.search(NAMES_A_CALL, str(e)) or 'take a learner' in str(e), (name, e)


def test_numbers_that_are_none_are_not_drawn(small):
    learn = collab_learner(RecDataLoaders.from_df(small, seed=1), n_factors=4)
    with torch.no_grad():
        learn.model.item_factors.weight[2, 1] = torch.nan
        learn.model.item_biases.weight[2] = torch.inf
    interp = RecInterpretation.from_learner(learn)
    calls = [interp.top_bias, interp.pca, interp.worst_users, interp.plot_top_losses]
    for call in calls:
        with pytest.raises(ValueError, match='not numbers: did training diverge'):
            call()


def test_context_is_read_where_rows_are_shown(small):
    learn = svdpp_learner(RecDataLoaders.from_df(small, context=['device'], seed=1), n_factors=4)
    interp = RecInterpretation.from_learner(learn)
    preds, target = learn.get_preds()
    worst = interp.plot_top_losses(3, show=False)
    order = (preds - target).square().argsort(descending=True)[:3]
    assert worst.prediction.tolist() == pytest.approx(preds[order].tolist(), abs=1e-5)
