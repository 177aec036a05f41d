"""What was predicted badly: rows with their losses, ranks of held-out items, means by user."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch
from torch.nn.functional import binary_cross_entropy

from ..data.catalog import Catalog, check_leakage
from ..evaluation.held_out import held_out_rows, relevant_rows, rows_of
from ..progress import Progress
from ..scorers.recommend import mask_seen, require_numbers
from ..scorers.scorer import Scorer
from .tables import of_pairs, target_column

__all__: list[str] = []

USERS_AT_A_TIME = 256  # whose scores of all items are held


def predicted(scorer: Scorer, scores: torch.Tensor) -> torch.Tensor:
    """What `predict` says: scores on the scale of the targets."""
    return scores.sigmoid() if scorer.scale == 'logit' else scores


# --- rows of scorers that have no loaders


def has_losses(scorer: Scorer, catalog: Catalog) -> bool:
    """Can a score be compared with what the rows hold: a rating with a rating, a probability with what is liked?"""
    inter, _ = rows_of(catalog)
    if catalog.thresholds is not None:
        return scorer.scale in ('logit', 'probability')
    return scorer.scale == 'rating' and inter.weights is None and inter.ratings is not None


def rows_with_losses(scorer: Scorer, catalog: Catalog, part: str) -> pd.DataFrame:
    """A row for each of a part of the split: user, item, title, rating (or liked), prediction, loss.

    The loss is the squared error of a rating; of what is liked -log of the probability of what was the case.
    `TypeError` where a score is neither.
    """
    inter, rows = held_out_rows(catalog, part)
    if not has_losses(scorer, catalog):
        raise TypeError(
            f'{type(scorer).__name__} ranks, and a rank has no loss: worst_ranks(k) shows the held-out items that came '
            "last, worst_users(k, metric='ndcg@10') who is served badly"
        )
    if part != 'train':
        check_leakage(scorer, catalog, rows)
    scores = scorer.score_rows(inter, rows).float().cpu()
    require_numbers(scores)
    prediction = predicted(scorer, scores)
    if catalog.thresholds is not None:
        target = torch.from_numpy(catalog.liked(rows)).float()
        loss = binary_cross_entropy(prediction.double(), target.double(), reduction='none')
    else:
        target = torch.from_numpy(inter.ratings[rows]).float()
        loss = (prediction - target).square()
    columns = {target_column(catalog): target.numpy(), 'prediction': prediction.numpy(), 'loss': loss.numpy()}
    return of_pairs(catalog, inter.users[rows].astype(np.int64), inter.items[rows].astype(np.int64), **columns)


# --- ranks


def ranks_of_held_out(scorer: Scorer, catalog: Catalog, part: str, relevant: float | None) -> pd.DataFrame:
    """Where each held-out item came among what its user has not: user, item, title, rank, candidates.

    Candidates are all items but those of the training rows (of the test part: nor of the valid rows); items that score
    alike have their mean rank.
    """
    if part == 'train':
        raise ValueError(
            'training rows are masked when ranking: RecInterpretation.from_learner(learn) looks at those held out'
        )
    inter, rows = held_out_rows(catalog, part)
    rows = relevant_rows(catalog, rows, relevant)
    check_leakage(scorer, catalog, rows)
    history = catalog.require_history()
    assert history.split is not None
    before = [history.split.train] if part == 'valid' else [history.split.train, history.split.valid]
    seen = history.matrix(np.concatenate(before))
    pairs = np.unique(inter.users[rows].astype(np.int64) * catalog.n_items + inter.items[rows])
    users, items = np.divmod(pairs, catalog.n_items)
    everybody = np.unique(users)
    found = []
    with scorer.inference(), Progress(len(everybody), 'ranking', 'users', scorer.shows_progress) as progress:
        for start in range(0, len(everybody), USERS_AT_A_TIME):
            chunk = everybody[start : start + USERS_AT_A_TIME]
            scores = scorer.score_items(torch.from_numpy(chunk)).float().cpu()
            require_numbers(scores)
            mask_seen(scores, seen[chunk])
            first, last = (int(np.searchsorted(users, o)) for o in (chunk[0], chunk[-1] + 1))
            of_row = np.asarray(np.searchsorted(chunk, users[first:last]))
            found.append(_ranks(scores, of_row, items[first:last]))
            progress.update(len(chunk))
    ranks, candidates = (np.concatenate(o) for o in zip(*found))
    return of_pairs(catalog, users, items, rank=ranks, candidates=candidates)


def _ranks(scores: torch.Tensor, rows: np.ndarray, items: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ranks (n,) of pairs in scores (B, n_items), -inf where an item is not a candidate, and how many candidates."""
    n_candidates = torch.isfinite(scores).sum(1)
    ranks = np.empty(len(rows))
    for n, (row, item) in enumerate(zip(rows, items)):
        own = scores[row, item]
        n_equal = int((scores[row] == own).sum())  # with the item itself
        ranks[n] = int((scores[row] > own).sum()) + (n_equal + 1) / 2
    return ranks, n_candidates[torch.from_numpy(rows)].numpy()


# --- by user


def errors_of_users(df: pd.DataFrame, user: str, rating: str) -> pd.DataFrame:
    """Rows, rmse, bias and mean_rating by user, of a table of ratings and predictions."""
    error = df['prediction'] - df[rating]
    table = pd.DataFrame({user: df[user], 'error': error, 'square': error**2, 'target': df[rating]}).groupby(user)
    res = table.agg(
        rows=('error', 'size'),
        rmse=('square', 'mean'),
        bias=('error', 'mean'),
        mean_rating=('target', 'mean'),
    )
    res['rmse'] **= 0.5
    return res


def losses_of_users(df: pd.DataFrame, user: str) -> pd.DataFrame:
    """Rows, loss, bias and the share that is liked by user, of a table of labels, probabilities and losses."""
    res = df.assign(bias=df['prediction'] - df['liked']).groupby(user)
    return res.agg(rows=('loss', 'size'), loss=('loss', 'mean'), bias=('bias', 'mean'), liked=('liked', 'mean'))


def worst(per_user: pd.DataFrame, by: str, k: int, min_rows: int, largest: bool) -> pd.DataFrame:
    """The `k` rows of a table by user with the largest (or smallest) value; `ValueError` where nobody has enough."""
    enough = per_user[per_user['rows'] >= min_rows]
    if not len(enough):
        most = per_user['rows'].max()
        raise ValueError(f'no user has min_rows={min_rows} rows here, the most have {most}: worst_users({k}, {most})')
    # of those with the same value first whoever has more rows
    return enough.sort_values([by, 'rows'], ascending=[not largest, False], kind='stable').head(k).reset_index()


def interval_in_words(interval: Any) -> str:
    """A quarter of numbers of rows: '12–40'."""
    if not isinstance(interval, pd.Interval):
        return str(interval)
    first = int(np.floor(interval.left))
    if not interval.closed_left:
        first += 1
    first, last = max(first, 1), int(np.floor(interval.right))
    return f'{first:,}–{last:,}' if last > first else f'{last:,}'
