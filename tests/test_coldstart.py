"""New users of a trained model.

Their rows against a general optimizer, the model unchanged, what is asked of them answered.
"""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.optimize import minimize
from trained import as_trained

from fastrec.scorers.artifact import load_recommender, save_recommender
from fastrec.scorers.baselines import BiasOnly, Popularity
from fastrec.scorers.blend import Blend
from fastrec.scorers.coldstart import noise_of, prior_of
from fastrec.scorers.linear import EASE
from fastrec.scorers.model_scorer import fold_in
from fastrec.scorers.neighbors import ItemKNN
from fastrec.training.builders import (
    collab_learner,
    gmf_learner,
    mlp_learner,
    neumf_learner,
    rec_learner,
    svdpp_learner,
)
from fastrec.training.dataloaders import RecDataLoaders

HELD = 30  # users who come after training


def fit(builder, dls, epochs=8, lr=2e-2, **kwargs):
    torch.manual_seed(0)
    learn = builder(dls, **kwargs)
    with learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(epochs, lr)
    return learn


def make(synthetic, **kwargs):
    """-> loaders without the last users, the rows of these, the item table."""
    ratings, items, _ = synthetic
    late = sorted(ratings.user.unique())[-HELD:]
    old = ratings[~ratings.user.isin(late)]
    return (
        RecDataLoaders.from_df(old, item_df=items, valid_pct=0.1, seed=0, bs=128, **kwargs),
        ratings[ratings.user.isin(late)],
        items,
    )


@pytest.fixture(scope='module')
def rated(synthetic):
    dls, late, _ = make(synthetic)
    return fit(collab_learner, dls, n_factors=5, y_range=False), late


@pytest.fixture(scope='module')
def squashed(synthetic):
    dls, late, _ = make(synthetic)
    return fit(collab_learner, dls, n_factors=5, y_range=(0.5, 5.5)), late


def of_one(late):
    return late[late.user == late.user.iloc[0]].set_index('item').rating


def parts(learn):
    m = learn.model.eval()
    q = m.vectors('item').double().numpy()
    bi = m.biases('item').double().numpy()
    x = torch.cat([m.biases('user')[:, None], m.vectors('user')], 1).double()
    mean, precision = prior_of(x[torch.from_numpy(learn.catalog.known('user'))])
    return np.c_[np.ones(len(q)), q], bi + m.mean.item(), mean.numpy(), precision.numpy()


def row_of(folded):
    return np.r_[folded.model.biases('user')[0].numpy(), folded.model.vectors('user')[0].numpy()]


def test_ridge_in_closed_form(rated):
    learn, late = rated
    mine = of_one(late)
    z, o, m, precision = parts(learn)
    at = learn.vocab['item'].encode(mine.index)
    z = z[at]
    y = mine.to_numpy() - o[at]
    noise = 0.3
    want = np.linalg.solve(z.T @ z / noise + precision, z.T @ y / noise + precision @ m)
    np.testing.assert_allclose(row_of(learn.fold_in(mine, noise=noise)), want, atol=1e-5)


def test_prior_by_hand():
    m, precision = prior_of(torch.tensor([[0.0, 0.0], [2.0, 2.0], [0.0, 2.0], [2.0, 0.0]] * 10).double())
    n = 40
    assert m.tolist() == [1, 1]
    assert torch.allclose(torch.linalg.inv(precision), torch.eye(2).double() * n / (n - 1))


def test_noise_is_half_the_training_error(rated):
    learn, _ = rated
    scores, target = learn.get_preds(ds_idx=0)
    assert noise_of(learn) == pytest.approx(0.5 * (scores - target).square().mean().item(), rel=0.1)


def objective(kind, z, o, y, noise, m, precision, y_range=None, w=1.0):
    def value(x):
        t = o + z @ x
        if kind == 'rating':
            loss = (
                (y - (t if y_range is None else y_range[0] + (y_range[1] - y_range[0]) / (1 + np.exp(-t)))) ** 2
            ).sum() / 2
        elif kind == 'logit':
            loss = (w * (np.logaddexp(0, t) - y * t)).sum()
        else:
            loss = y.sum() * np.logaddexp.reduce(t) - (y * t).sum()
        return loss / noise + (x - m) @ precision @ (x - m) / 2

    return minimize(value, m, method='BFGS', options=dict(gtol=1e-8)).x


def test_y_range_against_a_general_optimiser(squashed):
    learn, late = squashed
    mine = of_one(late)
    z, o, m, precision = parts(learn)
    at = learn.vocab['item'].encode(mine.index)
    want = objective('rating', z[at], o[at], mine.to_numpy(), 0.3, m, precision, (0.5, 5.5))
    np.testing.assert_allclose(row_of(learn.fold_in(mine, noise=0.3)), want, atol=2e-4)


def test_liked_against_a_general_optimiser(synthetic):
    dls, late, _ = make(synthetic, target='liked')
    learn = fit(collab_learner, dls, 4, n_factors=5)
    mine = of_one(late)
    z, o, m, precision = parts(learn)
    at = learn.vocab['item'].encode(mine.index)
    threshold = (mine.sum() + 5 * dls.catalog.thresholds.mean()) / (len(mine) + 5)
    folded = learn.fold_in(mine)
    assert folded.catalog.thresholds.tolist() == pytest.approx([threshold])
    want = objective('logit', z[at], o[at], (mine >= threshold).to_numpy().astype(float), 0.5, m, precision)
    np.testing.assert_allclose(row_of(folded), want, atol=2e-4)
    assert folded.scale == 'logit'


@pytest.mark.parametrize('n_neg, scale', [(2, 'logit'), (None, 'rank')])
def test_choices_against_a_general_optimiser(synthetic, n_neg, scale):
    dls, late, _ = make(synthetic, target='implicit', n_neg=n_neg)
    learn = fit(collab_learner, dls, 3, n_factors=4)
    mine = list(of_one(late).index)
    z, o, m, precision = parts(learn)
    y = np.zeros(dls.n_items)
    y[learn.vocab['item'].encode(mine)] = 1
    w = np.where(y > 0, 1, 2 * len(mine) / (dls.n_items - len(mine)))
    folded = learn.fold_in(mine)
    assert folded.scale == scale
    np.testing.assert_allclose(row_of(folded), objective(scale, z, o, y, 0.5, m, precision, w=w), atol=5e-4)
    assert not set(folded.recommend(k=5).item) & set(mine)


def errors(learn, late, n_given):
    """RMSE of what the late users rated after their first rows: folded in, and as the average user."""
    late = late.assign(place=late.groupby('user').cumcount())
    given = late[late.place < n_given]
    rest = late[late.place >= n_given]
    folded = learn.fold_in(given)
    users, items = (
        torch.from_numpy(o) for o in (folded.vocab['user'].encode(rest.user), learn.vocab['item'].encode(rest['item']))
    )

    def rmse(scores):
        return float(np.sqrt(((scores.cpu().numpy() - rest.rating) ** 2).mean()))

    average = learn.fold_in(given, noise=1e9)  # ratings that say nothing
    return rmse(folded.score(users, items)), rmse(average.score(users, items))


@pytest.mark.parametrize(
    'builder, options',
    [
        (collab_learner, dict(n_factors=5)),
        (collab_learner, dict(n_factors=5, y_range=(0.5, 5.5))),
        (svdpp_learner, dict(n_factors=5)),
        (mlp_learner, dict(n_factors=8)),
    ],
)
def test_new_users_are_known_better_than_as_average(synthetic, builder, options):
    dls, late, _ = make(synthetic)
    learn = fit(builder, dls, **options)
    before = {k: v.clone() for k, v in learn.model.state_dict().items()}
    few, average = errors(learn, late, 5)
    many, _ = errors(learn, late, 15)
    assert many < few < 0.93 * average
    assert all(torch.equal(v, before[k]) for k, v in learn.model.state_dict().items())  # the model is as it was
    assert learn.recommend(dls.vocab['user'].ids[0], k=2).item.notna().all()


def test_without_weight_ratings_give_the_average_user(rated):
    learn, late = rated
    folded = learn.fold_in(of_one(late), noise=1e12)
    known = torch.from_numpy(learn.catalog.known('user'))
    np.testing.assert_allclose(folded.model.vectors('user')[0], learn.model.vectors('user')[known].mean(0), atol=1e-5)


@pytest.mark.parametrize('builder', [gmf_learner, neumf_learner])
def test_models_of_pairs(synthetic, builder):
    dls, late, _ = make(synthetic, target='implicit')
    learn = fit(builder, dls, 4, n_factors=4)
    mine = list(of_one(late).index)
    folded = learn.fold_in(mine)
    scores = folded.score_items(torch.tensor([0]))[0]
    at = torch.from_numpy(learn.vocab['item'].encode(mine))
    assert scores[at].mean() > scores.mean()
    assert not folded.model.training
    assert torch.allclose(folded.score(torch.zeros(len(at), dtype=torch.long), at), scores[at], atol=1e-5)


def test_tables_are_shared_but_those_of_users(synthetic):
    dls, late, _ = make(synthetic)
    learn = fit(mlp_learner, dls, 1, n_factors=4)
    folded = learn.fold_in(of_one(late))
    assert folded.model.tower.item_factors.weight is learn.model.tower.item_factors.weight
    assert folded.model.tower.user_factors.weight.shape == (1, 4)
    assert learn.model.tower.user_factors.weight.shape[0] == dls.n_users
    assert learn.model.tower.user_factors.num_embeddings == dls.n_users


def test_what_a_person_asks(rated, synthetic):
    learn, late = rated
    titles = dict(zip(learn.catalog.item_df.item, learn.catalog.item_df.title))
    item = learn.vocab['item'].ids[0]
    folded = learn.fold_in({titles[item]: 5, learn.vocab['item'].ids[1]: 1})  # by title and by id
    assert folded.predict(item) == folded.predict('new user', item) > folded.predict(learn.vocab['item'].ids[1])
    assert folded.history('new user').rating.tolist() == [5, 1]
    recs = folded.recommend(k=4)
    assert list(recs.user.unique()) == ['new user']
    assert len(recs) == 4
    assert item not in list(recs.item)
    assert 'cold' not in recs
    many = learn.fold_in(late)
    assert set(many.vocab['user'].ids) == set(late.user)
    assert len(many.recommend(k=2)) == 2 * HELD
    first = late.user.iloc[0]
    assert np.allclose(
        many.score_items(torch.from_numpy(many.vocab['user'].encode([first]))),
        learn.fold_in(of_one(late)).score_items(torch.tensor([0])),
        atol=1e-4,
    )


def test_scorers_that_read_histories(synthetic):
    dls, late, _ = make(synthetic, target='implicit')
    mine = list(of_one(late).index)
    for scorer in (EASE().fit(dls), ItemKNN().fit(dls)):
        codes = dls.vocab['item'].encode(mine)
        x = np.zeros(dls.n_items, np.float32)
        x[codes] = 1
        weights = scorer.weights.toarray() if hasattr(scorer.weights, 'toarray') else scorer.weights
        got = scorer.fold_in(mine).score_items(torch.tensor([0]))[0]
        np.testing.assert_allclose(got, np.asarray(x @ weights), atol=1e-5)
        assert scorer.catalog is dls.catalog
        assert len(codes) == len(mine)


def test_a_saved_recommender_folds_in(rated, tmp_path):
    learn, late = rated
    save_recommender(learn, tmp_path)
    loaded = load_recommender(tmp_path)
    mine = of_one(late)
    assert np.allclose(
        loaded.fold_in(mine, noise=0.3).score_items(torch.tensor([0])),
        learn.fold_in(mine, noise=0.3).score_items(torch.tensor([0])),
        atol=1e-4,
    )
    assert np.isfinite(loaded.fold_in(mine).predict(mine.index[0]))


def test_randomness_and_mode_are_left_alone(rated):
    learn, late = rated
    learn.model.train()
    torch.manual_seed(5)
    want = torch.rand(2)
    torch.manual_seed(5)
    learn.fold_in(of_one(late))
    assert torch.equal(torch.rand(2), want)
    assert learn.model.training


def test_items_without_training_rows_say_nothing(synthetic):
    ratings, items, _ = synthetic
    order = np.argsort(ratings.item.to_numpy() == 1003, kind='stable')
    n = int((ratings.item == 1003).sum())
    learn = fit(
        collab_learner,
        RecDataLoaders.from_df(ratings, item_df=items, splitter=(order[:-n], order[-n:]), bs=128),
        1,
        n_factors=3,
    )
    with pytest.warns(UserWarning, match='1 of the ratings are of items without training rows'):
        a = learn.fold_in({1000: 5, 1003: 1}, noise=0.3)
    assert torch.equal(a.model.vectors('user'), learn.fold_in({1000: 5}, noise=0.3).model.vectors('user'))
    assert 1003 not in list(a.recommend(k=200).item)


@pytest.mark.parametrize(
    'given, error, text',
    [
        ({}, ValueError, 'no ratings'),
        ({1000: None}, ValueError, 'missing or not numbers'),
        ([1000], ValueError, 'a dict item -> rating'),
        (7, TypeError, 'a dict item'),
        ({99: 3}, KeyError, 'unknown item'),
        (pd.DataFrame(dict(item=[1000, 1000], rating=[3, 4])), ValueError, 'twice'),
        (pd.DataFrame(dict(user=['a', None], item=[1000, 1001], rating=[3, 4])), ValueError, 'no user'),
    ],
)
def test_errors_of_what_is_given(rated, given, error, text):
    with pytest.raises(error, match=text):
        rated[0].fold_in(given)


def test_errors(rated, squashed, synthetic):
    learn, late = rated
    with pytest.raises(ValueError, match='noise=0'):
        learn.fold_in(of_one(late), noise=0)
    with pytest.raises(ValueError, match='another scale'):
        squashed[0].fold_in({1000: 10})
    with pytest.raises(TypeError, match='no rows for users'):
        fold_in(BiasOnly().fit(learn.dls), of_one(late))
    with pytest.raises(ValueError, match='not fitted'):
        fold_in(Popularity(), [1])
    with pytest.raises(TypeError, match="whose name begins with 'user'"):
        rec_learner(learn.dls, Own).fold_in(of_one(late))


# --- users and items of which nothing is known


class Own(torch.nn.Module):
    """A module that does not know which rows were trained."""

    def __init__(self, n_users, n_items):
        super().__init__()
        self.a = torch.nn.Embedding(n_users, 2)
        self.b = torch.nn.Embedding(n_items, 2)

    def forward(self, users, items):
        if items.dim() == 2:  # several a user
            users = users[:, None]
        return (self.a(users) * self.b(items)).sum(-1)


class OwnWhole(Own):
    def score_items(self, users):
        return self.a(users) @ self.b.weight.T


@pytest.mark.parametrize('model', [Own, OwnWhole])
def test_untrained_vectors_are_never_used(model):
    df = pd.DataFrame(dict(user=list('aabbc'), item=[1, 2, 1, 2, 3], rating=[1, 2, 3, 4, 5.0]))
    learn = as_trained(rec_learner(RecDataLoaders.from_df(df, splitter=([0, 1, 2, 3], [4]), bs=2), model))
    users = torch.tensor([0, 0, 2, 2])
    items = torch.tensor([0, 2, 0, 2])
    mean = 2.5  # the mean training rating, where c or item 3 is in the pair
    want = [learn.model(users[:1], items[:1]).item(), mean, mean, mean]
    assert learn.score(users, items).tolist() == pytest.approx(want)
    assert learn.score_items(torch.arange(3))[[0, 0, 2, 2], [0, 2, 0, 2]].tolist() == pytest.approx(want)
    with pytest.warns(UserWarning, match="user 'c' has no training row"):
        assert learn.predict('c', 1) == 2.5
    clicks = dict(target='implicit', rating_name=False, time_name=False, n_neg=1)
    dls = RecDataLoaders.from_df(df, splitter=([0, 1, 2, 3], [4]), bs=2, **clicks)
    implicit = as_trained(rec_learner(dls, model))
    average = implicit.score(torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 0, 1])).mean().item()
    # the average is over a sample of known pairs
    assert implicit.score(users[1:], items[1:]).tolist() == pytest.approx([average] * 3, abs=0.3)
    assert 3 not in list(learn.recommend('a', k=3, exclude_seen=False).item)


def test_cold_can_be_refused(synthetic):
    df = pd.DataFrame(dict(user=list('aabbc'), item=[1, 2, 1, 2, 3], rating=[1, 2, 3, 4, 5.0]))
    learn = as_trained(collab_learner(RecDataLoaders.from_df(df, splitter=([0, 1, 2, 3], [4]), bs=2), n_factors=2))
    assert np.isfinite(learn.predict('a', 2, cold='raise'))
    with pytest.raises(KeyError, match=r"user 'c' has no training row.*fold_in"):
        learn.predict('c', 1, cold='raise')
    with pytest.raises(KeyError, match='item 3 has no training row'):
        learn.predict(('a', 3), cold='raise')
    with pytest.raises(ValueError, match="'mean' or 'raise'"):
        learn.predict('a', 1, cold='popular')
    with pytest.raises(KeyError, match='have no training row'):
        learn.recommend('c', cold='raise')
    assert list(learn.recommend('c', k=2).cold) == [True, True]
    blend = Blend([learn, as_trained(collab_learner(learn.dls, n_factors=2))])
    assert blend.knows('item').tolist() == [True, True, False]
    assert blend.knows_cold
    assert not Blend([learn, as_trained(rec_learner(learn.dls, Own))]).knows_cold
