"""Learning rates: the default of each builder, and what `lr_find` suggests."""

from functools import partial

import matplotlib
import numpy as np
import pytest
import torch
from fastai.callback.schedule import minimum, slide, steep, valley
from fastai.torch_core import set_seed

from fastrec.all import (
    ItemFeatures,
    RecDataLoaders,
    RecLearner,
    collab_learner,
    content_learner,
    evaluate,
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
from fastrec.training.finder import sound_valley
from fastrec.training.recipes import RECIPES

matplotlib.use('Agg')
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


def test_fine_tuning_begins_at_the_learners_rate():
    learn = collab_learner(loaders())
    with learn.no_bar(), learn.no_logging():
        learn.fine_tune(1)
        learn.fine_tune(1, 0.01)
    assert [o['lr'] for o in learn.fits] == pytest.approx([learn.lr, learn.lr / 2, 0.01, 0.005])


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


# --- lr_find


def test_the_suggestion_is_steady():
    found = []
    for seed in range(5):
        set_seed(seed)
        learn = collab_learner(RecDataLoaders.from_df(RATINGS, valid_pct=0.2, seed=seed, bs=16), y_range=(0.5, 5.5))
        with learn.no_bar():
            found.append(learn.lr_find(show_plot=False).valley)
    assert max(found) < 2.5 * min(found)
    assert all(1e-4 < lr < 0.1 for lr in found)


def test_the_curve_is_free_of_the_difference_between_batches():
    curves = []
    for seed in range(3):
        set_seed(seed)
        learn = collab_learner(RecDataLoaders.from_df(RATINGS, valid_pct=0.2, seed=0, bs=16), y_range=(0.5, 5.5))
        with learn.no_bar():
            learn.lr_find(show_plot=False)
        curves.append([float(o) for o in learn.recorder.losses])
    for curve in curves:
        assert max(curve[:40]) - min(curve[:40]) < 2e-3, 'at rates below 2e-4 nothing is learned'


@pytest.mark.parametrize('seed', [None, 5])
def test_training_after_it_is_as_if_it_had_not_been(seed):
    def trained(look):
        set_seed(0)
        dls = loaders()
        dls.train.seed = seed
        learn = mlp_learner(dls)
        with learn.no_bar(), learn.no_logging():
            if look:
                learn.lr_find(show_plot=False)
            learn.fit_one_cycle(1)
        return learn

    a, b = trained(True), trained(False)
    assert all(torch.equal(p, q) for p, q in zip(a.model.parameters(), b.model.parameters()))
    assert len(a.fits) == 1


def test_the_curve_moves_a_rate_that_it_contradicts():
    rates = np.logspace(-7, 1, 100)
    losses = np.where(rates < 0.4, np.log(rates / 0.1) ** 2, 1000)  # the lowest at 0.1, gone from 0.4 on
    assert sound_valley(0.005, rates, losses)[0] == 0.005
    assert sound_valley(5, rates, losses)[0] == pytest.approx(0.2, rel=0.2)
    assert sound_valley(1e-6, rates, losses)[0] == pytest.approx(0.1 / 300, rel=0.1)
    assert sound_valley(0.005, rates, rates)[0] == 0.005, 'a curve that never falls says nothing'
    assert sound_valley(0.005, rates, -rates)[0] == 0.005, 'and one that falls to the end not where it is too low'


def test_the_suggestion_for_cosines_is_the_recipe():
    """Their loss falls up to the highest rates, at which a whole training is worthless."""
    learn = two_tower_learner(loaders(bs=64, target='implicit', n_neg=0))
    with learn.no_bar():
        assert learn.lr_find(show_plot=False).valley == learn.lr
    losses = [float(o) for o in learn.recorder.losses]
    assert losses[-1] < losses[0]


def test_other_suggestions_the_plot_and_a_diverging_sweep():
    learn = svdpp_learner(loaders())
    with learn.no_bar():
        found = learn.lr_find(suggest_funcs=(valley, slide, steep, minimum))
        assert found._fields == ('valley', 'slide', 'steep', 'minimum')
        assert all(np.isfinite(found))
        assert learn.lr_find(suggest_funcs=None, show_plot=False) is None
        learn = collab_learner(loaders(), opt_func=torch.optim.SGD)
        assert np.isfinite(learn.lr_find(end_lr=1e6, stop_div=False).valley)


@pytest.mark.parametrize('goal', ['liked', 'negatives', 'in_batch', 'catalogue'])
def test_it_works_for_every_goal(goal):
    if goal == 'liked':
        dls = loaders(target='liked')
    else:
        dls = loaders(target='implicit', n_neg=dict(negatives=4, in_batch=0, catalogue=None)[goal])
    learn = collab_learner(dls)
    with learn.no_bar():
        assert learn.lr_find(show_plot=False, num_it=30).valley > 0


@pytest.mark.slow
def test_following_the_suggestion_is_good_on_movielens(ml100k):
    ratings, _ = ml100k
    for bs, best in ((64, 0.885), (2048, 0.891)):  # of a ladder of rates, see benchmarks/learning_rate.py
        dls = RecDataLoaders.from_df(ratings, valid_pct=0.1, seed=0, bs=bs)
        set_seed(0)
        learn = collab_learner(dls, y_range=(0.5, 5.5))
        with learn.no_bar(), learn.no_logging():
            learn.fit_one_cycle(10, learn.lr_find(show_plot=False).valley)
        assert evaluate(learn).loc['all', 'rmse'] < 1.01 * best
