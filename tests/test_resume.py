"""Training that was killed goes on from its last epoch and ends where an uninterrupted run ends."""

import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from fastai.basics import Callback, noop, set_seed
from fastai.callback.all import (
    ActivationStats,
    CollectDataCallback,
    CSVLogger,
    EarlyStoppingCallback,
    GradientAccumulation,
    GradientClip,
    MixedPrecision,
    SaveModelCallback,
)

from fastrec.all import (
    FusedAdam,
    ItemFeatures,
    LazyAdam,
    RecDataLoaders,
    ResumeCallback,
    collab_learner,
    content_learner,
    hr,
    mlp_learner,
    neumf_learner,
    rmse,
    svdpp_learner,
    synthetic_ratings,
    two_tower_learner,
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


# --- a run that was started otherwise is not gone on with

TABLE, ITEMS, _ = synthetic_ratings(n_users=40, n_items=30, density=0.4, seed=2)
TABLE['device'] = np.where(np.arange(len(TABLE)) % 3, 'tv', 'phone')
TABLE['counts_for'] = 1.0 + np.arange(len(TABLE)) % 2
IMPLICIT = dict(target='implicit', threshold=3.0, n_neg=2, bs=16)


def fit_anew(
    path,
    make=collab_learner,
    table=TABLE,
    dls=None,
    change=noop,
    torch_seed=7,
    cbs=(),
    lr=2e-2,
    fit=None,
    one_cycle=True,
    **model,
):
    """A learner made and fitted in one go under one name; arguments say what is otherwise."""
    set_seed(torch_seed)
    options = {**dict(item_df=ITEMS, valid_pct=0.2, seed=0, bs=32, path=path), **(dls or {})}
    learn = make(RecDataLoaders.from_df(table, **options), **{'n_factors': 4, **model})
    change(learn)
    with learn.no_bar(), learn.no_logging():
        verb = learn.fit_one_cycle if one_cycle else learn.fit
        verb(1, lr, **{**dict(cbs=[ResumeCallback('run'), *cbs]), **(fit or {})})
    return learn


def content(dls, numeric=None, **kwargs):
    return content_learner(dls, ItemFeatures.from_df(dls.item_df, multilabel='genres', numeric=numeric), **kwargs)


def set_in(where, **values):
    """A change of attributes of what `where(learn)` gives."""

    def change(learn):
        for name, value in values.items():
            setattr(where(learn), name, value)

    return change


def power_loss(power):
    def loss(pred, target):
        return ((pred - target).abs() ** power).mean()

    return loss


def freeze(learn):
    learn.model.user_biases.weight.requires_grad_(False)


def train_loader(learn):
    return learn.dls.train


# name -> (how it was started, how it is gone on with, what the error says)
CHANGES = {
    'rows': ({}, dict(table=TABLE[:-1]), r'the data changed since \(rows: \d+ then, \d+ now'),
    'order of rows': (
        {},
        dict(table=TABLE[::-1].reset_index(drop=True)),
        r'the data changed since \(content of users, ',
    ),
    'ids': ({}, dict(table=TABLE.assign(user=TABLE.user + 'x')), r'the data changed since \(content of users\)'),
    'a rating': ({}, dict(table=TABLE.assign(rating=TABLE.rating.where(TABLE.index > 0, 2.0))), 'content of ratings'),
    'seed of the split': ({}, dict(dls=dict(seed=1)), r'the split changed since \(train, valid\)'),
    'target': ({}, dict(dls=dict(target='liked')), 'target: rating then, liked now'),
    'weights': ({}, dict(dls=dict(weight_name='counts_for')), 'weights of rows: nothing then, given now'),
    'context': ({}, dict(dls=dict(context='device')), 'context_sizes: .* then, .* now'),
    'threshold': (dict(dls=IMPLICIT), dict(dls={**IMPLICIT, 'threshold': 3.5}), 'threshold: 3 then, 3.5 now'),
    'weighted': (dict(dls=IMPLICIT), dict(dls={**IMPLICIT, 'weighted': True}), 'weighted: False then, True now'),
    'batch size': ({}, dict(dls=dict(bs=16)), r'the batch size changed since \(32 then, 16 now\)'),
    'n_neg': (dict(dls=IMPLICIT), dict(dls={**IMPLICIT, 'n_neg': 3}), 'train.n_neg: 2 then, 3 now'),
    'objective': (
        dict(dls=IMPLICIT),
        dict(dls={**IMPLICIT, 'n_neg': 0}),
        'train.kind: NegativesDL then, InBatchDL now',
    ),
    'alpha': (dict(dls=IMPLICIT), dict(dls={**IMPLICIT, 'alpha': 0.75}), 'train.alpha: 0 then, 0.75 now'),
    'seed of the loader': ({}, dict(change=set_in(train_loader, seed=5)), 'train.seed: nothing then, 5 now'),
    'shuffle': ({}, dict(change=set_in(train_loader, shuffle=False)), 'train.shuffle: True then, False now'),
    'class of the model': (dict(make=mlp_learner), {}, 'the model changed since .class: MLP then, DotBias now'),
    'n_factors': ({}, dict(n_factors=5), 'n_factors: 4 then, 5 now'),
    'y_range': ({}, dict(y_range=(0, 6)), r'y_range: \[0\.6, 5\.4\] then, \[0, 6\] now'),
    'dropout': (dict(make=mlp_learner, dropout=0.1), dict(make=mlp_learner, dropout=0.2), 'dropout: 0.1 then, 0.2 now'),
    'temperature': (
        dict(make=two_tower_learner, dls={**IMPLICIT, 'n_neg': 0}, temperature=0.1),
        dict(make=two_tower_learner, dls={**IMPLICIT, 'n_neg': 0}, temperature=0.2),
        'temperature: 0.1 then, 0.2 now',
    ),
    'features': (
        dict(make=content),
        dict(make=content, numeric='year'),
        r'the model changed since \(blocks.year: nothing then',
    ),
    'values of features': (
        dict(make=content),
        dict(make=content, dls=dict(item_df=ITEMS.assign(genres=list(ITEMS.genres[::-1])))),
        r'the model changed since \(blocks.genres.values: other values',
    ),
    'frozen': ({}, dict(change=freeze), r'frozen: \[\] then, \[user_biases.weight\] now'),
    'class of the loss': ({}, dict(loss_func=torch.nn.L1Loss()), 'the loss changed since .*MSELoss then, .*L1Loss now'),
    'setting of the loss': (
        dict(loss_func=torch.nn.SmoothL1Loss(beta=1.0)),
        dict(loss_func=torch.nn.SmoothL1Loss(beta=0.5)),
        'beta: 1 then, 0.5 now',
    ),
    'what a loss holds': (
        dict(loss_func=power_loss(2)),
        dict(loss_func=power_loss(4)),
        r'the loss changed since \(power: 2 then, 4 now\)',
    ),
    'optimizer': ({}, dict(opt_func=ByRows), 'the optimizer changed since .class: FusedAdam then, .*ByRows now'),
    'eps': (
        {},
        dict(opt_func=partial(FusedAdam, eps=1e-3)),
        'the hyper-parameters changed .*eps: 1e-05 then, 0.001 now',
    ),
    'torch optimizer': (dict(opt_func=torch.optim.Adam), dict(opt_func=torch.optim.NAdam), 'Adam then, .*NAdam now'),
    'weight decay': ({}, dict(fit=dict(wd=0.3)), 'the weight decay changed'),
    'rate': (dict(one_cycle=False), dict(one_cycle=False, lr=1e-2), 'lr: 0.02 then, 0.01 now'),
    'schedule': ({}, dict(fit=dict(pct_start=0.5)), 'the schedule changed since .lr: '),
    'start_epoch': ({}, dict(fit=dict(start_epoch=1)), 'SkipToEpoch: nothing then, epoch=1 now'),
    'clipping': ({}, dict(cbs=[GradientClip(0.1)]), 'GradientClip: nothing then, max_norm=0.1, norm_type=2 now'),
    'norm': (dict(cbs=[GradientClip(0.2)]), dict(cbs=[GradientClip(0.1)]), 'GradientClip.max_norm: 0.2 then, 0.1 now'),
    'precision': ({}, dict(cbs=[MixedPrecision('bf16')]), 'MixedPrecision: nothing then, amp_mode=AMPMode.BF16'),
    'accumulation': ({}, dict(cbs=[GradientAccumulation(64)]), 'GradientAccumulation: nothing then, n_acc=64 now'),
    'stopping': ({}, dict(cbs=[EarlyStoppingCallback()]), 'EarlyStoppingCallback: nothing then, monitor=valid_loss'),
    'metrics': ({}, dict(metrics=rmse), 'the columns of the training table changed'),
    'seed of torch': ({}, dict(torch_seed=8), r'the seed of torch changed since \(7 then, 8 now\)'),
}


@pytest.mark.parametrize('what', CHANGES)
@pytest.mark.filterwarnings('ignore')
def test_a_changed_run_is_refused(what, tmp_path):
    then, now, said = CHANGES[what]
    first = fit_anew(tmp_path, **then)
    again = fit_anew(tmp_path, **then)
    assert_same(dict(again.model.state_dict()), dict(first.model.state_dict()))
    with pytest.raises(ValueError, match=said) as e:
        fit_anew(tmp_path, **now)
    assert 'take another name (one for each run, where settings are tried in a loop)' in str(e.value)
    assert "ResumeCallback('run', restart=True)" in str(e.value)


@pytest.mark.filterwarnings('ignore')
def test_the_ways_out_work(tmp_path):
    learn = fit_anew(tmp_path)
    before = learn.model.state_dict()
    with pytest.raises(ValueError, match='the model changed'):
        fit_anew(tmp_path, y_range=(0, 6))
    for cb in (ResumeCallback('another'), ResumeCallback('run', restart=True)):
        learn = fit_anew(tmp_path, y_range=(0, 6), fit=dict(cbs=cb))
        assert not torch.equal(learn.model.item_factors.weight, before['item_factors.weight'])
        assert learn.fits[-1]['epochs'] == 1
    fit_anew(tmp_path, y_range=(0, 6))
    with pytest.raises(ValueError, match='the model changed'):
        fit_anew(tmp_path)


def test_what_watches_may_change_and_an_own_callback_is_asked_for(tmp_path):
    class Stretch(Callback):
        def __init__(self, factor=1.0):
            self.factor = factor

    fit_anew(tmp_path, cbs=[Stretch(2.0)])
    fit_anew(tmp_path, cbs=[Stretch(2.0), CSVLogger(), ActivationStats(), CollectDataCallback()])
    with pytest.raises(ValueError, match=r'the callback Stretch changed since \(factor: 2 then, 3 now\)'):
        fit_anew(tmp_path, cbs=[Stretch(3.0)])
    with pytest.warns(UserWarning, match=r"other callbacks than it was started with \('Stretch'\)"):
        fit_anew(tmp_path)


def test_processes_agree_on_what_a_run_is(tmp_path):
    script = (
        'import sys; sys.path.insert(0, sys.argv[1])\n'
        'import json, test_resume as t\n'
        'from fastrec.training.settings import settings_of\n'
        'class Tell(t.Callback):\n'
        '    order = 80\n'
        '    def before_fit(self): print(json.dumps(settings_of(self.learn)))\n'
        'starts = [dict(loss_func=t.power_loss(2)), dict(dls=t.IMPLICIT), dict(make=t.content)]\n'
        "starts.append(dict(dls=dict(context='device')))\n"
        'for start in starts: t.fit_anew(sys.argv[2], fit=dict(cbs=Tell()), **start)\n'
    )
    told = []
    for seed in ('1', '2'):
        command = [sys.executable, '-W', 'ignore', '-c', script, str(Path(__file__).parent), str(tmp_path)]
        res = subprocess.run(command, env={**os.environ, 'PYTHONHASHSEED': seed}, capture_output=True, text=True)
        assert not res.returncode, res.stderr
        told.append([line for line in res.stdout.splitlines() if line.startswith('{')])
    assert len(told[0]) == 4
    assert told[0] == told[1]


def test_a_run_without_seeds_is_gone_on_with(tmp_path):
    fit_anew(tmp_path)
    torch.seed()  # what a new process has
    assert torch.initial_seed() >= 2**32
    learn = fit_anew(tmp_path, torch_seed=7, change=lambda learn: torch.seed())
    assert learn.fits[-1]['epochs'] == 1


NUMBERED = TABLE.assign(
    user=pd.factorize(TABLE.user)[0],
    item=pd.factorize(TABLE.item)[0],
    time=pd.to_datetime(np.arange(len(TABLE)) * 3600, unit='s'),
)
UTC = NUMBERED.time.dt.tz_localize('UTC')
NAMED = NUMBERED.assign(user='u' + NUMBERED.user.astype(str), item='i' + NUMBERED.item.astype(str))
COUNTED = NUMBERED.assign(time=np.arange(len(TABLE)))
SAME = {
    'narrow ids': (NUMBERED, NUMBERED.astype({'user': 'int32', 'item': 'int16'})),
    'unsigned ids': (NUMBERED, NUMBERED.astype({'user': 'uint32', 'item': 'uint64'})),
    'ids that may be missing': (NUMBERED, NUMBERED.astype({'user': 'Int64', 'item': 'Int32'})),
    'ids as floats': (NUMBERED, NUMBERED.astype({'user': 'float64'})),
    'ids as objects': (NUMBERED, NUMBERED.astype({'user': object, 'item': object})),
    'ids as categories': (NUMBERED, NUMBERED.astype({'user': 'category', 'item': 'category'})),
    'narrow ratings': (NUMBERED, NUMBERED.astype({'rating': 'float32'})),
    'ratings that may be missing': (NUMBERED, NUMBERED.astype({'rating': 'Float64'})),
    'another index': (NUMBERED, NUMBERED.set_index(np.arange(len(TABLE))[::-1])),
    'times in seconds': (NUMBERED, NUMBERED.astype({'time': 'datetime64[s]'})),
    'times with a zone': (NUMBERED, NUMBERED.assign(time=UTC.dt.tz_convert('Asia/Tokyo'))),
    'texts as objects': (NAMED, NAMED.astype({'user': object, 'item': object})),
    'texts as string': (NAMED, NAMED.astype({'user': 'string', 'item': 'string'})),
    'texts as categories': (NAMED, NAMED.astype({'user': 'category', 'item': 'category'})),
    'narrow times': (COUNTED, COUNTED.astype({'time': 'int16'})),
    'times as floats': (COUNTED, COUNTED.astype({'time': 'float64'})),
}
ARROW = {
    'Arrow ids': (NUMBERED, {'user': 'int32[pyarrow]', 'item': 'int64[pyarrow]'}),
    'Arrow texts': (NAMED, {'user': 'string[pyarrow]', 'item': 'string[pyarrow]'}),
    'Arrow ratings': (NUMBERED, {'rating': 'double[pyarrow]'}),
    'Arrow times': (NUMBERED, {'time': 'timestamp[us][pyarrow]'}),
    'Arrow times with a zone': (NUMBERED.assign(time=UTC), {'time': 'timestamp[ns, tz=UTC][pyarrow]'}),
    'Arrow numbers as times': (COUNTED, {'time': 'int64[pyarrow]'}),
}


def prints(table):
    history = RecDataLoaders.from_df(table, seed=0, duplicates='first').catalog.history
    return [history.fingerprint(part) for part in ('data', 'split')]


@pytest.mark.parametrize('what', SAME)
def test_the_same_table_has_the_same_fingerprint(what):
    table, other = SAME[what]
    assert prints(other) == prints(table)


@pytest.mark.parametrize('what', ARROW)
def test_the_same_table_of_arrow_has_the_same_fingerprint(what):
    pytest.importorskip('pyarrow')
    table, dtypes = ARROW[what]
    assert prints(table.astype(dtypes)) == prints(table) == prints(table.astype(dtypes)), 'at each build'


@pytest.mark.parametrize('column', ['user', 'item', 'rating', 'time'])
def test_another_value_is_another_fingerprint(column):
    for table in (NUMBERED, COUNTED):
        other = table.copy()
        other[column] = [table[column].iloc[5], *table[column].iloc[1:]]
        assert not other[column].equals(table[column])
        assert prints(other)[0] != prints(table)[0]


def test_a_checkpoint_of_an_earlier_version_is_refused_in_words(tmp_path):
    learn = fit_anew(tmp_path)
    path = tmp_path / 'models' / 'run.ckpt'
    state = torch.load(path, weights_only=True)
    setup = {'the number of epochs': 1, 'the batch size': learn.dls.train.bs, 'the optimizer': 'FusedAdam'}
    torch.save({**{k: v for k, v in state.items() if k != 'own'}, 'version': 1, 'setup': setup}, path)
    with pytest.raises(ValueError, match=r'not a checkpoint of this version of fastrec.*restart=True'):
        fit_anew(tmp_path)
    fit_anew(tmp_path, fit=dict(cbs=ResumeCallback('run', restart=True)))
    fit_anew(tmp_path)
