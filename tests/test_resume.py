"""Training that was killed goes on from its last epoch and ends where an uninterrupted run ends."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from fastai.basics import Callback, noop, set_seed
from fastai.callback.all import EarlyStoppingCallback, SaveModelCallback

from fastrec.all import (
    LazyAdam,
    RecDataLoaders,
    ResumeCallback,
    collab_learner,
    hr,
    mlp_learner,
    neumf_learner,
    rmse,
    svdpp_learner,
    synthetic_ratings,
)

EPOCHS = 5


class ByRows(LazyAdam):
    """All tables count as large."""

    large = 0


def learner(kind, path):
    """The same each time it is made: `kind` of model, with everything that draws at random."""
    ratings, items, _ = synthetic_ratings(n_users=60, n_items=40, density=0.3, seed=2)
    set_seed(7)
    options = dict(item_df=items, valid_pct=0.2, seed=0, bs=64, path=path)
    if kind == 'rated':
        learn = mlp_learner(
            RecDataLoaders.from_df(ratings, **options), n_factors=4, layers=[8, 4], dropout=0.3, metrics=rmse
        )
    elif kind == 'negatives':
        dls = RecDataLoaders.from_df(ratings, target='implicit', threshold=3.0, n_neg=2, **options)
        dls.train.seed = 5  # order and negatives from the loader's own generator
        learn = neumf_learner(dls, n_factors=4, layers=[8, 4], dropout=0.2, metrics=hr(5))
    elif kind == 'whole':
        learn = svdpp_learner(
            RecDataLoaders.from_df(ratings, target='implicit', threshold=3.0, n_neg=None, **{**options, 'bs': 16}),
            n_factors=4,
            metrics=hr(5),
        )
    elif kind == 'lazy':
        learn = collab_learner(RecDataLoaders.from_df(ratings, **options), n_factors=4, opt_func=ByRows)
    return learn


class KillAt(Callback):
    """SIGKILL in the middle of an epoch."""

    def __init__(self, epoch):
        self.kill_epoch = epoch

    def before_batch(self):
        if self.training and self.epoch == self.kill_epoch and self.iter == 2:
            os.kill(os.getpid(), signal.SIGKILL)


def train(kind, path, kill=None, cbs=()):
    learn = learner(kind, path)
    with learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(
            EPOCHS, 2e-2, wd=0.05, cbs=[ResumeCallback('run'), *cbs, *([] if kill is None else [KillAt(kill)])]
        )
    return learn


def outcome(learn):
    return dict(
        model=learn.model.state_dict(),
        opt=learn.opt.state_dict()['state'],
        losses=torch.stack(list(learn.recorder.losses)),
        lrs=torch.tensor(learn.recorder.lrs),
        values=torch.tensor([[float(o) for o in v] for v in learn.recorder.values], dtype=torch.float64),
        draws=torch.rand(3),
    )


def assert_same(a, b):
    assert a.keys() == b.keys()
    for k in a:
        if isinstance(a[k], dict):
            assert_same(a[k], b[k])
        else:
            assert torch.equal(torch.as_tensor(a[k]), torch.as_tensor(b[k])), k


SCRIPT = """
import os, sys
sys.path.insert(0, {tests!r})
import test_resume as t
t.torch.set_num_threads(1)

def process(f):  # a process of its own, without the price of starting Python again; -> how it ended
    pid = os.fork()
    if not pid:
        f()
        os._exit(0)
    return os.waitpid(pid, 0)[1]

for kind in ('rated', 'negatives', 'whole', 'lazy'):
    path = t.Path({path!r}) / kind
    killed = process(lambda: t.train(kind, path, kill=3))
    done = t.torch.load(path / 'models' / 'run.ckpt', weights_only=True)['done']
    ended = process(lambda: t.torch.save(t.outcome(t.train(kind, path)), path / 'out.pt'))
    print(killed, done, ended)
"""


@pytest.fixture(scope='module')
def killed(tmp_path_factory):
    """Folder with the outcome of runs that were killed and gone on with, for each kind."""
    path = tmp_path_factory.mktemp('killed')
    res = subprocess.run(
        [sys.executable, '-W', 'ignore', '-c', SCRIPT.format(tests=str(Path(__file__).parent), path=str(path))],
        capture_output=True,
        text=True,
    )
    assert res.stdout.split() == [str(int(signal.SIGKILL)), '3', '0'] * 4, res.stdout + res.stderr
    return path


@pytest.mark.parametrize('kind', ['rated', 'negatives', 'whole', 'lazy'])
def test_a_killed_run_ends_where_an_uninterrupted_one_ends(kind, killed, tmp_path):
    want = outcome(train(kind, tmp_path))
    assert len(want['values']) == EPOCHS
    assert_same(torch.load(killed / kind / 'out.pt', weights_only=False), want)


class Stop(Exception):
    pass


class StopAt(Callback):
    """An exception in the middle of an epoch, as a Ctrl-C."""

    def __init__(self, epoch):
        self.stop_epoch = epoch

    def before_batch(self):
        if self.training and self.epoch == self.stop_epoch and self.iter == 2:
            raise Stop


@pytest.mark.parametrize('epoch', [0, 4])
def test_from_the_first_and_the_last_epoch(epoch, tmp_path):
    with pytest.raises(Stop):
        train('rated', tmp_path, cbs=[StopAt(epoch)])
    torch.rand(9)  # somebody else draws
    got = outcome(train('rated', tmp_path))
    assert_same(got, outcome(train('rated', tmp_path / 'other')))


def test_other_callbacks_go_on_counting(tmp_path):
    def cbs():
        best = SaveModelCallback(monitor='rmse', fname='best')
        stop = EarlyStoppingCallback(monitor='rmse', min_delta=9.0, patience=4)  # no epoch is that much better
        return [best, stop]

    class Rate(Callback):  # wrecks the model, so that the best epoch is an early one
        def before_batch(self):
            if self.training and self.epoch >= 2:
                self.opt.set_hyper('lr', 1.0)

    whole = train('rated', tmp_path / 'whole', cbs=[*cbs(), Rate()])
    with pytest.raises(Stop):
        train('rated', tmp_path, cbs=[*cbs(), Rate(), StopAt(3)])
    mine = cbs()
    got = train('rated', tmp_path, cbs=[*mine, Rate()])
    best = min(v[2] for v in whole.recorder.values)
    assert mine[0].best == pytest.approx(float(best))
    assert mine[1].wait == 4
    assert len(got.recorder.values) == len(whole.recorder.values) == 5
    assert got.validate()[1] == pytest.approx(float(best)), 'the best model is the one from before the stop'
    assert_same(dict(got.model.state_dict()), dict(whole.model.state_dict()))


def test_a_finished_run_is_loaded(tmp_path, capsys):
    first = train('rated', tmp_path)
    learn = learner('rated', tmp_path)
    learn.fit_one_cycle(EPOCHS, 2e-2, wd=0.05, cbs=ResumeCallback('run'))
    assert 'all 5 epochs were done' in capsys.readouterr().out
    assert_same(dict(learn.model.state_dict()), dict(first.model.state_dict()))
    assert len(learn.recorder.values) == EPOCHS
    assert list(learn.final_record) == list(first.recorder.values[-1])
    learn.fit_one_cycle(EPOCHS, 2e-2, wd=0.05, cbs=ResumeCallback('run'))
    assert [o['epochs'] for o in learn.fits] == [EPOCHS], 'loaded twice, trained once'
    learn.fit_one_cycle(EPOCHS, 2e-2, wd=0.05, cbs=ResumeCallback('run', restart=True))
    assert not torch.equal(next(learn.model.parameters()), next(first.model.parameters()))


def test_rates_of_layer_groups(tmp_path):
    """Schedules are arrays then."""

    def fit(path, cbs=()):
        learn = learner('rated', path)

        def groups(m):
            return [
                list(m.tower.parameters()),
                [p for n, p in m.named_parameters() if not n.startswith('tower')],
            ]

        learn.splitter = groups
        learn._layer_groups = True
        with learn.no_bar(), learn.no_logging():
            learn.fit_one_cycle(EPOCHS, slice(1e-3, 2e-2), wd=0.0, cbs=[ResumeCallback('run'), *cbs])
        return learn

    with pytest.raises(Stop):
        fit(tmp_path, [StopAt(3)])
    assert_same(outcome(fit(tmp_path)), outcome(fit(tmp_path / 'other')))


def test_what_changed_is_said(tmp_path):
    train('rated', tmp_path)

    def fit(n=EPOCHS, lr=2e-2, wd=0.05, kind='rated', change=noop):
        learn = learner(kind, tmp_path)
        change(learn)
        with learn.no_bar(), learn.no_logging():
            learn.fit_one_cycle(n, lr, wd=wd, cbs=ResumeCallback('run'))

    with pytest.raises(
        ValueError,
        match=r"'run' was started otherwise: the number of epochs changed since \(5 then, 6 now\).*restart=True",
    ):
        fit(6)
    with pytest.raises(ValueError, match='the schedule changed'):
        fit(lr=1e-2)
    with pytest.raises(ValueError, match='the weight decay changed'):
        fit(wd=0.06)
    with pytest.raises(ValueError, match='the model'):
        fit(kind='negatives')
    with pytest.raises(ValueError, match=r'the batch size changed since \(64 then, 32 now\)'):
        fit(change=lambda learn: setattr(learn.dls.train, 'bs', 32))

    def rate(learn):
        learn.catalog.interactions.ratings[0] += 1

    with pytest.raises(ValueError, match='otherwise: the data changed'):
        fit(change=rate)
    fit()


def test_damaged_checkpoint_and_leftovers(tmp_path):
    train('rated', tmp_path)
    path = tmp_path / 'models' / 'run.ckpt'
    assert [o.name for o in path.parent.iterdir()] == ['run.ckpt']
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(ValueError, match=r'run.ckpt is damaged.*restart=True'):
        train('rated', tmp_path)
    torch.save(dict(version=0), path)
    with pytest.raises(ValueError, match='is not a checkpoint of this version'):
        train('rated', tmp_path)


def test_every_and_what_is_no_training(tmp_path):
    learn = learner('rated', tmp_path)
    cb = ResumeCallback('run', every=2)
    done = []
    save = cb._save

    def noted(n):
        done.append(n)
        save(n)

    cb._save = noted
    learn.add_cb(cb)
    with learn.no_bar(), learn.no_logging():
        learn.validate()
        learn.get_preds()
        learn.lr_find(show_plot=False, num_it=5)
        assert done == []
        learn.fit(5, 1e-2)
        learn.validate()
    assert done == [0, 2, 4, 6]
    with pytest.raises(ValueError, match='every=0'):
        ResumeCallback('run', every=0)
