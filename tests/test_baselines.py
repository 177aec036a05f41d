"""What a baseline worked out is what it shows, and what it takes is said before it is taken."""

import numpy as np
import pandas as pd
import pytest

from fastrec.all import EASE, IALS, Ensemble, ItemKNN, RecDataLoaders, Reranked, item_graph


def loaders(pairs):
    df = pd.DataFrame(pairs, columns=['user', 'item'])
    return RecDataLoaders.from_df(df, target='implicit', valid_pct=0, seed=1)


def checkerboard(n=40):
    "Even users have even items, odd users have odd items; one of them is missing to each, as in implicit's tests."
    pairs = [(u, i) for u in range(n) for i in range(n) if (u - i) % 2 == 0 and i != u]
    return loaders(pairs)


@pytest.fixture(scope='module')
def clicks():
    "Random clicks, and an item whose only user has nothing else."
    rng = np.random.default_rng(0)
    pairs = {(u, i) for u in range(60) for i in rng.integers(0, 30, size=8)}
    return loaders([*sorted(pairs), (60, 99)])


def cosines(dls, shrink):
    x = dls.catalog.history.positives.toarray() > 0
    common = x.T.astype(float) @ x
    n = np.sqrt(np.diag(common))
    s = common / (np.outer(n, n) + shrink)
    np.fill_diagonal(s, 0)
    return s


@pytest.mark.parametrize('made', [ItemKNN(), EASE(1.0), IALS(8), Ensemble])
def test_checkerboard(made):
    dls = checkerboard()
    scorer = Ensemble([ItemKNN(50).fit(dls), ItemKNN(30).fit(dls)]) if made is Ensemble else made.fit(dls)
    for item in range(40):
        near = scorer.similar_items(item, 10)
        assert len(near) >= 5 and (near.item % 2 == item % 2).all(), item
        if not isinstance(scorer, IALS):
            told = scorer.recommend(basket=[item], k=10)
            assert len(told) and (told.item % 2 == item % 2).all(), item


def test_similar_items_are_the_neighbors_that_were_worked_out(clicks):
    knn = ItemKNN(k=7, shrink=3.0).fit(clicks)
    want = cosines(clicks, 3.0)
    ids = clicks.vocab['item'].ids
    for code in range(len(ids)):
        best = np.sort(want[:, code])[::-1][:7]
        best = best[best > 0]
        near = knn.similar_items(ids[code], 10)
        assert list(near.score) == pytest.approx(list(best), abs=1e-6)
        assert want[clicks.vocab['item'].encode(near.item), code] == pytest.approx(best, abs=1e-6)
        assert list(near['rank']) == list(range(1, len(best) + 1))
    assert knn.similar_items(99).empty  # shares no user with another: no rows in place of arbitrary ones
    assert len(knn.similar_items([99, ids[0]], 3)) == 3


def test_what_is_near_by_ease_is_what_its_scores_are_made_of(clicks):
    ease = EASE(5.0).fit(clicks)
    x = clicks.catalog.history.positives.toarray() > 0
    p = np.linalg.inv(x.T.astype(float) @ x + 5 * np.eye(x.shape[1]))
    weights = -p / np.diag(p)
    np.fill_diagonal(weights, 0)
    ids = clicks.vocab['item'].ids
    for code in range(5):
        near = ease.similar_items(ids[code], 4)
        order = np.argsort(-weights[:, code], kind='stable')[:4]
        assert list(near.item) == list(ids[order])
        assert list(near.score) == pytest.approx(list(weights[order, code]), abs=1e-5)
    assert ease.similar_items(99).empty
    assert (ease.similar_items(ids[0], 100).score > 0).all()


@pytest.mark.parametrize('scorer', [ItemKNN(5, 3.0), EASE(5.0)])
def test_a_basket_is_answered_as_a_user_who_has_it(clicks, scorer):
    scorer = scorer.fit(clicks)
    ids = clicks.vocab['item'].ids
    basket = list(ids[[2, 5, 11]])
    told = scorer.recommend(basket=basket, k=6)
    user = scorer.fold_in(basket)
    want = user.recommend(list(user.vocab['user'].ids), k=6)
    assert list(told.item) == list(want.item)
    assert list(told.score) == pytest.approx(list(want.score))
    assert scorer.recommend(basket=[99], k=5).empty  # nothing speaks for anything


def test_others_show_the_neighbors_of_what_they_are_made_of(clicks):
    knn = ItemKNN(5, 3.0).fit(clicks)
    item = clicks.vocab['item'].ids[3]
    assert Reranked(knn, lambda recs: recs).similar_items(item, 4).equals(knn.similar_items(item, 4))
    assert Reranked(knn, lambda recs: recs).recommend(basket=[item], k=4).equals(knn.recommend(basket=[item], k=4))
    both = Ensemble([knn, knn])
    assert both.similar_items(item, 4).equals(knn.similar_items(item, 4))
    graph = item_graph(knn, k=3)
    near = graph.neighbors(item, 3)
    assert list(near.weight) == pytest.approx(list(knn.similar_items(item, 3).score))
    assert graph.degrees[clicks.vocab['item'].encode([99])] == 0


def test_baselines_have_no_similar_users(clicks):
    for scorer in (ItemKNN().fit(clicks), EASE().fit(clicks)):
        with pytest.raises(ValueError, match='no vectors of users'):
            scorer.similar_users(0)


def test_real_items_have_the_neighbors_of_a_slow_reference(ml100k):
    ratings, _ = ml100k
    dls = RecDataLoaders.from_df(ratings, target='implicit', seed=1)
    knn = ItemKNN().fit(dls)
    want = cosines(dls, 100.0)
    ids = dls.vocab['item'].ids
    known = np.flatnonzero(dls.catalog.known('item'))
    near = knn.similar_items(list(ids[known]), 10, min_rows=0)
    lists = dict(iter(near.groupby('query_item')))
    for code in known:
        best = np.sort(want[:, code])[::-1][:10]
        best = best[best > 0]
        rows = lists.get(ids[code], near[:0])
        found = dls.vocab['item'].encode(rows.item) if len(rows) else np.zeros(0, int)
        assert list(rows.score) == pytest.approx(list(best), abs=1e-6)
        assert list(want[found, code]) == pytest.approx(list(best), abs=1e-6)
