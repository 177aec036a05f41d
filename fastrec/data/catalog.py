"""Who and what there is: ids and titles, metadata, training counts.

Everything that turns scores into something a person reads (recommending, evaluation, interpretation) asks here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import copy
from difflib import get_close_matches
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from ..notices import warn_user
from .columns import (
    ITEM_WORDS,
    as_frame,
    first_few,
    id_column,
    kind_of,
    normal_name,
    with_id_column,
    words_of,
)
from .conditions import rows_where
from .history import History
from .interactions import Interactions, Vocab
from .splits import Split

__all__ = ['Catalog', 'cold_groups', 'cold_mask']

# names of the column with the titles, in this order, compared by `normal_name`
TITLES = ('title', 'name', *(f'{word}title' for word in ITEM_WORDS), *(f'{word}name' for word in ITEM_WORDS))
# Names that tables of answers have for something of their own: a column of ids of such a name is called by its role.
# (Ids in a column 'title' are the titles, and there is no other column of them.)
OF_ANSWERS = (
    'score', 'rank', 'cold', 'because', 'explored', 'part', 'label', 'liked', 'weight', 'prediction', 'loss', 'spread',
    'share', 'contribution', 'positives', 'rows',
)  # fmt: skip


def aligned(df: pd.DataFrame, vocab: Vocab, id_name: str, side: str) -> pd.DataFrame:
    """Rows of metadata `df` in the order of `vocab`; ids without a row get missing values and are counted."""
    column = id_column(df, side, id_name)
    df = with_id_column(df, side, id_name).set_index(id_name)
    if not df.index.is_unique:
        repeated = first_few(df.index[df.index.duplicated()].unique())
        if column is None:
            way = f'{side}_df[~{side}_df.index.duplicated()]'
        else:
            way = f'{side}_df.drop_duplicates({column!r})'
        raise ValueError(f'{side}_df has several rows for the same {side}: {repeated}. Keep one each: `{way}`')
    rows = pd.Series(vocab.encode(df.index.to_numpy(), unknown='mark'))
    if (rows < 0).all() and len(df):
        raise ValueError(
            f'no {side} of {side}_df is in the ratings: ids there look like {first_few(df.index, 3)}, '
            f'in the ratings like {first_few(vocab.ids, 3)}{_how_to_make_alike(df.index, vocab.ids)}'
        )
    if missing := len(vocab) - int((rows >= 0).sum()):
        warn_user(f'{missing:,} of {len(vocab):,} {side}s have no row in {side}_df; their metadata is missing')
    known = df[(rows >= 0).to_numpy()]
    known.index = rows[rows >= 0].to_numpy()
    res = known.reindex(np.arange(len(vocab)))
    res.insert(0, id_name, vocab.ids.to_numpy())
    return res


def _how_to_make_alike(given: pd.Index, known: pd.Index) -> str:
    """What is said where one side has numbers and the other texts, as of ids that are padded with zeros."""
    if {kind_of(given), kind_of(known)} != {'integer', 'string'}:
        return ''
    return '. Read both alike, e.g. as texts: dtype={column: str}, of pd.read_csv as of from_csv'


def _as_text(id_: Any) -> str:
    """An id as it is shown in the place of a title."""
    return id_.decode('utf-8', 'backslashreplace') if isinstance(id_, bytes) else str(id_)


class Catalog:
    """Users and items on record.

    `vocab` {'user': Vocab, 'item': Vocab}; `names` the column of each role in the table; `item_df`, `user_df` metadata
    in the order of the codes, or None; `counts` training rows per user and item (of implicit feedback: positives);
    `mean_rating` and `rating_range` (least, largest) of the training rows, or None; `rating_options` what ratings stand
    for (`History.rating_options`); `context_of` what the columns of context mean, or None.

    With `liked`, `thresholds` (n_users,) say from which rating on a user likes an item: the mean of the user's
    training rows (of users without any: of all training rows).

    `history` is who has what (`History`), None once it has been left behind (`without_history`).
    """

    rating_range: tuple[float, float] | None = None  # this and the next: of those saved before there were any
    rating_options: Mapping[str, Any] = MappingProxyType({})

    _trained_on: str | None = None  # what `trained_on` was when the history was left behind

    def __init__(
        self,
        history: History,  # rows and split
        item_df: Any = None,  # metadata of items, with a column of ids: a DataFrame, or a table of polars, pyarrow, ...
        user_df: Any = None,  # the same of users
        title_name: str | None = None,  # column of `item_df` with the titles; None: found by its usual names
        liked: bool = False,  # are ratings told apart by the user's own threshold?
    ) -> None:
        self.history: History | None = history
        self.vocab, self.names, self.context_of = history.vocab, history.names, history.context_of
        self.item_df: pd.DataFrame | None = None
        if item_df is not None:
            item_df = as_frame(item_df, 'item_df as a DataFrame with a row per item')
            self.item_df = aligned(item_df, self.vocab['item'], self.names['item'], 'item')
        self.user_df: pd.DataFrame | None = None
        if user_df is not None:
            user_df = as_frame(user_df, 'user_df as a DataFrame with a row per user')
            self.user_df = aligned(user_df, self.vocab['user'], self.names['user'], 'user')
        self.title_name = self._title_column(item_df, title_name)
        self.counts = {side: history.train_counts(side) for side in ('user', 'item')}
        self.mean_rating = history.mean_rating()
        self.rating_range = history.rating_range()
        self.rating_options = history.rating_options()
        self.thresholds = history.user_means() if liked else None

    @staticmethod
    def _title_column(item_df: pd.DataFrame | None, title_name: str | None) -> str | None:
        """The column with the titles: the one named, else one with a usual name, else None."""
        if title_name is not None and (item_df is None or title_name not in item_df.columns):
            raise ValueError(f'no column {title_name!r} (title_name) in item_df')
        if title_name is not None or item_df is None:
            return title_name
        names = {normal_name(c): c for c in reversed(item_df.columns)}
        usual = [names[o] for o in TITLES if o in names]
        if usual:
            return usual[0]
        by_word = [c for c in item_df.columns if words_of(c)[-1:] == ['title']]
        return by_word[0] if len(by_word) == 1 else None

    def __repr__(self) -> str:
        if self.history is None:
            rows = ', without history'
        else:
            rows = self.history.in_words()
        return f'Catalog({self.n_users:,} users, {self.n_items:,} items{rows})'

    @property
    def n_users(self) -> int:
        """Number of users."""
        return len(self.vocab['user'])

    @property
    def n_items(self) -> int:
        """Number of items."""
        return len(self.vocab['item'])

    @property
    def columns(self) -> dict[str, str]:
        """What tables of answers call their columns: role ('user', 'item', 'rating', 'time') -> name.

        As in the training table. By the role where that has no such column or a number for a name, where an answer has
        something else of that name (`OF_ANSWERS`), or where two columns would be called alike.
        """
        own = {role: self.names.get(role) for role in ('user', 'item', 'rating', 'time')}
        taken = dict(user=(*OF_ANSWERS, 'title'), item=OF_ANSWERS, rating=('title', 'part'), time=('title', 'part'))
        res = {role: role if not isinstance(o, str) or o in taken[role] else o for role, o in own.items()}
        return res if len(set(res.values())) == len(res) else {role: role for role in res}

    @property
    def shows_titles(self) -> bool:
        """Have tables of answers a column 'title'? Not without titles, nor where ids have that column."""
        return self.title_name is not None and self.columns['item'] != 'title'

    def known(
        self,
        side: str,  # 'user' or 'item'
    ) -> np.ndarray:
        """bool (n,): has the 'user' or 'item' a training row? The others are cold."""
        return self.counts[side] > 0

    # --- copies

    def without_history(self) -> Catalog:
        """A copy that can be given away: no rows and no user metadata; ids, item metadata and counts stay."""
        res = copy(self)
        res._trained_on = self.trained_on
        res.history = res.user_df = None
        return res

    def as_source(self) -> Catalog:
        """A copy with which `check_leakage` can still tell what was trained on, and that holds no rows or metadata."""
        res = self.without_history()
        res.item_df = res.title_name = None
        return res

    def with_items(
        self,
        ids: Sequence | np.ndarray | pd.Index,  # of the further items
        df: pd.DataFrame | None = None,  # what is known of them, with the columns of `item_df`
    ) -> Catalog:
        """A copy with further items, whose codes come after those there are.

        `df` is their metadata, with the columns of `item_df` as far as it has them. `ValueError` for known ids.
        """
        vocab = self.vocab['item']
        if known := [o for o in ids if o in vocab]:
            raise ValueError(
                f'{len(known):,} of the {len(ids):,} items are already there: {first_few(known)}. '
                'Leave them out: `df[~df[column].isin(learn.vocab["item"].ids)]`'
            )
        new = Vocab(ids, 'item')
        res = copy(self)
        res.vocab = {**self.vocab, 'item': Vocab(vocab.ids.append(new.ids), 'item')}
        counts = self.counts['item']
        res.counts = {**self.counts, 'item': np.append(counts, np.zeros(len(new), counts.dtype))}
        if self.history is not None:
            res.history = self.history.with_vocab(res.vocab)
        if self.item_df is not None:
            id_name = self.names['item']
            rows = pd.DataFrame({id_name: new.ids.to_numpy()}) if df is None else aligned(df, new, id_name, 'item')
            rows = rows.reindex(columns=self.item_df.columns)
            res.item_df = pd.concat([self.item_df, rows], ignore_index=True)
        return res

    def with_users(
        self,
        history: History,  # rows of the new users, over the same items
    ) -> Catalog:
        """A copy whose users are those of `history`, of the same items; item counts stay what training had."""
        res = copy(self)
        res.history, res.vocab, res.user_df = history, history.vocab, None
        res.counts = dict(user=history.train_counts('user'), item=self.counts['item'])
        return res

    # --- who has what

    def require_history(
        self,
        # what the error says to do
        way: str = 'This needs the training table: make RecDataLoaders of it again and use those, '
        'or save with save_recommender(..., history=True)',
    ) -> History:
        """The history, with its rows; `ValueError` with the way out if it did not travel, or is in files."""
        if self.history is None:
            raise ValueError(f'what users have seen is training data and did not travel with what was saved. {way}')
        self.history.require_rows(way)
        return self.history

    @property
    def trained_on(self) -> str | None:
        """A fingerprint of the training pairs, which travels where they do not; None where it is not known."""
        return self._trained_on if self.history is None else self.history.trained_on

    @property
    def interactions(self) -> Interactions | None:
        """The rows; None without history, or where they stay in their files."""
        return None if self.history is None else self.history.interactions

    @property
    def split(self) -> Split | None:
        """Which rows are in which part; None as for `interactions`."""
        return None if self.history is None else self.history.split

    def held_out(self) -> np.ndarray:
        """Positions of all rows that are not for training, in valid and in test; none where the rows are not there."""
        split = self.split
        parts = [] if split is None else [rows for rows in split[1:] if rows is not None]
        return np.concatenate(parts) if parts else np.zeros(0, np.int64)

    def liked(
        self,
        rows: np.ndarray,  # places of rows in the interactions, int (n,)
    ) -> np.ndarray:
        """bool (len(rows),): do the ratings of `rows` of the interactions reach their users' thresholds?"""
        inter = self.require_history().interactions
        assert inter is not None and self.thresholds is not None
        return inter.ratings[rows] >= self.thresholds[inter.users[rows]]

    def history_of(
        self,
        user: Any,  # id
    ) -> pd.DataFrame:
        """All rows of one user (an id), best rated (else latest) first.

        Columns: user, item, title, rating, time (those there are), part (train, valid, test); see `columns`.
        """
        history = self.require_history()
        assert history.interactions is not None
        rows, df = history.of_user(int(self.vocab['user'].encode([user])[0]))
        by = [o for o in ('rating', 'time') if o in df]
        if self.columns['item'] != 'title':
            df.insert(2, 'title', self.titles(history.interactions.items[rows]))
        if by:
            df = df.sort_values(by, ascending=False, kind='stable', ignore_index=True)
        return df.rename(columns=self.columns)

    # --- what a person calls things

    def titles(
        self,
        codes: Sequence[int] | np.ndarray,  # codes of items, (n,)
    ) -> np.ndarray:
        """Title of each item code; the id where there is no title."""
        if len(codes) > 2 * self.n_items:
            return self.titles(np.arange(self.n_items))[np.asarray(codes)]
        ids = self.vocab['item'].decode(codes)
        if self.title_name is None or self.item_df is None:
            return ids.astype(str) if ids.dtype != object else np.array([_as_text(o) for o in ids], dtype=object)
        titles = self.item_df[self.title_name].to_numpy(dtype=object)[np.asarray(codes)]
        missing = pd.isna(titles)
        shown = [_as_text(i) if m else str(t) for i, t, m in zip(ids, titles, missing, strict=True)]
        return np.array(shown, dtype=object)

    def find(
        self,
        query: Any,  # an id, a title, or a part of a title that only one item has; of users an id
        side: str = 'item',  # or 'user'
        unknown: str = 'raise',  # where nothing is found: 'raise' a `KeyError`, or 'mark' with -1
    ) -> int:
        """Code of the user or item that `query` names; an id comes before a title, a whole title before a part.

        `KeyError` if there is none, or several, which it then names.
        """
        vocab = self.vocab[side]
        if (code := vocab.encode([query], unknown='mark')[0]) >= 0:
            return int(code)
        if side == 'item' and self.title_name is not None and isinstance(query, str):
            assert self.item_df is not None
            codes = titled(self.item_df[self.title_name].set_axis(vocab.ids), query)
            if len(codes) == 1:
                return int(codes[0])
            if len(codes) > 1:
                raise KeyError(self._ambiguous(query, codes))
            if unknown == 'raise' and not query.isdecimal():
                raise KeyError(f'no item has the id {query!r}, or a title with {query!r} in it')
        return int(vocab.encode([query], unknown)[0])  # says that it is unknown

    def _ambiguous(self, query: str, codes: np.ndarray) -> str:
        """The message for a query that several items match, the most popular ones named."""
        codes = codes[np.argsort(-self.counts['item'][codes], kind='stable')]
        ids = self.vocab['item'].ids
        named = '; '.join(f'{first_few([ids[c]])}: {title}' for c, title in zip(codes[:5], self.titles(codes[:5])))
        more = '; ...' if len(codes) > 5 else ''
        return f'{len(codes)} items match {query!r}: {named}{more}. Pass the id or the whole title of one'

    def find_all(
        self,
        queries: Any,  # one id, title or part of a title, or a list of those
        side: str = 'item',  # 'item', or 'user', who is called by id alone
    ) -> np.ndarray:
        """int64 codes of one query (see `find`) or of a list of them."""
        if isinstance(queries, str) or np.isscalar(queries):
            queries = [queries]
        elif isinstance(queries, Iterator):  # it is looked through twice
            queries = list(queries)
        try:
            return self.vocab[side].encode(queries)
        except KeyError:
            if side == 'user' or self.title_name is None:
                raise  # which names all that are unknown
            return np.array([self.find(o, side) for o in queries], dtype=np.int64)

    def candidates(
        self,
        # items, a condition as text, or a function of `item_df`; None: all
        candidates: str | Callable | Iterable | None,
    ) -> np.ndarray | None:
        """int64 item codes that `candidates` allows; None: all.

        `candidates`: None; items, each an id, a title or a part of one (see `find`); a condition as text
        (`rows_where`); or a function of `item_df` that returns a boolean mask. A text alone is an id, the whole title
        of one item, or a condition. `TypeError` for a table and for a mask, `ValueError` where no item is left.
        """
        if candidates is None:
            return None
        if isinstance(candidates, str) and self._is_an_item(candidates):
            candidates = [candidates]
        elif isinstance(candidates, Iterator):  # it is looked through twice
            candidates = list(candidates)
        if isinstance(candidates, str) or callable(candidates):
            codes = np.flatnonzero(self._mask(candidates))
        elif np.asarray(candidates).dtype == bool:
            raise TypeError(
                'candidates as a boolean mask depend on the order of rows: pass a function of item_df that returns '
                'the mask, e.g. `lambda m: m.year > 1990`'
            )
        elif isinstance(candidates, pd.DataFrame):
            raise TypeError('candidates= takes ids: pass the id column of the table')
        else:
            codes = np.unique(self.find_all(candidates))
        if not len(codes):
            what = candidates if isinstance(candidates, str) else 'the candidates'
            raise ValueError(f'no item is left: {what} allows none of the {self.n_items:,} items')
        return codes

    def _is_an_item(self, text: str) -> bool:
        """Is it the id or the whole title of an item?"""
        if text in self.vocab['item']:
            return True
        return self.item_df is not None and self.title_name is not None and text in set(self.item_df[self.title_name])

    def _mask(self, condition: str | Callable) -> np.ndarray:
        """bool (n_items,) of a condition on `item_df`."""
        if self.item_df is None:
            raise ValueError(
                'candidates by a condition need item_df=: metadata was not given when the DataLoaders were made'
            )
        if callable(condition):
            mask = condition(self.item_df.copy())  # which may add columns to it
        else:
            mask = rows_where(self.item_df, condition)
        if isinstance(mask, pd.Series) and mask.index.sort_values().equals(self.item_df.index):
            mask = mask.sort_index()
        mask = pd.Series(mask).astype('boolean').fillna(False).to_numpy(dtype=bool)
        if len(mask) != self.n_items:
            raise ValueError(f'the condition gave {len(mask):,} values for {self.n_items:,} items')
        return mask

    def item_columns(
        self,
        names: str | Iterable[str],  # columns of `item_df`
        codes: np.ndarray,  # of items (n,)
        beside: Iterable[str] = (),  # columns of the table that they will stand in
    ) -> pd.DataFrame:
        """Columns of `item_df` for codes of items, a row each; `ValueError` for those that are not there, or taken."""
        names = [names] if isinstance(names, str) else list(names)
        if self.item_df is None:
            raise ValueError('columns= shows metadata, and item_df= was not given when the DataLoaders were made')
        missing = [o for o in names if o not in self.item_df.columns]
        if missing:
            near = get_close_matches(str(missing[0]), [str(o) for o in self.item_df.columns], n=3, cutoff=0.5)
            hint = f'did you mean {first_few(near)}?' if near else f'it has {first_few(self.item_df.columns, 20)}'
            raise ValueError(f'item_df has no column {first_few(missing)}: {hint}')
        if taken := [o for o in names if o in set(beside)]:
            raise ValueError(
                f'columns={first_few(taken)}: the table has a column of that name already. Leave it out, or rename the '
                'one of item_df before the DataLoaders are made'
            )
        return self.item_df[names].take(codes).reset_index(drop=True)

    # --- saved ones

    @classmethod
    def from_saved(
        cls,
        state: dict,  # attributes by name
    ) -> Catalog:
        """The catalog that a saved recommender holds: its attributes, also as files of version 0.1 have them."""
        state = dict(state)
        if 'history' not in state:  # 0.1 kept rows and split in the catalog itself
            interactions, split = state.pop('interactions'), state.pop('split')
            state['history'] = None if interactions is None else History(interactions, split)
        res = cls.__new__(cls)
        res.__dict__.update(state)
        return res


def titled(titles: pd.Series, query: str) -> np.ndarray:
    """Positions of the titles (by item id) that `query` names: it itself, else in other case, else with it as a part.

    The digits of an id are not a part of a title: '50' where there is an item 50 is an id of another type.
    """
    there = titles.notna()
    lower, wanted = titles.astype(str).str.lower(), query.lower()
    for hits in (titles == query, (lower == wanted) & there):
        if hits.any():
            return np.flatnonzero(hits)
    if query.isdecimal() and int(query) in titles.index:
        return np.zeros(0, np.int64)
    return np.flatnonzero(lower.str.contains(wanted, regex=False) & there)


def cold_groups(
    scorer: Any,  # a `Scorer`
    catalog: Catalog,  # who has training rows
    users: np.ndarray | None = None,  # codes (n,)
    items: np.ndarray | None = None,  # codes (n,)
) -> dict[str, np.ndarray]:
    """What is known of pairs of codes (n,), or of users alone: group -> bool (n,), of the groups that there are.

    'all'; 'warm', with training rows; 'features', where one side has none and the scorer reads its features; 'cold',
    where the scorer knows nothing of one side. Where all are warm, 'all' alone.
    """
    sides = [(side, codes) for side, codes in (('user', users), ('item', items)) if codes is not None]
    warm = np.logical_and.reduce([catalog.known(side)[codes] for side, codes in sides])
    scored = np.logical_and.reduce([(catalog.known(side) | scorer.knows(side))[codes] for side, codes in sides])
    groups = dict(all=np.ones_like(warm), warm=warm, features=scored & ~warm, cold=~scored)
    if warm.all():
        return {'all': groups['all']}
    return {name: mask for name, mask in groups.items() if mask.any()}


def cold_mask(
    catalog: Catalog,  # who has training rows
    users: np.ndarray,  # codes of users, int (n,)
    items: np.ndarray,  # codes of items, int (n,)
) -> np.ndarray:
    """bool (n,): has the pair of codes a user or an item without a training row?"""
    return ~(catalog.known('user')[users] & catalog.known('item')[items])


def distinct(catalogs: Iterable[Catalog]) -> list[Catalog]:
    """Each of the objects once, in their order."""
    return list({id(catalog): catalog for catalog in catalogs}.values())


def check_leakage(
    scorer: Any,  # a `Scorer`
    catalog: Catalog,
    rows: np.ndarray,  # positions in its interactions
) -> None:
    """`ValueError` if held-out `rows` of `catalog` were training rows of the scorer, or of anything it is made of.

    As of a model made with another split, blended or not. Warns where the training rows did not travel with a model
    and may have been others than those of `catalog`.
    """
    scorer.require_fitted()
    require_same_ids(scorer.catalog, catalog)
    for source in scorer.sources():
        check_source(source, catalog, rows)


def require_same_ids(source: Catalog, catalog: Catalog) -> None:
    """`ValueError` unless both catalogs have the same users and items."""
    if source.vocab != catalog.vocab:
        raise ValueError(
            'the scorer was fitted to other users or items than the loaders hold: make both from one table'
        )


def check_source(
    source: Catalog,  # whose training rows something was learned from
    catalog: Catalog,
    rows: np.ndarray,  # positions in its interactions: what is held out
) -> None:
    """As `check_leakage`, of one catalog; of other users or items a warning, since equal ids may be chance there."""
    if source is catalog or not len(rows):
        return
    is_same = source.vocab == catalog.vocab
    if source.interactions is None:  # they did not travel, or stay in files
        if (is_same and source.trained_on == catalog.trained_on is not None) or not _shares_users(source, catalog):
            return
        why = 'are not known' if source.trained_on is None else 'were others than those of these loaders'
        warn_user(
            f'the training rows of the scorer (or of what it learned from) {why}: if any of the {len(rows):,} held-out '
            'rows are among them, its figures are worthless. Evaluate before saving, or save with '
            'save_recommender(..., history=True), which is checked'
        )
        return
    hits = _n_trained(source, catalog, rows)
    if not hits:
        return
    if is_same:
        raise ValueError(
            f'{hits:,} of {len(rows):,} held-out rows are training rows of the scorer, which was fitted with another '
            'split (or what it is made of was): its figures would be worthless. Fit it to these loaders'
        )
    warn_user(
        f'{hits:,} of {len(rows):,} held-out rows have the ids of training rows of a model that vectors were taken '
        'from: if these are the same users and items, figures on them are worthless. Take vectors from a model that '
        'was fitted without these rows'
    )


def _shares_users(source: Catalog, catalog: Catalog) -> bool:
    """Has any user of `catalog` an id in `source`? Where none has, no row can be of both."""
    return bool((source.vocab['user'].encode(catalog.vocab['user'].ids, unknown='mark') >= 0).any())


def _n_trained(source: Catalog, catalog: Catalog, rows: np.ndarray) -> int:
    """How many of `rows` of `catalog` are pairs, by their ids, that `source` has a training row of."""
    inter = catalog.interactions
    assert inter is not None and source.history is not None  # there are held-out rows, and rows to compare them with
    users, items = inter.users[rows], inter.items[rows]
    if source.vocab != catalog.vocab:
        users, items = (
            source.vocab[side].encode(catalog.vocab[side].ids, unknown='mark')[codes]
            for side, codes in (('user', users), ('item', items))
        )
        is_there = (users >= 0) & (items >= 0)
        users, items = users[is_there], items[is_there]
    if not len(users):
        return 0
    trained = source.history.matrix(source.history.split.train)
    trained.data[:] = 1  # an entry is a row, whatever its rating
    return int(np.asarray(trained[users, items] != 0).sum())


def stored_ones(matrix: csr_matrix) -> csr_matrix:
    """A CSR matrix with 1 for every stored entry."""
    return csr_matrix((np.ones_like(matrix.data), matrix.indices, matrix.indptr), shape=matrix.shape)
