"""Ranks of held-out items among candidates, and what metrics of lists look at."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pandas as pd
import torch
from scipy.sparse import csr_matrix

from ..data.catalog import Catalog, check_leakage, stored_ones
from ..data.columns import first_few
from ..data.sampling import NegativeSampler
from ..memory import require_memory
from ..progress import Progress
from ..scorers.baselines import HasCatalog, gram
from ..scorers.recommend import mask_seen, ranker_for, require_numbers, seen_matrix, top_k, users_at_a_time
from ..scorers.scorer import Scorer
from .held_out import catalog_of, check_count, chosen_users, held_out_rows, relevant_rows, rows_of
from .metrics import Ranks, TopK

__all__ = ['rank_held_out']

BYTES_PER_PAIR_OF_LIST = 40  # of how alike two items of a list are, on the way to a metric


# --- ranks of held-out items


def rank_held_out(
    scorer: Scorer,  # a fitted learner, baseline, or any other `Scorer`
    dls: HasCatalog | None = None,  # loaders whose held-out rows are ranked; by default the scorer's own
    split: str = 'valid',  # 'valid' or 'test'
    relevant: float | None = None,  # explicit ratings: held-out ratings from it on are relevant
    n_candidates: int | None = None,  # rank the held-out items among so many unseen ones drawn at random
    candidates: pd.DataFrame | csr_matrix | None = None,  # table (user, item): rank the held-out items among these only
    users: Any = None,  # user ids, or how many to draw at random (by `seed`); by default all with a held-out item
    seed: int = 0,  # of users that are drawn and of sampled candidates
    k: int = 0,  # how many recommendations to return of each user
    cut: float = np.inf,  # ranks beyond it may be inf, which spares counting them out
) -> tuple[np.ndarray, Ranks, torch.Tensor | None]:
    """-> codes of users with held-out items (n,), `Ranks` of those items, and the first `k` recommendations (n, k).

    The latter are codes, -1 where there are fewer (None if k=0); other arguments as in `evaluate_users`.

    Candidates are all items but those of the training rows (split='test': nor of the valid rows). Users go through in
    chunks of a fixed memory budget. `ValueError` for the part 'train'.
    """
    catalog = catalog_of(scorer, dls)
    inter, rows = held_out_rows(catalog, split)
    if split == 'train':
        raise ValueError("training rows are masked when ranking: choose split='valid' or 'test'")
    rows = relevant_rows(catalog, rows, relevant)
    check_leakage(scorer, catalog, rows)
    codes = chosen_users(catalog, rows, users, seed)
    ones: np.ndarray = np.ones(len(rows), np.int8)
    held_out = csr_matrix((ones, (inter.users[rows], inter.items[rows])), shape=(catalog.n_users, catalog.n_items))
    among = _candidates(catalog, split, held_out, codes, n_candidates, candidates, seed)
    # values of a ranker order a whole catalogue; candidates that are few are ranked by scores
    ranker = ranker_for(scorer, len(codes)) if isinstance(among, _Unseen) else None
    step = users_at_a_time(ranker, catalog.n_items)
    run = _RankingRun(scorer, scorer.score_items if ranker is None else ranker, held_out, among, k, cut)
    ranks = []
    top = []
    with scorer.inference(), Progress(len(codes), 'evaluating', 'users', scorer.shows_progress) as progress:
        for start in range(0, len(codes), step):
            chunk = codes[start : start + step]
            chunk_ranks, chunk_top = run.rank(chunk)
            ranks.append(chunk_ranks)
            top.append(chunk_top)
            progress.update(len(chunk))
    return codes, _joined(ranks), torch.cat(top) if k else None


@dataclass
class _RankingRun:
    """What each chunk of users goes through: scores, candidates, ranks."""

    scorer: Scorer
    score: Callable[[torch.Tensor], torch.Tensor]  # codes of users (B,) -> values (B, n_items) that order their items
    held_out: csr_matrix  # (n_users, n_items) with an entry for each item to be ranked
    candidates: _Candidates
    k: int  # length of the lists to return
    cut: float  # rank beyond which it does not matter

    def rank(self, users: np.ndarray) -> tuple[Ranks, torch.Tensor | None]:
        """Ranks of the held-out items of codes of users (B,), and their first `k` items (B, k), -1 where fewer."""
        scores = self.score(torch.from_numpy(users)).float()
        rows, items = _stored_entries(self.held_out[users], scores.device)
        scores, n_candidates = self.candidates.among(scores, users, rows, items)
        best, best_items = top_k(scores, self._n_best(scores.shape[1]))
        require_numbers(best, masked=True)
        last = best[:, int(self.cut) - 1] if self.cut <= best.shape[1] else None
        ranks = Ranks.of(scores, rows, items, last, n_candidates)
        if not self.k:
            return ranks, None
        return ranks, torch.where(torch.isfinite(best), best_items, -1)[:, : self.k].cpu()

    def _n_best(self, n_items: int) -> int:
        """How many of the best are looked for: to tell what is among the first `cut`, and to see what is not a number.

        Without a cut inside the catalogue the best one is enough.
        """
        return max(self.k, int(self.cut) if self.cut < n_items else 1)


def _joined(chunks: list[Ranks]) -> Ranks:
    """Ranks of chunks of users as those of all of them."""
    first_user = np.cumsum([0] + [len(chunk.n_candidates) for chunk in chunks])
    users = [chunk.users + int(first) for chunk, first in zip(chunks, first_user)]
    return Ranks(
        torch.cat([chunk.ranks for chunk in chunks]),
        torch.cat(users),
        torch.cat([chunk.n_candidates for chunk in chunks]),
    )


def _stored_entries(matrix: csr_matrix, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows and columns of the stored entries of a CSR matrix, int64 (n,) each."""
    rows: np.ndarray = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
    columns = matrix.indices.astype(np.int64)
    return torch.from_numpy(rows).to(device), torch.from_numpy(columns).to(device)


# --- candidates


class _Candidates(Protocol):
    """Which items the held-out ones are ranked among."""

    def among(
        self, scores: torch.Tensor, users: np.ndarray, rows: torch.Tensor, items: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Scores (B, n_items) of codes of users (B,), with -inf where an item is not a candidate; they may be changed.

        `rows` and `items` (n,) are the held-out entries, which are always candidates. And how many candidates there
        are, (B,), if it is known.
        """
        ...


class _Unseen:
    """The whole catalogue but what a user has."""

    def __init__(self, seen: csr_matrix) -> None:
        self.seen = seen

    def among(
        self, scores: torch.Tensor, users: np.ndarray, rows: torch.Tensor, items: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        seen = self.seen[users]
        mask_seen(scores, seen)
        n_seen = np.diff(seen.indptr).astype(np.int64)
        return scores, torch.from_numpy(scores.shape[1] - n_seen)


class _Given:
    """The items of a table."""

    def __init__(self, given: csr_matrix) -> None:
        self.given = given

    def among(
        self, scores: torch.Tensor, users: np.ndarray, rows: torch.Tensor, items: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        is_candidate = torch.zeros(scores.shape, dtype=torch.bool, device=scores.device)
        is_candidate[rows, items] = True
        is_candidate[_stored_entries(self.given[users], scores.device)] = True
        return torch.where(is_candidate, scores, -torch.inf), None


class _Sampled:
    """So many items, drawn at random for each user, that the user has not and that are not held out."""

    def __init__(self, sampler: NegativeSampler, n: int, seed: int) -> None:
        self.sampler = sampler
        self.n = n
        self.generator = torch.Generator().manual_seed(seed)

    def among(
        self, scores: torch.Tensor, users: np.ndarray, rows: torch.Tensor, items: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        is_candidate = torch.zeros(scores.shape, dtype=torch.bool, device=scores.device)
        is_candidate[rows, items] = True
        drawn = self.sampler.sample(torch.from_numpy(users), self.n, self.generator)
        is_candidate.scatter_(1, drawn.to(scores.device), True)
        return torch.where(is_candidate, scores, -torch.inf), None


def _candidates(
    catalog: Catalog,
    split: str,
    held_out: csr_matrix,  # (n_users, n_items) with an entry for each item to be ranked
    users: np.ndarray,  # codes of those who are evaluated
    n_candidates: int | None,
    candidates: pd.DataFrame | csr_matrix | None,
    seed: int,
) -> _Candidates:
    """The candidates that the arguments of `rank_held_out` ask for."""
    if n_candidates is not None and candidates is not None:
        raise ValueError('give n_candidates or candidates, not both')
    if candidates is not None:
        given = stored_ones(seen_matrix(catalog, candidates, unknown='raise').tocsr())
        _check_given(catalog, given[users], stored_ones(held_out)[users], users)
        return _Given(given)
    history = catalog.require_history()
    _, parts = rows_of(catalog)
    if split == 'valid':
        seen = history.seen
    else:
        seen = history.matrix(np.concatenate([parts.train, parts.valid]))
    if n_candidates is None:
        return _Unseen(seen)
    check_count('n_candidates', n_candidates, 'item')
    n_candidates = int(n_candidates)
    # What is seen or held out is not a negative; entries may be 0, and a sum of matrices leaves those out.
    sampler = NegativeSampler(stored_ones(seen) + stored_ones(held_out))
    left = sampler.left()[users]
    if left.min() < n_candidates:
        n_short = int((left < n_candidates).sum())
        raise ValueError(
            f'n_candidates={n_candidates}: {n_short:,} users have fewer unseen items (the fewest: {left.min()}). '
            'Take less, or the whole catalogue'
        )
    return _Sampled(sampler, n_candidates, seed)


def _check_given(catalog: Catalog, given: csr_matrix, held_out: csr_matrix, users: np.ndarray) -> None:
    """`ValueError` if any of `users`, codes (B,), has no candidate beside the held-out items; matrices (B, n_items).

    Whatever the scores, those items would have the first ranks.
    """
    n_others = np.diff(given.indptr) - np.asarray(given.multiply(held_out).sum(1)).ravel()
    without = users[n_others == 0]
    if len(without):
        named = first_few(catalog.vocab['user'].decode(without))
        raise ValueError(
            f'candidates=: {len(without):,} of {len(users):,} users have no item there beside what is held out, and '
            f'would be ranked perfectly, whatever the scores: {named}. Give them candidates, or leave them out: '
            'users=[ids of the others]'
        )


# --- what metrics of lists look at


def lists_of(
    catalog: Catalog,
    codes: np.ndarray,  # of users (n_users,)
    items: torch.Tensor,  # (n_users, k): codes of their lists, -1 where they are shorter
    split: str,
    relevant: float | None,
    vectors: torch.Tensor | np.ndarray | None,
    budget: int | None,
) -> TopK:
    """What `ListMetric`s look at; `MemoryError` where that is beyond the budget."""
    n_users, k = items.shape
    table = 4 * catalog.n_items**2 if vectors is None else 0
    way_out = 'take shorter lists, or users=1000'
    if table:
        way_out = 'give vectors=, such as learn.vectors(), in place of who has both'
    require_memory(
        table + BYTES_PER_PAIR_OF_LIST * n_users * k * k,
        f'how alike {catalog.n_items:,} items are, and those of {n_users:,} lists of {k},',
        way_out,
        budget,
        'evaluate(..., {})',
    )
    owned = catalog.require_history().positives
    who_has_what = csr_matrix((np.ones(owned.nnz, np.float32), owned.indices, owned.indptr), shape=owned.shape)
    owned_by_users = who_has_what[codes]
    n_owned = np.maximum(np.diff(owned.indptr)[codes], 1)
    counts: np.ndarray = catalog.counts['item'].astype(np.float32)
    codes_there = items.clamp(min=0)
    if vectors is None:
        cosines, near = _alike_by_users(catalog, who_has_what, owned_by_users, codes_there)
    else:
        cosines, near = _alike_by_vectors(vectors, owned_by_users, codes_there)
    return TopK(
        items=items,
        relevant=torch.from_numpy(_is_held_out(catalog, codes, items.numpy(), split, relevant)),
        counts=torch.from_numpy(counts),
        seen=torch.from_numpy((owned_by_users @ counts) / n_owned).double(),
        cosines=cosines.double(),
        near=near.double() / torch.from_numpy(n_owned)[:, None],
        n_train_users=int(catalog.known('user').sum()),
    )


def _is_held_out(
    catalog: Catalog, codes: np.ndarray, items: np.ndarray, split: str, relevant: float | None
) -> np.ndarray:
    """bool (n_users, k): which of the lists' items are held out (and relevant)."""
    inter, rows = held_out_rows(catalog, split)
    rows = relevant_rows(catalog, rows, relevant)
    pairs = np.sort(inter.users[rows].astype(np.int64) * catalog.n_items + inter.items[rows])
    asked = codes[:, None] * catalog.n_items + items
    nearest = np.searchsorted(pairs, asked).clip(max=len(pairs) - 1)
    return (items >= 0) & (pairs[nearest] == asked)


def _alike_by_users(
    catalog: Catalog, who_has_what: csr_matrix, owned: csr_matrix, items: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines (n_users, k, k) between the items (n_users, k) of each list, by who has them in training.

    And the sum of each item's cosines with what the user has (`owned`), (n_users, k). By the Gram matrix of the columns
    of `who_has_what`, since the columns themselves are as long as there are users.
    """
    norms = np.sqrt(np.maximum(catalog.counts['item'], 1)).astype(np.float32)
    alike = gram(who_has_what, np.float32)
    alike /= norms
    alike /= norms[:, None]
    near = []
    for owned_by_user, shown in zip(owned, items):
        sums = np.asarray(owned_by_user @ alike).ravel()
        near.append(torch.from_numpy(sums)[shown])
    cosines = torch.from_numpy(alike)[items[:, :, None], items[:, None]]
    return cosines, torch.stack(near)


def _alike_by_vectors(
    vectors: torch.Tensor | np.ndarray, owned: csr_matrix, items: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The same of vectors (n_items, d)."""
    unit = torch.nn.functional.normalize(torch.as_tensor(vectors).detach().float().cpu(), dim=1)
    sums = torch.from_numpy(np.asarray(owned @ unit.numpy()))  # (n_users, d): of what each user has
    shown = unit[items]  # (n_users, k, d)
    return shown @ shown.transpose(1, 2), (shown * sums[:, None]).sum(2)
