"""Every callback of fastai does to a recommender what it is for, or docs/callbacks.md says why it cannot."""

import ast
import importlib.util
import math
import re
from functools import partial
from pathlib import Path

import fastai
import numpy as np
import pandas as pd
import pytest
import torch
from fastai.basics import (
    Callback,
    CancelBackwardException,
    CancelBatchException,
    CancelEpochException,
    CancelFitException,
    CancelStepException,
    CancelTrainException,
    CancelValidException,
    Learner,
    OptimWrapper,
    SkipToEpoch,
    set_seed,
)
from fastai.callback.all import (
    ActivationStats,
    BnFreeze,
    CollectDataCallback,
    CSVLogger,
    CutMix,
    EarlyStoppingCallback,
    FetchPredsCallback,
    GradientAccumulation,
    GradientClip,
    HookCallback,
    MCDropoutCallback,
    MixedPrecision,
    MixUp,
    ModelResetter,
    ModelToHalf,
    NonNativeMixedPrecision,
    ParamScheduler,
    ProgressCallback,
    ReduceLROnPlateau,
    RNNCallback,
    RNNRegularizer,
    SaveModelCallback,
    SchedLin,
    ShortEpochCallback,
    ShowGraphCallback,
    TerminateOnNaNCallback,
    TrackerCallback,
)
from fastai.callback.channelslast import ChannelsLast
from fastai.callback.core import GatherPredsCallback
from fastai.optimizer import Adam
from torch import nn

from fastrec.all import (
    EmbeddingTable,
    LazyAdam,
    RecDataLoaders,
    RecModel,
    collab_learner,
    mlp_learner,
    rec_learner,
    rmse,
    synthetic_ratings,
)

TABLE, ITEMS, _ = synthetic_ratings(n_users=40, n_items=30, density=0.4, seed=2)
PAGE = Path(__file__).parents[1] / 'docs' / 'callbacks.md'
pytestmark = pytest.mark.filterwarnings('ignore')


def learner(make=collab_learner, path='.', bs=32, in_order=True, metrics=rmse, **kwargs):
    """A small learner that is the same each time; rows come in the order of the table."""
    set_seed(7)
    dls = RecDataLoaders.from_df(TABLE[:400], item_df=ITEMS, valid_pct=0.2, seed=0, bs=bs, path=path)
    dls.train.shuffle = not in_order
    return make(dls, **{'n_factors': 4, 'metrics': metrics, **kwargs})


def fit(learn, n=2, lr=1e-2, cbs=None, verb='fit', **kwargs):
    with learn.no_bar(), learn.no_logging():
        getattr(learn, verb)(n, lr, cbs=cbs, **kwargs)
    return learn


def weights(learn):
    return torch.cat([p.detach().flatten() for p in learn.model.parameters()])


class Note(Callback):
    """What `what(learn)` is at an event."""

    def __init__(self, event, what, order=99):
        self.noted = []
        self.order = order
        setattr(self, event, lambda: self.noted.append(what(self.learn)))


class Normed(RecModel):
    """Vectors behind a batch norm."""

    def __init__(self, n_users, n_items, n_factors=4):
        super().__init__()
        self.users = EmbeddingTable(n_users, n_factors)
        self.items = EmbeddingTable(n_items, n_factors)
        self.norm = nn.BatchNorm1d(n_factors)

    def forward(self, users, items=None):
        return (self.norm(self.users(users)) * self.items(items)).sum(-1)


# --- rates


@pytest.mark.parametrize('of', [None, LazyAdam, Adam, torch.optim.SGD, partial(OptimWrapper, opt=torch.optim.Adam)])
def test_reduce_lr_on_plateau_reduces_the_rate(of):
    learn = fit(learner(opt_func=of), 4, cbs=ReduceLROnPlateau(min_delta=9.0, factor=10.0, min_lr=1e-4))
    n = len(learn.dls.train)
    assert learn.recorder.lrs[::n] == pytest.approx([1e-2, 1e-2, 1e-3, 1e-4])
    assert {group['lr'] for group in learn.opt.param_groups} == {learn.opt.hypers[0]['lr']}
    inner = learn.opt.param_groups if of is Adam else learn.opt.opt.param_groups
    assert [group['lr'] for group in inner] == pytest.approx([1e-4] * len(inner)), 'what the next step uses'


@pytest.mark.parametrize('of', [None, torch.optim.AdamW])
def test_hyper_parameters_are_read_and_written(of):
    learn = learner(opt_func=of)
    learn.create_opt()
    first = learn.opt.hypers[0]
    assert {'lr', 'mom', 'sqr_mom', 'eps', 'wd'} <= set(first)
    first['lr'] = 0.5
    first['mom'] = 0.7
    first['sqr_mom'] = 0.6
    first['wd'] = 0.3
    group = learn.opt.opt.param_groups[0]
    assert (group['lr'], group['betas'], group['weight_decay']) == (0.5, (0.7, 0.6), 0.3)
    assert dict(first) == first
    assert first['mom'] == 0.7
    with pytest.raises(KeyError, match=r'no hyper-parameter .momentum.: there are lr'):
        first['momentum'] = 1.0
    with pytest.raises(TypeError, match='cannot be taken'):
        del first['lr']


def test_what_is_written_moves_the_next_step():
    class Stop(Callback):
        def before_epoch(self):
            if self.epoch == 1:
                for group in self.opt.hypers:
                    group['lr'] = 0.0

    ends = Note('after_epoch', weights)
    fit(learner(wd=0.0), 3, cbs=[Stop(), ends])
    assert not torch.equal(ends.noted[0], weights(learner(wd=0.0)))
    assert torch.equal(ends.noted[1], ends.noted[0])
    assert torch.equal(ends.noted[2], ends.noted[0])


def schedules_are_followed():
    learn = fit(learner(), 2, cbs=ParamScheduler({'lr': SchedLin(0.0, 1e-2), 'mom': SchedLin(0.9, 0.8)}))
    steps = len(learn.recorder.lrs)
    assert learn.recorder.lrs == pytest.approx([1e-2 * i / steps for i in range(steps)])
    assert learn.recorder.hps['mom'] == pytest.approx([0.9 - 0.1 * i / steps for i in range(steps)])
    flat = fit(learner(), 2, verb='fit_flat_cos')
    assert flat.recorder.lrs[: steps * 3 // 4] == pytest.approx([1e-2] * (steps * 3 // 4))
    assert flat.recorder.lrs[-1] < 1e-3
    learn = learner()
    with learn.no_bar(), learn.no_logging():
        learn.fit_sgdr(2, 1, 1e-2)  # cycles of 1 and 2 epochs
    n = len(learn.dls.train)
    assert learn.recorder.lrs[0] == learn.recorder.lrs[n] == pytest.approx(1e-2)
    assert learn.recorder.lrs[n - 1] < 1e-3


def the_rate_is_found_and_nothing_changes():
    learn = learner()
    before = weights(learn).clone()
    with learn.no_bar():
        found = learn.lr_find(start_lr=1e-5, end_lr=1.0, num_it=20, stop_div=False, show_plot=False)
    assert 1e-5 < found.valley < 1
    assert learn.recorder.lrs[-1] / learn.recorder.lrs[0] == pytest.approx(1e5 ** (19 / 20), rel=1e-3)
    assert torch.equal(weights(learn), before)


# --- what is watched


def nan_ends_the_fit():
    class Spoil(Callback):
        order = -20

        def after_loss(self):
            if self.training and self.train_iter == 3:
                self.learn.loss = self.learn.loss * math.nan

    learn = fit(learner(), cbs=[Spoil(), TerminateOnNaNCallback()])
    assert len(learn.recorder.lrs) == 3


class Wreck(Callback):
    """Makes the model worse from an epoch on."""

    def __init__(self, epoch):
        self.from_epoch = epoch

    @torch.no_grad()
    def after_train(self):
        if self.epoch >= self.from_epoch:
            self.model.user_biases.weight.add_(1.0 + self.epoch)


def the_best_is_tracked():
    track = TrackerCallback('rmse')
    learn = fit(learner(), 4, cbs=[track, Wreck(2)])
    errors = [row[2] for row in learn.recorder.values]
    assert float(track.best) == pytest.approx(min(errors)) == pytest.approx(errors[1])


def training_ends_early():
    learn = fit(learner(), 9, cbs=[EarlyStoppingCallback('rmse', patience=2), Wreck(2)])
    assert len(learn.recorder.values) == 4


def the_best_weights_come_back(path):
    ends = Note('after_epoch', weights, order=59)
    learn = fit(learner(path=path), 4, cbs=[SaveModelCallback('rmse'), Wreck(2), ends])
    assert torch.equal(weights(learn), ends.noted[1])
    best = min(row[2] for row in learn.recorder.values)
    assert learn.validate()[1] == pytest.approx(best)


def a_plateau_lowers_the_rate():
    test_reduce_lr_on_plateau_reduces_the_rate(None)


# --- steps


@pytest.mark.parametrize('make', [collab_learner, mlp_learner])
@pytest.mark.parametrize('of', [None, torch.optim.Adam])
def test_accumulated_gradients_are_those_of_a_larger_batch(make, of):
    options = dict(opt_func=of, wd=0.05, **({'dropout': 0.0} if make is mlp_learner else {}))
    whole = learner(make, bs=64, **options)
    parts = learner(make, bs=32, **options)
    assert len(parts.dls.train.dataset) == 320  # 5 batches of 64, 10 of 32
    fit(whole, 2)
    fit(parts, 2, cbs=GradientAccumulation(64))
    assert torch.allclose(weights(parts), weights(whole), atol=1e-5)
    assert not torch.allclose(weights(parts), weights(fit(learner(make, bs=32, **options), 2)), atol=1e-3)


def gradients_add_up():
    test_accumulated_gradients_are_those_of_a_larger_batch(collab_learner, None)


def gradients_are_clipped():
    def norm(learn):
        return float(torch.stack([p.grad.norm() for p in learn.model.parameters() if p.grad is not None]).norm())

    free = Note('before_step', norm)
    clipped = Note('before_step', norm)
    fit(learner(), 1, cbs=free)
    fit(learner(), 1, cbs=[GradientClip(0.05), clipped])
    assert min(free.noted) > 0.05
    assert max(clipped.noted) == pytest.approx(0.05, rel=1e-3)


def an_epoch_is_cut_short():
    learn = learner()
    seen = Note('after_batch', lambda learn: learn.training, order=-99)
    fit(learn, 1, cbs=[seen, ShortEpochCallback(0.3, short_valid=False)])
    assert sum(seen.noted) == 4  # of 10: the one after 0.3 of them is the last
    row = dict(zip(learn.recorder.metric_names[1:], learn.recorder.values[-1]))
    assert math.isnan(row['train_loss'])
    assert row['valid_loss'] == pytest.approx(row['rmse'] ** 2, rel=1e-5)
    assert learn.fits[-1]['rmse'] == pytest.approx(row['rmse']), 'columns do not move up'


def frozen_norms_keep_their_statistics():
    def make(dls, n_factors, metrics):
        return rec_learner(dls, Normed, metrics=metrics)

    def statistics(cbs):
        learn = learner(make)
        learn.model.norm.requires_grad_(False)
        fit(learn, 1, cbs=cbs)
        return learn.model.norm.running_mean

    assert not torch.equal(statistics(None), torch.zeros(4))
    assert torch.equal(statistics(BnFreeze()), torch.zeros(4))


def epochs_are_skipped():
    learn = fit(learner(), 3, cbs=SkipToEpoch(2))
    assert len(learn.recorder.lrs) == len(learn.dls.train)


# --- what comes out


def dropout_stays_on():
    learn = fit(learner(mlp_learner, dropout=0.5), 1)
    plain = [learn.get_preds()[0] for _ in range(2)]
    drawn = torch.stack([learn.get_preds(cbs=MCDropoutCallback())[0] for _ in range(200)])
    assert torch.equal(*plain)
    assert drawn.std(0).min() > 0
    assert (drawn.mean(0) - plain[0]).abs().mean() < drawn.std(0).mean()
    assert torch.equal(learn.get_preds()[0], plain[0]), 'afterwards it is off'


def predictions_are_fetched():
    fetch = FetchPredsCallback()
    learn = fit(learner(), 2, cbs=[fetch, SaveModelCallback('rmse', at_end=True)])
    assert len(learn.recorder.values) == 2
    scores, targets = learn.get_preds()
    assert torch.allclose(fetch.preds[0], scores)
    assert torch.equal(fetch.preds[1], targets)


def predictions_are_gathered():
    learn = fit(learner(), 1)
    shown = learn.recorder.values[-1][1]
    gather = GatherPredsCallback(with_loss=True)
    with learn.no_bar(), learn.loss_not_reduced():
        learn.validate(cbs=gather)
    scores, targets, losses = gather.all_tensors()
    assert torch.allclose((scores - targets).square(), losses)
    assert float(losses.mean()) == pytest.approx(shown, rel=1e-5)


def batches_are_collected():
    collect = CollectDataCallback()
    learn = fit(learner(), 1, cbs=collect)
    assert len(collect.data) == len(learn.dls.train) + len(learn.dls.valid)
    for _, (target,), scores, loss in collect.data:
        assert float(loss) == pytest.approx(float((scores - target).square().mean()), rel=1e-5)


def activations_are_measured():
    learn = learner(mlp_learner)
    outputs = []
    learn.model.out.register_forward_hook(lambda module, given, out: outputs.append(out.detach()))
    stats = ActivationStats(modules=[learn.model.out])
    fit(learn, 1, cbs=stats)
    n = len(learn.dls.train)
    means, stds, _ = stats.layer_stats(0)
    assert list(means) == pytest.approx([float(o.mean()) for o in outputs[:n]])
    assert list(stds) == pytest.approx([float(o.std()) for o in outputs[:n]])
    tables = learner()  # one autograd node without hooks
    stats = ActivationStats(modules=[tables.model.item_factors])
    fit(tables, 1, cbs=stats)
    assert len(stats.layer_stats(0)[0]) == n
    assert torch.allclose(weights(tables), weights(fit(learner(), 1)), atol=1e-6), 'nothing else changes'


def hooks_are_called():
    class Sizes(HookCallback):
        def hook(self, module, given, out):
            return tuple(out.shape)

    sizes = Sizes(modules=None)
    learn = learner(mlp_learner)
    fit(learn, 1, cbs=[sizes, noted := Note('after_batch', lambda learn: learn.sizes.hooks.stored[-1])])
    assert noted.noted[0] == (32, 1)


# --- what is shown


def columns_are_those_of_the_epoch():
    learn = fit(learner(), 2)
    shown = learn.recorder.values[-1]
    n_losses = len(learn.recorder.losses)
    scores, targets = learn.get_preds()
    want = float((scores - targets).square().mean())
    assert list(shown[1:]) == pytest.approx([want, want**0.5], rel=1e-5)
    assert n_losses == 2 * len(learn.dls.train)


def a_table_is_written(path):
    log = CSVLogger()
    learn = fit(learner(path=path), 2, cbs=log)
    table = log.read_log() if log.learn else pd.read_csv(path / 'history.csv')
    assert list(table.columns) == list(learn.recorder.metric_names)
    got = table[['train_loss', 'valid_loss', 'rmse']].to_numpy()
    assert got == pytest.approx(np.array([list(row) for row in learn.recorder.values]))


def a_bar_goes_on(capsys):
    learn = learner()
    assert isinstance(learn.progress, ProgressCallback)
    bars = Note('after_train', lambda learn: (learn.progress.pbar.total, len(learn.dls.train)), order=99)
    learn.fit(1, 1e-2, cbs=bars)
    assert bars.noted == [(10, 10)]
    assert 'rmse' in capsys.readouterr().out


def a_graph_is_drawn(monkeypatch):
    drawn = []
    learn = learner()
    catch = Note('before_epoch', lambda learn: None, order=0)
    catch.before_epoch = lambda: setattr(learn.progress.mbar, 'update_graph', lambda *args: drawn.append(args))
    learn.fit(2, 1e-2, cbs=[catch, ShowGraphCallback()])
    (steps, losses), (ends, valid) = drawn[-1][0]
    assert len(steps) == len(losses) == 20
    assert ends == [10, 20]
    assert valid == [row[1] for row in learn.recorder.values]


# --- of packages that need not be there


def tensorboard_has_the_values(path):
    pytest.importorskip('tensorboard')
    from fastai.callback.tensorboard import TensorBoardCallback
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for of in (None, torch.optim.Adam):
        folder = path / str(of)
        cbs = [TensorBoardCallback(folder, trace_model=False, log_preds=False), ReduceLROnPlateau(min_delta=9.0)]
        learn = fit(learner(opt_func=of), 3, cbs=cbs)
        written = EventAccumulator(str(folder)).Reload()
        assert [o.value for o in written.Scalars('rmse')] == pytest.approx([row[2] for row in learn.recorder.values])
        rates = {o.step: o.value for o in written.Scalars('lr_0')}  # after the last step of an epoch also in validation
        assert list(rates.values()) == pytest.approx(learn.recorder.lrs)
        assert written.Scalars('train_loss')[-1].value == pytest.approx(float(learn.recorder.losses[-1]))


# --- and those that cannot: what is raised is what the page says


def fails(cb, error, text, make=collab_learner):
    with pytest.raises(error, match=text):
        fit(learner(make), 1, cbs=cb)


def mixing_asks_for_numbers():
    fails(MixUp(), AttributeError, "'tuple' object has no attribute 'device'")


def cutting_asks_for_pictures():
    fails(CutMix(), AttributeError, "'tuple' object has no attribute 'size'")


def nothing_to_reset():
    fails(ModelResetter(), AttributeError, "has no attribute 'reset'")


def no_raw_outputs():
    fails(RNNCallback(), ValueError, 'too many values to unpack')


def no_outputs_to_regularize():
    fails(RNNRegularizer(1.0, 1.0), AttributeError, "has no attribute 'rnn'")


def half_precision_needs_a_gpu():
    if torch.cuda.is_available():
        pytest.skip('there is a GPU')
    fails([ModelToHalf(), NonNativeMixedPrecision()], AssertionError, 'requires a GPU')


def nothing_of_four_dimensions():
    assert torch.equal(weights(fit(learner(), 1, cbs=ChannelsLast())), weights(fit(learner(), 1)))


def autocast_is_of_the_gpu():
    if not torch.cuda.is_available():
        for mode in ('bf16', 'fp16'):
            assert torch.equal(weights(fit(learner(), 1, cbs=MixedPrecision(mode))), weights(fit(learner(), 1)))
        return
    kinds = Note('after_pred', lambda learn: learn.pred.dtype, order=9)
    learn = fit(learner(mlp_learner), 2, cbs=[MixedPrecision('bf16'), kinds])
    assert set(kinds.noted) == {torch.bfloat16}
    full = fit(learner(mlp_learner), 2)
    assert float(learn.recorder.losses[-1]) == pytest.approx(float(full.recorder.losses[-1]), rel=0.1)


EFFECTS = {
    'TrainEvalCallback': columns_are_those_of_the_epoch,
    'Recorder': columns_are_those_of_the_epoch,
    'CastToTensor': columns_are_those_of_the_epoch,
    'SkipToEpoch': epochs_are_skipped,
    'GatherPredsCallback': predictions_are_gathered,
    'FetchPredsCallback': predictions_are_fetched,
    'ProgressCallback': a_bar_goes_on,
    'ShowGraphCallback': a_graph_is_drawn,
    'CSVLogger': a_table_is_written,
    'ParamScheduler': schedules_are_followed,
    'LRFinder': the_rate_is_found_and_nothing_changes,
    'TerminateOnNaNCallback': nan_ends_the_fit,
    'TrackerCallback': the_best_is_tracked,
    'EarlyStoppingCallback': training_ends_early,
    'SaveModelCallback': the_best_weights_come_back,
    'ReduceLROnPlateau': a_plateau_lowers_the_rate,
    'ShortEpochCallback': an_epoch_is_cut_short,
    'GradientAccumulation': gradients_add_up,
    'GradientClip': gradients_are_clipped,
    'BnFreeze': frozen_norms_keep_their_statistics,
    'MCDropoutCallback': dropout_stays_on,
    'CollectDataCallback': batches_are_collected,
    'HookCallback': hooks_are_called,
    'ActivationStats': activations_are_measured,
    'TensorBoardCallback': tensorboard_has_the_values,
    'MixedPrecision': autocast_is_of_the_gpu,
    'ChannelsLast': nothing_of_four_dimensions,
    'ModelToHalf': half_precision_needs_a_gpu,
    'NonNativeMixedPrecision': half_precision_needs_a_gpu,
    'MixUp': mixing_asks_for_numbers,
    'CutMix': cutting_asks_for_pictures,
    'ModelResetter': nothing_to_reset,
    'RNNCallback': no_raw_outputs,
    'RNNRegularizer': no_outputs_to_regularize,
}


@pytest.mark.parametrize('name', EFFECTS)
def test_effect(name, request, tmp_path):
    check = EFFECTS[name]
    given = dict(path=tmp_path)
    names = check.__code__.co_varnames[: check.__code__.co_argcount]
    check(**{o: given[o] if o in given else request.getfixturevalue(o) for o in names})


# --- what is cancelled

CANCELS = {
    'before_batch': CancelBatchException,
    'after_loss': CancelBatchException,
    'before_backward': CancelBackwardException,
    'before_step': CancelStepException,
    'after_step': CancelTrainException,
    'before_train': CancelTrainException,
    'before_validate': CancelValidException,
    'before_epoch': CancelEpochException,
    'after_train': CancelEpochException,
    'after_epoch': CancelFitException,
    'after_backward': CancelFitException,
}


class Cancel(Callback):
    """Cancels the third time that an event comes, and notes all events."""

    order = 99

    def __init__(self, at, exception):
        self.events = []
        self.at = at
        self.exception = exception

    def __call__(self, event_name):
        self.events.append(event_name)
        if event_name == self.at and self.events.count(event_name) == 3:
            raise self.exception


@pytest.mark.parametrize('at', CANCELS)
def test_cancelling_goes_on_where_fastai_goes_on(at):
    ended = []
    for plain in (False, True):
        ours = learner(wd=0.0, opt_func=Adam)
        learn = ours
        if plain:
            learn = Learner(ours.dls, ours.model, ours.loss_func, ours.opt_func, splitter=ours.splitter, wd=0.0)
        cancel = Cancel(at, CANCELS[at])
        fit(learn, 4, cbs=cancel)
        steps = [o for o in cancel.events if o != 'after_create']
        ended.append((steps, weights(learn), learn.recorder.lrs))
    (events, got, lrs), (want_events, want, want_lrs) = ended
    assert events == want_events
    assert torch.allclose(got, want, atol=1e-6)
    assert lrs == want_lrs


# --- none is forgotten


def of_fastai():
    """Names of all classes of fastai that are callbacks, loaders or tools of callbacks, read from its files."""
    parents = {}
    in_callback = set()
    for file in Path(fastai.__file__).parent.rglob('*.py'):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ClassDef):
                parents[node.name] = {o.id for o in node.bases if isinstance(o, ast.Name)}
                if file.parent.name == 'callback' and (node.name.endswith('DL') or node.name.startswith('Captum')):
                    in_callback.add(node.name)
    found = {'Callback'}
    while more := {name for name, bases in parents.items() if bases & found} - found:
        found |= more
    return (found | in_callback) - {'Callback'}


def rows_of_the_page():
    """Name -> (works, text) of each row of the table."""
    rows = re.findall(r'^\| `(\w+)` \| (\S.*?) \| (.*?) \|$', PAGE.read_text(), flags=re.MULTILINE)
    return {name: (works, text) for name, works, text in rows}


def test_the_page_has_every_callback_of_fastai():
    rows = rows_of_the_page()
    assert set(rows) == of_fastai()
    assert {works for works, _ in rows.values()} <= {'yes', 'no', 'no effect', 'on a GPU'}
    untried = {name for name, (works, _) in rows.items() if works == 'yes'} - set(EFFECTS)
    assert untried <= {'VerboseCallback', 'DistributedTrainer', 'AzureMLCallback'}
    assert all(len(text) > 20 for _, text in rows.values()), 'a sentence each'


def test_fastai_is_the_version_of_the_page():
    version = re.search(r'fastai (\d+\.\d+)', PAGE.read_text())[1]
    assert fastai.__version__.startswith(version)
    assert importlib.util.find_spec('fastai.callback.tracker')


def test_the_code_of_the_page_runs():
    (code,) = re.findall(r'```python\n(.*?)```', PAGE.read_text(), flags=re.DOTALL)
    names = {}
    exec(code, names)
    assert [row['epoch'] for row in names['rows']] == [0, 1]
    assert names['rows'][-1]['rmse'] == pytest.approx(float(names['learn'].recorder.values[-1][2]))
