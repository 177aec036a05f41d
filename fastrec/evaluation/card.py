"""What a model is made of and worth, on one page.

Data, split, seeds, versions, hyper-parameters, and its figures beside those of baselines.
"""

from __future__ import annotations

import datetime
import inspect
import json
import platform
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from ..data.catalog import Catalog, cold_mask
from ..data.interactions import Interactions
from ..models.base import device_of
from ..scorers.baselines import BiasOnly, GlobalMean, Popularity
from ..scorers.linear import EASE
from ..scorers.neighbors import ItemKNN
from ..scorers.scorer import Scorer
from .evaluate import evaluate
from .fidelity import because_fidelity, is_quick_to_measure

__all__ = ['Card', 'model_card']

# items up to which EASE is among the baselines without being asked for: it inverts a matrix of that size
EASE_LIMIT = 5_000
FIDELITY_USERS = 40  # whose explanations are tried
LIBRARIES = ('fastrec', 'torch', 'fastai', 'numpy', 'pandas', 'scipy')  # whose versions are told, if imported


class Card(dict):
    """A dict of sections that shows as Markdown; `save(path)` writes .md, .json, or both into a folder."""

    def to_markdown(self) -> str:
        """The card as Markdown: a section each, metrics as a table."""
        version = self['versions'].get('fastrec')
        lines = [f'# {self["model"]["name"]}', '', f'Made {self["made"]} by fastrec {version}.', '']
        for name, section in self.items():
            if name != 'made':
                lines += [f'## {name.capitalize()}', '', *_section_lines(name, section), '']
        return '\n'.join(lines)

    def to_json(self) -> str:
        """The card as JSON text; what is not a number is null."""
        return json.dumps(self, indent=1, ensure_ascii=False, allow_nan=False) + '\n'

    def save(
        self,
        path: str | Path,  # a folder for card.md and card.json, or a file that ends in .md or .json
    ) -> Path:
        """Write the card; returns the path."""
        path = Path(path)
        if path.suffix in ('.md', '.json'):
            path.parent.mkdir(parents=True, exist_ok=True)
            text = self.to_markdown() if path.suffix == '.md' else self.to_json()
            path.write_text(text, encoding='utf-8')
        else:
            for name in ('card.md', 'card.json'):
                self.save(path / name)
        return path

    def __str__(self) -> str:
        return self.to_markdown()

    def _repr_markdown_(self) -> str:
        return self.to_markdown()


def model_card(
    scorer: Scorer,  # a learner or a fitted baseline
    dls: Any,  # its `RecDataLoaders`
    baselines: dict[str, Scorer] | None = None,  # fitted ones by name; None: those that suit the data; {}: none
    split: str = 'valid',  # the part that the figures are from: 'valid', or once, at the end, 'test'
    metrics: Any = None,  # as in `evaluate`
    k: Any = None,  # as in `evaluate`
    fidelity: bool | None = None,  # as in `RecLearner.card`
    **kwargs,  # of `evaluate`
) -> Card:
    """The `Card` of a model; the arguments are those of `RecLearner.card`.

    `ValueError` if there is no such part, and for a learner that was never trained.
    """
    catalog = dls.catalog
    inter = catalog.require_history().interactions
    held_out = catalog.split._asdict().get(split)
    if held_out is None:
        raise ValueError(f'there is no {split!r} part in the split')
    scorer.require_trained()
    name = _name(scorer)
    scorers: dict[str, Scorer] = {}  # that have figures
    if len(held_out):
        scorers = {name: scorer, **(_baselines(dls) if baselines is None else baselines)}
    tables = {o: evaluate(s, dls, metrics, k=k, split=split, **kwargs) for o, s in scorers.items()}
    sections = dict(
        made=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec='seconds'),
        model=_model_section(scorer, name),
        data=_data_section(catalog, inter, dls.target),
        split=_split_section(catalog, dls.split_by, split, held_out),
        seeds=dict(torch=torch.initial_seed(), order_of_rows=dls.train.seed),
        training=[dict(fit) for fit in scorer.fits],
        metrics=_metrics_section(tables, split, len(held_out)),
        explanations=_explanations_section(scorer, fidelity),
        versions=_versions_section(scorer.model),
    )
    return Card(_jsonable(sections))


def _baselines(dls: Any) -> dict[str, Scorer]:
    """Fitted baselines that suit what the loaders are made for."""
    if dls.target == 'rating':
        return {'GlobalMean': GlobalMean().fit(dls), 'BiasOnly': BiasOnly().fit(dls)}
    res: dict[str, Scorer] = {'Popularity': Popularity().fit(dls)}
    if dls.target == 'implicit':
        res['ItemKNN'] = ItemKNN().fit(dls)
        if dls.n_items <= EASE_LIMIT:
            res['EASE'] = EASE().fit(dls)
    return res


# --- sections


def _model_section(scorer: Scorer, name: str) -> dict[str, Any]:
    model = scorer.model
    return dict(
        name=name,
        parameters=None if model is None else sum(p.numel() for p in model.parameters()),
        config=_config(scorer),
        scale=scorer.scale,
        loss=_loss_name(scorer.loss_func),
        optimizer=_optimizer_name(scorer.opt_func),
    )


def _name(scorer: Scorer) -> str:
    """Class of the model, or of a scorer without one."""
    return type(scorer if scorer.model is None else scorer.model).__name__


def _config(scorer: Scorer) -> dict[str, Any]:
    """Hyper-parameters: plain values, and of dicts that hold others the names; nothing if a model does not say."""
    try:
        config = scorer.config()
    except TypeError:  # the contract's own: a model without `config`
        return {}
    res = {}
    for name, value in config.items():
        if _is_plain(value):
            res[name] = value
        elif isinstance(value, dict):
            res[name] = list(value)
    return res


def _is_plain(value: Any) -> bool:
    """Is it a number, a text, None, or a list or dict of those?"""
    if isinstance(value, dict):
        return all(_is_plain(o) for o in value.values())
    if isinstance(value, (list, tuple)):
        return all(_is_plain(o) for o in value)
    return value is None or isinstance(value, (bool, int, float, str))


def _loss_name(loss: Any) -> str | None:
    """The name of a function, or the class of a module."""
    if loss is None:
        return None
    if isinstance(loss, type) or inspect.isroutine(loss):
        return loss.__name__
    return type(loss).__name__


def _optimizer_name(opt_func: Any) -> str | None:
    """The name of an optimizer's class or function, also of torch's, which come as `partial(OptimWrapper, opt=...)`."""
    if opt_func is None:
        return None
    if isinstance(opt_func, type) or inspect.isroutine(opt_func):
        return opt_func.__name__
    if isinstance(opt_func, partial) and 'opt' in opt_func.keywords:
        return _optimizer_name(opt_func.keywords['opt'])
    return repr(opt_func)


def _data_section(catalog: Catalog, inter: Interactions, target: str) -> dict[str, Any]:
    history = catalog.require_history()
    ratings, times = inter.ratings, inter.times
    return dict(
        target=target,
        rows=len(inter),
        users=catalog.n_users,
        items=catalog.n_items,
        density=len(inter) / catalog.n_users / catalog.n_items,
        ratings=None if ratings is None else f'{ratings.min():g} to {ratings.max():g}, mean {ratings.mean():.4f}',
        positives=inter.options,
        times=None if times is None else _span(times),
        columns=inter.names,
        fingerprint=history.fingerprint(),
    )


def _span(times: np.ndarray) -> str:
    """First and last time, dates as text."""
    ends = pd.Series(times).min(), pd.Series(times).max()
    if np.issubdtype(times.dtype, np.datetime64):
        first, last = (str(pd.Timestamp(o)) for o in ends)
    else:
        first, last = (o.item() for o in ends)
    return f'{first} to {last}'


def _split_section(catalog: Catalog, made_by: str | None, split: str, held_out: np.ndarray) -> dict[str, Any]:
    history = catalog.require_history()
    inter, parts = history.interactions, history.split
    assert inter is not None and parts is not None  # rows are what `require_history` is for
    cold_rows = None
    if len(held_out):
        share = cold_mask(catalog, inter.users[held_out], inter.items[held_out]).mean()
        cold_rows = f'{share:.1%} of {split} have a user or an item without training rows'
    return dict(
        made_by=made_by,
        **{name: len(rows) for name, rows in parts._asdict().items() if rows is not None},
        cold_rows=cold_rows,
        fingerprint=history.fingerprint('split'),
    )


def _metrics_section(tables: dict[str, pd.DataFrame], split: str, n_rows: int) -> dict[str, Any]:
    """What `evaluate` gave of each scorer, as rows of one table."""
    if not n_rows:
        about = 'No rows are held out: all are for training, and there are no figures.'
        return dict(split=split, about=about, rows=[])
    caution = ', which the choice of settings may have seen.' if split == 'valid' else '.'
    figures = pd.concat(tables, names=['model', 'users or rows'])
    return dict(
        split=split,
        about=f'On the {split} part ({n_rows:,} rows){caution}',
        rows=figures.reset_index().to_dict('records'),
    )


def _explanations_section(scorer: Scorer, fidelity: bool | None) -> dict[str, Any]:
    """How far what `because` names moves scores (`because_fidelity`); where it is not measured, why not."""
    if not scorer.is_trained:
        return dict(because='not measured: the model was never trained')
    if fidelity is False:
        return dict(because='not measured')
    if fidelity is None and not is_quick_to_measure(scorer):
        return dict(because='not measured, since it takes longer here: learn.card(fidelity=True)')
    try:
        found = because_fidelity(scorer, n_users=FIDELITY_USERS, n_random=2)
    except (TypeError, ValueError) as e:  # nobody can be folded in, or nobody has enough items
        return dict(because=f'not measured: {e}')
    return dict(
        because=f'without the {found["k"]} items of the user that `because` names, the score of what is recommended '
        f'first moves {found["ratio"]:.1f} times as far as without {found["k"]} drawn at random '
        f'({found["users"]} users, method: {found["method"]})',
        fidelity=found,
    )


def _versions_section(model: torch.nn.Module | None) -> dict[str, Any]:
    return dict(
        {name: sys.modules[name].__version__ for name in LIBRARIES if name in sys.modules},
        python=platform.python_version(),
        platform=platform.platform(),
        device='cpu' if model is None else str(device_of(model)),
        threads=torch.get_num_threads(),
    )


# --- as JSON and as Markdown


def _jsonable(value: Any) -> Any:
    """The same as plain data: numpy's numbers as Python's, what is not a number as None, the rest as text."""
    if isinstance(value, dict):
        return {str(name): _jsonable(o) for name, o in value.items()}
    if isinstance(value, (list, tuple)):
        return [_jsonable(o) for o in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    if value is None or isinstance(value, (bool, int, str)):
        return value
    return str(value)


def _section_lines(name: str, section: Any) -> list[str]:
    """A section of a card as lines of Markdown."""
    if name == 'metrics':
        return [section['about'], '', *_table_lines(section['rows'])]
    if name == 'training':
        return _table_lines(section) if section else ['Not trained.']
    lines = []
    for key, value in section.items():
        if value is not None:
            shown = value if name == 'seeds' else _short(value)
            lines.append(f'- {key.replace("_", " ")}: {shown}')
    return lines


def _short(value: Any) -> str:
    """A value in a line: lists and dicts in brief, 12,345, four digits of other numbers."""
    if isinstance(value, dict):
        return ', '.join(f'{name}={_short(o)}' for name, o in value.items() if o is not None)
    if isinstance(value, list):
        return f'[{", ".join(_short(o) for o in value)}]'
    if isinstance(value, int) and not isinstance(value, bool):
        return f'{value:,}'
    if isinstance(value, float):
        return f'{value:.4g}'
    return str(value)


def _cell(value: Any) -> str:
    """A value in a table: numbers of a usual size with four decimals, so that they stand below each other."""
    if value is None:
        return ''
    if isinstance(value, float) and 1e-3 <= abs(value) < 1e3:
        return f'{value:.4f}'
    return _short(value)


def _table_lines(rows: list[dict]) -> list[str]:
    """Lines of a Markdown table from dicts; none without rows."""
    if not rows:
        return []
    columns = list(dict.fromkeys(name for row in rows for name in row))
    cells = [[_cell(row.get(name)) for name in columns] for row in rows]
    heads = ['| ' + ' | '.join(columns) + ' |', '|' + '---|' * len(columns)]
    return heads + ['| ' + ' | '.join(of_row) + ' |' for of_row in cells]
