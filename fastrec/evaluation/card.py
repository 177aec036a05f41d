"""What a model is made of and worth, on one page: data, split, seeds, versions, hyper-parameters, and its figures beside those of baselines."""

from __future__ import annotations

import datetime
import json
import platform
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from ..scorers.baselines import EASE, BiasOnly, GlobalMean, ItemKNN, Popularity
from .evaluate import evaluate

__all__ = ['Card', 'model_card']

EASE_LIMIT = (
    5_000  # items up to which EASE is among the baselines without being asked for: it inverts a matrix of that size
)
_LIBRARIES = ('fastrec', 'torch', 'fastai', 'numpy', 'pandas', 'scipy')


class Card(dict):
    """A dict of sections that shows as Markdown; `save(path)` writes .md, .json, or both into a folder."""

    def to_markdown(self) -> str:
        """The card as Markdown: a section each, metrics as a table."""
        lines = [
            f'# {self["model"]["name"]}',
            '',
            f'Made {self["made"]} by fastrec {self["versions"].get("fastrec")}.',
            '',
        ]
        for name, section in self.items():
            if name == 'made':
                continue
            lines += [f'## {name.capitalize()}', '']
            if name == 'metrics':
                lines += [section['about'], '', *(_table(section['rows']) if section['rows'] else [])]
            elif name == 'training':
                lines += _table(section) if section else ['Not trained.']
            else:
                lines += [
                    f'- {k.replace("_", " ")}: {v if name == "seeds" else _short(v)}'
                    for k, v in section.items()
                    if v is not None
                ]
            lines.append('')
        return '\n'.join(lines)

    def to_json(self) -> str:
        """The card as JSON text; what is not a number is null."""
        return json.dumps(self, indent=1, ensure_ascii=False, allow_nan=False) + '\n'

    def save(self, path) -> Path:
        """Write card.md and card.json into the folder `path`, or one of them to a path that ends so. Returns the path."""
        path = Path(path)
        if path.suffix in ('.md', '.json'):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(self.to_markdown() if path.suffix == '.md' else self.to_json(), encoding='utf-8')
        else:
            for name in ('card.md', 'card.json'):
                self.save(path / name)
        return path

    def __str__(self):
        return self.to_markdown()

    def _repr_markdown_(self):
        return self.to_markdown()


def model_card(
    scorer,  # a learner or a fitted baseline
    dls,  # its `RecDataLoaders`
    baselines=None,  # fitted baselines by name; None: those that suit the data; {}: none
    split: str = 'valid',  # the part that the figures are from: 'valid', or once, at the end, 'test'
    metrics=None,
    k=None,
    **kwargs,  # of `evaluate`
) -> Card:
    """The `Card` of a model; the arguments are those of `RecLearner.card`."""
    catalog = dls.catalog
    inter = catalog.require_history().interactions
    part = getattr(catalog.split, split, None)
    if part is None:
        raise ValueError(f'there is no {split!r} part in the split')
    baselines = {} if not len(part) else _baselines(dls) if baselines is None else baselines
    model = scorer.model
    name = type(scorer if model is None else model).__name__
    rows = {name: scorer, **baselines}
    figures = (
        pd.DataFrame()
        if not len(part)
        else pd.concat(
            {o: evaluate(s, dls, metrics, k=k, split=split, **kwargs) for o, s in rows.items()},
            names=['model', 'users or rows'],
        )
    )
    loss, opt = getattr(scorer, 'loss_func', None), getattr(scorer, 'opt_func', None)
    times = None if inter.times is None else pd.Series(inter.times)
    when = lambda o: str(pd.Timestamp(o)) if np.issubdtype(inter.times.dtype, np.datetime64) else o.item()
    return Card(
        _jsonable(
            dict(
                made=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec='seconds'),
                model=dict(
                    name=name,
                    parameters=None if model is None else sum(p.numel() for p in model.parameters()),
                    config=_config(scorer if model is None else model),
                    scale=scorer.scale,
                    loss=None if loss is None else getattr(loss, '__name__', type(loss).__name__),
                    optimiser=None
                    if opt is None
                    else getattr(opt, '__name__', None)
                    or getattr(getattr(opt, 'keywords', {}).get('opt'), '__name__', repr(opt)),
                ),
                data=dict(
                    target=dls.target,
                    rows=len(inter),
                    users=catalog.n_users,
                    items=catalog.n_items,
                    density=len(inter) / catalog.n_users / catalog.n_items,
                    ratings=None
                    if inter.ratings is None
                    else f'{inter.ratings.min():g} to {inter.ratings.max():g}, mean {inter.ratings.mean():.4f}',
                    positives=inter.options,
                    times=None if times is None else f'{when(times.min())} to {when(times.max())}',
                    columns=inter.names,
                    fingerprint=catalog.history.fingerprint(),
                ),
                split=dict(
                    made_by=getattr(dls, 'split_by', None),
                    **{o: len(p) for o, p in zip(catalog.split._fields, catalog.split) if p is not None},
                    cold_rows=None
                    if not len(part)
                    else f'{_cold(catalog, part):.1%} of {split} have a user or an item without training rows',
                    fingerprint=catalog.history.fingerprint('split'),
                ),
                seeds=dict(torch=torch.initial_seed(), order_of_rows=getattr(dls.train, 'seed', None)),
                training=[dict(o) for o in getattr(scorer, 'fits', [])],
                metrics=dict(
                    split=split,
                    about='No rows are held out: all are for training, and there are no figures.'
                    if not len(part)
                    else f'On the {split} part ({len(part):,} rows)'
                    + (', which the choice of settings may have seen.' if split == 'valid' else '.'),
                    rows=figures.reset_index().to_dict('records') if len(part) else [],
                ),
                versions=dict(
                    {o: sys.modules[o].__version__ for o in _LIBRARIES if o in sys.modules},
                    python=platform.python_version(),
                    platform=platform.platform(),
                    device=str(next(model.parameters()).device) if model is not None else 'cpu',
                    threads=torch.get_num_threads(),
                ),
            )
        )
    )


def _baselines(dls):
    if dls.target == 'rating':
        return {'GlobalMean': GlobalMean().fit(dls), 'BiasOnly': BiasOnly().fit(dls)}
    res = {'Popularity': Popularity().fit(dls)}
    if dls.target == 'implicit':
        res['ItemKNN'] = ItemKNN().fit(dls)
        if dls.n_items <= EASE_LIMIT:
            res['EASE'] = EASE().fit(dls)
    return res


def _cold(catalog, rows):
    inter = catalog.interactions
    return float((~(catalog.known('user')[inter.users[rows]] & catalog.known('item')[inter.items[rows]])).mean())


def _config(model):
    """Hyper-parameters: of a model those of `config()`, of a baseline its plain attributes."""
    config = model.config() if hasattr(model, 'config') else {} if isinstance(model, torch.nn.Module) else vars(model)
    plain = lambda v: (
        v is None
        or isinstance(v, (bool, int, float, str))
        or (isinstance(v, (list, tuple)) and all(map(plain, v)))
        or (isinstance(v, dict) and all(map(plain, v.values())))
    )
    return {
        k: list(v) if isinstance(v, dict) and not plain(v) else v
        for k, v in config.items()
        if plain(v) or isinstance(v, dict)
    }


def _jsonable(o):
    if isinstance(o, dict):
        return {str(k): _jsonable(v) for k, v in o.items()}
    if isinstance(o, (list, tuple)):
        return [_jsonable(v) for v in o]
    if isinstance(o, np.generic):
        o = o.item()
    if isinstance(o, float):
        return o if np.isfinite(o) else None
    return o if o is None or isinstance(o, (bool, int, str)) else str(o)


def _short(v):
    if isinstance(v, dict):
        return ', '.join(f'{k}={_short(o)}' for k, o in v.items() if o is not None)
    if isinstance(v, list):
        return f'[{", ".join(map(_short, v))}]'
    return (
        f'{v:,}' if isinstance(v, int) and not isinstance(v, bool) else f'{v:.4g}' if isinstance(v, float) else str(v)
    )


def _table(rows):
    """Lines of a Markdown table from dicts."""
    columns = list(dict.fromkeys(k for row in rows for k in row))
    cell = lambda v: (
        '' if v is None else f'{v:.4f}' if isinstance(v, float) and abs(v) < 1e3 and abs(v) >= 1e-3 else _short(v)
    )
    return [
        '| ' + ' | '.join(columns) + ' |',
        '|' + '---|' * len(columns),
        *('| ' + ' | '.join(cell(row.get(c)) for c in columns) + ' |' for row in rows),
    ]
