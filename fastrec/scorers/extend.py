"""A table that grows under a trained model: new rows, users and items join, what was learned stays.

And vectors that come from another model. Codes of old ids stay what they are and new ids come after them, so that an
old row of a table is the same row of the larger one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.sparse import csr_matrix, vstack
from torch import nn

from ..data.block import Block
from ..data.catalog import Catalog
from ..data.columns import as_frame, column_of, first_few
from ..data.interactions import Interactions, Vocab
from ..data.splits import Split
from ..models.base import as_rec_model, device_of
from ..models.embedding import EmbeddingTable
from ..notices import warn_user
from .given import GIVEN, PERSONAL, arguments
from .scorer import Scorer

__all__ = ['copy_vectors', 'extend_interactions', 'extend_model']


# --- the table


def extend_interactions(
    inter: Interactions,  # what there is
    split: Split,  # of it
    df: Any,  # new rows, with the columns of the first table: a DataFrame, or a table of polars, pyarrow, ...
    valid_pct: float = 0.0,  # share of the new rows for valid
    seed: int | None = None,  # of that choice
) -> tuple[Interactions, Split]:
    """Interactions and split with the rows of `df` after those there are, in train but for `valid_pct`.

    A pair that train has already gets its new rating (implicit feedback: weights add up); one that is held out stays
    held out as it was and its new row is left out, with a warning. `ValueError` where no new row is left, and for a
    `valid_pct` that is not a share.
    """
    if not 0 <= valid_pct < 1:
        raise ValueError(f'valid_pct={valid_pct}: a share from 0 up to 1')
    df = as_frame(df)
    vocab, new = _new_rows(inter, df)
    _check_same_times(inter, new)
    n_items = len(vocab['item'])
    old_pairs, new_pairs = _pairs(inter, n_items), _pairs(new, n_items)
    is_held_out: np.ndarray = np.zeros(len(inter), dtype=bool)
    for rows in split[1:]:
        if rows is not None:
            is_held_out[rows] = True
    clashes = np.isin(new_pairs, old_pairs[is_held_out])
    if clashes.any():
        warn_user(
            f'{clashes.sum():,} of {len(new):,} new rows are about pairs that are held out for validation or test: '
            'those rows stay as they were, and the new ones are left out'
        )
    joins = np.flatnonzero(~clashes)  # rows of the new ones
    if not len(joins):
        raise ValueError('no new row is left to learn from')
    weights = new.weights
    if inter.weights is not None:
        weights = weights + _earlier_weights(old_pairs, new_pairs, inter.weights)
    stays = is_held_out | ~np.isin(old_pairs, new_pairs[joins])  # of the old rows

    def both(old: np.ndarray, new: np.ndarray) -> np.ndarray:
        return np.concatenate([old[stays], new[joins]])

    def joined(old: np.ndarray | None, new: np.ndarray | None) -> np.ndarray | None:
        return None if old is None or new is None else both(old, new)

    res = Interactions(
        both(inter.users, new.users),
        both(inter.items, new.items),
        joined(inter.ratings, new.ratings),
        joined(inter.times, new.times),
        vocab,
        inter.names,
        weights=joined(inter.weights, weights),
        no_times=inter.no_times,
        options=inter.options,
        context=joined(inter.context, new.context),
        context_of=inter.context_of,
        row_weights=joined(inter.row_weights, new.row_weights),
        missing_rating=inter.missing_rating,
    )
    return res, _joined_split(split, stays, len(joins), valid_pct, seed)


def _new_rows(inter: Interactions, df: pd.DataFrame) -> tuple[dict[str, Vocab], Interactions]:
    """The vocabularies with the new ids, and the rows of `df` under them, read as those of `inter` were."""
    roles = dict(user=True, item=True, rating=inter.ratings is not None, time=inter.times is not None)
    columns: dict[str, Any] = dict.fromkeys(roles, False)
    for role, is_there in roles.items():
        if is_there:
            columns[role] = column_of(df, role, inter.names)
    vocab = {side: old.extended(df[columns[side]]) for side, old in inter.vocab.items()}
    new = Interactions.from_df(
        df,
        user_name=columns['user'],
        item_name=columns['item'],
        rating_name=columns['rating'],
        time_name=columns['time'],
        duplicates='last' if inter.weights is None else 'keep',
        user_vocab=vocab['user'],
        item_vocab=vocab['item'],
        context=inter.context_of,
        weight_name=None if inter.row_weights is None else inter.names['weight'],
        missing_rating=inter.missing_rating if inter.weights is None else None,  # of implicit feedback: in the options
    )
    if inter.weights is not None:
        assert inter.options is not None  # `implicit` keeps them with the weights
        new = new.implicit(**inter.options)
    return vocab, new


def _check_same_times(inter: Interactions, new: Interactions) -> None:
    """`ValueError` where times of one table are datetimes and of the other numbers."""
    if inter.times is None or new.times is None:
        return
    are_dates = [o.times.dtype.kind == 'M' for o in (inter, new)]
    if are_dates[0] == are_dates[1]:
        return
    name = inter.names['time']
    if are_dates[0]:
        way = f'`df[{name!r}] = pd.to_datetime(df[{name!r}], unit="s")`'
    else:
        way = f'`df[{name!r}] = df[{name!r}].astype("datetime64[s]").astype("int64")`'
    kinds = ['datetimes' if o else 'numbers' for o in are_dates]
    raise ValueError(
        f'times of the new rows are {kinds[1]}, such as {new.times[0]}, those there are {kinds[0]}, such as '
        f'{inter.times[0]}: they cannot be put in one order. Convert the new ones, if the numbers are seconds: {way}'
    )


def _pairs(inter: Interactions, n_items: int) -> np.ndarray:
    """A number for the pair of each row, int64 (rows,)."""
    return inter.users.astype(np.int64) * n_items + inter.items


def _earlier_weights(old_pairs: np.ndarray, new_pairs: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """float32 (new rows,): the weight that each new pair has among the old ones, 0 where it is not there."""
    order = np.argsort(old_pairs)
    place = np.searchsorted(old_pairs, new_pairs, sorter=order).clip(max=len(order) - 1)
    at = order[place]
    return np.where(old_pairs[at] == new_pairs, weights[at], 0).astype(np.float32)


def _joined_split(split: Split, stays: np.ndarray, n_new: int, valid_pct: float, seed: int | None) -> Split:
    """The split of the old rows that stay (bool (old rows,)) and of `n_new` rows after them."""
    moved_to = np.cumsum(stays) - 1  # where an old row that stays is now
    train, valid, test = (None if rows is None else moved_to[rows[stays[rows]]] for rows in split)
    new = int(stays.sum()) + np.random.default_rng(seed).permutation(n_new)
    n_valid = round(valid_pct * n_new)
    train = np.concatenate([train, new[n_valid:]])
    valid = np.concatenate([valid, new[:n_valid]])
    return Split(np.sort(train), np.sort(valid), test)


# --- the model


def extend_model(
    model: nn.Module,  # what is to be made larger; it stays as it is
    catalog: Catalog,  # of all users and items, old and new
    user_blocks: dict[str, Block] | None = None,  # features of the new users, by name; None: they have none
) -> tuple[nn.Module, dict[str, torch.Tensor]]:
    """A model for the users and items of `catalog`, and {parameter name: bool (rows,)} of the rows that are new.

    The first rows and all other weights are those of `model`, to the bit. New rows, and rows that had no training data
    before and now have, start at the mean of the known ones. The new model is made from `model.config()`; a `history`
    in it becomes the training positives of `catalog` (and `times` their times), feature blocks get the rows of
    `user_blocks`, others rows that are absent. What it knows of the data (which rows are known, how many training rows
    items have) is as `catalog` says.
    """
    with torch.random.fork_rng(devices=[]):
        res = type(model)(**_larger_config(model, catalog, user_blocks))
    res.to(device_of(model))
    new_rows = {}
    old_state = model.state_dict()
    with torch.no_grad():
        for name, value in res.state_dict().items():
            _check_fits(type(model).__name__, name, old_state.get(name), value)
            is_new = _copy_rows(model, res, catalog, name, old_state[name], value)
            if is_new is not None:
                new_rows[name] = is_new
    return res.train(model.training), new_rows


def _larger_config(model: nn.Module, catalog: Catalog, user_blocks: dict[str, Block] | None) -> dict[str, Any]:
    """Arguments of the model's constructor for the users and items of `catalog`."""
    before = as_rec_model(model).config()
    n_of = dict(user=catalog.n_users, item=catalog.n_items)
    config = {}
    for name, value in before.items():
        side = 'user' if name.startswith('user') else 'item'
        more = user_blocks if name == 'user_blocks' and value is not None else None
        config[name] = _padded(value, n_of[side]) if more is None else _with_rows(value, more)
    config.update(n_users=catalog.n_users, n_items=catalog.n_items)
    # What it was given of the data it is given again; training data and levels of context only if it had them.
    takes = arguments(type(model))
    for name, given in GIVEN.items():
        if name not in takes:
            continue
        if name in PERSONAL and before.get(name) is None:
            continue
        if name == 'context_sizes' and not before.get(name):
            continue
        config[name] = given(catalog)
    return config


def _padded(value: Any, n: int) -> Any:
    """Feature blocks, also in dicts, with absent rows up to `n`; other values as they are."""
    if isinstance(value, dict):
        return {name: _padded(o, n) for name, o in value.items()}
    if isinstance(value, Block) and len(value) < n:
        absent = np.full(n - len(value), -1)
        return value.rows(np.append(np.arange(len(value)), absent))
    return value


def _with_rows(blocks: dict[str, Block], more: dict[str, Block]) -> dict[str, Block]:
    """Feature blocks, of rows of length 1, with the rows of `more` after theirs."""
    res = {}
    for name, block in blocks.items():
        parts = [block.values, more[name].unit()]
        values = csr_matrix(vstack(parts)) if block.sparse else np.concatenate(parts)
        present = np.concatenate([block.present, more[name].present])
        res[name] = Block(values.astype(np.float32), present, block.kind, block.names)
    return res


def _check_fits(model_name: str, name: str, old: torch.Tensor | None, new: torch.Tensor) -> None:
    """`ValueError` unless the tensor `name` of a larger model can take in the rows of the old one."""
    if old is None:
        raise ValueError(f'{model_name}: a larger one has {name}, which this one has not')
    if old.shape[1:] != new.shape[1:] or (old.dim() and len(old) > len(new)):
        raise ValueError(
            f'{model_name}: {name} has the shape {tuple(old.shape)}, and in a larger model {tuple(new.shape)}'
        )


def _copy_rows(
    model: nn.Module, larger: nn.Module, catalog: Catalog, name: str, old: torch.Tensor, new: torch.Tensor
) -> torch.Tensor | None:
    """Fill the tensor `name` of the larger model from that of the old one, in place.

    bool (rows,): which rows are new and start at the mean; None if that does not apply to it.
    """
    at, _, attribute = name.rpartition('.')
    table = dict(model.named_modules()).get(at)
    is_table = isinstance(table, EmbeddingTable)
    is_parameter = name in dict(larger.named_parameters())
    if is_table and attribute == 'known':
        return None  # as `catalog` says
    n_of = dict(user_counts=catalog.n_users, item_counts=catalog.n_items)
    counted = [n for given, n in n_of.items() if given in arguments(type(model))]
    if not is_parameter and new.dim() == 1 and len(new) in counted:
        return None  # counts, as `catalog` says
    if not old.dim() or (len(old) == len(new) and not is_table):
        new.copy_(old)
        return None
    n = len(old)
    new[:n] = old
    if isinstance(table, EmbeddingTable):
        is_new = larger.get_submodule(at).known.clone()
        is_new[:n] &= ~table.known
        new[is_new] = old[table.known].mean(0) if table.known.any() else 0.0
        return is_new
    if is_parameter:
        is_new = torch.arange(len(new), device=new.device) >= n
        new[is_new] = old.mean(0).to(new.dtype)
        return is_new
    return None  # data: its further rows are as they were made


# --- vectors of another model


def copy_vectors(
    model: nn.Module,  # gets them, in place
    catalog: Catalog,  # of `model`: whose ids they go by
    other: Scorer,  # a fitted scorer that has them
    side: str,  # 'user' or 'item'
) -> int:
    """Copy rows of the tables of `side` ('user' or 'item') from `other` by id; the number of ids that were found.

    Tables are matched by name and width; a scorer without such tables gives its `vectors(side)` to the factors. Rows
    that were copied count as known. `ValueError` where no id or no table fits.
    """
    rows, their_rows = _shared_ids(catalog, other, side)
    tables = _tables_of(model, catalog, side)
    their_tables = {}
    if other.model is not None:
        their_tables = _tables_of(other.model, other.require_fitted(), side)
    values = {
        name: their_tables[name].weight
        for name, table in tables.items()
        if name in their_tables and their_tables[name].embedding_dim == table.embedding_dim
    }
    if not values:
        values = _vectors_for(tables, other, side)
    if not values:
        theirs = _widths(their_tables) if their_tables else type(other).__name__
        raise ValueError(
            f'no table of {side}s fits: here there are {_widths(tables)}; in the other {theirs}. '
            'Make this model with the n_factors of the other'
        )
    with torch.no_grad():
        for name, vectors in values.items():
            table = tables[name]
            copied = vectors.detach()[their_rows.to(vectors.device)]
            table.weight[rows.to(table.weight.device)] = copied.to(table.weight)
            table.known[rows.to(table.known.device)] = True
    return len(rows)


def _shared_ids(catalog: Catalog, other: Scorer, side: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes of the ids that `other` was trained on, here and there; `ValueError` if there are none."""
    mine, theirs = catalog.vocab[side].ids, other.vocab[side].ids
    codes = other.vocab[side].encode(mine, unknown='mark')
    is_there = codes >= 0
    is_there[is_there] = other.require_fitted().known(side)[codes[is_there]]  # an untrained vector is never used
    if not is_there.any():
        raise ValueError(
            f'no {side} of this model is a trained {side} of the other: '
            f'ids here look like {first_few(mine, 3)}, there like {first_few(theirs, 3)}'
        )
    return torch.from_numpy(np.flatnonzero(is_there)), torch.from_numpy(codes[is_there])


def _vectors_for(tables: dict[str, EmbeddingTable], other: Scorer, side: str) -> dict[str, torch.Tensor]:
    """The vectors of `other` for the tables of factors that are as wide; {} if it has none, or none is as wide."""
    try:
        vectors = other.vectors(side)
    except TypeError:
        return {}
    return {
        name: vectors
        for name, table in tables.items()
        if name.endswith(f'{side}_factors') and table.embedding_dim == vectors.shape[1]
    }


def _tables_of(model: nn.Module, catalog: Catalog, side: str) -> dict[str, EmbeddingTable]:
    """Embedding tables of a side, by name: those with a row for each user or item.

    Where there are as many of both, the name decides.
    """
    n = catalog.n_users if side == 'user' else catalog.n_items
    res = {}
    for name, module in model.named_modules():
        if not isinstance(module, EmbeddingTable) or len(module.weight) != n:
            continue
        is_of_users = 'user' in name or 'rater' in name
        if catalog.n_users != catalog.n_items or is_of_users == (side == 'user'):
            res[name] = module
    return res


def _widths(tables: dict[str, EmbeddingTable]) -> str:
    """Names and widths of tables, for a message."""
    return ', '.join(f'{name} {table.embedding_dim} wide' for name, table in tables.items()) or 'none'
