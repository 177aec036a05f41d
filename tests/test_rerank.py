"""Re-ranking against loops over users and items; what each function promises; its effect seen through `evaluate`."""

import numpy as np
import pandas as pd
import pytest
import torch

from fastrec.all import (
    ItemFeatures,
    Popularity,
    RecDataLoaders,
    Reranked,
    correct_popularity,
    coverage,
    diversity,
    epsilon_greedy,
    evaluate,
    exclude,
    hr,
    mmr,
    ndcg,
    novelty,
    pin,
    quota,
    recall,
    thompson_sampling,
)

N_ITEMS = 40
L = 12


@pytest.fixture()
def recs():
    """7 users with lists of 12, one with 4; items named by letters and digits; rows shuffled."""
    rng = np.random.default_rng(0)
    frames = []
    for u in range(8):
        n = 4 if u == 5 else L
        items = rng.choice(N_ITEMS, n, replace=False)
        frames.append(
            pd.DataFrame(
                dict(
                    user=f'u{u}',
                    item=[f'i{i:02}' for i in items],
                    title=[f'Title {i}' for i in items],
                    score=np.sort(rng.normal(size=n))[::-1],
                    rank=np.arange(1, n + 1),
                )
            )
        )
    return pd.concat(frames).sample(frac=1, random_state=0).reset_index(drop=True)


@pytest.fixture()
def table():
    """Vectors by item id, in an order of their own."""
    rng = np.random.default_rng(1)
    df = pd.DataFrame(rng.normal(size=(N_ITEMS, 5)), index=[f'i{i:02}' for i in range(N_ITEMS)])
    return df.sample(frac=1, random_state=1)


@pytest.fixture()
def counts():
    return pd.Series(np.random.default_rng(2).integers(1, 500, N_ITEMS), index=[f'i{i:02}' for i in range(N_ITEMS)])


def lists(df):
    return {u: g.sort_values('rank').item.tolist() for u, g in df.groupby('user')}


def check_table(df, before=None):
    """A recommendation table: ranks 1.. in order within users, no item twice, titles and scores as they were."""
    for _, g in df.groupby('user', sort=False):
        assert g['rank'].tolist() == list(range(1, len(g) + 1))
        assert g.item.is_unique
    assert df.index.equals(pd.RangeIndex(len(df)))
    if before is not None:
        assert df.merge(before, on=['user', 'item', 'title', 'score']).shape[0] == len(df)


@pytest.mark.parametrize('share', [0.0, 0.3, 0.7, 1.0])
def test_mmr_against_a_loop(recs, table, share, monkeypatch):
    unit = table.div(np.sqrt((table**2).sum(1)), axis=0)

    def slow(g, k):
        items = g.item.tolist()
        score = dict(zip(g.item, (g.score - g.score.min()) / (g.score.max() - g.score.min())))
        chosen = [items[0]]
        while len(chosen) < min(k, len(items)):
            rest = [i for i in items if i not in chosen]
            chosen.append(
                max(rest, key=lambda i: (1 - share) * score[i] - share * max(unit.loc[i] @ unit.loc[j] for j in chosen))
            )
        return chosen

    want = {u: slow(g.sort_values('rank'), 8) for u, g in recs.groupby('user')}
    df = mmr(recs, table, k=8, diversity=share)
    check_table(df, recs)
    assert lists(df) == want
    assert df.user.unique().tolist() == recs.user.unique().tolist()
    monkeypatch.setattr('fastrec.scorers.rerank.VECTOR_BUDGET', 2 * L * 5)  # two users at a time
    pd.testing.assert_frame_equal(mmr(recs, table, k=8, diversity=share), df)
    if share == 0:
        assert lists(df) == {u: o[:8] for u, o in lists(recs).items()}


def test_mmr_by_hand():
    df = pd.DataFrame(dict(item=['a', 'twin of a', 'b'], score=[1.0, 0.9, 0.0], rank=[1, 2, 3]))  # one anonymous list
    vectors = pd.DataFrame([[1.0, 0], [2.0, 0], [0, 1.0]], index=df.item)
    # second place: twin (1 - d) .9 - d against b 0: the twin as long as d < 9/19
    assert mmr(df, vectors, diversity=0.47).item.tolist() == ['a', 'twin of a', 'b']
    assert mmr(df, vectors, diversity=0.48).item.tolist() == ['a', 'b', 'twin of a']


def test_mmr_by_features(recs):
    kinds = pd.DataFrame(
        dict(item=[f'i{i:02}' for i in range(N_ITEMS)], kind=[('a', 'b', 'c')[i % 3] for i in range(N_ITEMS)])
    )
    of = ItemFeatures.from_df(kinds, category='kind')
    assert (
        lists(mmr(recs, of, diversity=0.6))
        == lists(mmr(recs, pd.get_dummies(kinds.set_index('item').kind), diversity=0.6))
        != lists(recs)
    )
    with pytest.raises(KeyError, match='features have no row for'):
        mmr(recs, ItemFeatures.from_df(kinds.iloc[:9], category='kind'))


def test_popularity_against_a_loop(recs, counts):
    df = correct_popularity(recs, counts, 0.8, k=6)
    check_table(df)
    for u, g in recs.groupby('user'):
        log = np.log1p(counts[g.item].to_numpy())
        new = pd.Series(
            g.score.to_numpy() - 0.8 * g.score.std(ddof=0) * (log - log.mean()) / log.std(), index=g.item
        ).sort_values(ascending=False)[:6]
        mine = df[df.user == u]
        assert mine.item.tolist() == new.index.tolist()
        assert mine.score.tolist() == pytest.approx(new.tolist())
    assert lists(correct_popularity(recs, counts, 0.0)) == lists(recs)


def test_lists_without_scores_keep_their_order(recs, table, counts):
    cold = recs.assign(score=recs.score.where(recs.user != 'u2'))
    assert lists(mmr(cold, table, diversity=0.0))['u2'] == lists(recs)['u2']
    assert lists(correct_popularity(cold, counts, 0.0))['u2'] == lists(recs)['u2']


def test_epsilon_greedy(recs):
    df = epsilon_greedy(recs, 0.0, k=5, seed=0)
    assert lists(df) == {u: o[:5] for u, o in lists(recs).items()}
    assert not df.explored.any()
    df = epsilon_greedy(recs, 1.0, k=5, seed=0)
    check_table(df, recs)
    for u, own in lists(recs).items():
        if u == 'u5':
            assert lists(df)[u] == own  # nothing beyond the first five to explore
        else:
            assert set(lists(df)[u]) <= set(own[5:])
            assert df[df.user == u].explored.all()
    df = epsilon_greedy(recs, 0.4, k=5, seed=1)
    for u, g in df.groupby('user'):
        assert g.item[~g.explored].tolist() == lists(recs)[u][: (~g.explored).sum()]  # the best, in order
    assert df.equals(epsilon_greedy(recs, 0.4, k=5, seed=1))
    assert not df.equals(epsilon_greedy(recs, 0.4, k=5, seed=2))
    share = np.mean([epsilon_greedy(recs[recs.user != 'u5'], 0.25, k=6, seed=s).explored.mean() for s in range(100)])
    assert share == pytest.approx(0.25, abs=0.03)  # 4,200 draws: sd 0.007
    with pytest.raises(ValueError, match='nothing is left to explore'):
        epsilon_greedy(recs, 0.1, k=12)
    with pytest.raises(ValueError, match='a probability'):
        epsilon_greedy(recs, 1.1)


def test_epsilon_greedy_draws_given_items_evenly(recs):
    new = [f'n{i}' for i in range(20)]
    df = pd.concat([epsilon_greedy(recs, 1.0, k=5, items=new, seed=s) for s in range(60)])
    assert set(df.item) == set(new)
    assert df.score.isna().all()
    assert df.title.isna().all()
    n = df.item.value_counts()  # 2,400 draws of 20: 120 each
    assert n.min() > 80
    assert n.max() < 160
    few = epsilon_greedy(recs, 1.0, k=5, items=['n0', 'n1'], seed=0)
    check_table(few)
    assert few.groupby('user').explored.sum().eq(2).all()


def test_thompson_against_its_formula(recs, counts):
    spread = recs.groupby('user').score.transform(lambda s: s.std(ddof=0))
    draws = pd.concat([thompson_sampling(recs, counts, scale=2.0, prior=50.0, seed=s) for s in range(400)])
    check_table(thompson_sampling(recs, counts, seed=0))
    assert all(
        g.sort_values('rank').score.is_monotonic_decreasing
        for _, g in thompson_sampling(recs, counts, seed=0).groupby('user')
    )
    got = draws.groupby(['user', 'item']).score.agg(['mean', 'std'])
    want = (
        recs.assign(sd=2 * spread * np.sqrt(50 / (50 + counts[recs.item].to_numpy())))
        .set_index(['user', 'item'])
        .loc[got.index]
    )
    assert ((got['std'] / want.sd - 1).abs() < 0.2).all()
    assert ((got['mean'] - want.score).abs() < 4.5 * want.sd / 20).all()
    assert lists(thompson_sampling(recs, counts, scale=0.0)) == lists(recs)
    a = thompson_sampling(recs, counts, k=3, seed=4)
    assert a.equals(thompson_sampling(recs, counts, k=3, seed=4))
    assert len(a) == 24


def test_exclude(recs):
    own = lists(recs)
    gone = {own['u0'][0], own['u1'][3], 'unheard of'}
    df = exclude(recs, gone, k=6)
    check_table(df, recs)
    assert lists(df) == {u: [i for i in o if i not in gone][:6] for u, o in own.items()}
    pairs = pd.DataFrame(dict(user=['u0', 'u3'], item=[own['u0'][0], own['u3'][2]]))
    want = {u: [i for i in o if (u, i) not in set(zip(pairs.user, pairs.item))] for u, o in own.items()}
    assert lists(exclude(recs, pairs)) == want
    assert lists(exclude(recs, own['u5'])).keys() == own.keys() - {'u5'}  # nothing left for that user


def test_pin(recs):
    own = lists(recs)
    item = own['u0'][4]

    def slow(o, places, k):
        rest = iter([i for i in o if i not in places])
        at = {p: i for i, p in places.items()}
        res = [at.get(p) or next(rest, None) for p in range(1, k + 1)]
        return [x for x in res if x is not None]

    for places, k in (({item: 1}, 12), ({'ad': 2, item: 5}, 10), ({'ad': 3}, 3)):
        df = pin(recs, places, k=k)
        check_table(df)
        assert lists(df) == {u: slow(o, places, k) for u, o in own.items()}
    df = pin(recs, ['ad', item], at=2, titles=pd.Series({'ad': 'An offer'}), k=6)
    assert (df[df['rank'] == 2].title == 'An offer').all()
    assert df[df['rank'] == 2].score.isna().all()
    assert (df[df['rank'] == 3].title == f'Title {int(item[1:])}').all()
    df = pin(recs, item, seen=pd.DataFrame(dict(user=['u0', 'u1'], item=item)))
    assert lists(df)['u0'] == own['u0']
    assert lists(df)['u1'] == own['u1']
    assert lists(df)['u2'][0] == item
    with pytest.raises(ValueError, match='places run from 1 to 12'):
        pin(recs, {item: 13})
    with pytest.raises(ValueError, match='the same place'):
        pin(recs, {item: 1, 'ad': 1})


def test_quota_against_a_loop(recs):
    kind = pd.Series([('a', 'b', 'c')[i % 3] for i in range(N_ITEMS)], index=[f'i{i:02}' for i in range(N_ITEMS)])

    def slow(items, upper, lower, k):
        taken = []
        for c, n in [*lower.items(), (None, None)]:
            for i in items:
                room = kind[taken + [i]].value_counts()[kind[i]] <= upper.get(kind[i], k)
                if (
                    i not in taken
                    and len(taken) < k
                    and room
                    and (c is None or (kind[i] == c and sum(kind[j] == c for j in taken) < n))
                ):
                    taken.append(i)
        return [i for i in items if i in taken]

    for most, least in ((2, {}), ({'a': 1}, {'c': 3}), (None, {'b': 2, 'c': 2}), (3, {'a': 3})):
        df = quota(recs, kind, most, least, k=6)
        check_table(df, recs)
        upper = dict.fromkeys('abc', most) if isinstance(most, int) else most or {}
        assert lists(df) == {u: slow(o, upper, least, 6) for u, o in lists(recs).items()}
        assert df.equals(
            quota(recs.assign(kind=kind[recs.item].to_numpy()), 'kind', most, least, k=6).drop(columns='kind')
        )
        assert df.equals(quota(recs, pd.get_dummies(kind), most, least, k=6))


def test_quota_with_several_categories_an_item():
    df = pd.DataFrame(dict(item=list('pqrs'), score=[4.0, 3, 2, 1], rank=[1, 2, 3, 4]))
    genres = pd.Series(dict(p='x|y', q='x', r='y', s='z')).str.get_dummies('|')
    assert quota(df, genres, at_most=1, k=3).item.tolist() == ['p', 's']
    assert quota(df, genres, at_least={'z': 1}, k=2).item.tolist() == ['p', 's']
    assert quota(df, genres, at_most={'y': 0}, k=3).item.tolist() == ['q', 's']
    with pytest.raises(ValueError, match="category 'w'"):
        quota(df, genres, at_most={'w': 1})
    with pytest.raises(ValueError, match='say what to keep to'):
        quota(df, genres)
    with pytest.raises(ValueError, match="no column 'genre'"):
        quota(df, 'genre', 1)


def test_bad_input_is_told(recs, table, counts):
    with pytest.raises(ValueError, match="it lacks 'rank'"):
        mmr(recs.drop(columns='rank'), table)
    with pytest.raises(ValueError, match='k=0'):
        mmr(recs, table, k=0)
    with pytest.raises(ValueError, match='diversity=2'):
        mmr(recs, table, diversity=2)
    with pytest.raises(KeyError, match='vectors has no row for'):
        mmr(recs, table.iloc[:30])
    with pytest.raises(TypeError, match='how alike items are'):
        mmr(recs, table.to_numpy())
    with pytest.raises(ValueError, match='table of numbers'):
        mmr(recs, table.assign(title='x'))
    with pytest.raises(ValueError, match='not finite'):
        mmr(recs, table * np.nan)
    with pytest.raises(ValueError, match='several rows'):
        correct_popularity(recs, pd.concat([counts, counts]))
    with pytest.raises(TypeError, match='value_counts'):
        correct_popularity(recs, dict(counts))


@pytest.fixture(scope='module')
def groups():
    """Two groups of users, two halves of the catalogue, popularity falling within each."""
    rng = np.random.default_rng(0)
    p = 1 / np.arange(1, 31)
    rows = [
        (f'u{u:03}', int(i)) for u in range(150) for i in 2 * rng.choice(30, 10, replace=False, p=p / p.sum()) + u % 2
    ]
    df = pd.DataFrame(rows, columns=['user', 'item'])
    return RecDataLoaders.from_df(
        df,
        target='implicit',
        valid_pct=0.2,
        seed=0,
        item_df=pd.DataFrame(dict(item=np.arange(60), title=[f'T{i}' for i in range(60)])),
    )


def test_a_chain_and_its_effect(groups):
    base = Popularity().fit(groups)
    kinds = pd.DataFrame(np.eye(2)[np.arange(60) % 2], index=np.arange(60))
    metrics = [ndcg(10), diversity(10), novelty(10), coverage(10)]
    vectors = torch.from_numpy(kinds.to_numpy(np.float32))

    def of(rerank):
        return evaluate(Reranked(base, rerank, n=40), groups, metrics, vectors=vectors).loc['all']

    plain = evaluate(base, groups, metrics, vectors=vectors).loc['all']
    same = of(lambda df: df)
    assert same.tolist() == pytest.approx(plain.tolist(), abs=0.02)  # ties of counts are broken now
    assert of(lambda df: df.pipe(mmr, kinds, diversity=0.9))['diversity@10'] > plain['diversity@10']
    corrected = of(lambda df: df.pipe(correct_popularity, base, 2.0))
    assert corrected['novelty@10'] > plain['novelty@10'] + 1
    assert corrected['ndcg@10'] < plain['ndcg@10']
    assert of(lambda df: df.pipe(epsilon_greedy, 0.5, k=10, items=base, seed=0))['coverage@10'] > plain['coverage@10']
    assert of(lambda df: df.pipe(exclude, base.scores.topk(3).indices.tolist()))['ndcg@10'] < plain['ndcg@10']


def test_reranked_recommends_and_ranks_alike(groups):
    base = Popularity().fit(groups)
    scorer = Reranked(base, lambda df: df.pipe(correct_popularity, base, 1.0).pipe(exclude, [0, 1]), n=20)
    users = groups.vocab['user'].ids[:9]
    df = scorer.recommend(users, k=5)
    check_table(df)
    codes = torch.arange(9)
    scores = scorer.score_items(codes)
    order = scores.clone()
    for u in range(9):
        order[u, torch.from_numpy(groups.catalog.require_history().seen[u].indices).long()] = -torch.inf
    assert df.item.tolist() == order.topk(5).indices.flatten().tolist()
    assert not df.item.isin([0, 1]).any()
    assert torch.equal(scorer.score(codes, codes), scores[codes, codes])
    assert order[:, :2].max() <= -60  # left out: behind everything
    assert evaluate(scorer, groups, [hr(10), recall(60)]).loc['all', 'recall@60'] == 1


def test_random_items_are_unseen_and_known_by_title(groups):
    base = Popularity().fit(groups)
    df = epsilon_greedy(base.recommend(groups.vocab['user'].ids, k=5), 1.0, k=8, items=base, seed=3)
    check_table(df)
    seen = set(zip(*groups.catalog.require_history().seen.nonzero()))
    first = base.recommend(groups.vocab['user'].ids, k=5)
    shown = set(zip(first.user, first.item))
    for u, i, t in zip(df.user, df.item, df.title):
        assert (groups.vocab['user'].encode(u)[0], i) not in seen
        assert (u, i) not in shown
        assert t == f'T{i}'
    assert len(df) == 8 * 150


def test_a_table_of_pairs_says_nothing_about_the_list_of_a_basket(recs):
    basket = recs[recs.user == recs.user[0]].drop(columns='user')
    pairs = recs[['user', 'item']].head(3)
    with pytest.raises(ValueError, match=r"nobody in particular.*exclude\(recs, table\['item'\]\)"):
        exclude(basket, pairs)
    left = exclude(basket, pairs['item'])  # what the message says
    assert set(left.item) == set(basket.item) - set(pairs['item'])
    with pytest.raises(ValueError, match=r'nobody in particular.*leave seen= out'):
        pin(basket, 'i00', seen=pairs)
    assert pin(basket, 'i00').item[0] == 'i00'


def test_a_table_without_users_is_no_table_of_pairs(recs):
    items = recs[['item']].head(3)
    with pytest.raises(ValueError, match=r"which user does not get which item.*It has 'item'.*exclude\(recs, table"):
        exclude(recs, items)
    with pytest.raises(ValueError, match=r'which user does not get which item.*leave seen= out'):
        pin(recs, 'i00', seen=items)


@pytest.mark.parametrize('dtype', ['int64', 'uint16', 'Int32', 'float64', 'category', object])
def test_ids_of_rules_are_compared_by_value(dtype):
    recs = pd.DataFrame(dict(user=[7, 7, 7], item=[1, 2, 3], score=[3.0, 2.0, 1.0], rank=[1, 2, 3]))
    pairs = pd.DataFrame(dict(user=[7, 8], item=[2, 1])).astype(dtype)
    assert exclude(recs, pairs).item.tolist() == [1, 3]
    assert exclude(recs, pairs['item']).item.tolist() == [3]


def test_numbers_as_texts_are_told_rather_than_not_found(recs):
    numbered = recs.assign(item=recs.item.str[1:].astype(int))
    with pytest.raises(ValueError, match=r'item ids of the recommendations are integers.*those given strings'):
        exclude(numbered, ['1', '2'])
    with pytest.raises(ValueError, match=r'item ids of the recommendations are integers.*`\.astype\(int\)`'):
        exclude(numbered, numbered[['user', 'item']].astype(str))
    gone = exclude(numbered, pd.Series(['1', '2']).astype(int))  # what the message says
    assert set(gone.item) == set(numbered.item) - {1, 2}
