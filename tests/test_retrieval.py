"""The index: exact where it has to be, seen items left out whatever it takes, never older than the model."""

import copy
import pickle

import numpy as np
import pandas as pd
import pytest
import torch

import fastrec.scorers.retrieval
from fastrec.all import (
    EASE,
    RecDataLoaders,
    collab_learner,
    load_learner,
    load_recommender,
    mlp_learner,
    neumf_learner,
    save_recommender,
    set_seed,
    svdpp_learner,
)
from fastrec.data.catalog import Catalog
from fastrec.data.history import History
from fastrec.data.interactions import Interactions
from fastrec.data.splits import make_split
from fastrec.scorers.retrieval import Inner
from fastrec.scorers.scorer import Scorer

faiss = pytest.importorskip('faiss')


def clustered(n, d, n_clusters, seed, spread=0.4):
    g = torch.Generator().manual_seed(seed)
    centres = torch.randn(n_clusters, d, generator=g)
    x = centres[torch.randint(n_clusters, (n,), generator=g)] + spread * torch.randn(n, d, generator=g)
    return x * torch.exp(0.4 * torch.randn(n, 1, generator=g))  # lengths differ, as popularity makes them


class Dots(Scorer):
    """Users and items of known vectors and biases; the last user and the last item have no training row.

    Users have up to 200 items, mostly those they score best.
    """

    scale = 'rank'

    def __init__(self, n_users=40, n_items=3000, d=8, seed=0):
        self.u = clustered(n_users, d, 10, seed)
        self.v = clustered(n_items, d, 30, seed)
        rng = np.random.default_rng(seed)
        best = self.score_all(torch.arange(n_users)).argsort(1, descending=True).numpy()
        rows = []
        for u in range(n_users):
            rows += [(u, i) for i in [*best[u, : 5 * u], *rng.choice(n_items - 1, 3, replace=False)]]
        rows.append((0, n_items - 1))
        df = pd.DataFrame(rows, columns=['user', 'item']).drop_duplicates().assign(rating=1.0)
        others = np.setdiff1d(np.arange(n_items), df.item)  # every item is in the vocab
        df = pd.concat([df, pd.DataFrame(dict(user=0, item=others, rating=1.0))])
        cold = ((df.user == n_users - 1) | (df.item == n_items - 1)).to_numpy()
        inter = Interactions.from_df(df)
        self.catalog = Catalog(History(inter, make_split(inter, (np.flatnonzero(~cold), np.flatnonzero(cold)))))

    def score_all(self, users):
        return self.u[users] @ self.v.T

    def score_items(self, users):
        return self.score_all(users)

    def score(self, users, items):
        return (self.u[users] * self.v[items]).sum(1)

    def vectors(self, side):
        return self.v if side == 'item' else self.u


@pytest.fixture()
def dots():
    return Dots()


def same(a, b):
    """The same items in the same order, but for scores that are equal to the sixth digit."""
    assert list(a.columns) == list(b.columns)
    assert len(a) == len(b)
    for (u, x), (_, y) in zip(a.groupby('user'), b.groupby('user')):
        assert np.allclose(x.score, y.score, rtol=1e-4, atol=1e-5, equal_nan=True), u
        assert x.item.tolist() == y.item.tolist() or np.abs(np.diff(x.score)).min() < 1e-4, u


@pytest.mark.parametrize('kind', ['exact', 'ivf', 'hnsw'])
def test_inner_products_of_rows_of_different_lengths(kind):
    x = clustered(5000, 12, 50, 0)
    q = clustered(64, 12, 50, 1)
    inner = Inner(x, kind)
    share = inner.tune(q, 20, 0.97)
    found = inner.search(q, 20)
    want = (q @ x.T).topk(20).indices.numpy()
    recall = np.mean([len(np.intersect1d(a, b)) / 20 for a, b in zip(found, want)])
    assert recall == pytest.approx(share)
    assert recall >= 0.97
    if kind == 'exact':
        assert (found == want).mean() > 0.999
    else:
        low = Inner(x, kind)
        assert low.tune(q, 20, 0.3) <= share
        assert low.effort <= inner.effort
        assert inner.effort < inner.max_effort  # it did not have to look at everything


def test_the_extra_coordinate_is_what_finds_long_vectors():
    """Cosine neighbors of a query differ from its largest inner products."""
    x = clustered(2000, 6, 20, 0)
    q = clustered(20, 6, 20, 1)
    inner = Inner(x, 'ivf')
    inner.effort = inner.max_effort  # every list: exact but for what is compared
    assert not inner.equal
    assert (inner.search(q, 10) == (q @ x.T).topk(10).indices.numpy()).mean() > 0.99
    assert Inner(torch.nn.functional.normalize(x, dim=1), 'ivf').equal


@pytest.mark.parametrize('kind', ['exact', 'ivf', 'hnsw'])
def test_recommend_with_an_index_leaves_out_what_is_seen(dots, kind):
    users = dots.vocab['user'].ids
    want = {k: dots.recommend(users, k=k) for k in (1, 10)}
    without = dots.recommend(users, k=10, exclude_seen=False, cold='mean')
    everything = dots.recommend(users[:2], k=5000)
    index = dots.index(kind, recall=1.0, k=300, n_queries=40)
    assert index.kind == kind
    assert index.recall == 1.0
    for k in (1, 10):
        same(dots.recommend(users, k=k), want[k])
    same(dots.recommend(users, k=10, exclude_seen=False, cold='mean'), without)
    same(dots.recommend(users[:2], k=5000), everything)  # more than there are
    seen = pd.DataFrame(dict(user=users[1], item=want[10][want[10].user == users[1]].item))
    assert not dots.recommend([users[1]], k=10, seen=seen).item.isin(seen.item).any()
    assert dots.recommend(users[:3], k=4, candidates=[5, 6, 7, 8, 9]).item.isin([5, 6, 7, 8, 9]).all()


def test_more_is_fetched_until_k_are_left(dots, monkeypatch):
    fetched = []
    search = Inner.search

    def noted(self, queries, k):
        fetched.append((len(queries), k))
        return search(self, queries, k)

    monkeypatch.setattr(Inner, 'search', noted)
    dots.index('exact')
    fetched.clear()
    df = dots.recommend([0, 1, 38], k=10)
    same(df, dots_without(dots).recommend([0, 1, 38], k=10))
    # user 38 has the 190 best already; of user 0, who has nearly all, nothing is expected
    assert fetched == [(3, 36), (1, 144), (1, 576)]
    assert df.groupby('user').size().loc[[1, 38]].tolist() == [10, 10]


def dots_without(dots):
    res = copy.copy(dots)
    res._item_index = None
    return res


def test_an_index_that_finds_nothing_falls_back_to_exact(dots, monkeypatch):
    want = dots.recommend([1, 2, 38], k=10)
    dots.index('ivf')
    monkeypatch.setattr(Inner, 'search', lambda self, q, k: np.full((len(q), k), -1))
    same(dots.recommend([1, 2, 38], k=10), want)
    monkeypatch.setattr(fastrec.scorers.retrieval, 'SEARCH_BYTES', 4 * 3000)  # a user at a time
    same(dots.recommend([1, 2, 38], k=10), want)


def test_similar_items_by_index(dots):
    want = dots.similar_items([3, 77, 500], k=8)
    for kind in ('exact', 'ivf', 'hnsw'):
        index = dots.index(kind, recall=1.0)
        df = dots.similar_items([3, 77, 500], k=8)
        assert index._cosine is not None
        assert index._cosine is not index.inner
        pd.testing.assert_frame_equal(df, want, rtol=1e-4, atol=1e-5)
    n = dots.catalog.known('item').sum() - 1
    assert dots.similar_items([3], k=n, min_rows=0).shape[0] == n  # more than the index hands over


@pytest.fixture(scope='module')
def clicks():
    rng = np.random.default_rng(0)
    df = pd.DataFrame(
        [(u, int(i)) for u in range(120) for i in 2 * rng.choice(40, 12, replace=False) + u % 2],
        columns=['user', 'item'],
    )
    return RecDataLoaders.from_df(df, target='implicit', valid_pct=0.2, seed=0)


def quick(learn, n=2):
    with learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(n, 1e-2)
    return learn


@pytest.mark.parametrize('make', ['biases', 'y_range', 'history', 'liked'])
def test_learners_whose_scores_are_inner_products(clicks, synthetic, make):
    set_seed(0)
    if make == 'biases':
        learn = collab_learner(clicks, n_factors=8)
    elif make == 'y_range':
        learn = collab_learner(
            RecDataLoaders.from_df(synthetic[0], valid_pct=0.1, seed=0), n_factors=8, y_range=(0.5, 5.5)
        )
    elif make == 'liked':
        learn = collab_learner(RecDataLoaders.from_df(synthetic[0], valid_pct=0.1, seed=0, target='liked'), n_factors=8)
    else:
        learn = svdpp_learner(
            RecDataLoaders.from_df(
                clicks.catalog.interactions.to_df(slice(None))[['user', 'item']], target='implicit', n_neg=None, seed=0
            ),
            n_factors=8,
        )
    quick(learn)
    users = learn.dls.vocab['user'].ids[:50]
    want = learn.recommend(users, k=5)
    similar = learn.similar_items(learn.dls.vocab['item'].ids[3], k=5)
    for kind in ('exact', 'ivf'):
        learn.index(kind, recall=1.0, k=20)
        same(learn.recommend(users, k=5), want)
        pd.testing.assert_frame_equal(
            learn.similar_items(learn.dls.vocab['item'].ids[3], k=5), similar, rtol=1e-4, atol=1e-5
        )


def test_an_index_is_never_older_than_the_model(clicks, tmp_path):
    learn = quick(collab_learner(clicks, n_factors=8, path=tmp_path))
    index = learn.index('exact')
    learn.recommend([0, 1])
    assert learn.item_index() is index
    assert not index.is_stale(learn)
    learn.save('before')
    quick(learn, 1)
    fresh = learn.recommend([0, 1, 2], k=4)
    assert index.is_stale(learn)
    assert learn.item_index() is not index
    assert learn._item_index.options == index.options
    same(fresh, dots_without(learn).recommend([0, 1, 2], k=4))
    now = learn.item_index()
    learn.load('before')
    assert now.is_stale(learn)
    assert not index.is_stale(learn)
    with torch.no_grad():
        learn.model.item_biases.weight += 1e-3
    assert index.is_stale(learn)


def test_an_index_does_not_travel(clicks, tmp_path):
    learn = quick(collab_learner(clicks, n_factors=8))
    learn.index('ivf')
    learn.export(tmp_path / 'learn.pkl')
    assert load_learner(tmp_path / 'learn.pkl').item_index() is None
    assert learn.item_index() is not None
    assert pickle.loads(pickle.dumps(learn._item_index)) is None
    save_recommender(learn, tmp_path / 'saved')
    loaded = load_recommender(tmp_path / 'saved')
    assert loaded.item_index() is None
    loaded.index('exact')
    seen = clicks.catalog.interactions.to_df(slice(None))
    same(loaded.recommend([0, 1], seen=seen), learn.recommend([0, 1], seen=seen))
    save_recommender(loaded, tmp_path / 'again')


def test_what_has_no_inner_product_is_refused(clicks):
    for learn in (mlp_learner(clicks), neumf_learner(clicks)):
        quick(learn, 1)
        with pytest.raises(TypeError, match='does not score by the inner product'):
            learn.index()
    with pytest.raises(TypeError, match='does not score by the inner product'):
        EASE().fit(clicks).index()


def test_options_and_messages(dots, monkeypatch):
    with pytest.raises(ValueError, match="kind='flat'"):
        dots.index('flat')
    with pytest.raises(ValueError, match='recall=0'):
        dots.index(recall=0)
    assert dots.index().kind == 'exact'
    monkeypatch.setattr(fastrec.scorers.retrieval, 'FROM_ITEMS', 1000)
    assert dots.index().kind == 'ivf'
    assert 'lists searched, recall@100' in repr(dots.item_index())
    monkeypatch.setattr(fastrec.scorers.retrieval, 'find_spec', lambda name: None)
    with pytest.raises(ImportError, match=r'fastrec-learn\[ann\]'):
        dots.index('hnsw')
    with pytest.warns(UserWarning, match='search will be exact'):
        assert dots.index().kind == 'exact'
    monkeypatch.undo()
    dots.v[0] = np.nan
    with pytest.raises(ValueError, match='diverge'):
        dots.index()
