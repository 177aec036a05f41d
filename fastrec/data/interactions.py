"""The only place where raw ids and columns come in: checked once, then compact integer codes.

Everything behind this module works on codes; everything a user sees is decoded again with a `Vocab`."""

from __future__ import annotations

from copy import copy
from warnings import warn

import numpy as np
import pandas as pd

from .columns import CHUNK_ROWS, dense_codes, find_columns, first_few, in_chunks, kind_of, plain_values

__all__ = ['Context', 'Interactions', 'Vocab']

_DUPLICATES = ('error', 'last', 'first', 'mean')


class Vocab:
    """The ids of one side and their codes `0..len-1`, in sorted order of the ids.

    `ids` are unique; integers and strings are the ids that the field uses, anything hashable and sortable works.
    """

    def __init__(
        self,
        ids,  # unique ids; position is the code
        side: str = 'item',  # 'user' or 'item', for messages
    ):
        self.ids, self.side = pd.Index(plain_values(ids)), side
        if self.ids.hasnans:
            raise ValueError(f'{side} ids hold missing values')
        if not self.ids.is_unique:
            raise ValueError(
                f'{side} ids repeat: {first_few(self.ids[self.ids.duplicated()].unique())}. A Vocab holds each id once: pass `pd.unique(ids)`'
            )

    @classmethod
    def factorize(cls, values, side: str = 'item'):
        """-> (Vocab of the sorted distinct `values`, int32 code of each value)"""
        if (found := dense_codes(np.asarray(values))) is None:
            codes, ids = pd.factorize(values, sort=True)
            found = ids, codes.astype(np.int32)
        return cls(found[0], side), found[1]

    def extended(self, ids):
        """A Vocab with the unknown ones of `ids` after those there are, whose codes stay."""
        values = plain_values(pd.Series(ids).dropna())
        if len(values) and kind_of(values) != kind_of(self.ids):
            raise ValueError(
                f'the new {self.side} ids are of another type ({kind_of(values)} such as {first_few(values, 1)}) than those known ({kind_of(self.ids)} such as {first_few(self.ids, 1)})'
            )
        new = pd.Index(np.sort(pd.unique(values[self.ids.get_indexer(values.array) < 0])), dtype=self.ids.dtype)
        return Vocab(self.ids.append(new), self.side) if len(new) else self

    def __len__(self):
        return len(self.ids)

    def __contains__(self, id_):
        return id_ in self.ids

    def __eq__(self, other):
        return isinstance(other, Vocab) and self.side == other.side and self.ids.equals(other.ids)

    def __repr__(self):
        return f'Vocab({len(self):,} {self.side}s: {first_few(self.ids)})'

    def encode(
        self,
        ids,  # one id or a sequence of ids
        unknown: str = 'raise',  # 'raise' a `KeyError`, or 'mark' with -1
    ) -> np.ndarray:
        """int64 codes of `ids`, shape `(n,)`; `KeyError` names unknown ids and the way out."""
        if unknown not in ('raise', 'mark'):
            raise ValueError(f"unknown={unknown!r}: choose 'raise' or 'mark'")
        if np.ndim(ids) == 0 and not isinstance(ids, (set, frozenset, dict)):
            ids = [ids.item() if isinstance(ids, np.ndarray) else ids]
        values = plain_values(
            np.asarray(ids)
            if isinstance(ids, (pd.Index, np.ndarray))
            else pd.Series(list(ids) if not hasattr(ids, 'dtype') else ids)
        )
        if not len(values):
            return np.zeros(0, np.int64)
        codes = self.ids.get_indexer(values.array) if len(self) else np.full(len(values), -1)
        if unknown == 'raise' and (codes < 0).any():
            raise KeyError(self._unknown(values[codes < 0], len(values)))
        return codes.astype(np.int64)

    def _unknown(self, values, n):
        missing = pd.unique(values)
        mine, theirs = kind_of(self.ids), kind_of(missing)
        text = f'unknown {self.side} id{"s" if len(missing) > 1 else ""}: {first_few(missing)} ({len(missing):,} of {n:,} looked up). '
        if mine != theirs and {mine, theirs} <= {'integer', 'string'}:
            way = f'ids.astype({"int" if mine == "integer" else "str"})'
            return (
                text
                + f'The table the model was built from has {mine} {self.side} ids such as {first_few(self.ids, 2)}; these are {theirs}s: convert them with `{way}`'
            )
        return text + (
            f"Known are the {len(self):,} {self.side}s of the table the model was built from (`dls.vocab['{self.side}'].ids`): "
            f"leave the others out, e.g. `df[df[column].isin(dls.vocab['{self.side}'].ids)]`, or build again from a table that has them"
        )

    def decode(self, codes) -> np.ndarray:
        """The ids of `codes`, same shape; `IndexError` for -1, which marks an unknown id."""
        codes = np.asarray(codes)
        if codes.size and codes.min() < 0:
            raise IndexError(
                f'{int((codes < 0).sum()):,} of {codes.size:,} codes are negative, which marks unknown {self.side} ids: there is nothing to decode'
            )
        return self.ids.to_numpy()[codes]


def _ids(df, name, side, vocab):
    """Codes of column `name`, after the checks; builds the vocab unless one is given."""
    col = df[name]
    if n := int(col.isna().sum()):
        raise ValueError(
            f'{n:,} of {len(df):,} rows have no {side} id (column {name!r}). Drop them with `df.dropna(subset=[{name!r}])`'
        )
    col = plain_values(col)
    kind = kind_of(col)
    if kind.startswith('mixed'):
        types = pd.Series([type(o).__name__ for o in col.head(1_000_000)])
        if types.nunique() == 1:
            raise ValueError(
                f'column {name!r} holds {types[0]} objects such as {col.iloc[0]!r}; {side} ids are numbers, strings, dates or bytes. Make them strings: `df[{name!r}] = df[{name!r}].astype(str)`'
            )
        examples = ', '.join(f'{t} such as {col.iloc[types[types == t].index[0]]!r}' for t in types.unique())
        raise ValueError(
            f"column {name!r} mixes types ({examples}), so 1 and '1' would be two {side}s. Make them one: `df[{name!r}] = df[{name!r}].astype(str)`"
        )
    if kind == 'floating':
        raise ValueError(
            f'column {name!r} holds fractions such as {first_few(col[(col != col.round()) | ~np.isfinite(col)], 3)}, which are no {side} ids. Is it another column? Pass {side}_name=, one of: {first_few(df.columns, 20)}'
        )
    if vocab is None:
        return Vocab.factorize(col, side)
    return vocab, vocab.encode(col).astype(np.int32)


def _check_ratings(df, name, y_range):
    """float32 ratings of column `name`, after the checks."""
    col = df[name]
    if pd.api.types.is_datetime64_any_dtype(col.dtype):
        raise ValueError(
            f"column {name!r} holds dates, not ratings. Pass rating_name= (and time_name={name!r}), or no rating column for target='implicit'"
        )
    if not pd.api.types.is_numeric_dtype(col.dtype) or pd.api.types.is_complex_dtype(col.dtype):
        bad = pd.to_numeric(col, errors='coerce').isna() & col.notna()
        what = f'; not a number: {first_few(col[bad].unique())}' if bad.any() else ''
        raise ValueError(
            f"ratings in column {name!r} are not numbers (dtype {col.dtype}){what}. Convert them: `df[{name!r}] = pd.to_numeric(df[{name!r}], errors='coerce')`"
        )
    ratings = col.to_numpy(
        dtype=np.float32, na_value=np.nan, copy=True
    )  # later changes of the table must not reach the model
    if n := int((~np.isfinite(ratings)).sum()):
        raise ValueError(
            f'{n:,} of {len(df):,} ratings in column {name!r} are missing or infinite. Drop those rows: `df[np.isfinite(df[{name!r}])]`; '
            "rows without a rating can still be used with target='implicit'"
        )
    lo, hi = float(ratings.min()), float(ratings.max())
    if hi > 1e8:
        raise ValueError(
            f'column {name!r} looks like a timestamp (values from {lo:.0f} to {hi:.0f}), not a rating. Pass rating_name=, one of: {first_few(df.columns, 20)}; '
            "a table without ratings is for target='implicit'"
        )
    check_y_range(lo, hi, y_range, name)
    return ratings


def _warn_of_tail(weights):
    """Warn if a hundredth of the positives has most of the weight."""
    values = weights[weights > 0]
    n = -(-len(values) // 100)
    top = np.partition(values, len(values) - n)[-n:]
    if len(values) >= 100 and (share := top.sum(dtype=np.float64) / values.sum(dtype=np.float64)) > 0.5:
        warn(
            f'1% of the positives have {share:.0%} of the weight (up to {top.max():,.0f}, the median is {np.median(values):,.0f}): a model learns little of the rest. Weights are a confidence: '
            "give the logarithm of the counts, `df['weight'] = np.log1p(counts)` with rating_name='weight' and weighted=True, or let each pair count once, `df.drop_duplicates([user, item])`",
            stacklevel=4,
        )


def _check_times(df, name):
    """Times of column `name`, numbers or naive datetimes, after the checks."""
    col = df[name]
    if not (pd.api.types.is_numeric_dtype(col.dtype) or pd.api.types.is_datetime64_any_dtype(col.dtype)):
        raise ValueError(
            f'times in column {name!r} are neither numbers nor datetimes (dtype {col.dtype}). Convert them: `df[{name!r}] = pd.to_datetime(df[{name!r}])`'
        )
    if n := int(col.isna().sum()):
        raise ValueError(
            f'{n:,} of {len(df):,} rows have no time (column {name!r}). Drop them with `df.dropna(subset=[{name!r}])`, or do without times: time_name=False'
        )
    if getattr(col.dtype, 'tz', None) is not None:
        col = col.dt.tz_convert(None)
    if pd.api.types.is_integer_dtype(col.dtype) and col.min() >= 0 and col.max() < 2**31:
        return col.to_numpy(dtype=np.int32)  # seconds since 1970 until 2038: half the memory
    return col.to_numpy(copy=True)


def _check_weights(df, name):
    """float32 weights of column `name`, after the checks."""
    if name not in df.columns:
        raise ValueError(
            f'no column {name!r} (weight_name=) in the table. Its columns are: {first_few(df.columns, 20)}'
        )
    weights = pd.to_numeric(df[name], errors='coerce').to_numpy(dtype=np.float32, na_value=np.nan)
    if (bad := ~np.isfinite(weights) | (weights < 0)).any():
        raise ValueError(
            f'{int(bad.sum()):,} of {len(df):,} weights in column {name!r} are negative, missing or no numbers, e.g. {first_few(df[name][bad], 3)}: a weight says how much a rating counts in the loss, from 0 up'
        )
    if not weights.any():
        raise ValueError(f'all weights in column {name!r} are 0: nothing would be learned')
    return weights


def check_y_range(lo: float, hi: float, y_range, name: str = 'rating'):
    """`ValueError` unless ratings from `lo` to `hi` lie within `y_range` (None: any)."""
    if y_range is None:
        return
    if np.ndim(y_range) != 1 or len(y_range) != 2 or not y_range[0] < y_range[1]:
        raise ValueError(f'y_range={y_range}: give (low, high) with low < high')
    if lo < y_range[0] or hi > y_range[1]:
        raise ValueError(
            f'ratings in {name!r} run from {lo:g} to {hi:g}, outside y_range={tuple(y_range)}, so the model could never reach them. '
            f'Give a range that holds them, a little wider since a sigmoid never reaches its ends: y_range=({lo - 0.5:g}, {hi + 0.5:g})'
        )


MANY, BINS = 50, 20  # a column of numbers with more values than that becomes that many bins
TICKS = 2**30  # that fractions of time are counted in, from the first to the last of the table


class Context:
    """Columns of what belongs to an interaction itself and to neither side (device, weekday, time), as whole numbers.

    `names` of the columns. `levels` of each: for categories their values, for numbers of many values the edges of bins of about equal numbers of rows; None for the time. `encode` gives
    the level, from 1 on, and 0 for what is unknown, missing or not given; of the time the seconds (of datetimes) or its own unit, and -1 if it is not given.
    """

    TIME = -1  # no time

    def __init__(self, names, levels, time=None):
        self.names, self.levels, self.time = list(names), list(levels), time

    @classmethod
    def fit(cls, df, columns, names=None):
        """The context of a table: `columns` is a column or a list of them; that which plays the time (`names['time']`) is read as such."""
        columns = [columns] if isinstance(columns, str) or not hasattr(columns, '__iter__') else list(columns)
        if not columns:
            raise ValueError('context= takes a column or a list of them')
        if gone := [c for c in columns if c not in df.columns]:
            raise ValueError(
                f'no column {first_few(gone)} (context=) in the table. Its columns are: {first_few(df.columns, 20)}'
            )
        names = names or {}
        if taken := [c for c in columns if c in (names.get('user'), names.get('item'), names.get('rating'))]:
            raise ValueError(f'context={first_few(taken)}: that column is the user, the item or the rating already')
        if len(set(columns)) < len(columns):
            raise ValueError(f'context={columns}: a column twice')
        res, levels = cls(columns, []), []
        for name in columns:
            if name == names.get('time') or pd.api.types.is_datetime64_any_dtype(df[name].dtype):
                if res.time is not None:
                    raise ValueError(
                        f'context={columns}: two of them are times. Of a second one give what matters as a column, e.g. `df[column].dt.dayofweek`'
                    )
                times = _check_times(df, name)
                kind = 'datetime' if times.dtype.kind == 'M' else 'number'
                low, high = (0, 0) if kind == 'datetime' else (times.min(), times.max())
                res.time = (
                    dict(kind=kind, start=float(low), scale=TICKS / max(float(high - low), 1e-9))
                    if kind == 'number' and times.dtype.kind == 'f'
                    else dict(kind=kind, start=0.0, scale=1.0)
                )
                levels.append(None)
            else:
                levels.append(_levels(df[name], name))
        res.levels = levels
        return res

    @property
    def sizes(self) -> list:
        """How many codes each column has; 0 for the time."""
        return [0 if o is None else len(o) + 1 + isinstance(o, np.ndarray) for o in self.levels]

    @property
    def time_column(self):
        """Position of the time, or None."""
        return next((i for i, o in enumerate(self.levels) if o is None), None)

    def encode(self, df) -> np.ndarray:
        """int64 (n, columns); columns that `df` lacks count as not given."""
        res = np.zeros((len(df), len(self.names)), np.int64)
        for c, (name, levels) in enumerate(zip(self.names, self.levels)):
            if levels is None:
                res[:, c] = self._ticks(df[name]) if name in df else self.TIME
            elif name not in df:
                continue
            elif isinstance(levels, np.ndarray):
                x = pd.to_numeric(df[name], errors='coerce').to_numpy(dtype=np.float64, na_value=np.nan)
                res[:, c] = np.where(np.isnan(x), 0, np.searchsorted(levels, x, side='right') + 1)
            else:
                res[:, c] = levels.get_indexer(plain_values(df[name]).array) + 1
        return res

    def _ticks(self, values):
        x = pd.Series(values)
        missing = x.isna().to_numpy()
        if not pd.api.types.is_numeric_dtype(x.dtype) or self.time['kind'] == 'datetime':
            try:
                x = pd.to_datetime(x)
            except (ValueError, TypeError) as e:
                raise ValueError(
                    f'times such as {first_few(pd.Series(values).dropna(), 1)} are neither numbers nor datetimes'
                ) from e
            if getattr(x.dtype, 'tz', None) is not None:
                x = x.dt.tz_convert(None)
            x = x.to_numpy().astype('datetime64[s]').astype(np.int64)  # of a table of numbers: seconds since 1970
            if self.time['scale'] == 1:
                return np.where(missing, self.TIME, x)
        ticks = (np.asarray(x, dtype=np.float64) - self.time['start']) * self.time['scale']
        return np.where(missing | ~np.isfinite(ticks), self.TIME, np.nan_to_num(ticks)).astype(np.int64)

    def of(self, values: dict) -> np.ndarray:
        """int64 (columns,) of one situation: column -> value; the rest is not given."""
        if unknown := [o for o in values if o not in self.names]:
            raise KeyError(f'no context is called {first_few(unknown)}: there are {first_few(self.names, 20)}')
        codes = self.encode(pd.DataFrame({k: [v] for k, v in values.items()}, index=[0]))[0]
        for name, levels, code in zip(self.names, self.levels, codes):
            if name in values and isinstance(levels, pd.Index) and code == 0 and not pd.isna(values[name]):
                raise KeyError(
                    f'{name}={values[name]!r} is in no row: known are {first_few(levels, 20)}. Leave it out for what they have in common'
                )
        return codes

    def decode(self, codes) -> pd.DataFrame:
        """Codes (n, columns) as a table to look at: values, bins as intervals, times in seconds or their own unit."""
        res = {}
        for name, levels, c in zip(self.names, self.levels, codes.T):
            if levels is None:
                res[name] = np.where(c == self.TIME, np.nan, c / self.time['scale'] + self.time['start'])
            elif isinstance(levels, np.ndarray):
                edges = [-np.inf, *levels, np.inf]
                res[name] = [None if o == 0 else f'[{edges[o - 1]:.4g}, {edges[o]:.4g})' for o in c]
            else:
                res[name] = pd.Series([None if o == 0 else levels[o - 1] for o in c], dtype=object)
        return pd.DataFrame(res)

    def __repr__(self):
        return f'Context({", ".join(n if l is None else f"{n} {s - 1} levels" for n, l, s in zip(self.names, self.levels, self.sizes))})'


def _levels(column, name):
    """Values of a column of context, or edges of bins."""
    values = plain_values(column.dropna())
    if not len(values):
        raise ValueError(f'column {name!r} (context=) has no value at all')
    if (
        pd.api.types.is_numeric_dtype(values.dtype)
        and not pd.api.types.is_bool_dtype(values.dtype)
        and values.nunique() > MANY
    ):
        return np.unique(np.quantile(values.to_numpy(dtype=np.float64), np.linspace(0, 1, BINS + 1)[1:-1]))
    try:
        levels = pd.Index(values.unique()).sort_values()
    except TypeError as e:
        raise ValueError(
            f'column {name!r} (context=) mixes types: make them one, `df[{name!r}] = df[{name!r}].astype(str)`'
        ) from e
    return levels


class Interactions:
    """Who did what to what: integer codes, ratings and times as arrays of one length.

    `users, items` are int32 codes, `ratings` float32 or None, `times` numbers or datetime64 or None, `vocab` is
    `{'user': Vocab, 'item': Vocab}`, `names` the column of each role in the table it came from. `rows` are the positions in that
    table (None: all of them, in order), `no_times` why a time column that was found could not be used. The table itself is not kept.

    `context`, int64 (rows, columns) or None, is what belongs to the interaction itself, as `context_of` (a `Context`) encodes it; `row_weights`, float32 or None, what a rating counts in the loss.

    Implicit feedback (`implicit()`) has `weights`, float32: how much a row counts as a positive; 0 for one that was seen but is none. `options` are those of `implicit()`.
    """

    def __init__(
        self,
        users,
        items,
        ratings,
        times,
        vocab,
        names=None,
        rows=None,
        weights=None,
        no_times=None,
        options=None,
        context=None,
        context_of=None,
        row_weights=None,
    ):
        self.users, self.items, self.ratings, self.times = users, items, ratings, times
        self.context, self.context_of, self.row_weights = context, context_of, row_weights
        self.vocab, self.rows, self.weights, self.no_times, self.options = vocab, rows, weights, no_times, options
        self.names = names or dict(user='user', item='item', rating='rating', time='time')
        for name in ('items', 'ratings', 'times', 'context', 'row_weights'):
            a = getattr(self, name)
            if a is not None and len(a) != len(users):
                raise ValueError(f'{name} has {len(a):,} rows, users has {len(users):,}')

    @classmethod
    def from_df(
        cls,
        df: pd.DataFrame,  # one row per interaction
        user_name: str = None,  # column of user ids; by default a known name, else the first column
        item_name: str = None,  # column of item ids; by default a known name, else the second column
        rating_name: str = None,  # column of ratings; by default a known name, else the third column; False: none
        time_name: str = None,  # column of times (numbers or datetimes); by default a known name, else the fourth column; False: none
        duplicates: str = 'error',  # repeated user-item pairs: 'error', or keep the 'first' or 'last' (by time, else by row), or the 'mean' rating
        y_range: tuple = None,  # ratings must lie in it
        user_vocab: Vocab = None,  # known users; by default those of the table
        item_vocab: Vocab = None,  # known items; by default those of the table
        own: bool = False,  # the table is nobody else's: give up each column when it is converted
        context=None,  # columns of what belongs to the interaction itself (see `Context`), or the `Context` of an earlier table
        weight_name: str = None,  # column of what each rating counts in the loss, from 0 up; by default all count the same
    ):
        """`Interactions` of a table, checked: every problem is a `ValueError` that says what to do."""
        if not isinstance(df, pd.DataFrame):
            raise TypeError(f'expected a DataFrame with one row per interaction, got {type(df).__name__}')
        if duplicates not in (*_DUPLICATES, 'keep'):
            raise ValueError(f'duplicates={duplicates!r}: choose one of {first_few(_DUPLICATES)}')
        if not len(df):
            raise ValueError('the table is empty: it needs one row per interaction')
        names = find_columns(df, dict(user=user_name, item=item_name, rating=rating_name, time=time_name))
        if repeated := {a for a in names.values() if a is not None and list(names.values()).count(a) > 1}:
            raise ValueError(f'column {first_few(repeated)} is asked to play two roles: {names}')
        if context is not None and not isinstance(context, Context):
            context = Context.fit(df, context, names)
        encoded, row_weights = (
            None if context is None else context.encode(df),
            None if weight_name is None else _check_weights(df, weight_name),
        )
        if weight_name is not None:
            names['weight'] = weight_name
        done = lambda role: df.pop(names[role]) if own and names[role] is not None else None
        user_vocab, users = _ids(df, names['user'], 'user', user_vocab)
        done('user')
        item_vocab, items = _ids(df, names['item'], 'item', item_vocab)
        done('item')
        for vocab, codes, name in ((user_vocab, users, 'user'), (item_vocab, items, 'item')):
            if len(vocab) == 1:
                raise ValueError(
                    f'the table has a single {name} ({first_few(vocab.ids)}, column {names[name]!r}): collaborative filtering learns from what several {name}s share. Is {name}_name right?'
                )
        ratings = None if names['rating'] is None else _check_ratings(df, names['rating'], y_range)
        done('rating')
        times, no_times = None, None
        if names['time'] is not None:
            try:
                times = _check_times(df, names['time'])
            except ValueError as e:
                if time_name is not None:
                    raise
                names['time'], no_times = (
                    None,
                    str(e),
                )  # nobody asked for this column: it matters only if a splitter wants times
        done('time')
        res = cls(
            users,
            items,
            ratings,
            times,
            dict(user=user_vocab, item=item_vocab),
            names,
            no_times=no_times,
            context=encoded,
            context_of=context,
            row_weights=row_weights,
        )
        return res if duplicates == 'keep' else res._merge_duplicates(duplicates)

    def _merge_duplicates(self, policy):
        if (by_pair := self._by_pair()) is None:
            return self
        order, starts = by_pair
        n = len(self) - len(starts)
        if policy == 'error':
            twice = order[np.setdiff1d(np.arange(len(self)), starts)][:3]
            pairs = ', '.join(
                '(' + first_few([self.vocab['user'].ids[self.users[i]], self.vocab['item'].ids[self.items[i]]]) + ')'
                for i in twice
            )
            raise ValueError(
                f"{n:,} rows repeat a user-item pair, e.g. {pairs}. Say which rating counts: duplicates='last', 'first' or 'mean' (or target='implicit', where repeats add up)"
            )
        ends = np.append(starts[1:], len(self))
        keep = order[ends - 1] if policy == 'last' else order[starts]
        ratings = self.ratings
        if policy == 'mean' and ratings is not None:
            ratings = ratings.copy()
            ratings[keep] = np.add.reduceat(self.ratings[order].astype(np.float64), starts) / (ends - starts)
        by_row = np.sort(keep)
        return Interactions(
            self.users[by_row],
            self.items[by_row],
            None if ratings is None else ratings[by_row],
            None if self.times is None else self.times[by_row],
            self.vocab,
            self.names,
            by_row,
            no_times=self.no_times,
            context=None if self.context is None else self.context[by_row],
            context_of=self.context_of,
            row_weights=None if self.row_weights is None else self.row_weights[by_row],
        )

    def implicit(
        self,
        threshold: float = None,  # ratings from it on are positives (None: every row is)
        weighted: bool = False,  # a row counts as much as its rating says (play counts), not once
    ):
        """The same as implicit feedback: one row per pair, the last one, in which repeats add up to `weights`."""
        if self.ratings is None and (threshold is not None or weighted):
            raise ValueError(
                f'{"threshold" if threshold is not None else "weighted"}= speaks of ratings, and the table has none. Name their column with rating_name=, or leave it out: every row counts once'
            )
        options = dict(threshold=threshold, weighted=weighted)
        weights = np.ones(len(self), np.float32) if not weighted else self.ratings
        if weighted and (weights < 0).any():
            raise ValueError(
                f'{int((weights < 0).sum()):,} of {len(self):,} weights are negative: a count says how much a row counts as a positive'
            )
        if threshold is not None:
            weights = np.where(self.ratings >= threshold, weights, 0).astype(np.float32)
            if not weights.any():
                raise ValueError(
                    f'no rating reaches threshold={threshold:g}: they run from {self.ratings.min():g} to {self.ratings.max():g}'
                )
        if (by_pair := self._by_pair()) is None:
            if weighted:
                _warn_of_tail(weights)
            return Interactions(
                self.users,
                self.items,
                self.ratings,
                self.times,
                self.vocab,
                self.names,
                self.rows,
                weights,
                self.no_times,
                options,
            )
        order, starts = by_pair
        last = np.append(starts[1:], len(self)) - 1
        summed = np.add.reduceat(weights[order].astype(np.float64), starts).astype(np.float32)
        _warn_of_tail(summed)
        keep = order[last]
        at = np.argsort(keep)
        rows = keep[at]
        part = lambda a: None if a is None else a[rows]
        source = rows if self.rows is None else self.rows[rows]
        return Interactions(
            self.users[rows],
            self.items[rows],
            part(self.ratings),
            part(self.times),
            self.vocab,
            self.names,
            source,
            summed[at],
            self.no_times,
            options,
        )

    def _by_pair(self):
        """Order of the rows by pair, then time (else position), and where in it each pair starts; None if no pair repeats."""
        if not self._repeats():
            return None
        pair = self.users.astype(np.int64) * self.n_items + self.items
        order = np.argsort(pair, kind='stable') if self.times is None else np.lexsort((self.times, pair))
        return order, np.flatnonzero(
            np.diff(pair[order], prepend=-1)
        )  # codes are >= 0, so the first row starts a group

    def _repeats(self) -> bool:
        """Does any pair repeat? Some users at a time, to have few pairs to sort."""
        n_parts = -(-len(self) // (4 * CHUNK_ROWS))
        bounds = np.linspace(0, self.n_users, n_parts + 1).astype(np.int64)
        for a, b in zip(bounds, bounds[1:]):
            rows = slice(None) if n_parts == 1 else (self.users >= a) & (self.users < b)
            pair = self.users[rows].astype(np.int64)
            pair *= self.n_items
            pair += self.items[rows]
            pair.sort()
            if (pair[1:] == pair[:-1]).any():
                return True
        return False

    def with_vocab(self, vocab: dict) -> Interactions:
        """The same rows under a vocabulary that has further ids after those there are."""
        res = copy(self)
        res.vocab = vocab
        return res

    def __len__(self):
        return len(self.users)

    def __repr__(self):
        return f'Interactions({len(self):,} rows, {self.n_users:,} users, {self.n_items:,} items{"" if self.ratings is None else f", ratings {self.ratings.min():g} to {self.ratings.max():g}"})'

    @property
    def n_users(self) -> int:
        return len(self.vocab['user'])

    @property
    def n_items(self) -> int:
        return len(self.vocab['item'])

    def positive(self, rows=None) -> np.ndarray:
        """Positions of the positives among `rows` (None: all): those with a weight above 0; without weights every row."""
        rows = np.arange(len(self)) if rows is None else rows
        return rows if self.weights is None else rows[self.weights[rows] > 0]

    def counts(self, side: str, rows=None) -> np.ndarray:
        """Interactions per user or item among `rows` (None: all), int64 `(n_users,)` or `(n_items,)`."""
        codes = self.users if side == 'user' else self.items
        n = len(self) if rows is None else len(rows)
        return sum(
            (
                np.bincount(codes[part] if rows is None else codes[rows[part]], minlength=len(self.vocab[side]))
                for part in in_chunks(n)
            ),
            np.zeros(len(self.vocab[side]), np.int64),
        )

    def to_df(self, rows=None) -> pd.DataFrame:
        """Rows (None: all) with the user's own ids: user, item, rating, time (those there are)."""
        rows = slice(None) if rows is None else rows
        cols = dict(user=self.vocab['user'].decode(self.users[rows]), item=self.vocab['item'].decode(self.items[rows]))
        if self.ratings is not None:
            cols['rating'] = self.ratings[rows]
        if self.times is not None:
            cols['time'] = self.times[rows].astype(np.int64) if self.times.dtype == np.int32 else self.times[rows]
        return pd.DataFrame(cols)
