"""Training that goes on after its process was killed, and ends where it would have ended.

A checkpoint is written at the end of an epoch, aside and then put in place by one rename: model, optimiser, schedule, recorder, what callbacks have counted, and the state of every
random generator that training draws from. It is read by `torch.load(weights_only=True)`: no code runs from the file."""

from __future__ import annotations

import math
import os
import random
from pathlib import Path

import numpy as np
import torch
from fastai.callback.core import Callback
from fastai.callback.progress import ProgressCallback
from fastai.callback.schedule import ParamScheduler
from fastai.imports import noop
from fastai.learner import Metric, Recorder
from fastai.torch_core import num_distrib
from fastcore.foundation import L

from ..models.embedding import EmbeddingTable

__all__ = ['ResumeCallback']

VERSION = 1  # of the checkpoints
_LEFT = object()  # for what is no plain data


class ResumeCallback(Callback):
    """Go on with training after a crash or a kill: `learn.fit_one_cycle(10, 5e-3, cbs=ResumeCallback('run1'))`.

    Run the same cells again, and training continues after the last epoch that was finished, to the weights that an uninterrupted run has, bit for bit on the CPU. A run that
    was finished is loaded and not trained again. The checkpoint is `learn.path/learn.model_dir/run1.ckpt`; delete it, or take another name, to start anew. If the data,
    the model or the arguments of the fit have changed, that is a `ValueError` that says what.
    """

    order = 90  # after the Recorder (50), the trackers (60 and up) and the progress bar (60)
    run_valid = False

    def __init__(
        self,
        name,  # of the run; an absolute path is taken as it is
        every: int = 1,  # epochs between checkpoints; the last epoch has one in any case
        restart: bool = False,  # forget what was there and start anew
    ):
        if every < 1:
            raise ValueError(f'every={every}: at least one epoch')
        self.run_name, self.every, self.restart = name, every, restart

    @property
    def file(self) -> Path:
        """Where the checkpoint is."""
        return Path(self.learn.path) / self.learn.model_dir / f'{self.run_name}.ckpt'

    def _fitting(self):
        return getattr(self.learn, 'first_epoch', None) is not None and not hasattr(self.learn, 'lr_finder')

    def before_fit(self):
        """Start from the checkpoint if there is one, else write the first."""
        if not self._fitting():
            return
        if num_distrib() > 1:
            raise NotImplementedError(
                'ResumeCallback follows the random generators of one process; in distributed training save with SaveModelCallback'
            )
        self._setup = {k: repr(o) if (v := _plain(o)) is _LEFT else v for k, o in self._describe().items()}
        self._fresh = {key: _state(cb) for key, cb in self._others()}
        if self.file.is_file() and not self.restart:
            self._resume()
        else:
            self._save(0)
        self.restart = False

    def after_epoch(self):
        """Write a checkpoint, if one is due."""
        if self._fitting() and (self.epoch + 1) % self.every == 0:
            self._save(self.epoch + 1)

    def after_fit(self):
        """Write the end: what callbacks made of the last epoch (`SaveModelCallback` loads the best one) belongs to it."""
        if self._fitting() and self._done < self.n_epoch + 1:
            self._save(self.n_epoch + 1)

    # --- what is in a checkpoint

    def _others(self):
        """(key, callback) of those whose state belongs to the run."""
        seen = {}
        for cb in self.learn.cbs.sorted('order'):
            if cb is self or isinstance(cb, ProgressCallback):
                continue
            n = seen[cb.name] = seen.get(cb.name, 0) + 1
            yield f'{cb.name}{n}', cb

    def _describe(self):
        """What has to be the same when the run goes on: plain data by name."""
        learn, train = self.learn, self.dls.train
        scheds = {
            k: [f(p) for p in (0.0, 0.1, 0.25, 0.5, 0.9, 1.0)]
            for cb in learn.cbs
            if isinstance(cb, ParamScheduler)
            for k, f in cb.scheds.items()
        }
        return {
            'the number of epochs': learn.n_epoch,
            'the schedule': scheds,
            'the hyper-parameters': None if scheds else learn.opt.hypers,
            'the weight decay': [h.get('wd') for h in learn.opt.hypers]
            + [m.l2 for m in learn.model.modules() if isinstance(m, EmbeddingTable)],
            'the model': {k: list(v.shape) for k, v in learn.model.state_dict().items()},
            'the optimiser': type(learn.opt).__name__,
            'the loss': type(learn.loss_func).__name__,
            'the batch size': train.bs,
            'the data': learn.catalog.history.fingerprint(),
            'the split': learn.catalog.history.fingerprint('split'),
        }

    def _save(self, done):
        self._done, learn = done, self.learn
        moved = {}
        for key, cb in self._others():
            fresh = self._fresh.get(key, {})
            moved[key] = {k: v for k, v in _state(cb).items() if k not in fresh or not _same(v, fresh[k])}
        scaler, opt = getattr(learn, 'scaler', None), _plain(learn.opt.state_dict())
        if opt is _LEFT:
            raise TypeError(
                f'{type(learn.opt).__name__} keeps a state that is no plain data, so training could not go on from a checkpoint'
            )
        state = dict(
            version=VERSION,
            setup=self._setup,
            done=done,
            model=learn.model.state_dict(),
            opt=opt,
            callbacks=moved,
            loaders=[_loader_state(dl) for dl in learn.dls.loaders],
            rng=_rng_state(),
            train_iter=learn.train_iter,
            scaler=None if scaler is None else scaler.state_dict(),
        )
        self.file.parent.mkdir(parents=True, exist_ok=True)
        aside = self.file.with_name(f'{self.file.name}.{os.getpid()}.tmp')
        try:
            with open(aside, 'wb') as f:
                torch.save(state, f)
                f.flush()
                os.fsync(f.fileno())
            os.replace(aside, self.file)
        finally:
            aside.unlink(missing_ok=True)

    def _resume(self):
        learn = self.learn
        try:
            state = torch.load(self.file, map_location='cpu', weights_only=True)
        except Exception as e:
            raise ValueError(
                f'the checkpoint {self.file} is damaged ({type(e).__name__}). Delete it, or ResumeCallback({str(self.run_name)!r}, restart=True), to start anew'
            ) from e
        if not isinstance(state, dict) or state.get('version') != VERSION:
            raise ValueError(
                f'{self.file} is no checkpoint of this version of fastrec: delete it, or take another name'
            )
        if changed := [k for k, v in self._setup.items() if not _same(v, state['setup'].get(k))]:
            raise ValueError(
                f'the run {str(self.run_name)!r} was started otherwise: {", ".join(changed)} changed since{self._difference(changed[0], state)}. Go on as it was started, take another name, or ResumeCallback({str(self.run_name)!r}, restart=True) to start anew'
            )
        device = next(learn.model.parameters()).device
        learn.model.load_state_dict(state['model'])
        learn.model.to(device)
        learn.opt.load_state_dict(state['opt'])
        for key, cb in self._others():
            _restore(cb, state['callbacks'].get(key, {}))
        for dl, o in zip(learn.dls.loaders, state['loaders']):
            _restore_loader(dl, o)
        if state['scaler'] is not None and getattr(learn, 'scaler', None) is not None:
            learn.scaler.load_state_dict(state['scaler'])
        learn.train_iter, self._done = state['train_iter'], state['done']
        learn.first_epoch = min(self._done, learn.n_epoch)
        recorder = getattr(learn, 'recorder', None)
        if recorder is not None and recorder.values:
            learn.final_record = L(recorder.values[-1])
        if self._done and learn.logger is not noop:
            print(
                f'{self.run_name}: '
                + (
                    f'all {learn.n_epoch} epochs were done; loaded'
                    if self._done > learn.n_epoch
                    else f'goes on after epoch {self._done - 1} (of 0 to {learn.n_epoch - 1})'
                )
            )
            for i, row in enumerate(recorder.values if recorder is not None else []):
                recorder.logger([i, *row, *(['before'] if recorder.add_time else [])])
        _restore_rng(state['rng'])  # last: nothing may draw before the next epoch

    def _difference(self, name, state):
        now, then = self._setup[name], state['setup'].get(name)
        return (
            f' ({then} then, {now} now)'
            if isinstance(now, (int, str)) and name not in ('the data', 'the split')
            else ''
        )


def _plain(value):
    """`value` as plain data and tensors, copied; `_LEFT` if it is, or holds, something else."""
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, (np.generic, np.ndarray)):
        return _plain(value.tolist())
    if isinstance(value, torch.Tensor):
        return value.detach().as_subclass(torch.Tensor).clone()
    if isinstance(value, dict):
        items = {k: _plain(v) for k, v in value.items()}
        return _LEFT if any(v is _LEFT or type(k) not in (int, str) for k, v in items.items()) else items
    if not isinstance(value, (list, tuple, L)):
        return _LEFT
    if len(value) and all(isinstance(o, torch.Tensor) and o.dim() == 0 for o in value):
        return {
            'scalars': torch.stack([o.detach().as_subclass(torch.Tensor).cpu() for o in value])
        }  # not a hundred thousand tensors
    items = [_plain(o) for o in value]
    return _LEFT if any(o is _LEFT for o in items) else tuple(items) if type(value) is tuple else items


def _same(a, b):
    if isinstance(a, torch.Tensor) or isinstance(b, torch.Tensor):
        return (
            isinstance(a, torch.Tensor)
            and isinstance(b, torch.Tensor)
            and a.dtype == b.dtype
            and torch.equal(a.cpu(), b.cpu())
        )
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same(v, b[k]) for k, v in a.items())
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(map(_same, a, b))
    return a == b or (isinstance(a, float) and isinstance(b, float) and math.isnan(a) and math.isnan(b))


def _state(cb):
    """Attributes of a callback (or metric) that are plain data, and those of the metrics in it."""
    res = {
        k: {'metric': _state(v)} if isinstance(v, Metric) else _plain(v) for k, v in vars(cb).items() if k != 'learn'
    }
    return {k: v for k, v in res.items() if v is not _LEFT}


def _restore(cb, state):
    for k, v in state.items():
        if isinstance(v, dict) and v.keys() == {'metric'}:
            _restore(getattr(cb, k), v['metric'])
        elif isinstance(v, dict) and v.keys() == {'scalars'}:
            setattr(cb, k, list(v['scalars'].unbind()))
        elif isinstance(cb, Recorder) and k == 'values':
            cb.values = [L(o) for o in v]
        else:
            setattr(cb, k, v)


def _loader_state(dl):
    """States of the random generators of a loader, by attribute."""
    res = {}
    for k, v in vars(dl).items():
        if isinstance(v, torch.Generator):
            res[k] = dict(torch=v.get_state(), device=str(v.device))
        elif isinstance(v, random.Random):
            res[k] = dict(python=v.getstate())
        elif isinstance(v, np.random.Generator):
            res[k] = dict(numpy=v.bit_generator.state)
    return res


def _restore_loader(dl, state):
    for k, v in state.items():
        if 'torch' in v:
            setattr(dl, k, torch.Generator(v['device']))
            getattr(dl, k).set_state(v['torch'])
        elif 'python' in v:
            getattr(dl, k).setstate(v['python'])
        else:
            getattr(dl, k).bit_generator.state = v['numpy']


def _rng_state():
    """States of the global generators: torch (and its devices), numpy, Python."""
    kind, keys, *rest = np.random.get_state()
    return dict(
        torch=torch.get_rng_state(),
        cuda=torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
        mps=torch.mps.get_rng_state() if torch.backends.mps.is_available() else None,
        numpy=[kind, torch.from_numpy(keys.astype(np.int64)), *rest],
        python=random.getstate(),
    )


def _restore_rng(state):
    torch.set_rng_state(state['torch'])
    if state['cuda'] and len(state['cuda']) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state['cuda'])
    if state['mps'] is not None and torch.backends.mps.is_available():
        torch.mps.set_rng_state(state['mps'])
    kind, keys, *rest = state['numpy']
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    random.setstate(state['python'])
