"""Training that goes on after its process was killed, and ends where it would have ended.

A checkpoint is written at the end of an epoch, aside and then put in place by one rename: model, optimizer, schedule,
recorder, what callbacks have counted, and the state of every random generator that training draws from. It is read by
`torch.load(weights_only=True)`: no code runs from the file.
"""

from __future__ import annotations

import math
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fastai.callback.core import Callback
from fastai.callback.progress import ProgressCallback
from fastai.imports import noop
from fastai.learner import Metric, Recorder
from fastai.torch_core import num_distrib
from fastcore.foundation import L

from ..data.columns import first_few
from ..notices import warn_user
from .settings import changes, own_callbacks, settings_of

__all__ = ['ResumeCallback']

VERSION = 2  # of the checkpoints
MOST_CHANGES = 3  # that an error lists of each kind
NOT_PLAIN = object()  # stands for what is not plain data


class ResumeCallback(Callback):
    """Go on with training after a crash or a kill: `learn.fit_one_cycle(10, 5e-3, cbs=ResumeCallback('run1'))`.

    Run the same cells again, and training continues after the last epoch that was finished, to the weights that an
    uninterrupted run has, bit for bit on the CPU. A run that was finished is loaded and not trained again. The
    checkpoint is `learn.path/learn.model_dir/run1.ckpt`; delete it, or take another name, to start anew. If the data,
    the model or the arguments of the fit have changed, that is a `ValueError` that says what.
    """

    order = 90  # after the Recorder (50), the trackers (60 and up) and the progress bar (60)
    run_valid = False

    def __init__(
        self,
        name: str | Path,  # of the run; an absolute path is taken as it is
        every: int = 1,  # epochs between checkpoints; the last epoch has one in any case
        restart: bool = False,  # forget what was there and start anew
    ) -> None:
        if every < 1:
            raise ValueError(f'every={every}: at least one epoch')
        self.run_name = name
        self.every = every
        self.restart = restart

    @property
    def file(self) -> Path:
        """Where the checkpoint is."""
        return Path(self.learn.path) / self.learn.model_dir / f'{self.run_name}.ckpt'

    def before_fit(self) -> None:
        """Start from the checkpoint if there is one, else write the first."""
        if not self.learn.is_training_run:
            return
        if num_distrib() > 1:
            raise NotImplementedError(
                'ResumeCallback follows the random generators of one process; '
                'in distributed training save with SaveModelCallback'
            )
        self._setup = settings_of(self.learn, without=self)
        self._setup_own = own_callbacks(self.learn)
        self._fresh = {key: _state(cb) for key, cb in self._others()}  # what a checkpoint need not hold
        if self.file.is_file() and not self.restart:
            self._resume()
        else:
            self._save(0)
        self.restart = False

    def after_epoch(self) -> None:
        """Write a checkpoint, if one is due."""
        if self.learn.is_training_run and (self.epoch + 1) % self.every == 0:
            self._save(self.epoch + 1)

    def after_fit(self) -> None:
        """Write the end.

        What callbacks made of the last epoch (`SaveModelCallback` loads the best one) belongs to it.
        """
        if self.learn.is_training_run and self._done < self.n_epoch + 1:
            self._save(self.n_epoch + 1)

    # --- what is in a checkpoint

    def _others(self) -> Iterator[tuple[str, Callback]]:
        """(key, callback) of those whose state belongs to the run."""
        counts: dict[str, int] = {}
        for cb in self.learn.cbs.sorted('order'):
            if cb is self or isinstance(cb, ProgressCallback):
                continue
            counts[cb.name] = counts.get(cb.name, 0) + 1
            yield f'{cb.name}{counts[cb.name]}', cb

    def _moved(self) -> dict[str, dict]:
        """Of each other callback, the state that the fit has changed."""
        moved = {}
        for key, cb in self._others():
            fresh = self._fresh.get(key, {})
            moved[key] = {
                name: value for name, value in _state(cb).items() if name not in fresh or not _same(value, fresh[name])
            }
        return moved

    def _scaler(self) -> Any:
        """The gradient scaler of fastai's mixed precision, None without it."""
        return vars(self.learn).get('scaler')

    # --- writing and reading it

    def _save(self, done: int) -> None:
        """Write a checkpoint after `done` epochs; one more than there are says that the fit has ended."""
        learn = self.learn
        self._done = done
        opt = _plain(learn.opt.state_dict())
        if opt is NOT_PLAIN:
            raise TypeError(
                f'{type(learn.opt).__name__} keeps a state that is not plain data, '
                'so training could not go on from a checkpoint'
            )
        scaler = self._scaler()
        state = dict(
            version=VERSION,
            setup=self._setup,
            own=self._setup_own,
            done=done,
            model=learn.model.state_dict(),
            opt=opt,
            callbacks=self._moved(),
            loaders=[_loader_state(loader) for loader in learn.dls.loaders],
            rng=_rng_state(),
            train_iter=learn.train_iter,
            scaler=None if scaler is None else scaler.state_dict(),
        )
        _write(state, self.file)

    def _resume(self) -> None:
        """Go on from the checkpoint; `ValueError` if it is damaged or of another run."""
        learn = self.learn
        state = self._read()
        self._check_setup(state['setup'], state['own'])
        device = next(learn.model.parameters()).device
        learn.model.load_state_dict(state['model'])
        learn.model.to(device)
        learn.opt.load_state_dict(state['opt'])
        for key, cb in self._others():
            _restore(cb, state['callbacks'].get(key, {}))
        for loader, loader_state in zip(learn.dls.loaders, state['loaders']):
            _restore_loader(loader, loader_state)
        scaler = self._scaler()
        if state['scaler'] is not None and scaler is not None:
            scaler.load_state_dict(state['scaler'])
        learn.train_iter = state['train_iter']
        self._done = state['done']
        learn.first_epoch = min(self._done, learn.n_epoch)
        self._show_past()
        _restore_rng(state['rng'])  # last: nothing may draw before the next epoch

    def _read(self) -> dict:
        """The content of the checkpoint."""
        try:
            state = torch.load(self.file, map_location='cpu', weights_only=True)
        except Exception as e:
            raise ValueError(
                f'the checkpoint {self.file} is damaged ({type(e).__name__}). '
                f'Delete it, or ResumeCallback({str(self.run_name)!r}, restart=True), to start anew'
            ) from e
        if not isinstance(state, dict) or state.get('version') != VERSION:
            raise ValueError(
                f'{self.file} is not a checkpoint of this version of fastrec, and what the run was started with is not '
                f'all in it. Finish it with the version that wrote it, delete it, take another name, '
                f'or ResumeCallback({str(self.run_name)!r}, restart=True) to start anew'
            )
        return state

    def _check_setup(self, then: dict, own_then: dict) -> None:
        """`ValueError` if what has to be the same is not what it was `then`."""
        both = {name: own for name, own in self._setup_own.items() if name in own_then}
        of_own = {f'the callback {name}': texts for name, texts in changes(own_then, both).items()}
        changed = {**changes(then, self._setup), **of_own}
        texts = [_in_words(name, details) for name, details in changed.items()]
        if texts:
            raise ValueError(
                f'the run {str(self.run_name)!r} was started otherwise: {"; ".join(texts)}. '
                'Go on as it was started, take another name (one for each run, where settings are tried in a loop), '
                f'or ResumeCallback({str(self.run_name)!r}, restart=True) to start anew'
            )
        others = sorted(self._setup_own.keys() ^ own_then.keys())
        if others:
            warn_user(
                f'the run {str(self.run_name)!r} goes on with other callbacks than it was started with '
                f'({first_few(others)}): if they change training, it does not end as it would have'
            )

    def _show_past(self) -> None:
        """Say where the run goes on, with the rows of the training table so far."""
        learn = self.learn
        recorder = next((cb for cb in learn.cbs if isinstance(cb, Recorder)), None)
        if recorder is not None and recorder.values:
            learn.final_record = L(recorder.values[-1])
        if not self._done or learn.logger is noop:
            return
        if self._done > learn.n_epoch:
            where = f'all {learn.n_epoch} epochs were done; loaded'
        else:
            where = f'goes on after epoch {self._done - 1} (of 0 to {learn.n_epoch - 1})'
        print(f'{self.run_name}: {where}')
        if recorder is None:
            return
        for epoch, row in enumerate(recorder.values):
            time = ['before'] if recorder.add_time else []
            recorder.logger([epoch, *row, *time])


def _in_words(name: str, details: list[str]) -> str:
    """What changed, from what to what, the first few of it; of content that differs, what it is the content of."""
    if all(text.endswith('other values') for text in details) and name in ('the data', 'the split'):
        names = ', '.join(text.partition(':')[0] for text in details)
        return f'{name} changed since ({names})'
    more = f' and {len(details) - MOST_CHANGES} more' if len(details) > MOST_CHANGES else ''
    return f'{name} changed since ({"; ".join(details[:MOST_CHANGES])}{more})'


def _write(state: dict, file: Path) -> None:
    """Save aside and put in place by a rename, so that there is always a whole checkpoint."""
    file.parent.mkdir(parents=True, exist_ok=True)
    aside = file.with_name(f'{file.name}.{os.getpid()}.tmp')
    try:
        with open(aside, 'wb') as f:
            torch.save(state, f)
            f.flush()
            os.fsync(f.fileno())
        os.replace(aside, file)
    finally:
        aside.unlink(missing_ok=True)


# --- plain data


def _plain(value: Any) -> Any:
    """`value` as plain data and tensors, copied; `NOT_PLAIN` if it is, or holds, something else."""
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, (np.generic, np.ndarray)):
        return _plain(value.tolist())
    if isinstance(value, torch.Tensor):
        return _plain_tensor(value).clone()
    if isinstance(value, dict):
        return _plain_dict(value)
    if isinstance(value, (list, tuple, L)):
        return _plain_list(value)
    return NOT_PLAIN


def _plain_tensor(value: torch.Tensor) -> torch.Tensor:
    """Without gradient, and of torch's own class (fastai has subclasses)."""
    return value.detach().as_subclass(torch.Tensor)


def _plain_dict(value: dict) -> Any:
    items = {key: _plain(item) for key, item in value.items()}
    for key, item in items.items():
        if item is NOT_PLAIN or type(key) not in (int, str):
            return NOT_PLAIN
    return items


def _plain_list(value: list | tuple | L) -> Any:
    """A list or tuple; of scalar tensors one tensor in a dict: not a hundred thousand tensors."""
    if len(value) and all(isinstance(item, torch.Tensor) and item.dim() == 0 for item in value):
        return {'scalars': torch.stack([_plain_tensor(item).cpu() for item in value])}
    items = [_plain(item) for item in value]
    if any(item is NOT_PLAIN for item in items):
        return NOT_PLAIN
    return tuple(items) if type(value) is tuple else items


def _same(a: Any, b: Any) -> bool:
    """Are plain data equal? nan is equal to nan, and a tensor to one of the same dtype on any device."""
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a.cpu(), b.cpu())
    if isinstance(a, torch.Tensor) or isinstance(b, torch.Tensor):
        return False
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same(value, b[key]) for key, value in a.items())
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(map(_same, a, b))
    if isinstance(a, float) and isinstance(b, float) and math.isnan(a) and math.isnan(b):
        return True
    return a == b


# --- states of callbacks, loaders and random generators


def _state(cb: Callback | Metric) -> dict[str, Any]:
    """Attributes of a callback (or metric) that are plain data, and those of the metrics in it."""
    state = {}
    for name, value in vars(cb).items():
        if name == 'learn':
            continue
        plain = {'metric': _state(value)} if isinstance(value, Metric) else _plain(value)
        if plain is not NOT_PLAIN:
            state[name] = plain
    return state


def _restore(cb: Callback | Metric, state: dict[str, Any]) -> None:
    """Set what `_state` gave."""
    for name, value in state.items():
        keys = value.keys() if isinstance(value, dict) else None
        if keys == {'metric'}:
            _restore(vars(cb)[name], value['metric'])
        elif keys == {'scalars'}:
            setattr(cb, name, list(value['scalars'].unbind()))
        elif isinstance(cb, Recorder) and name == 'values':
            cb.values = [L(row) for row in value]
        else:
            setattr(cb, name, value)


def _loader_state(loader: Any) -> dict[str, dict]:
    """States of the random generators of a loader, by attribute."""
    states = {}
    for name, value in vars(loader).items():
        if isinstance(value, torch.Generator):
            states[name] = dict(torch=value.get_state(), device=str(value.device))
        elif isinstance(value, random.Random):
            states[name] = dict(python=value.getstate())
        elif isinstance(value, np.random.Generator):
            states[name] = dict(numpy=value.bit_generator.state)
    return states


def _restore_loader(loader: Any, states: dict[str, dict]) -> None:
    """Set what `_loader_state` gave."""
    for name, state in states.items():
        if 'torch' in state:
            generator = torch.Generator(state['device'])
            generator.set_state(state['torch'])
            setattr(loader, name, generator)
        elif 'python' in state:
            vars(loader)[name].setstate(state['python'])
        else:
            vars(loader)[name].bit_generator.state = state['numpy']


def _rng_state() -> dict[str, Any]:
    """States of the global generators: torch (and its devices), numpy, Python."""
    numpy_state: Any = np.random.get_state()
    kind, keys, *rest = numpy_state
    return dict(
        torch=torch.get_rng_state(),
        cuda=torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
        mps=torch.mps.get_rng_state() if torch.backends.mps.is_available() else None,
        numpy=[kind, torch.from_numpy(keys.astype(np.int64)), *rest],
        python=random.getstate(),
    )


def _restore_rng(state: dict[str, Any]) -> None:
    """Set what `_rng_state` gave, as far as the devices are there."""
    torch.set_rng_state(state['torch'])
    if state['cuda'] and len(state['cuda']) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state['cuda'])
    if state['mps'] is not None and torch.backends.mps.is_available():
        torch.mps.set_rng_state(state['mps'])
    kind, keys, *rest = state['numpy']
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    random.setstate(state['python'])
