"""The search finds what is planted, prunes, goes on from its file, and says what is wrong."""

import pytest
import torch

from fastrec.all import (
    ItemFeatures,
    RecDataLoaders,
    collab_learner,
    content_learner,
    evaluate,
    gated_learner,
    gmf_learner,
    mlp_learner,
    neumf_learner,
    rmse,
    svdpp_learner,
    tune_learner,
    two_tower_learner,
)
from fastrec.training.selection import _check_space, _check_start
from fastrec.training.spaces import default_space

pytest.importorskip('optuna')
SPACE = dict(wd=[0.0, 9.0], lr=(5e-3, 2e-2, 'log'))


def test_finds_the_better_setting_and_goes_on_from_its_file(dls, tmp_path, monkeypatch):
    torch.manual_seed(7)
    state = torch.get_rng_state()

    def search(n):
        return tune_learner(
            dls,
            collab_learner,
            SPACE,
            n_trials=n,
            n_epoch=3,
            monitor='rmse',
            storage=tmp_path / 'study.db',
            n_factors=4,
            y_range=(0.5, 5.5),
            metrics=[rmse],
        )

    first = search(3)
    assert torch.equal(torch.get_rng_state(), state)
    found = search(5)
    df = found.table()
    assert len(first.study.trials) == 5 == len(df), 'the study in the file is one'
    assert found.best['wd'] == 0.0
    assert found.value == df.rmse[0] == df[df.state == 'complete'].rmse.min()
    assert set(df.columns) == {'trial', 'wd', 'lr', 'rmse', 'epochs', 'state', 'seconds'}
    assert df.lr.between(5e-3, 2e-2).all()
    axes = found.plot()
    assert [ax.get_xlabel() for ax in axes] == ['trial', 'lr', 'wd'] or [ax.get_xlabel() for ax in axes] == [
        'trial',
        'wd',
        'lr',
    ]
    assert axes[0].get_ylabel() == 'rmse'
    with pytest.raises(ValueError, match='searches'):
        tune_learner(dls, collab_learner, dict(n_factors=[2, 4]), 6, storage=tmp_path / 'study.db')


def test_trials_that_are_behind_are_pruned(dls):
    seen = []

    def choose(trial):
        seen.append(trial.number)
        return 0.0 if trial.number < 5 else 20.0

    found = tune_learner(
        dls, collab_learner, dict(wd=choose, n_factors=[2, 4]), n_trials=6, n_epoch=4, lr=1e-2, y_range=(0.5, 5.5)
    )
    df = found.table()
    assert len(seen) == 6
    assert df[df.trial == 5].state.item() == 'pruned'
    assert df[df.trial == 5].epochs.item() < 4
    assert (df[df.trial < 4].state == 'complete').all()


def test_the_first_trial_can_be_given(dls):
    start = dict(n_factors=4, lr=0.0123)
    found = tune_learner(
        dls, collab_learner, dict(n_factors=[2, 4], lr=(1e-3, 2e-2)), n_trials=2, n_epoch=1, start=start, prune=False
    )
    first = found.study.trials[0]
    assert first.params == start
    assert found.study.trials[1].params['lr'] != start['lr']


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(space={}), 'nothing to search'),
        (dict(space=dict(wd=(1, 0))), 'give \\(low, high\\)'),
        (dict(space=dict(wd=(0.0, 1.0, 'log'))), 'give \\(low, high\\)'),
        (dict(space=dict(n_factors=[2]), n_factors=3), 'searched in space, and fixed'),
        (
            dict(space=dict(n_factors=[2], lr=(0.1, 0.2)), start=dict(n_factors=2)),
            'start= takes a value for each argument of space.*see lr',
        ),
        (dict(space=dict(n_factors=[2]), monitor='ndcg'), 'is not a column of the training table'),
    ],
)
def test_errors(dls, options, message):
    with pytest.raises(ValueError, match=message):
        tune_learner(dls, collab_learner, **{'n_trials': 1, 'n_epoch': 1, **options})


# --- spaces by default


def test_every_builder_has_a_space_around_its_defaults(synthetic):
    ratings, items, _ = synthetic
    features = dict(item_features=ItemFeatures.from_df(items, multilabel='genres'))
    loaders = {
        target: RecDataLoaders.from_df(ratings, target=target, seed=0) for target in ('rating', 'liked', 'implicit')
    }
    loaders['catalogue'] = loaders['implicit'].remade(n_neg=None)
    pairs = {'implicit': (gmf_learner, neumf_learner, two_tower_learner)}
    everywhere = (collab_learner, svdpp_learner, content_learner, gated_learner)
    for goal, dls in loaders.items():
        with_pairs = () if goal == 'catalogue' else (mlp_learner,)
        for builder in (*everywhere, *with_pairs, *pairs.get(goal, ())):
            given = features if builder in (content_learner, gated_learner) else {}
            space, start = default_space(builder, dls, given, {})
            _check_space(space, given)
            _check_start(start, space)
            assert {'n_factors', 'wd', 'lr', 'n_epoch'} <= space.keys()
            for argument, choice in space.items():
                own = start[argument]
                assert own in choice if isinstance(choice, list) else choice[0] <= own <= choice[1]
            of_builder = {key: value for key, value in start.items() if key not in ('wd', 'lr', 'n_epoch')}
            builder(dls, **given, **of_builder)  # they are arguments of it

    space, _ = default_space(collab_learner, loaders['rating'], dict(n_factors=3), dict(n_epoch=2))
    assert set(space) == {'wd', 'lr'}, 'what is fixed is not searched'


def test_a_builder_is_tuned_without_being_told_what_to_search(dls):
    dls = dls.remade(bs=512)
    found = tune_learner(dls, collab_learner, n_trials=2, n_epoch=2, n_factors=4)
    assert found.monitor == 'rmse'
    assert set(found.best) == {'wd', 'lr'}
    first = found.study.trials[0].params
    assert first == dict(wd=0.08, lr=collab_learner(dls).lr), 'the defaults come first'
    learn = found.fit()
    assert evaluate(learn).loc['all', 'rmse'] == pytest.approx(found.value, abs=1e-5)


def test_what_is_searched_by_is_what_the_loaders_are_made_for(synthetic):
    ratings = synthetic[0]
    searches = dict(liked='roc_auc', implicit='ndcg@10')
    for target, monitor in searches.items():
        dls = RecDataLoaders.from_df(ratings, target=target, seed=0)
        found = tune_learner(dls, collab_learner, dict(n_factors=[2]), 1, n_epoch=1)
        assert found.monitor == monitor and 0 < found.value < 1


def test_cycles_of_different_lengths_are_compared_by_share(dls):
    found = tune_learner(dls.remade(bs=512), collab_learner, dict(n_epoch=[1, 3]), 5, n_factors=2)
    df = found.table()
    assert set(df[df.state == 'complete'].epochs) <= {1, 3}
    steps = {trial.params['n_epoch']: max(trial.intermediate_values) for trial in found.study.trials if trial.value}
    assert set(steps.values()) == {9}, 'all end at the last tenth'


def test_a_search_ends_with_its_budget(dls):
    found = tune_learner(dls, collab_learner, dict(n_factors=[2, 4]), 50, n_epoch=1, budget='1s')
    assert 1 <= len(found.study.trials) < 50
    with pytest.raises(ValueError, match='budget='):
        tune_learner(dls, collab_learner, budget='soon')


def test_nothing_is_tuned_without_held_out_rows(synthetic):
    dls = RecDataLoaders.from_df(synthetic[0], valid_pct=0)
    with pytest.raises(ValueError, match='nothing to choose on'):
        tune_learner(dls, collab_learner, n_trials=2)
