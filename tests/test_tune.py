"""The search finds what is planted, prunes, goes on from its file, and says what is wrong."""

import pytest
import torch

from fastrec.all import collab_learner, rmse, tune_learner

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
            n_epoch=5,
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
