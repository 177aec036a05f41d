"""Neighborhoods of ratings and of users, against a slow loop over their definitions."""

import numpy as np
import pandas as pd
import pytest
import torch

from fastrec.all import ALS, EASE, BiasOnly, ItemKNN, Popularity, RecDataLoaders, UserKNN, load_recommender

SHRINK, K, DAMPING = 2.0, 4, (3.0, 2.0)
N_USERS, N_ITEMS = 25, 14


def table(seed=0, weighted=False):
    "Ratings of a few users, two of whom have one row; a tenth is held out, with all rows of one user and one item."
    rng = np.random.default_rng(seed)
    pairs = np.argwhere(rng.random((N_USERS, N_ITEMS)) < 0.5)
    df = pd.DataFrame(pairs, columns=['user', 'item'])
    likes = rng.normal(size=(N_USERS, 2)) @ rng.normal(size=(2, N_ITEMS))
    df['rating'] = (3 + likes[df.user, df.item] + 0.3 * rng.normal(size=len(df))).round(1)
    if weighted:
        df['weight'] = rng.choice([0.0, 0.5, 1.0, 3.0], size=len(df))
    held_out = (rng.random(len(df)) < 0.1) | (df.user == 7) | (df.item == 5)
    return df, np.flatnonzero(~held_out), np.flatnonzero(held_out)


def loaders(seed=0, weighted=False):
    df, train, valid = table(seed, weighted)
    options = dict(weight_name='weight') if weighted else {}
    return RecDataLoaders.from_df(df, splitter=(train, valid), **options)


@pytest.fixture(scope='module')
def dls():
    return loaders()


@pytest.fixture(scope='module')
def clicks():
    df, train, valid = table()
    return RecDataLoaders.from_df(df[['user', 'item']], target='implicit', splitter=(train, valid))


def biases(ratings, weights, damping, passes=10):
    "By loops: mean, biases of users, of items."
    n_users, n_items = ratings.shape
    mean = (weights * ratings).sum() / weights.sum()
    b_u, b_i = np.zeros(n_users), np.zeros(n_items)
    for _ in range(passes):
        for i in range(n_items):
            left = weights[:, i] * (ratings[:, i] - mean - b_u)
            b_i[i] = left.sum() / (damping[1] + weights[:, i].sum()) if weights[:, i].any() else 0
        for u in range(n_users):
            left = weights[u] * (ratings[u] - mean - b_i)
            b_u[u] = left.sum() / (damping[0] + weights[u].sum()) if weights[u].any() else 0
    return mean + b_u[:, None] + b_i


def correlation(a, b, weight_a, weight_b):
    "Shrunken correlation of what is left of two rows, where both have some weight."
    both = (weight_a > 0) & (weight_b > 0)
    n = both.sum()
    if n <= 1:
        return 0.0
    a, b = np.sqrt(weight_a[both]) * a[both], np.sqrt(weight_b[both]) * b[both]
    return max(0.0, (a @ b) / np.sqrt((a @ a) * (b @ b)) * (n - 1) / (n - 1 + SHRINK))


def reference(dls, of_items):
    "Predictions of all pairs by loops."
    inter, rows = dls.catalog.interactions, dls.catalog.split.train
    shape = dls.catalog.n_users, dls.catalog.n_items
    ratings, weights = np.zeros(shape), np.zeros(shape)
    ratings[inter.users[rows], inter.items[rows]] = inter.ratings[rows]
    weights[inter.users[rows], inter.items[rows]] = 1 if inter.row_weights is None else inter.row_weights[rows]
    base = biases(ratings, weights, DAMPING)
    left = ratings - base
    res = base.copy()
    for u in range(shape[0]):
        for i in range(shape[1]):
            if of_items:
                others = [(u, j) for j in np.flatnonzero(weights[u]) if j != i]
                near = [correlation(left[:, i], left[:, j], weights[:, i], weights[:, j]) for _, j in others]
            else:
                others = [(v, i) for v in np.flatnonzero(weights[:, i]) if v != u]
                near = [correlation(left[u], left[v], weights[u], weights[v]) for v, _ in others]
            best = np.argsort(near)[::-1][:K]
            total = sum(near[o] * weights[others[o]] for o in best)
            if total > 0:
                res[u, i] += sum(near[o] * weights[others[o]] * left[others[o]] for o in best) / total
    return res


@pytest.mark.parametrize('weighted', [False, True])
@pytest.mark.parametrize('cls', [ItemKNN, UserKNN])
def test_neighbors_of_ratings_are_as_defined(cls, weighted):
    dls = loaders(weighted=weighted)
    knn = cls(K, SHRINK, 'rating', DAMPING).fit(dls)
    want = reference(dls, cls is ItemKNN)
    users, items = (torch.from_numpy(o.ravel()) for o in np.indices(want.shape))
    assert knn.scale == 'rating'
    assert knn.score_items(torch.arange(len(want))).numpy() == pytest.approx(want, abs=1e-5)
    shuffled = torch.randperm(len(users), generator=torch.Generator().manual_seed(0))
    got = knn.score(users[shuffled], items[shuffled]).numpy()
    assert got == pytest.approx(want.ravel()[shuffled], abs=1e-5)


@pytest.mark.parametrize('cls', [ItemKNN, UserKNN])
def test_chunks_change_nothing(cls, dls, monkeypatch):
    want = cls(K, SHRINK, 'rating').fit(dls).score_items(torch.arange(20))
    monkeypatch.setattr('fastrec.scorers.neighbors.COMMON', 200)
    assert torch.allclose(cls(K, SHRINK, 'rating').fit(dls).score_items(torch.arange(20)), want, atol=1e-6)


@pytest.mark.parametrize('cls', [ItemKNN, UserKNN])
def test_cold_users_and_items_have_the_biases(cls, dls):
    knn, base = cls(target='rating').fit(dls), BiasOnly((5.0, 5.0), 10).fit(dls)
    cold_user, cold_item = (int(np.flatnonzero(~dls.catalog.known(side))[0]) for side in ('user', 'item'))
    users, items = torch.tensor([cold_user, 0]), torch.tensor([1, cold_item])
    assert torch.equal(knn.score(users, items), base.score(users, items))


@pytest.mark.parametrize('scorer', [ItemKNN(K, SHRINK, 'rating'), UserKNN(K, SHRINK), ALS(3)])
def test_a_known_user_who_is_folded_in_is_scored_alike(scorer, dls):
    scorer = scorer.fit(dls)
    catalog = dls.catalog
    user = 3
    rows = catalog.split.train[catalog.interactions.users[catalog.split.train] == user]
    ratings = dict(
        zip(catalog.vocab['item'].decode(catalog.interactions.items[rows]), catalog.interactions.ratings[rows])
    )
    new = scorer.fold_in(ratings)
    got, want = new.score_items(torch.tensor([0]))[0], scorer.score_items(torch.tensor([user]))[0]
    assert new.catalog.n_users == 1 and scorer.catalog.n_users == catalog.n_users
    if isinstance(scorer, ItemKNN):
        assert torch.allclose(got, want, atol=1e-5)
    elif isinstance(scorer, UserKNN):  # who is a neighbor of himself now: nearer to his ratings
        at = scorer.catalog.vocab['item'].encode(list(ratings))
        given = torch.tensor(list(ratings.values()), dtype=torch.float32)
        assert (got[at] - given).abs().mean() < (want[at] - given).abs().mean()
    else:  # the last half pass was that of items
        assert (got - want).abs().max() < 0.5
    assert len(new.recommend(k=3)) == 3


def test_similar_users_are_those_who_rate_alike(dls):
    knn = UserKNN(K, SHRINK, damping=DAMPING).fit(dls)
    near = knn.similar_users(0, 3)
    assert near.score.is_monotonic_decreasing and (near.score > 0).all() and 0 not in list(near.user)
    with pytest.raises(ValueError, match='take ItemKNN'):
        knn.similar_items(0, min_rows=0)
    with pytest.raises(ValueError, match='new users'):
        knn.fold_in({0: 4.0, 1: 2.0}).neighbors(np.array([0]), 2)


def test_users_who_choose_alike(clicks):
    knn = UserKNN(K, SHRINK).fit(clicks)
    x = clicks.catalog.history.positives.toarray() > 0
    common = x.astype(float) @ x.T
    n = np.sqrt(np.diag(common))
    near = common / (np.outer(n, n) + SHRINK)
    np.fill_diagonal(near, 0)
    for row in near:
        row[row < np.sort(row)[-K]] = 0
    assert knn.scale == 'rank'
    assert knn.score_items(torch.arange(len(x))).numpy() == pytest.approx(near @ x, abs=1e-5)
    pairs = torch.tensor([2, 5, 2]), torch.tensor([1, 2, 3])
    assert knn.score(*pairs).tolist() == pytest.approx((near @ x)[[2, 5, 2], [1, 2, 3]], abs=1e-5)
    basket = list(clicks.vocab['item'].ids[[1, 2, 3]])
    assert len(knn.fold_in(basket).recommend(k=3)) == 3


def test_what_is_learned_goes_by_the_loaders_or_the_argument(dls, clicks):
    assert UserKNN().fit(dls).scale == 'rating' and UserKNN().fit(clicks).scale == 'rank'
    assert UserKNN(target='implicit').fit(dls).scale == 'rank' and ItemKNN().fit(dls).scale == 'rank'
    for cls in (ItemKNN, UserKNN):
        with pytest.raises(ValueError, match='predicts ratings, and the table has none'):
            cls(target='rating').fit(clicks)
        with pytest.raises(ValueError, match="target='ratings'"):
            cls(target='ratings')
        with pytest.raises(ValueError, match='k=0'):
            cls(0)
        with pytest.raises(TypeError, match="k='5'"):
            cls('5')
        with pytest.raises(ValueError, match='shrink=-1'):
            cls(shrink=-1)


@pytest.mark.parametrize('scorer', [EASE(5.0), ItemKNN(5, 3.0), ItemKNN(K, SHRINK, 'rating')])
def test_contributions_sum_to_the_score(scorer, dls):
    scorer = scorer.fit(dls)
    for user, item in ((0, 3), (4, 1), (7, 2)):
        has, parts, rest = scorer.contributions(user, item)
        assert set(has) <= set(dls.catalog.history.seen[[user]].indices) and len(has) == len(parts)
        want = scorer.score(torch.tensor([user]), torch.tensor([item])).item()
        assert parts.sum() + rest == pytest.approx(want, abs=1e-5)


@pytest.mark.parametrize('make', [lambda: ItemKNN(K, SHRINK, 'rating'), lambda: UserKNN(K, SHRINK), lambda: ALS(3)])
def test_saved_and_loaded(make, dls, tmp_path):
    from fastrec.all import save_recommender

    scorer = make().fit(dls)
    for i, each in enumerate((scorer, scorer.fold_in({0: 4.0, 1: 2.0, 2: 3.0}))):
        save_recommender(each, tmp_path / str(i), history=True)
        loaded = load_recommender(tmp_path / str(i))
        users = torch.arange(each.catalog.n_users)
        assert torch.equal(loaded.score_items(users), each.score_items(users))
        assert loaded.config() == scorer.config()


def test_neighbors_without_history_say_what_is_missing(dls, tmp_path):
    from fastrec.all import save_recommender

    with pytest.warns(UserWarning, match='history'):
        save_recommender(UserKNN().fit(dls), tmp_path / 'knn')
    with pytest.raises(ValueError, match='history=True'):
        load_recommender(tmp_path / 'knn').predict(0, 1)


# --- weights of rows


def test_a_row_of_weight_two_counts_as_two():
    df, train, _ = table()
    df = df.iloc[train].reset_index(drop=True).assign(weight=1.0)
    double = RecDataLoaders.from_df(df.assign(weight=2.0), valid_pct=0, weight_name='weight')
    single = RecDataLoaders.from_df(df, valid_pct=0, weight_name='weight')
    pairs = torch.tensor([0, 3, 4]), torch.tensor([1, 2, 5])
    twice = BiasOnly((6.0, 4.0)).fit(double), ALS(2, damping=10.0, n_prior=40.0).fit(double)
    once = BiasOnly((3.0, 2.0)).fit(single), ALS(2, damping=5.0, n_prior=20.0).fit(single)
    for a, b in zip(twice, once):
        assert torch.allclose(a.score(*pairs), b.score(*pairs), atol=1e-5)


def test_rows_of_weight_zero_are_not_there():
    df, train, _ = table()
    df = df.iloc[train].reset_index(drop=True)
    counted = (np.arange(len(df)) % 5 > 0) | (df.user == df.user[0]) | (df.item == df.item[0])
    noise = df.assign(weight=counted.astype(float), rating=df.rating.where(counted, 1.0))
    all_rows = RecDataLoaders.from_df(noise, valid_pct=0, weight_name='weight')
    some = RecDataLoaders.from_df(df[counted], valid_pct=0)
    users, items = (all_rows.vocab[side].ids[:6] for side in ('user', 'item'))
    for make in (lambda: BiasOnly(), lambda: ItemKNN(K, SHRINK, 'rating'), lambda: UserKNN(K, SHRINK), lambda: ALS(2)):
        a, b = make().fit(all_rows), make().fit(some)
        for side in ('user', 'item'):
            assert list(a.vocab[side].ids) == list(b.vocab[side].ids)
        pairs = [torch.from_numpy(a.vocab[side].encode(ids)) for side, ids in (('user', users), ('item', items))]
        assert torch.allclose(a.score(*pairs), b.score(*pairs), atol=1e-4), a
    for make in (EASE, ItemKNN):
        with pytest.warns(UserWarning, match=r"counts every row once: .* \(column 'weight'\)"):
            a = make().fit(all_rows)
        assert torch.allclose(a.score(*pairs), make().fit(some).score(*pairs), atol=1e-5)
    assert Popularity().fit(all_rows).scores.tolist() == Popularity().fit(some).scores.tolist()


# --- real size


@pytest.mark.slow
def test_official_folds_of_ml_100k(data_folder):
    errors = {ItemKNN: [], UserKNN: [], ALS: []}
    for fold in range(1, 6):
        parts = [
            pd.read_csv(data_folder / 'ml-100k' / f'u{fold}.{part}', sep='\t', names=['user', 'item', 'rating', 'time'])
            for part in ('base', 'test')
        ]
        n = len(parts[0])
        rows = np.arange(n), np.arange(n, n + len(parts[1]))
        dls = RecDataLoaders.from_df(pd.concat(parts, ignore_index=True), splitter=rows)
        pairs = [torch.from_numpy(dls.vocab[side].encode(parts[1][side])) for side in ('user', 'item')]
        for cls, options in ((ItemKNN, dict(target='rating')), (UserKNN, {}), (ALS, {})):
            left = cls(**options).fit(dls).score(*pairs).numpy() - parts[1].rating
            errors[cls].append(np.sqrt((left**2).mean()))
    assert np.mean(errors[ItemKNN]) < 0.9204  # `KNNBaseline` of Surprise with pearson_baseline
    assert np.mean(errors[UserKNN]) < 0.930
    assert np.mean(errors[ALS]) < 0.925
