"""Losses for implicit feedback and for labels, and of ratings that count differently.

`loss(scores, target[, weight])`; with `reduction='none'` one value per row. Sampled losses take scores (B, 1 + n_neg)
with the positive in column 0, as `target` says (1 there, 0 elsewhere). Whole-catalogue losses take scores and target
(B, n_items), the target holding the user's positives. `weight` (B,) is the confidence of a row.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import nn

__all__ = ['BCELoss', 'BPRLoss', 'InBatchSoftmaxLoss', 'MSELoss', 'SampledSoftmaxLoss', 'SoftmaxLoss', 'WARPLoss']

Reduction = Literal['mean', 'sum', 'none']


class RankingLoss(nn.Module):
    """What the losses share: a value per row, weighted and reduced. The mean divides by the sum of weights.

    `ValueError` for another reduction.
    """

    pairs = False  # can a row be a single pair, as labels are?
    needs_items: bool = False  # is it to be given the codes of the items, as `items=`?

    def __init__(
        self,
        reduction: Reduction = 'mean',  # of the rows' values: 'mean', 'sum', or 'none': one value per row
    ) -> None:
        super().__init__()
        if reduction not in ('mean', 'sum', 'none'):
            raise ValueError(f"reduction={reduction!r}: 'mean', 'sum' or 'none'")
        self.reduction = reduction

    def forward(
        self,
        scores: torch.Tensor,  # of the model: (B, C), or (B,) of labelled pairs
        target: torch.Tensor,  # what they should be, of the same shape: a rating, or 1 and 0
        weight: torch.Tensor | None = None,  # confidence of each row, (B,); None: all alike
    ) -> torch.Tensor:
        """The reduced loss; arguments as in the module's text. `ValueError` where the shapes do not fit."""
        fits = scores.ndim == 2 or (self.pairs and scores.ndim == 1)
        if scores.shape != target.shape or not fits:
            raise ValueError(
                f'{type(self).__name__} compares scores of one row with each other: expected scores and target of one '
                f'shape (B, C), got {tuple(scores.shape)} and {tuple(target.shape)}. '
                "Make the DataLoaders with target='implicit'"
            )
        rows = self.rows(scores, target)
        if weight is not None:
            rows = rows * weight
        if self.reduction == 'none':
            return rows
        if self.reduction == 'sum':
            return rows.sum()
        return rows.mean() if weight is None else rows.sum() / weight.sum()

    def rows(
        self,
        scores: torch.Tensor,  # of the model: (B, C), or (B,) of labelled pairs
        target: torch.Tensor,  # what they should be, of the same shape
    ) -> torch.Tensor:
        """Value of each row: (B,)."""
        raise NotImplementedError(f'{type(self).__name__} has no rows(scores, target)')


class MSELoss(RankingLoss):
    """Squared error of ratings (B,), which may have weights."""

    pairs = True

    def rows(self, scores: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Value of each row: (B,)."""
        return (scores - target).square()


class PopularityDiscounted(RankingLoss):
    """What the softmax losses share: a discount on what is popular, for lists of more novelty at a price in accuracy.

    With d = `popularity_discount` the softmax is of s_i + d log p_i, p_i = (n_i + 1) / sum_j (n_j + 1) of the training
    positives n_i, and what ranks is s_i alone: the more of an item's popularity the loss explains, the less of it the
    scores have. This is the logit-adjusted loss of Menon et al., 'Long-tail learning via logit adjustment', ICLR 2021,
    eq. 10 (tau = d), whose d = 1 ranks as if all items were equally frequent; the 1 is for items without positives. The
    aim is that of Abdollahpouri et al., 'Controlling popularity bias in learning-to-rank recommendation', RecSys 2017,
    who add a regularizer to the loss. 0 by default: no discount. A learner gives the loss its counts (`set_counts`).
    """

    log_share: torch.Tensor | None  # (n_items,): log p_i

    def __init__(
        self,
        popularity_discount: float = 0.0,  # 0: none; 1: popularity counts for nothing
        reduction: Reduction = 'mean',  # of the rows' values: 'mean', 'sum', or 'none': one value per row
    ) -> None:
        super().__init__(reduction)
        if not 0 <= popularity_discount < math.inf:
            raise ValueError(
                f'popularity_discount={popularity_discount}: a number from 0, no discount, to about 1, where '
                'popularity counts for nothing'
            )
        self.popularity_discount = popularity_discount
        self.register_buffer('log_share', None, persistent=False)

    def set_counts(
        self,
        counts: Any,  # (n_items,) training positives of each item
    ) -> None:
        """Count popularity by these."""
        counts = torch.as_tensor(counts, dtype=torch.float64) + 1
        self.log_share = (counts / counts.sum()).log().float()

    @property
    def lacks_counts(self) -> bool:
        """Is there a discount, and nothing to count it by?"""
        return self.popularity_discount > 0 and self.log_share is None

    def discounted(
        self,
        scores: torch.Tensor,  # (B, C)
        items: torch.Tensor | slice,  # codes of what was scored, which broadcast to (B, C)
    ) -> torch.Tensor:
        """s + d log p: (B, C). `ValueError` where there is a discount, and the counts are not there."""
        if not self.popularity_discount:
            return scores
        if self.log_share is None:
            raise ValueError(
                f'{type(self).__name__}(popularity_discount={self.popularity_discount:g}) needs to know how popular '
                'items are, which a learner tells it: give it as loss_func=, or call '
                'loss.set_counts(dls.catalog.counts["item"])'
            )
        return scores + self.popularity_discount * self.log_share[items]


class BCELoss(RankingLoss):
    """Binary cross-entropy of the logits, averaged over the positive and its negatives (He et al. 2017, eq. 7).

    Scores become probabilities. Scores and target (B,) are labelled pairs, as `target='liked'` gives.
    """

    pairs = True

    def rows(self, scores: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Value of each row: (B,)."""
        values = F.binary_cross_entropy_with_logits(scores, target, reduction='none')
        return values if values.ndim == 1 else values.mean(1)

    def activation(
        self,
        scores: torch.Tensor,  # logits, any shape
    ) -> torch.Tensor:
        """Probabilities of the logits; fastai's `get_preds` applies it."""
        return scores.sigmoid()


class BPRLoss(RankingLoss):
    """-log sigmoid(positive - negative), averaged over the negatives.

    Rendle et al. 2009, BPR-OPT without its regularizer.
    """

    def rows(self, scores: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Value of each row: (B,)."""
        return F.softplus(scores[:, 1:] - scores[:, :1]).mean(1)


class WARPLoss(RankingLoss):
    """Hinge of the violating negatives, weighted by the estimated rank of the positive.

    After Weston et al. 2011, WSABIE. Row value: L(r) * mean over negatives of max(0, 1 - positive + negative), with
    L(r) = sum_{i<=r} 1/i and r = share of violating negatives (margin 1) times the items that could violate. Deviation:
    the paper draws negatives until one violates and estimates the rank from the number of draws; here all drawn
    negatives estimate it at once, which a GPU can do.
    """

    def __init__(
        self,
        n_items: int,  # in the catalogue
        reduction: Reduction = 'mean',
    ) -> None:
        super().__init__(reduction)
        self.n_items = n_items
        ranks = torch.arange(1, max(n_items, 2), dtype=torch.float64)
        harmonic = torch.cumsum(1 / ranks, 0).float()
        self.register_buffer('harmonic', torch.cat([torch.zeros(1), harmonic]), persistent=False)  # L(r)

    def rows(self, scores: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Value of each row: (B,)."""
        margins = F.relu(1 - scores[:, :1] + scores[:, 1:])
        violating = (margins > 0).float().mean(1)
        rank = (violating * (self.n_items - 1)).round().long()
        return self.harmonic[rank] * margins.mean(1)


class SampledSoftmaxLoss(PopularityDiscounted):
    """Cross-entropy of the positive among itself and its negatives.

    Row value: -log softmax(s)[0]. With `log_q`, a negative's score becomes s - log(n_neg * q), so that the negatives'
    sum estimates that of the whole catalogue (Bengio and Senécal 2008, importance sampling; the positive is there for
    certain and stays as it is). The learner hands over the items because `needs_items` says so.
    """

    def __init__(
        self,
        log_q: Any = None,  # (n_items,) log probability of each item in the sampler; None: no correction
        reduction: Reduction = 'mean',
        popularity_discount: float = 0.0,  # from 0 to 1, see `PopularityDiscounted`
    ) -> None:
        super().__init__(popularity_discount, reduction)
        self.needs_items = log_q is not None or popularity_discount > 0
        if log_q is not None:
            log_q = torch.as_tensor(log_q, dtype=torch.float32)
        self.register_buffer('log_q', log_q, persistent=False)

    def forward(
        self,
        scores: torch.Tensor,
        target: torch.Tensor,
        weight: torch.Tensor | None = None,
        items: torch.Tensor | None = None,  # (B, 1 + n_neg): the codes that were scored, if it `needs_items`
    ) -> torch.Tensor:
        """The reduced loss. `ValueError` without the codes of the items where they are needed."""
        if items is None and self.needs_items:
            raise ValueError(
                'a SampledSoftmaxLoss with log_q or popularity_discount needs items=, the codes (B, C) that were scored'
            )
        if items is not None:
            scores = self.discounted(scores, items)
        if self.log_q is not None and items is not None:
            n_neg = scores.shape[1] - 1
            negatives = scores[:, 1:] - self.log_q[items[:, 1:]] - math.log(n_neg)
            scores = torch.cat([scores[:, :1], negatives], 1)
        return super().forward(scores, target, weight)

    def rows(self, scores: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Value of each row: (B,)."""
        return -scores.log_softmax(1)[:, 0]


class InBatchSoftmaxLoss(PopularityDiscounted):
    """Cross-entropy of each row's positive among the distinct items of the batch, corrected for their popularity.

    scores and target (B, C), a column per item of the batch: target 1 for the row's positive, -1 where the item is not
    a negative (the user has it, too), 0 elsewhere. Row value: -s_+ + log(exp(s_+) + sum_j exp(s_j - log q_j)) over the
    columns of target 0, with q_j = 1 - (1 - p_j)^B the chance that item j of share p_j among the positives is in a
    batch of B: the sum estimates that over all items, without bias (Yi et al., 'Sampling-bias-corrected neural modeling
    for large corpus item recommendations', RecSys 2019). Deviations: an item that is in the batch several times is one
    column, which has less variance; p_j is counted, where they estimate it from a stream; the positive, which is in the
    batch for certain, is not corrected. The learner hands over the items because `needs_items` says so.
    """

    needs_items = True

    def __init__(
        self,
        counts: Any,  # (n_items,) training positives of each item
        reduction: Reduction = 'mean',
        popularity_discount: float = 0.0,  # from 0 to 1, see `PopularityDiscounted`
    ) -> None:
        super().__init__(popularity_discount, reduction)
        self.set_counts(counts)
        counts = torch.as_tensor(counts, dtype=torch.float64)
        counts = counts.clamp(min=1)  # an item of the validation rows alone counts as rare, not as impossible
        share = (counts / counts.sum()).clamp(max=1 - 1e-9)
        self.register_buffer('log_absent', torch.log1p(-share).float(), persistent=False)  # log(1 - p_j)

    def forward(
        self,
        scores: torch.Tensor,
        target: torch.Tensor,
        weight: torch.Tensor | None = None,
        items: torch.Tensor | None = None,  # (1, C): the codes of the columns
    ) -> torch.Tensor:
        """The reduced loss. `ValueError` without the codes of the items."""
        if items is None or items.shape != (1, scores.shape[1]):
            raise ValueError(
                'an InBatchSoftmaxLoss takes scores (B, C) and the codes items=(1, C) of their columns: '
                'make the DataLoaders with n_neg=0'
            )
        self._log_q = torch.log(-torch.expm1(len(scores) * self.log_absent[items[0]]))
        return super().forward(self.discounted(scores, items), target, weight)

    def rows(self, scores: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Value of each row: (B,)."""
        at = target.argmax(1, keepdim=True)
        own = scores.gather(1, at)
        logits = (scores - self._log_q).masked_fill(target < 0, -torch.inf).scatter(1, at, own)
        return logits.logsumexp(1) - own.squeeze(1)


class SoftmaxLoss(PopularityDiscounted):
    """Multinomial cross-entropy over the whole catalogue: - sum_i x_ui log softmax(s_u)_i, a row per user.

    Liang et al. 2018, eq. 2. With n_u = sum_i x_ui, the row counts n_u^(power - 1), over the mean of n_u^power in the
    batch, so that the loss has the size of one interaction's. `power=1` is the likelihood of the paper, where a user
    counts as often as they chose; with 0 all users count the same; between them users with long histories have more to
    say about items and do not drown the others. A target of -1 masks an item (the training items of a validation row):
    it is not a candidate.
    """

    def __init__(
        self,
        power: float = 0.5,  # from 0, users count alike, to 1, their interactions do
        reduction: Reduction = 'mean',
        popularity_discount: float = 0.0,  # from 0 to 1, see `PopularityDiscounted`
    ) -> None:
        super().__init__(popularity_discount, reduction)
        self.power = power

    def rows(self, scores: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Value of each row: (B,)."""
        scores = self.discounted(scores, slice(None))  # a column per item
        positive = target.clamp(min=0)
        n = positive.sum(1)
        log_sum = scores.masked_fill(target < 0, -torch.inf).logsumexp(1)
        # - sum_i x_i (s_i - log_sum), in the two terms that take fewest passes over (B, n_items)
        rows = log_sum * n - torch.linalg.vecdot(scores, positive)
        weight = n.clamp(min=1e-8).pow(self.power - 1)
        mean_weight = n.pow(self.power).mean().clamp(min=1e-8)
        return rows * weight / mean_weight
