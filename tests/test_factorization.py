"""Alternating least squares solves its equations; arguments are called as in the learners."""

import numpy as np
import pytest
import torch

from fastrec.all import (
    ALS,
    EASE,
    IALS,
    BiasOnly,
    GlobalMean,
    ItemKNN,
    Popularity,
    RecDataLoaders,
    UserKNN,
    evaluate,
    synthetic_ratings,
)


@pytest.fixture(scope='module')
def ratings():
    return synthetic_ratings(n_users=60, n_items=40, density=0.4, seed=3)[0]


@pytest.fixture(scope='module')
def dls(ratings):
    return RecDataLoaders.from_df(ratings, valid_pct=0.2, seed=0)


@pytest.fixture(scope='module')
def clicks(ratings):
    return RecDataLoaders.from_df(ratings, target='implicit', threshold=3.5, valid_pct=0.2, seed=0)


@pytest.mark.parametrize('weighted', [False, True])
def test_items_minimize_their_penalized_squares(ratings, weighted):
    table = ratings.assign(weight=np.random.default_rng(0).choice([0.5, 1.0, 2.0], len(ratings)))
    dls = RecDataLoaders.from_df(table, valid_pct=0.2, seed=0, weight_name='weight' if weighted else None)
    als = ALS(3, l2=0.2, n_iter=4, n_prior=6.0, damping=2.5).fit(dls)
    inter, rows = dls.catalog.interactions, dls.catalog.split.train
    users, items = (torch.from_numpy(o[rows].astype(np.int64)) for o in (inter.users, inter.items))
    weights = inter.row_weights[rows] if weighted else np.ones(len(rows))
    left = weights * (inter.ratings[rows] - als.score(users, items).numpy())
    totals = np.bincount(items, weights, 40)
    assert als.mean == pytest.approx(np.average(inter.ratings[rows], weights=weights))
    for item in range(40):  # the last pass is theirs: the gradient is 0
        at = items.numpy() == item
        p, q = als.user_factors[users[at]].numpy(), als.item_factors[item].numpy()
        assert left[at].sum() == pytest.approx(2.5 * als.item_biases[item].item(), abs=1e-3)
        assert left[at] @ p == pytest.approx(0.2 * (totals[item] + 6) * q, abs=1e-3)


def test_als_scores_alike_however_it_is_asked(dls):
    als = ALS(4).fit(dls)
    users, items = torch.tensor([3, 5]), torch.tensor([7, 1])
    everything = als.score_items(users)
    assert torch.allclose(als.score(users, items), everything[[0, 1], items])
    spread = everything - als.ranker()(users)
    assert torch.allclose(spread, spread[:, :1].expand_as(spread), atol=1e-5)  # the same for all items of a user
    products = als.mean + als.biases('user')[:, None] + als.biases('item') + als.vectors('user') @ als.vectors('item').T
    assert torch.allclose(products[users], everything, atol=1e-5)
    assert torch.equal(ALS(4).fit(dls).score_items(users), everything)
    assert not torch.equal(ALS(4, seed=1).fit(dls).score_items(users), everything)


def test_als_finds_what_biases_do_not(dls):
    of = {type(o).__name__: evaluate(o.fit(dls), dls).loc['all', 'rmse'] for o in (ALS(4), BiasOnly(), GlobalMean())}
    assert of['ALS'] < of['BiasOnly'] < of['GlobalMean'], of


def test_cold_rows_of_als_are_average(ratings):
    held_out = (ratings.user == ratings.user[0]) | (ratings.item == ratings.item[1])
    dls = RecDataLoaders.from_df(ratings, splitter=(np.flatnonzero(~held_out), np.flatnonzero(held_out)))
    als = ALS(4).fit(dls)
    user, item = (dls.vocab[o].encode([ratings[o][i]])[0] for i, o in enumerate(('user', 'item')))
    assert als.score(torch.tensor([user]), torch.tensor([item])).item() == pytest.approx(als.mean)


def test_folding_in_is_a_half_pass_more(dls):
    als = ALS(4).fit(dls)
    given = {1000: 5.0, 1001: 2.0, 1002: 4.0, 1003: 1.0}
    new = als.fold_in(given)
    at = dls.vocab['item'].encode(list(given))
    q = torch.cat([torch.ones(4, 1), als.item_factors[at]], 1).numpy()
    left = np.array(list(given.values())) - als.mean - als.item_biases[at].numpy()
    want = np.linalg.solve(q.T @ q + np.diag([5.0] + [0.1 * (4 + als.n_prior)] * 4), q.T @ left)
    assert new.user_biases.item() == pytest.approx(want[0], abs=1e-5)
    assert new.user_factors[0].numpy() == pytest.approx(want[1:], abs=1e-5)


def test_folding_in_choices_is_what_implicit_works_out(clicks):
    als = pytest.importorskip('implicit.als')
    ials = IALS(4, l2=0.5, alpha=3.0).fit(clicks)
    chosen = list(clicks.vocab['item'].ids[[2, 5, 11]])
    new = ials.fold_in(chosen)
    theirs = als.AlternatingLeastSquares(4, regularization=0.5, alpha=3.0, use_gpu=False)
    theirs.item_factors = ials.item_factors.numpy()
    want = theirs.recalculate_user(0, new.catalog.history.positives)
    assert new.user_factors[0].numpy() == pytest.approx(np.ravel(want), abs=1e-3)
    assert new.recommend(k=3).item.is_unique


def test_arguments_are_called_as_in_the_learners():
    for old, new in dict(factors='n_factors', regularization='l2', iterations='n_iter', random_state='seed').items():
        with pytest.raises(TypeError, match=f"no argument '{old}': it is called {new}"):
            IALS(**{old: 3})
    for wrong in (dict(n_factors=0), dict(n_factors='8'), dict(n_iter=1.5), dict(l2=-1), dict(l2='1')):
        for cls in (ALS, IALS):
            with pytest.raises((TypeError, ValueError), match=f'{next(iter(wrong))}='):
                cls(**wrong)
    with pytest.raises(ValueError, match='l2=-3'):
        EASE(-3)


@pytest.mark.parametrize(
    'made',
    [
        *(ALS(3, seed=2), IALS(3, l2=1.0), IALS(3), EASE(7.0), BiasOnly((1.0, 2.0), 3), GlobalMean(), Popularity()),
        *(ItemKNN(5, 2.0), ItemKNN(5, target='rating'), UserKNN(5), UserKNN(target='implicit')),
    ],
)
def test_config_makes_one_like_it_and_repr_says_whether_it_is_fitted(made, dls, clicks):
    again = type(made)(**made.config())
    assert again.config() == made.config() and repr(again) == repr(made)
    assert repr(made).endswith('), not fitted')
    if not isinstance(made, IALS):
        made.fit(dls if made.scale == 'rating' else clicks)
        assert repr(made) == repr(again).removesuffix(', not fitted')
        assert type(made)(**made.config()).config() == made.config()


def test_biases_in_turns_come_to_the_ridge_regression(dls):
    base = BiasOnly((3.0, 2.0), 200).fit(dls)
    inter, rows = dls.catalog.interactions, dls.catalog.split.train
    users, items = np.eye(60)[inter.users[rows]], np.eye(40)[inter.items[rows]]
    x = np.concatenate([users, items], 1)
    ridge = np.diag([3.0] * 60 + [2.0] * 40)
    want = np.linalg.solve(x.T @ x + ridge, x.T @ (inter.ratings[rows] - base.mean))
    assert np.concatenate([base.user_biases, base.item_biases]) == pytest.approx(want, abs=1e-5)
