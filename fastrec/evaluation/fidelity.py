"""Do explanations say what matters? What `because` names is taken out, and the score has to move."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ..data.catalog import Catalog
from ..keywords import check_arguments
from ..scorers.carried import Own, as_ratings, in_order, own_rows
from ..scorers.recommend import checked_k, mask_seen
from ..scorers.scorer import Scorer, require_scorer

__all__ = ['because_fidelity']

FEWEST = 10  # items that a user has, at least: of three out of four nothing could be told


@check_arguments
def because_fidelity(
    scorer: Scorer,  # a learner or another trained scorer with a `fold_in`
    n_users: int = 100,  # how many are drawn
    k: int = 3,  # items that are named, and taken out
    n_random: int = 3,  # draws of `k` of the user's items beside them
    seed: int = 0,  # of the draws
) -> dict[str, Any]:
    """How much farther a score moves without the `k` items that `because` names than without `k` drawn at random.

    Of `n_users` users with ten items or more: the item that is recommended first is explained, the `k` items that
    carried its score most are taken out of what the user has, and the user is folded in again (`fold_in`). 'named' and
    'random' are the mean distances from the score of the user folded in with everything, 'ratio' the one by the other;
    with 'users', 'k' and 'method'. Removing is the test that needs no truth from outside (Samek et al. 2017,
    'Evaluating the visualization of what a deep neural network has learned', there pixels of pictures).

    `TypeError` for scorers that fold nobody in, `ValueError` where there is no such user, or no history.
    """
    require_scorer(scorer, 'because_fidelity')
    k = checked_k(k, 'item')
    catalog = scorer.require_trained()
    history = catalog.require_history()
    rng = np.random.default_rng(seed)
    sizes = np.diff(history.positives.indptr)
    users = np.flatnonzero(sizes >= max(FEWEST, 3 * k))
    if not len(users):
        raise ValueError(f'no user has {max(FEWEST, 3 * k)} items, which this takes some out of')
    users = rng.permutation(users)[:n_users]
    explainer = scorer.explainer()
    variants: list[Own] = []  # of each user: everything, without what is named, without each draw
    explained: list[int] = []  # the item of each variant
    with scorer.inference():
        for user in users.tolist():
            own = own_rows(catalog, user)
            item = _best_unseen(scorer, catalog, user)
            order = in_order(explainer.of(user, item, own).contributions[:, 0])
            counts = np.ones(len(own.items), bool) if own.is_rated else own.values > 0
            draws = [rng.choice(np.flatnonzero(counts), k, replace=False) for _ in range(n_random)]
            variants += [own, *(own.without(places) for places in (order[counts[order]][:k], *draws))]
            explained += [int(item[0])] * (2 + n_random)
        scores = _folded_scores(scorer, catalog, variants, explained).reshape(len(users), 2 + n_random)
    moved = np.abs(scores[:, :1] - scores[:, 1:])
    named, at_random = moved[:, 0].mean(), moved[:, 1:].mean()
    return dict(
        ratio=float(named / max(at_random, 1e-12)),
        named=float(named),
        random=float(at_random),
        users=len(users),
        k=k,
        method=explainer.method,
    )


def is_quick_to_measure(scorer: Scorer) -> bool:
    """Does `because_fidelity` take about a second? Not where folding in goes over the whole catalogue, or by slopes."""
    over_catalogue = scorer.scale == 'rank' or (scorer.scale == 'logit' and scorer.catalog.thresholds is None)
    return scorer.explainer().is_quick and (scorer.reads_history or not over_catalogue)


def _best_unseen(scorer: Scorer, catalog: Catalog, user: int) -> np.ndarray:
    """Code of the item that the user is recommended first, int64 (1,)."""
    scores = scorer.score_items(torch.tensor([user])).float().cpu().clone()
    mask_seen(scores, catalog.require_history().seen[[user]])
    scores[:, torch.from_numpy(~scorer.knows('item'))] = -torch.inf
    return scores.argmax(1).numpy()


def _folded_scores(scorer: Scorer, catalog: Catalog, variants: list[Own], items: list[int]) -> np.ndarray:
    """Scores (n,) of items (n codes) for new users who have what `variants` (n) say."""
    folded = scorer.fold_in(as_ratings(catalog, variants))
    users = torch.from_numpy(folded.vocab['user'].encode(np.arange(len(variants))))
    return folded.score(users, torch.tensor(items)).double().cpu().numpy()
