"""A table that grows under a trained model: new rows, users and items join, what was learned stays; and vectors that come from another model.

Codes of old ids stay what they are and new ids come after them, so that an old row of a table is the same row of the larger one."""

from __future__ import annotations

from warnings import warn

import numpy as np
import torch
from torch import nn

from ..data.block import Block
from ..data.columns import column_of, first_few
from ..data.interactions import Interactions
from ..data.splits import Split
from ..models.base import as_rec_model
from ..models.embedding import EmbeddingTable
from .given import GIVEN, PERSONAL, arguments

__all__ = ['copy_vectors', 'extend_interactions', 'extend_model']


def extend_interactions(
    inter: Interactions,
    split: Split,  # what there is
    df,  # table of new rows, with the columns of the first one
    valid_pct: float = 0.0,  # share of the new rows for valid
    seed: int = None,  # of that choice
):
    """-> (Interactions, Split) with the rows of `df` after those there are, in train but for `valid_pct`.

    A pair that train has already gets its new rating (implicit feedback: weights add up); one that is held out stays held out as it was and its new row is left out, with a warning.
    """
    if not 0 <= valid_pct < 1:
        raise ValueError(f'valid_pct={valid_pct}: a share from 0 up to 1')
    there = dict(user=True, item=True, rating=inter.ratings is not None, time=inter.times is not None)
    columns = {role: column_of(df, role, inter.names) if has else False for role, has in there.items()}
    vocab = {side: v.extended(df[columns[side]]) for side, v in inter.vocab.items()}
    implicit = inter.weights is not None
    new = Interactions.from_df(
        df,
        **{f'{role}_name': name for role, name in columns.items()},
        duplicates='keep' if implicit else 'last',
        user_vocab=vocab['user'],
        item_vocab=vocab['item'],
        context=inter.context_of,
        weight_name=None if inter.row_weights is None else inter.names['weight'],
    )
    if implicit:
        new = new.implicit(**inter.options)
    pair = lambda o: o.users.astype(np.int64) * len(vocab['item']) + o.items
    old_pairs, new_pairs = pair(inter), pair(new)
    held = np.zeros(len(inter), bool)
    held[np.concatenate([o for o in split[1:] if o is not None])] = True
    clash = np.isin(new_pairs, old_pairs[held])
    if clash.any():
        warn(
            f'{clash.sum():,} of {len(new):,} new rows are about pairs that are held out for validation or test: those rows stay as they were, and the new ones are left out',
            stacklevel=4,
        )
    keep = np.flatnonzero(~clash)
    if not len(keep):
        raise ValueError('no new row is left to learn from')
    weights = new.weights
    if implicit:  # repeats add up
        order = np.argsort(old_pairs)
        at = order[np.searchsorted(old_pairs, new_pairs, sorter=order).clip(max=len(order) - 1)]
        weights = weights + np.where(old_pairs[at] == new_pairs, inter.weights[at], 0).astype(np.float32)
    stays = held | ~np.isin(old_pairs, new_pairs[keep])
    both = lambda a, b: None if a is None else np.concatenate([a[stays], b[keep]])
    res = Interactions(
        both(inter.users, new.users),
        both(inter.items, new.items),
        both(inter.ratings, new.ratings),
        both(inter.times, new.times),
        vocab,
        inter.names,
        weights=both(inter.weights, weights),
        no_times=inter.no_times,
        options=inter.options,
        context=both(inter.context, new.context),
        context_of=inter.context_of,
        row_weights=both(inter.row_weights, new.row_weights),
    )
    moved = np.cumsum(stays) - 1  # where a row that stays is now
    fresh = int(stays.sum()) + np.random.default_rng(seed).permutation(len(keep))
    n = int(round(valid_pct * len(keep)))
    parts = [None if o is None else moved[o[stays[o]]] for o in split]
    return res, Split(
        np.sort(np.concatenate([parts[0], fresh[n:]])), np.sort(np.concatenate([parts[1], fresh[:n]])), parts[2]
    )


def extend_model(model: nn.Module, catalog):
    """-> (model for the users and items of `catalog`, {parameter name: bool (rows,)} of the rows that are new).

    The first rows and all other weights are those of `model`, to the bit. New rows, and rows that had no training data before and now have, start at the mean of the known ones.
    The new model is made from `model.config()`; a `history` in it becomes the training positives of `catalog` (and `times` their times), feature blocks get rows that are absent.
    What it knows of the data (which rows are known, how many training rows items have) is as `catalog` says.
    """
    cls = type(model)
    takes = arguments(cls)
    sizes = dict(user=catalog.n_users, item=catalog.n_items)
    before = as_rec_model(model).config()
    config = {k: _padded(v, sizes['user' if k.startswith('user') else 'item']) for k, v in before.items()}
    config.update(n_users=catalog.n_users, n_items=catalog.n_items)
    # what it was given of the data it is given again; of training data and context what it had
    had = {
        k
        for k in (*PERSONAL, 'context_sizes')
        if before.get(k) is not None and not (k == 'context_sizes' and not before[k])
    }
    config.update(
        {
            k: of(catalog)
            for k, of in GIVEN.items()
            if k in takes and (k in had or k not in (*PERSONAL, 'context_sizes'))
        }
    )
    with torch.random.fork_rng(devices=[]):
        res = cls(**config)
    res.to(next(model.parameters()).device)
    old, state, new_rows = model.state_dict(), res.state_dict(), {}
    tables = {name: m for name, m in model.named_modules() if isinstance(m, EmbeddingTable)}
    grown, learned = dict(res.named_modules()), dict(res.named_parameters())
    with torch.no_grad():
        for name, value in state.items():
            table = tables.get(name.rpartition('.')[0])
            if name not in old:
                raise ValueError(f'{cls.__name__}: a larger one has {name}, which this one has not')
            before = old[name]
            if before.shape[1:] != value.shape[1:] or (len(before.shape) and len(before) > len(value)):
                raise ValueError(
                    f'{cls.__name__}: {name} has the shape {tuple(before.shape)}, and in a larger model {tuple(value.shape)}'
                )
            if table is not None and name.endswith('.known'):
                continue
            if name not in learned and 'item_counts' in takes and value.shape == (catalog.n_items,):
                continue  # counts of the rows that there are now
            if not before.dim() or (len(before) == len(value) and table is None):
                value.copy_(before)
                continue
            n = len(before)
            value[:n] = before
            if table is not None:
                fresh = grown[name.rpartition('.')[0]].known.clone()
                fresh[:n] &= ~table.known
                value[fresh] = before[table.known].mean(0) if table.known.any() else 0.0
            elif name in learned:
                fresh = torch.arange(len(value), device=value.device) >= n
                value[fresh] = before.mean(0).to(value.dtype)
            else:
                continue  # data, as it was made
            new_rows[name] = fresh
    return res.train(model.training), new_rows


def _padded(value, n):
    """Feature blocks, also in dicts, with absent rows up to `n`; other values as they are."""
    if isinstance(value, dict):
        return {k: _padded(v, n) for k, v in value.items()}
    return (
        value.rows(np.append(np.arange(len(value)), np.full(n - len(value), -1)))
        if isinstance(value, Block) and len(value) < n
        else value
    )


def copy_vectors(model: nn.Module, catalog, other, side: str) -> int:
    """Copy rows of the tables of `side` ('user' or 'item') from `other`, a scorer, by id; -> the number of ids that were found.

    Tables are matched by name and width; a scorer without such tables gives its `vectors(side)` to the factors. Rows that were copied count as known.
    """
    mine, theirs = catalog.vocab[side], other.vocab[side]
    codes = theirs.encode(mine.ids, unknown='mark')
    codes[codes >= 0] = np.where(
        other.catalog.known(side)[codes[codes >= 0]], codes[codes >= 0], -1
    )  # an untrained vector is never used
    rows = torch.from_numpy(np.flatnonzero(codes >= 0))
    if not len(rows):
        raise ValueError(
            f'no {side} of this model is a trained {side} of the other: ids here look like {first_few(mine.ids, 3)}, there like {first_few(theirs.ids, 3)}'
        )
    source = torch.from_numpy(codes[codes >= 0])
    tables = _tables_of(model, catalog, side)
    given = {} if other.model is None else _tables_of(other.model, other.catalog, side)
    pairs = {
        name: given[name].weight
        for name, t in tables.items()
        if name in given and given[name].weight.shape[1] == t.weight.shape[1]
    }
    if not pairs:
        try:
            vectors = other.vectors(side)
        except TypeError:
            vectors = None
        if vectors is not None:
            pairs = {
                name: vectors
                for name, t in tables.items()
                if name.endswith(f'{side}_factors') and t.weight.shape[1] == vectors.shape[1]
            }
    if not pairs:
        shapes = lambda ts: ', '.join(f'{n} {t.weight.shape[1]} wide' for n, t in ts.items()) or 'none'
        raise ValueError(
            f'no table of {side}s fits: here there are {shapes(tables)}; in the other {shapes(given) if given else type(other).__name__}. Make this model with the n_factors of the other'
        )
    with torch.no_grad():
        for name, values in pairs.items():
            table = tables[name]
            table.weight[rows.to(table.weight.device)] = values.detach()[source.to(values.device)].to(table.weight)
            table.known[rows.to(table.known.device)] = True
    return len(rows)


def _tables_of(model, catalog, side):
    """Embedding tables of a side, by name: those with a row for each user or item; where there are as many of both, the name decides."""
    n = catalog.n_users if side == 'user' else catalog.n_items
    of_users = lambda name: 'user' in name or 'rater' in name
    return {
        name: m
        for name, m in model.named_modules()
        if isinstance(m, EmbeddingTable)
        and len(m.weight) == n
        and (catalog.n_users != catalog.n_items or of_users(name) == (side == 'user'))
    }
