"""Top-k against a slow reference, masks, candidates, cold policies, baskets, similar items: on any Scorer."""

import numpy as np
import pandas as pd
import pytest
import torch

from fastrec.all import collab_learner, evaluate, hr, rec_learner
from fastrec.data.catalog import Catalog
from fastrec.data.history import History
from fastrec.data.interactions import Interactions
from fastrec.data.splits import make_split
from fastrec.models import DotBias
from fastrec.scorers.baselines import BiasOnly
from fastrec.scorers.recommend import top_k
from fastrec.scorers.retrieval import similar
from fastrec.scorers.scorer import Scorer

N_USERS = 30
N_ITEMS = 20


class Fixed(Scorer):
    """Scores and vectors that are known beforehand."""

    def __init__(self, catalog, seed=0):
        g = torch.Generator().manual_seed(seed)
        self.catalog = catalog
        self.table = torch.randn(catalog.n_users, catalog.n_items, generator=g)
        self.table_vectors = {
            side: torch.randn(n, 4, generator=g) for side, n in (('user', catalog.n_users), ('item', catalog.n_items))
        }

    def score(self, users, items):
        return self.table[users, items]

    def score_items(self, users):
        return self.table[users].clone()

    def vectors(self, side):
        return self.table_vectors[side]


@pytest.fixture()
def scorer():
    rng = np.random.default_rng(0)
    pairs = pd.DataFrame([(u, i) for u in range(N_USERS) for i in range(N_ITEMS)], columns=['user', 'item']).sample(
        200, random_state=0
    )
    pairs = pd.concat([pairs, pd.DataFrame(dict(user=np.arange(N_USERS), item=0))]).drop_duplicates()
    df = pairs.assign(
        user='u' + pairs.user.astype(str).str.zfill(2), item=100 + pairs.item, rating=rng.integers(1, 6, len(pairs))
    )
    items = pd.DataFrame(
        dict(item=100 + np.arange(N_ITEMS), title=[f'Title {i}' for i in range(N_ITEMS)], genre=['a', 'b'] * 10)
    )
    cold = (df.user == 'u03') | (df.item == 107)  # no training row for them
    inter = Interactions.from_df(df)
    return Fixed(Catalog(History(inter, make_split(inter, (np.flatnonzero(~cold), np.flatnonzero(cold)))), items))


def reference(scorer, user, k, exclude=(), allowed=None):
    """The slow way: sort all items of one user in Python."""
    u = scorer.vocab['user'].encode([user])[0]
    ranked = sorted(
        ((scorer.table[u, i].item(), int(scorer.vocab['item'].ids[i])) for i in range(N_ITEMS)), reverse=True
    )
    return [item for _, item in ranked if item not in exclude and (allowed is None or item in allowed)][:k]


def seen(scorer, user):
    inter = scorer.catalog.interactions
    rows = scorer.catalog.split.train
    df = inter.to_df(rows)
    return set(df.item[df.user == user])


def test_against_a_slow_reference(scorer, monkeypatch):
    users = [f'u{i:02}' for i in range(N_USERS) if i != 3]
    df = scorer.recommend(users, k=6)
    for user in users:
        mine = df[df.user == user]
        assert mine.item.tolist() == reference(scorer, user, 6, seen(scorer, user))
        assert mine['rank'].tolist() == list(range(1, len(mine) + 1))
        assert mine.score.is_monotonic_decreasing
        assert mine.title.tolist() == [f'Title {i - 100}' for i in mine.item]
    monkeypatch.setattr('fastrec.scorers.recommend.MEMORY_BUDGET', 4 * N_ITEMS * 7)  # chunks of 7 users
    pd.testing.assert_frame_equal(scorer.recommend(users, k=6), df)


def test_columns_and_order_of_users(scorer):
    df = scorer.recommend(['u09', 'u02'], k=3, candidates=[100, 101, 102, 103, 104, 105], exclude_seen=False)
    assert list(df.columns) == ['user', 'item', 'title', 'score', 'rank']
    assert df.user.tolist() == ['u09'] * 3 + ['u02'] * 3
    assert df.equals(
        pd.concat(
            [scorer.recommend(u, 3, candidates=range(100, 106), exclude_seen=False) for u in ('u09', 'u02')],
            ignore_index=True,
        )
    )


def test_exclude_seen_false_and_k_beyond_the_catalogue(scorer):
    df = scorer.recommend('u05', k=999, exclude_seen=False)
    assert df.item.tolist() == reference(scorer, 'u05', 999)
    assert len(df) == N_ITEMS


def test_fewer_than_k_when_little_is_left(scorer):
    mine = seen(scorer, 'u05')
    allowed = sorted(mine)[:2] + [i for i in range(100, 120) if i not in mine][:1]
    assert len(scorer.recommend('u05', k=5, candidates=allowed)) == 1


def test_seen_table_replaces_the_training_rows(scorer):
    table = pd.DataFrame(dict(user=['u05', 'u05', 'stranger'], item=[101, 102, 103]))
    assert scorer.recommend('u05', k=20, seen=table).item.tolist() == reference(scorer, 'u05', 20, {101, 102})
    renamed = table.rename(columns=dict(user='who', item='what'))[['what', 'who']]
    with pytest.raises(ValueError, match='no row of the table'):
        scorer.recommend('u05', seen=renamed)
    scorer.catalog.names = dict(user='who', item='what', rating='rating', time=None)
    assert scorer.recommend('u05', k=20, seen=renamed).what.tolist() == reference(scorer, 'u05', 20, {101, 102})
    with pytest.raises(TypeError, match='user and an item column'):
        scorer.recommend('u05', seen={101})


def test_candidates(scorer):
    even = list(range(100, 120, 2))
    for candidates in (even, np.array(even), "genre == 'a'", lambda m: m.genre == 'a'):
        assert scorer.recommend('u05', 5, False, candidates).item.tolist() == reference(scorer, 'u05', 5, allowed=even)
    with pytest.raises(TypeError, match='function of item_df'):
        scorer.recommend('u05', candidates=np.ones(20, bool))
    with pytest.raises(ValueError, match=r"cannot read the condition.*'title', 'genre'"):
        scorer.recommend('u05', candidates='color == 3')
    with pytest.raises(ValueError, match='`@`, a variable of Python, is not allowed'):
        scorer.recommend('u05', candidates='@pd.io.common.os.getpid() > 0')
    with pytest.raises(KeyError, match='unknown item id: 999'):
        scorer.recommend('u05', candidates=[100, 999])
    with pytest.raises(ValueError, match='no item is left'):
        scorer.recommend('u05', candidates="genre == 'z'")


def test_cold_users(scorer):
    counts = scorer.catalog.counts['item']
    df = scorer.recommend(['u03', 'u04'], k=4)
    first = df[df.user == 'u03']
    assert first.cold.all()
    assert not df.cold[(df.user == 'u04') & (df.item != 107)].any()
    assert counts[scorer.vocab['item'].encode(first.item)].tolist() == sorted(counts, reverse=True)[:4]
    assert first.score.isna().all()
    mean = scorer.recommend('u03', k=4, cold='mean')
    assert mean.item.tolist() == reference(scorer, 'u03', 4)
    assert mean.cold.all()
    with pytest.raises(KeyError, match=r"no training row: 'u03'.*cold='popular'"):
        scorer.recommend(['u03', 'u04'], cold='raise')
    with pytest.raises(ValueError, match="choose one of 'popular'"):
        scorer.recommend('u03', cold='what')


def test_cold_items_are_flagged(scorer):
    df = scorer.recommend('u05', k=N_ITEMS, exclude_seen=False)
    assert df.item[df.cold].tolist() == [107]


def test_basket(scorer):
    df = scorer.recommend(basket=[101, 104], k=5)
    v = torch.nn.functional.normalize(scorer.vectors('item'), dim=1)
    want = (v @ v[[1, 4]].T).mean(1)
    want[[1, 4, 7]] = -9  # the basket itself and the cold item
    order = want.argsort(descending=True)[:5]
    assert df.item.tolist() == (100 + order).tolist()
    assert df.score.tolist() == pytest.approx(want[order].tolist(), abs=1e-6)
    assert list(df.columns) == ['item', 'title', 'score', 'rank']
    assert scorer.recommend(basket=['Title 1', 104], k=5).equals(df)
    with pytest.raises(ValueError, match='empty'):
        scorer.recommend(basket=[])


def test_bad_arguments(scorer):
    with pytest.raises(ValueError, match='users or a basket'):
        scorer.recommend('u05', basket=[101])
    with pytest.raises(ValueError, match='basket='):
        scorer.recommend()
    with pytest.raises(ValueError, match='at least one item'):
        scorer.recommend('u05', k=0)
    with pytest.raises(KeyError, match=r"'a', 'b', 'c', 'd', 'e', \.\.\..*6 of 6"):
        scorer.recommend(list('abcdef'))


def test_no_users(scorer):
    assert list(scorer.recommend([], 5).columns) == ['user', 'item', 'title', 'score', 'rank']


def test_scores_that_are_no_numbers(scorer):
    scorer.table[5] = float('nan')
    with pytest.raises(ValueError, match='not numbers'):
        scorer.recommend('u05')


def test_cold_items_of_a_model_that_does_not_know_them(scorer):
    scorer.knows_cold = False
    assert 107 not in scorer.recommend('u05', k=N_ITEMS, exclude_seen=False).item.tolist()


def test_unfitted_and_without_vectors():
    with pytest.raises(ValueError, match='not fitted yet'):
        BiasOnly().recommend('u05')


@pytest.mark.parametrize('side', ['item', 'user'])
def test_similar(scorer, side):
    query = 105 if side == 'item' else 'u05'
    df = similar(scorer, query, 4, side)
    v = torch.nn.functional.normalize(scorer.vectors(side), dim=1)
    want = v @ v[5]
    want[[5, 7 if side == 'item' else 3]] = -9
    order = want.argsort(descending=True)[:4]
    assert scorer.vocab[side].encode(df[side]).tolist() == order.tolist()
    assert df.score.tolist() == pytest.approx(want[order].tolist(), abs=1e-6)
    assert (df[f'query_{side}'] == query).all()
    assert df['rank'].tolist() == [1, 2, 3, 4]


def test_similar_takes_titles_and_refuses_cold(scorer):
    assert similar(scorer, 'Title 5').equals(similar(scorer, 105))
    assert similar(scorer, 'title 19').equals(similar(scorer, 119))
    with pytest.raises(KeyError, match='11 items match'):
        similar(scorer, 'itle 1')
    with pytest.raises(KeyError, match='107 has no training row'):
        similar(scorer, 107)


def test_baselines_are_scorers(dls):
    base = BiasOnly().fit(dls)
    assert base.score_items(torch.tensor([0, 5]))[1, 7] == pytest.approx(
        base.score(torch.tensor([5]), torch.tensor([7])).item()
    )
    assert len(base.recommend(dls.vocab['user'].ids[:3], k=4)) == 12


def test_damped_biases_by_hand():
    df = pd.DataFrame([(1, 'a', 5.0), (1, 'b', 3.0), (2, 'a', 4.0), (2, 'c', 1.0)], columns=['user', 'item', 'rating'])
    inter = Interactions.from_df(df)

    class Dls:
        catalog = Catalog(History(inter, make_split(inter, (np.array([0, 1, 2]), np.array([3])))))

    base = BiasOnly(damping=(1.0, 2.0)).fit(Dls)
    b_a = (1.0 + 0.0) / (2 + 2)
    b_b = -1.0 / (1 + 2)
    assert base.mean == 4.0
    assert base.item_biases.tolist() == pytest.approx([b_a, b_b, 0.0])
    assert base.user_biases.tolist() == pytest.approx([((1 - b_a) + (-1 - b_b)) / (2 + 1), (0 - b_a) / (1 + 1)])


# --- the reverse question


@pytest.mark.parametrize('budget', [None, 1])
def test_users_for_an_item_against_a_slow_reference(scorer, monkeypatch, budget):
    if budget:
        monkeypatch.setattr('fastrec.scorers.recommend.MEMORY_BUDGET', 16 * 64 * 4)  # four users at a time
    items = [101, 105, 'Title 9']
    df = scorer.recommend_users(items, k=5)
    for item in (101, 105, 109):
        i = scorer.vocab['item'].encode([item])[0]
        have = {u for u in scorer.vocab['user'].ids if item in seen(scorer, u)} | {'u03'}  # who has no training row
        want = sorted(
            ((scorer.table[c, i].item(), u) for c, u in enumerate(scorer.vocab['user'].ids) if u not in have),
            reverse=True,
        )[:5]
        mine = df[df.item == item]
        assert have - {'u03'}
        assert mine.user.tolist() == [u for _, u in want]
        assert mine['rank'].tolist() == [1, 2, 3, 4, 5]
        assert mine.title.unique().tolist() == [f'Title {i}']
        np.testing.assert_allclose(mine.score, [v for v, _ in want], rtol=1e-6)
    everybody = scorer.recommend_users(101, k=99, exclude_seen=False)
    assert len(everybody) == N_USERS - 1
    assert 'u03' not in set(everybody.user)
    assert set(scorer.recommend_users(101, k=99, exclude_seen=False, users=['u03', 'u05', 'u09']).user) == {
        'u05',
        'u09',
    }
    assert not set(scorer.recommend_users(101, k=99, seen=pd.DataFrame(dict(user=['u05'], item=[101]))).user) & {'u05'}


def test_users_for_an_item_that_nobody_has(scorer):
    df = scorer.recommend_users(107, k=2)
    assert df.cold.all()
    assert len(df) == 2
    scorer.knows_cold = False
    with pytest.raises(KeyError, match='107 has no training row'):
        scorer.recommend_users(107)
    with pytest.raises(ValueError, match='k=0'):
        scorer.recommend_users(101, k=0)
    with pytest.raises(ValueError, match='no user is left'):
        scorer.recommend_users(101, users=['u03'])
    with pytest.raises(KeyError, match='unknown user id'):
        scorer.recommend_users(101, users=['nobody'])


# --- few candidates, and the cheaper order


def test_few_candidates_are_scored_alone_and_rank_as_among_all(dls, monkeypatch):
    torch.manual_seed(0)
    learn = collab_learner(dls, n_factors=4, y_range=(0.5, 5.5))
    for t in learn.model.tables:
        torch.nn.init.normal_(t.weight)
    ids = list(learn.vocab['item'].ids[[3, 40, 77, 100]])
    users = learn.vocab['user'].ids[:9]
    scored = []
    score_items = type(learn).score_items
    # nothing is few: over the whole catalogue
    monkeypatch.setattr('fastrec.scorers.recommend.ITEMS_PER_CANDIDATE', 1000)
    want = learn.recommend(users, k=3, candidates=ids)
    monkeypatch.setattr('fastrec.scorers.recommend.ITEMS_PER_CANDIDATE', 20)
    monkeypatch.setattr(type(learn), 'ranker', lambda self: scored.append(self))
    monkeypatch.setattr(learn.model, 'score_items', lambda users: scored.append(users))
    pd.testing.assert_frame_equal(learn.recommend(users, k=3, candidates=ids), want, atol=1e-5)
    assert not scored
    assert score_items is type(learn).score_items


@pytest.mark.parametrize('y_range', [None, (0.5, 5.5)])
def test_ranker_orders_as_scores_do(dls, y_range):
    torch.manual_seed(0)
    learn = collab_learner(dls, n_factors=4, y_range=y_range)
    for t in learn.model.tables:
        torch.nn.init.normal_(t.weight, std=0.5)
    users = torch.arange(20)
    scores = learn.score_items(users)
    order = learn.ranker()(users)
    assert (scores.gather(1, order.argsort(dim=1)).diff(dim=1) >= -1e-6).all()
    recs = learn.recommend(learn.vocab['user'].ids[:20], k=5, exclude_seen=False)
    assert np.allclose(recs.score.to_numpy().reshape(20, 5), scores.topk(5, 1).values, atol=1e-5)


def test_model_with_scores_of_its_own_has_no_ranker(dls):
    class Other(DotBias):
        def score_items(self, users):
            return -super().score_items(users)

    learn = rec_learner(dls, Other(dls.n_users, dls.n_items, 4))
    assert learn.ranker() is None
    assert collab_learner(dls).ranker() is not None


@pytest.mark.parametrize('n, k', [(1, 1), (7, 10), (100, 3), (1000, 10), (1003, 10), (5000, 1), (5000, 100)])
def test_top_k_in_two_steps(n, k):
    g = torch.Generator().manual_seed(n)
    scores = torch.randn(5, n, generator=g)
    scores[2] = -torch.inf
    scores[3, 1:] = -torch.inf
    values, at = top_k(scores, k)
    assert torch.equal(values, scores.topk(min(k, n), dim=1).values)
    assert torch.equal(scores.gather(1, at), values)
    assert all(len(set(row.tolist())) == min(k, n) for row in at)
    ties = torch.randint(0, 4, (5, n), generator=g).float()
    values, at = top_k(ties, k)
    assert torch.equal(values, ties.topk(min(k, n), dim=1).values)
    assert torch.equal(ties.gather(1, at), values)
    scores[1, n // 2] = torch.nan
    assert torch.isnan(top_k(scores, k)[0]).any(1).tolist() == [False, True, False, False, False]


@pytest.mark.parametrize('suffix', ['parquet', 'csv'])
def test_to_a_file_a_part_at_a_time(scorer, suffix, tmp_path, monkeypatch):
    users = [f'u{i:02}' for i in range(N_USERS)]
    want = scorer.recommend(users, k=6)
    monkeypatch.setattr('fastrec.scorers.recommend.USERS_PER_TABLE', 7)
    path = scorer.recommend(users, k=6, to=tmp_path / f'recs.{suffix}')
    got = getattr(pd, f'read_{suffix}')(path)
    pd.testing.assert_frame_equal(got, want, check_dtype=False, atol=1e-6)
    assert [p.name for p in tmp_path.iterdir()] == [f'recs.{suffix}']  # nothing half-written is left
    warm = scorer.recommend(users[:2], k=2, candidates=[100, 101, 102], to=str(path))
    assert 'cold' in getattr(pd, f'read_{suffix}')(warm)  # always there: what comes later may be cold


def test_a_file_that_cannot_be(scorer, tmp_path):
    with pytest.raises(ValueError, match=r'ends in \.parquet or \.csv'):
        scorer.recommend('u05', to=tmp_path / 'recs.xlsx')
    with pytest.raises(FileNotFoundError, match='no folder'):
        scorer.recommend('u05', to=tmp_path / 'nowhere' / 'recs.csv')
    with pytest.raises(ValueError, match='one list'):
        scorer.recommend(basket=[100], to=tmp_path / 'recs.csv')
    scorer.table[5] = torch.nan
    with pytest.raises(ValueError, match='not numbers'):
        scorer.recommend('u05', to=tmp_path / 'recs.csv')
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('build', ['collab', 'svdpp', 'two_tower', 'ials'])
def test_rankers_order_as_the_scores_do(build, synthetic):
    from fastrec.all import RecDataLoaders, svdpp_learner, two_tower_learner
    from fastrec.scorers.factorization import IALS

    ratings, _, _ = synthetic
    dls = RecDataLoaders.from_df(
        ratings, target='implicit', threshold=4, valid_pct=0.1, seed=0, n_neg=0 if build == 'two_tower' else 2, bs=256
    )
    if build == 'ials':
        pytest.importorskip('implicit')
    scorer = (
        IALS(8, n_iter=2).fit(dls)
        if build == 'ials'
        else dict(collab=collab_learner, svdpp=svdpp_learner, two_tower=two_tower_learner)[build](dls, n_factors=8)
    )
    if build != 'ials':
        torch.manual_seed(0)
        for p in scorer.model.parameters():
            torch.nn.init.normal_(p, std=0.3)
        scorer.model.train()
    users = torch.arange(40)
    scores = scorer.score_items(users)
    order = scorer.ranker()(users)
    assert (scores.gather(1, order.argsort(dim=1)).diff(dim=1) >= -1e-5).all()
    assert order.std() > 1e-3
    one_by_one = pd.concat([scorer.recommend(u, 5) for u in scorer.vocab['user'].ids[:20]], ignore_index=True)
    pd.testing.assert_frame_equal(
        scorer.recommend(scorer.vocab['user'].ids[:20], 5)[['user', 'item', 'score', 'rank']],
        one_by_one[['user', 'item', 'score', 'rank']],
        atol=1e-4,
    )


def test_ids_come_from_anything_that_can_be_gone_through(scorer):
    users = ['u00', 'u02', 'u04']
    items = [100, 104, 108, 110, 111]
    want = scorer.recommend(users, k=3)
    for some in (iter(users), (o for o in users), map(str, users), dict.fromkeys(users).keys(), dict.fromkeys(users)):
        pd.testing.assert_frame_equal(scorer.recommend(some, k=3), want)
    pd.testing.assert_frame_equal(
        scorer.recommend(users, 2, candidates=(o for o in items)), scorer.recommend(users, 2, candidates=items)
    )
    pd.testing.assert_frame_equal(
        scorer.recommend_users((o for o in items), k=2, users=iter(users)),
        scorer.recommend_users(items, 2, users=users),
    )
    titles = ['Title 1', 'Title 3']
    pd.testing.assert_frame_equal(scorer.recommend(basket=iter(titles)), scorer.recommend(basket=titles))
    assert scorer.vocab['user'].encode('u04').tolist() == scorer.vocab['user'].encode(np.array('u04')).tolist() == [4]


def test_evaluation_of_users_that_come_one_by_one(scorer):
    users = ['u03', 'u05']
    want = evaluate(scorer, metrics=hr(3), relevant=1, users=users)
    pd.testing.assert_frame_equal(evaluate(scorer, metrics=hr(3), relevant=1, users=(o for o in users)), want)
    with pytest.raises(TypeError, match=r'candidates= of evaluate.*got list_iterator'):
        evaluate(scorer, metrics=hr(3), relevant=1, candidates=iter([100]))
