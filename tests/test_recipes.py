"""Learning rates: the default of each builder, and what `lr_find` suggests."""

from functools import partial

import pytest

from fastrec.all import (
    ItemFeatures,
    RecDataLoaders,
    RecLearner,
    collab_learner,
    content_learner,
    gmf_learner,
    mlp_learner,
    neumf_learner,
    rec_learner,
    recipe_of,
    svdpp_learner,
    synthetic_ratings,
    two_tower_learner,
)
from fastrec.models.dot import DotBias
from fastrec.training.recipes import RECIPES

RATINGS, ITEMS, _ = synthetic_ratings(n_users=120, n_items=60, density=0.2, noise=0.8, step=1, seed=3)


def loaders(bs=64, **kwargs):
    return RecDataLoaders.from_df(RATINGS, item_df=ITEMS, valid_pct=0.2, seed=0, bs=bs, **kwargs)


@pytest.mark.parametrize('build', [collab_learner, svdpp_learner, mlp_learner])
def test_builders_train_at_the_rate_of_their_recipe(build):
    dls = loaders()
    learn = build(dls)
    assert learn.lr == recipe_of(build, dls).lr
    with learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(1)
        learn.fit(1)
    assert [o['lr'] for o in learn.fits] == [learn.lr, learn.lr]


def test_a_rate_that_is_asked_for_wins():
    learn = collab_learner(loaders(), lr=0.02)
    assert learn.lr == 0.02
    with learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(1)
        learn.fit_one_cycle(1, 0.001)
    assert [o['lr'] for o in learn.fits] == [0.02, 0.001]


def test_learners_of_ones_own_models_have_a_rate_too():
    dls = loaders()
    usual = recipe_of(rec_learner, dls).lr
    model = DotBias(dls.n_users, dls.n_items)
    assert rec_learner(dls, DotBias).lr == rec_learner(dls, model).lr == RecLearner(dls, model).lr == usual
    assert recipe_of(lambda dls: None, dls) == recipe_of('rec_learner', dls)


def test_recipes_know_builders_by_name_function_and_partial():
    dls = loaders()
    recipe = recipe_of('mlp_learner', dls)
    assert recipe == recipe_of(mlp_learner, dls) == recipe_of(partial(mlp_learner, layers=(8,)), dls)


def test_the_rate_grows_with_the_batch():
    rates = [recipe_of(collab_learner, loaders(bs=bs)).lr for bs in (16, 64, 256, 1024)]
    assert rates == sorted(rates) and rates[-1] > 2 * rates[0]


def test_every_builder_has_a_recipe_for_every_goal():
    goals = {'rating', 'liked', 'negatives', 'in_batch', 'catalogue'}
    for name, by_goal in RECIPES.items():
        assert set(by_goal) == goals, name
        assert all(0 < o.lr < 0.5 and 0 < o.n_epoch <= 50 for o in by_goal.values()), name


def test_goals_of_clicks_and_likes():
    liked = loaders(target='liked')
    features = ItemFeatures.from_df(ITEMS, category='genres')
    assert content_learner(liked, features).lr == recipe_of(content_learner, liked).lr
    clicks = loaders(target='implicit', n_neg=4)
    for build in (gmf_learner, neumf_learner):
        assert build(clicks).lr == recipe_of(build, clicks).lr
    assert two_tower_learner(clicks).lr == recipe_of(two_tower_learner, clicks).lr
    whole = loaders(target='implicit', n_neg=None)
    assert svdpp_learner(whole).lr == recipe_of(svdpp_learner, whole).lr
