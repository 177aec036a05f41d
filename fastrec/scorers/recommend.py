"""From scores to what a person reads: mask what was seen, take the top k, decode ids and titles.

`scorer` is here whatever keeps the contract of `Scorer`, which stands above this room and calls it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.sparse import csr_matrix, issparse

from ..data.catalog import Catalog
from ..data.columns import as_frame, column_of, first_few, is_table
from ..data.files import TableWriter
from ..keywords import check_arguments
from ..progress import Progress

__all__ = ['recommend']

COLD_POLICIES = ('popular', 'mean', 'raise')
MEMORY_BUDGET = 512 * 2**20  # bytes for a chunk of users: scores and what it takes to make them
# Bytes of scores that are made and searched at a time where the rest of the work is small: they had better stay in the
# processor's cache.
CACHE_BYTES = 2**23
USERS_PER_TABLE = 2**14  # users whose rows are put into one table, or written, at a time
USERS_PER_SEARCH = 4096  # users at a time that an index is asked for
RANKER_FROM_USERS = 16  # users from which on it pays to prepare a ranker
RANKER_UP_TO_ITEMS = 2**15  # items up to which preparing one costs next to nothing
PAIRS_PER_ITEM = 2**16  # users whose scores for one item are made at a time
MEAN_OVER = 2**12  # pairs over which the prediction for somebody unknown is a mean, at most
ITEMS_PER_CANDIDATE = 20  # candidates are scored as pairs if they are at most one in so many items


# --- what is not a score


class NotNumbersError(ValueError):
    """Scores, vectors or weights that are not numbers."""


def require_numbers(scores: torch.Tensor, what: str = 'scores', masked: bool = False) -> None:
    """`NotNumbersError` if any of `scores` (any shape) is NaN or infinite; `masked`: -inf marks items left out.

    NaN and +inf come out on top of a list: of a list it is enough to look at its best.
    """
    if not scores.numel():
        return
    highest, lowest = scores.amax(), scores.amin()  # both are NaN where any is
    if highest < torch.inf and (masked or lowest > -torch.inf):
        return
    raise NotNumbersError(
        f'some {what} are not numbers: did training diverge? '
        'Train a new learner with a smaller learning rate (learn.lr_find() shows which)'
    )


# --- what is left out


def seen_matrix(
    catalog: Catalog,
    seen: pd.DataFrame | csr_matrix | None,  # table of user and item, or such a matrix; None: the training rows
    unknown: str = 'mark',  # ids that the catalog does not know are left out, or with 'raise' an error
    users: np.ndarray | None = None,  # codes whose rows are asked for, where the training rows are read from files
) -> csr_matrix:
    """Who has what as a CSR matrix (n_users, n_items) with an entry for each pair.

    Of training rows in files it may be something else that gives such rows when it is indexed with `users`.
    """
    if seen is None:
        if catalog.history is not None and users is not None:
            return catalog.history.seen_of(users)
        history = catalog.require_history(
            'Pass it, `seen=ratings` (a table of user and item), or say `exclude_seen=False`'
        )
        return history.seen
    if issparse(seen):
        return _checked_matrix(catalog, seen)
    if is_table(seen):
        seen = as_frame(seen)
        return _matrix_of_table(catalog, seen, unknown)
    raise TypeError(
        f'seen= (and candidates= of evaluate) takes a table with a user and an item column, got {type(seen).__name__}'
    )


def _checked_matrix(catalog: Catalog, seen: Any) -> csr_matrix:
    """A sparse matrix of any format as CSR; `ValueError` unless it has a row per user and a column per item."""
    expected = catalog.n_users, catalog.n_items
    if seen.shape != expected:
        raise ValueError(
            f'seen= is a matrix of shape {seen.shape}, and there are {catalog.n_users:,} users and '
            f'{catalog.n_items:,} items: give a row per user and a column per item, {expected}, in the order of '
            'vocab, or a table of user and item'
        )
    return csr_matrix(seen)


def _matrix_of_table(catalog: Catalog, table: pd.DataFrame, unknown: str) -> csr_matrix:
    """Pairs of a table as a CSR matrix (n_users, n_items); `ValueError` if the catalog knows none of them."""
    columns = {side: column_of(table, side, catalog.names) for side in ('user', 'item')}
    users = catalog.vocab['user'].encode(table[columns['user']], unknown=unknown)
    items = catalog.vocab['item'].encode(table[columns['item']], unknown=unknown)
    known = (users >= 0) & (items >= 0)  # what the model does not know, it does not recommend
    if len(table) and not known.any():
        theirs = first_few(table[columns['user']], 3)
        ours = first_few(catalog.vocab['user'].ids, 3)
        raise ValueError(
            'no row of the table has a user and an item that the model knows: '
            f"users there look like {theirs}, the model's like {ours}"
        )
    ones = np.ones(known.sum(), np.float32)
    return csr_matrix((ones, (users[known], items[known])), shape=(catalog.n_users, catalog.n_items))


def mask_seen(scores: torch.Tensor, seen: csr_matrix) -> None:
    """Set scores (B, n_items) to -inf, in place, where the CSR matrix `seen` (B, n_items) stores an entry."""
    rows = torch.from_numpy(np.repeat(np.arange(seen.shape[0]), np.diff(seen.indptr)))
    items = torch.from_numpy(seen.indices.astype(np.int64))
    scores[rows.to(scores.device), items.to(scores.device)] = -torch.inf


def checked_k(k: float, what: str) -> int:
    """`k` as an int; `ValueError` unless it is a whole number from 1 on; `what` is what it counts."""
    if not 1 <= k < math.inf or int(k) != k:
        raise ValueError(f'k={k}: ask for at least one {what}, in whole numbers')
    return int(k)


def _forbidden(catalog: Catalog, candidates: np.ndarray | None) -> torch.Tensor | None:
    """What to add to scores (n_items,) to forbid all but the codes: 0 or -inf; None if all are allowed."""
    if candidates is None:
        return None
    forbidden = torch.full((catalog.n_items,), -torch.inf)
    forbidden[torch.from_numpy(candidates)] = 0.0
    return forbidden


# --- the k largest


def top_k(scores: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The `k` largest of each row of scores (B, n), best first: values (B, k) and columns (B, k); min(k, n) of them.

    On a CPU in two steps: rows are cut into blocks, of which only the `k` with the largest maximum can hold one of the
    `k` largest. Maxima are quick to find, and what is left to sort is short.
    """
    n = scores.shape[1]
    k = min(k, n)
    # about (n / k)^1/2 columns a block: then there are as many blocks as there are columns in the k chosen ones
    width = 2 ** int(math.log2(n / k) / 2) if n else 1
    if width < 4 or scores.device.type != 'cpu':
        return scores.topk(k, dim=1)
    n_blocks = n // width
    whole = n_blocks * width
    # block j has the columns j, j + n_blocks, j + 2 n_blocks, ...
    maxima = scores[:, :whole].unflatten(1, (width, n_blocks)).amax(1)
    blocks = maxima.topk(k, dim=1, sorted=False).indices
    columns = (blocks[:, :, None] + torch.arange(0, whole, n_blocks)).flatten(1)
    if whole < n:  # columns at the end that are in no block
        rest = torch.arange(whole, n).expand(len(columns), -1)
        columns = torch.cat([columns, rest], 1)
    values, chosen = scores.gather(1, columns).topk(k, dim=1)
    return values, columns.gather(1, chosen)


def ranker_for(scorer: Any, n_users: int) -> Any:
    """`scorer.ranker()`; None where it has none, or a few users of a large catalogue are not worth its preparations."""
    if n_users >= RANKER_FROM_USERS or scorer.catalog.n_items <= RANKER_UP_TO_ITEMS:
        return scorer.ranker()
    return None


def users_at_a_time(ranker: Any, n_items: int) -> int:
    """How many users' scores of all items are made and searched at a time.

    What the memory budget allows, or, where scores are one matrix product on a CPU, what stays in its cache.
    """
    if ranker is None:
        return max(1, MEMORY_BUDGET // (16 * n_items))  # scores, and about three times as much on the way to them
    if ranker.device.type == 'cpu':
        return max(16, CACHE_BYTES // (4 * n_items))
    return max(1, MEMORY_BUDGET // (8 * n_items))


# --- the best items of users, in four ways


@dataclass
class _Rules:
    """What holds for the list of every user."""

    k: int
    forbidden: torch.Tensor | None  # (n_items,), added to scores: 0 or -inf; None: all items are allowed
    seen: csr_matrix | None  # by codes of users, what each must not get; None: nothing is left out
    popularity: torch.Tensor | None  # float (n_items,), the scores of cold users; None: those the model gives them

    def mask(self, scores: torch.Tensor, users: np.ndarray) -> torch.Tensor:
        """Scores (B, n_items) of codes of users, with -inf at what they must not get; in place."""
        if self.forbidden is not None:
            scores += self.forbidden.to(scores.device)
        if self.seen is not None:
            mask_seen(scores, self.seen[users])
        return scores


class _Best:
    """The `k` best items of users, a chunk of `step` users at a time; a subclass finds those of a chunk."""

    def __init__(self, scorer: Any, rules: _Rules, step: int) -> None:
        self.scorer = scorer
        self.rules = rules
        self.step = step

    def of_chunk(self, users: np.ndarray, is_cold: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Scores and codes (B, k) of the best items of codes of users (B,), best first; bool (B,): which are cold."""
        raise NotImplementedError

    def of(self, users: np.ndarray, is_cold: np.ndarray, done: Callable[[int], None]) -> list[tuple]:
        """The same of any number of users, as a list of chunks on the CPU; `done` hears how many are done."""
        chunks = []
        for at in range(0, len(users), self.step):
            chunk = slice(at, at + self.step)
            scores, items = self.of_chunk(users[chunk], is_cold[chunk])
            chunks.append((scores.cpu(), items.cpu()))
            done(len(scores))
        return chunks


class _BestByScores(_Best):
    """By the scores of the whole catalogue, or by the values of a ranker."""

    def __init__(self, scorer: Any, rules: _Rules, ranker: Any = None) -> None:
        super().__init__(scorer, rules, users_at_a_time(ranker, scorer.catalog.n_items))
        self.score = scorer.score_items if ranker is None else ranker

    def of_chunk(self, users: np.ndarray, is_cold: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        scores = self.score(torch.from_numpy(users)).float()
        popularity = self.rules.popularity
        if popularity is not None and is_cold.any():
            scores[torch.from_numpy(is_cold).to(scores.device)] = popularity.to(scores.device)
        return top_k(self.rules.mask(scores, users), self.rules.k)


class _BestByRanker(_BestByScores):
    """By a ranker, whose values order items as scores do; the scores themselves are made for the best alone."""

    def of(self, users: np.ndarray, is_cold: np.ndarray, done: Callable[[int], None]) -> list[tuple]:
        chunks = super().of(users, is_cold, done)
        if not chunks:
            return []
        values, items = map(torch.cat, zip(*chunks))
        return [(self._exact(users, values, items), items)]

    def _exact(self, users: np.ndarray, values: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        """Scores (B, k) of the items that came out on top; values that are not finite (masked, not numbers) stay."""
        finite = torch.isfinite(values).reshape(-1)
        pairs = torch.from_numpy(users).repeat_interleave(items.shape[1]), items.reshape(-1)
        scores = values.reshape(-1).clone()
        scores[finite] = self.scorer.score(*(o[finite] for o in pairs)).float().cpu()
        return scores.view(values.shape)


class _BestByIndex(_Best):
    """By an `ItemIndex`; cold users, of whom it knows nothing, by popularity."""

    def __init__(self, scorer: Any, rules: _Rules, index: Any) -> None:
        super().__init__(scorer, rules, USERS_PER_SEARCH)
        self.index = index
        self.step_of_cold = users_at_a_time(None, scorer.catalog.n_items)

    def of_chunk(self, users: np.ndarray, is_cold: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        rules = self.rules
        seen = None if rules.seen is None else rules.seen[users]
        scores, items = self.index.top(self.scorer, users, rules.k, seen)
        if rules.popularity is None:
            return scores, items
        cold_rows = np.flatnonzero(is_cold)
        for at in range(0, len(cold_rows), self.step_of_cold):
            rows = cold_rows[at : at + self.step_of_cold]
            popular = rules.mask(rules.popularity.repeat(len(rows), 1), users[rows])
            best, best_items = top_k(popular, rules.k)
            scores[rows, : best.shape[1]] = best
            items[rows, : best.shape[1]] = best_items
        return scores, items


class _BestOfFew(_Best):
    """Of a few candidates, by the scores of their pairs alone."""

    def __init__(self, scorer: Any, rules: _Rules, candidates: np.ndarray) -> None:
        super().__init__(scorer, rules, max(1, MEMORY_BUDGET // (256 * len(candidates))))
        self.candidates = candidates

    def of_chunk(self, users: np.ndarray, is_cold: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        rules, candidates = self.rules, self.candidates
        codes = torch.from_numpy(candidates)
        pairs = torch.from_numpy(users).repeat_interleave(len(codes)), codes.repeat(len(users))
        scores = self.scorer.score(*pairs).float().cpu().view(len(users), -1)
        if rules.popularity is not None:
            scores[torch.from_numpy(is_cold)] = rules.popularity[codes]
        if rules.seen is not None:
            mask_seen(scores, rules.seen[users][:, candidates].tocsr())
        values, at = scores.topk(min(rules.k, len(candidates)), dim=1)
        return values, codes[at]


def _best(scorer: Any, rules: _Rules, n_users: int, candidates: np.ndarray | None) -> _Best:
    """The quickest of the four ways; `candidates` are codes, None for all items."""
    if candidates is not None:
        few = candidates if scorer.knows_cold else candidates[scorer.knows('item')[candidates]]
        if 0 < len(few) * ITEMS_PER_CANDIDATE <= scorer.catalog.n_items:
            return _BestOfFew(scorer, rules, few)
    else:
        index = scorer.item_index()
        if index is not None:
            return _BestByIndex(scorer, rules, index)
    ranker = ranker_for(scorer, n_users)
    if ranker is not None:
        return _BestByRanker(scorer, rules, ranker)
    return _BestByScores(scorer, rules)


# --- tables


def _titles(catalog: Catalog, items: np.ndarray) -> Any:
    """Titles of codes, as a column: where there are many rows, texts are converted once an item, not once a row."""
    if len(items) <= 2 * catalog.n_items:
        return catalog.titles(items)
    return pd.Series(catalog.titles(np.arange(catalog.n_items))).array.take(items)


def _tidy(
    catalog: Catalog,
    scores: torch.Tensor,  # (B, k), best first
    items: torch.Tensor,  # codes (B, k)
    users: Any = None,  # ids (B,); None: of a basket
    columns: Any = None,  # of `item_df`
) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    """A row for each finite score: user (if given), item, title (if known), score, rank, and `columns`.

    Returned are the table and of each of its rows where it was in the B, and the code of its item.
    """
    require_numbers(scores, masked=True)
    values = scores.cpu().numpy()
    at, place = np.nonzero(np.isfinite(values))
    codes = items.cpu().numpy()[at, place]
    names = catalog.columns
    df = pd.DataFrame({names['item']: catalog.vocab['item'].decode(codes)})
    if users is not None:
        df.insert(0, names['user'], users[at])
    if catalog.shows_titles:
        df['title'] = _titles(catalog, codes)
    df['score'] = values[at, place]
    df['rank'] = place + 1
    return with_item_columns(catalog, df, codes, columns), at, codes


def with_item_columns(catalog: Catalog, df: pd.DataFrame, codes: np.ndarray, columns: Any) -> pd.DataFrame:
    """The table with `columns` of `item_df` beside it, for the codes of its items; None: none."""
    if columns is None:
        return df
    return pd.concat([df, catalog.item_columns(columns, codes, [*df.columns, 'cold'])], axis=1)


def _table(
    scorer: Any, users: Any, is_cold: np.ndarray, chunks: list[tuple], cold: str, columns: Any = None
) -> pd.DataFrame:
    """The table of `recommend` for ids of users (n,), of whom some are cold, from chunks of scores and codes."""
    if chunks:
        scores, items = map(torch.cat, zip(*chunks))
    else:
        scores, items = torch.zeros(0, 1), torch.zeros(0, 1, dtype=torch.long)
    df, at, codes = _tidy(scorer.catalog, scores, items, users, columns)
    if cold == 'popular':
        df['score'] = df['score'].where(~is_cold[at])  # a count is not a score of the model
    return df.assign(cold=is_cold[at] | ~scorer.knows('item')[codes])


# --- the verbs


@check_arguments
def recommend(
    scorer: Any,  # a fitted learner, baseline, or any other `Scorer`
    users: Any,  # ids
    k: int = 10,  # items per user
    exclude_seen: bool = True,  # leave out what the user has in the training rows
    candidates: Any = None,  # only these items: ids or titles, a condition, or a function of `item_df` -> mask
    cold: str = 'popular',  # without training rows: 'popular' items, what the 'mean' user gets, or 'raise'
    # what to leave out, instead of the training rows: table (user, item), or entries (B, n_items)
    seen: pd.DataFrame | csr_matrix | None = None,
    to: str | Path | None = None,  # file to write, .parquet or .csv; None: a table in memory
    columns: Any = None,  # columns of `item_df` to show beside the items
) -> pd.DataFrame | Path:
    """The `k` best items of each of `users`; arguments as in `Scorer.recommend`.

    Users go through in chunks of a fixed memory budget. `TypeError` for what does not score, `ValueError` for another
    word in `cold`, `KeyError` for cold users under 'raise'.
    """
    if is_table(scorer) or isinstance(scorer, (str, list, dict)):
        raise TypeError(
            f'recommend(scorer, users) takes a trained learner or a fitted baseline first, got {type(scorer).__name__}:'
            ' learn.recommend(users)'
        )
    catalog = scorer.catalog
    if cold not in COLD_POLICIES:
        raise ValueError(f'cold={cold!r}: choose one of {first_few(COLD_POLICIES)}')
    codes = pd.unique(catalog.vocab['user'].encode(users))  # a list each, however often a user is named
    ids = catalog.vocab['user'].decode(codes)
    is_cold = ~scorer.knows('user')[codes]
    if cold == 'raise' and is_cold.any():
        raise KeyError(
            f'{is_cold.sum()} users have no training row: {first_few(ids[is_cold])}. '
            "cold='popular' gives them what is popular, cold='mean' what the average user would get"
        )
    k = checked_k(k, 'item')
    _table(scorer, ids, is_cold, [], cold, columns)  # says what is wrong with the columns
    allowed = catalog.candidates(candidates)
    forbidden = _forbidden(catalog, allowed)
    if not scorer.knows_cold:  # an untrained vector is never used
        if forbidden is None:
            forbidden = torch.zeros(catalog.n_items)
        forbidden[torch.from_numpy(~scorer.knows('item'))] = -torch.inf
    matrix = seen_matrix(catalog, seen, users=codes) if exclude_seen else None
    popularity = torch.from_numpy(catalog.counts['item'].astype(np.float32)) if cold == 'popular' else None
    best = _best(scorer, _Rules(k, forbidden, matrix, popularity), len(codes), allowed)
    parts = [slice(at, at + USERS_PER_TABLE) for at in range(0, len(codes), USERS_PER_TABLE)]
    with scorer.inference(), Progress(len(codes), 'recommending', 'users', scorer.shows_progress) as progress:
        if to is None:
            chunks = [chunk for part in parts for chunk in best.of(codes[part], is_cold[part], progress.update)]
            df = _table(scorer, ids, is_cold, chunks, cold, columns)
            return df if df['cold'].any() else df.drop(columns='cold')
        with TableWriter(to) as writer:
            for part in parts:
                chunks = best.of(codes[part], is_cold[part], progress.update)
                writer.write(_table(scorer, ids[part], is_cold[part], chunks, cold, columns))
            if not parts:
                writer.write(_table(scorer, ids, is_cold, [], cold, columns))
    return Path(to)


def recommend_basket(
    scorer: Any, basket: Any, k: int = 10, candidates: Any = None, columns: Any = None
) -> pd.DataFrame:
    """The `k` items that are nearest to the items of an anonymous `basket`: item, title, score, rank.

    score = mean cosine between the item's vector and the vectors of the basket, as in item-based collaborative
    filtering (Sarwar et al. 2001), with learned vectors in the place of rating columns; in [-1, 1]. Of scorers that
    read histories (`EASE`, `ItemKNN`) what a user with these items would be told.
    """
    catalog = scorer.catalog
    codes = np.unique(catalog.find_all(basket))
    if not len(codes):
        raise ValueError('the basket is empty')
    scores = scorer.basket_scores(codes)[None]
    scores[:, torch.from_numpy(codes)] = -torch.inf
    scores[:, torch.from_numpy(~scorer.knows('item'))] = -torch.inf  # a cold item's vector says nothing about it
    k = checked_k(k, 'item')
    forbidden = _forbidden(catalog, catalog.candidates(candidates))
    if forbidden is not None:
        scores += forbidden
    require_numbers(scores, masked=True)
    best, items = scores.topk(min(k, catalog.n_items), dim=1)
    return _tidy(catalog, best, items, columns=columns)[0]


def basket_cosines(scorer: Any, codes: np.ndarray) -> torch.Tensor:
    """Mean cosine of each item's vector with those of codes (n,): (n_items,)."""
    vectors = torch.nn.functional.normalize(scorer.vectors('item').float().cpu(), dim=1)
    return vectors @ vectors[torch.from_numpy(codes)].mean(0)


def recommend_users(
    scorer: Any,
    items: Any,  # one item (an id, a title, or a part of a title that matches one) or a list of them
    k: int = 10,
    exclude_seen: bool = True,
    users: Any = None,  # ids
    seen: pd.DataFrame | csr_matrix | None = None,
) -> pd.DataFrame:
    """The `k` best users of each of `items`; arguments as in `Scorer.recommend_users`.

    Users go through in chunks of a fixed memory budget.
    """
    catalog = scorer.catalog
    k = checked_k(k, 'user')
    asked = pd.unique(catalog.find_all(items))  # as of users: a list each
    is_known = scorer.knows('item')[asked]
    if not is_known.all() and not scorer.knows_cold:
        cold_items = first_few(catalog.vocab['item'].decode(asked[~is_known]))
        raise KeyError(f'item {cold_items} has no training row, and the model does not know what to make of that')
    codes = _users_to_ask(scorer, users)
    # (items, n_users): who has each of the items already
    matrix = seen_matrix(catalog, seen)[:, asked].T.tocsr() if exclude_seen else None
    scores, found = _best_users(scorer, asked, codes, k, matrix)
    at, place = np.nonzero(np.isfinite(scores))
    names = catalog.columns
    df = pd.DataFrame({names['item']: catalog.vocab['item'].decode(asked[at])})
    if catalog.shows_titles:
        df['title'] = catalog.titles(asked[at])
    df[names['user']] = catalog.vocab['user'].decode(found[at, place])
    df['score'] = scores[at, place]
    df['rank'] = place + 1
    if not is_known.all():
        df['cold'] = ~is_known[at]
    return df


def _users_to_ask(scorer: Any, users: Any) -> np.ndarray:
    """Codes of the users of whom the scorer knows something, of ids `users` if they are given."""
    catalog = scorer.catalog
    asked = scorer.knows('user').copy()
    if users is not None:
        asked &= np.isin(np.arange(catalog.n_users), catalog.vocab['user'].encode(users))
    codes = np.flatnonzero(asked)
    if not len(codes):
        raise ValueError('no user is left: none of users= has a training row')
    return codes


def _best_users(
    scorer: Any, items: np.ndarray, users: np.ndarray, k: int, seen: csr_matrix | None
) -> tuple[np.ndarray, np.ndarray]:
    """Scores and codes (n, k) of the best of `users` for codes of `items` (n,), but those in `seen` (n, n_users)."""
    at = torch.from_numpy(items)
    whole = scorer.reads_history  # scores of a pair cost as much as those of the whole catalogue
    scores_per_user = scorer.catalog.n_items if whole else len(items)
    step = max(1, min(MEMORY_BUDGET // (16 * scores_per_user), PAIRS_PER_ITEM))
    best = torch.zeros(len(items), 0)
    found = torch.zeros(len(items), 0, dtype=torch.int64)
    with scorer.inference(), Progress(len(users), 'asking', 'users', scorer.shows_progress) as progress:
        for chunk in np.split(users, range(step, len(users), step)):
            rows = torch.from_numpy(chunk)
            if whole:
                scores = scorer.score_items(rows)[:, at].T
            else:
                scores = torch.empty(len(items), len(rows))
                for place, item in enumerate(items):
                    scores[place] = scorer.score(rows, torch.full_like(rows, int(item)))
            scores = scores.float().cpu()
            require_numbers(scores)
            if seen is not None:
                mask_seen(scores, seen[:, chunk])
            scores, top = scores.topk(min(k, scores.shape[1]), dim=1)
            best = torch.cat([best, scores], 1)
            found = torch.cat([found, rows[top]], 1)
            best, top = best.topk(min(k, best.shape[1]), dim=1)
            found = found.gather(1, top)
            progress.update(len(chunk))
    return best.numpy(), found.numpy()


def pairs_of(catalog: Catalog, user: int, item: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes of users and of items (n,) whose mean prediction is that of a pair of codes, of which -1 is anybody.

    Anybody are all with training rows, `MEAN_OVER` of them, drawn by a fixed seed, where they are more; of a pair of
    whom neither is known so many pairs are drawn.
    """
    rng = np.random.default_rng(0)
    if user < 0 and item < 0:
        users, items = (rng.choice(np.flatnonzero(catalog.known(side)), MEAN_OVER) for side in ('user', 'item'))
    elif user < 0 or item < 0:
        anybody = np.flatnonzero(catalog.known('user' if user < 0 else 'item'))
        if len(anybody) > MEAN_OVER:
            anybody = rng.choice(anybody, MEAN_OVER, replace=False)
        given = np.full(len(anybody), max(user, item))
        users, items = (anybody, given) if user < 0 else (given, anybody)
    else:
        users, items = np.array([user]), np.array([item])
    return torch.from_numpy(users.astype(np.int64)), torch.from_numpy(items.astype(np.int64))
