"""Scorers combined into one."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager

import numpy as np
import pandas as pd
import torch

from ..data.columns import column_of, first_few
from .scorer import Scorer

__all__ = ['Blend', 'Ensemble']


def standardised(scores):
    """Each user's scores (B, n_items) with mean 0 and standard deviation 1 over the catalogue."""
    return (scores - scores.mean(1, keepdim=True)) / scores.std(1, keepdim=True).clamp(min=1e-9)


def _same_ids(scorers):
    if any(s.vocab != scorers[0].vocab for s in scorers):
        raise ValueError('the scorers were fitted to different users or items: fit all of them to the same loaders')


class Blend(Scorer):
    """Weighted sum of scorers, each standardised over the catalogue per user: sum_m w_m (s_m - mean_i s_m) / std_i s_m.

    For ranking: models that err differently, such as a learner and `EASE`, are often better together than each alone. Choose the weights on validation
    data. All scorers have to know the same users and items.
    """

    scale = 'rank'

    def __init__(
        self,
        scorers: list,  # fitted scorers
        weights: list = None,  # one each; None: equal
    ):
        scorers = list(scorers.values() if isinstance(scorers, dict) else scorers)
        if not scorers:
            raise ValueError('nothing to blend')
        self.scorers, self.weights = scorers, [1 / len(scorers)] * len(scorers) if weights is None else list(weights)
        if len(self.weights) != len(scorers):
            raise ValueError(f'{len(scorers)} scorers, but {len(self.weights)} weights')
        _same_ids(scorers)
        self.catalog = scorers[0].catalog
        self.knows_cold = all(s.knows_cold for s in scorers)

    def parts(self):
        """The blended scorers."""
        return self.scorers

    def knows(self, side: str = 'item'):
        """bool (n,): users or items of which any of the scorers knows something."""
        return np.any([s.knows(side) for s in self.scorers], axis=0)

    @contextmanager
    def inference(self):
        with ExitStack() as stack:
            for s in self.scorers:
                stack.enter_context(s.inference())
            yield

    @property
    def shows_progress(self):
        return all(s.shows_progress for s in self.scorers)

    def score_items(self, users):
        """Blended scores of all items: codes (B,) -> (B, n_items), on the CPU."""
        total = 0.0
        for weight, scorer in zip(self.weights, self.scorers):
            total = total + weight * standardised(scorer.score_items(users).float().cpu())
        return total

    def score(self, users, items):
        """Blended scores of pairs of codes: (n,), (n,) -> (n,)."""
        users, at = torch.unique(torch.as_tensor(users), return_inverse=True)
        return self.score_items(users)[at, torch.as_tensor(items)]


class Ensemble(Scorer):
    """The mean of members that differ in what training left to chance (seeds: start, order of rows), or in more, and how far they are apart.

    Averaging takes the variance out of the error (Lakshminarayanan et al., 'Simple and Scalable Predictive Uncertainty Estimation using Deep Ensembles', NeurIPS 2017). The spread, the standard deviation of the
    members' scores, says where training data do not settle a score; it knows nothing of the noise of the ratings themselves, so errors are larger. Ratings, logits and probabilities are averaged as they are;
    scores that only rank are standardised over the catalogue per user first, since each member has a scale of its own.

    `ensemble_learner` makes one of learners: `fit`, `fit_one_cycle`, `fit_flat_cos` and `fine_tune` then train all of them, one after the other, each with a seed of its own; torch's global generator stays as it is.
    """

    def __init__(
        self,
        members: list,  # scorers of the same users and items
        seed: int = 0,  # member i is trained with seed + i
    ):
        members = list(members.values() if isinstance(members, dict) else members)
        if not members:
            raise ValueError('an ensemble needs members')
        _same_ids(members)
        if len(scales := {m.scale for m in members}) > 1:
            raise ValueError(
                f'members have scores of different kinds ({first_few(sorted(scales))}), of which there is no mean: combine them with Blend, which standardises'
            )
        self.members, self.seed, self.scale, self.catalog = members, seed, members[0].scale, members[0].catalog
        self.knows_cold = all(m.knows_cold for m in members)

    def __len__(self):
        return len(self.members)

    def __repr__(self):
        return f'Ensemble({len(self)} x {first_few(dict.fromkeys(repr(m if m.model is None else m.model).split("(")[0] for m in self.members))}, {self.scale}, {self.catalog})'

    # --- training

    def _each(self, verb, *args, **kwargs):
        if not all(hasattr(m, verb) for m in self.members):
            raise TypeError(
                f'members of type {first_few(sorted({type(m).__name__ for m in self.members}))} have no {verb}: an ensemble is trained where its members are learners (ensemble_learner)'
            )
        for i, member in enumerate(self.members):
            with torch.random.fork_rng():
                torch.manual_seed(self.seed + i)
                getattr(member, verb)(*args, **kwargs)

    def fit(self, n_epoch, lr=None, **kwargs):
        """Each member's `fit`; arguments as there."""
        self._each('fit', n_epoch, lr, **kwargs)

    def fit_one_cycle(self, n_epoch, lr_max=None, **kwargs):
        """Each member's `fit_one_cycle`; arguments as there."""
        self._each('fit_one_cycle', n_epoch, lr_max, **kwargs)

    def fit_flat_cos(self, n_epoch, lr=None, **kwargs):
        """Each member's `fit_flat_cos`; arguments as there."""
        self._each('fit_flat_cos', n_epoch, lr, **kwargs)

    def fine_tune(self, epochs, base_lr=2e-3, **kwargs):
        """Each member's `fine_tune`; arguments as there."""
        self._each('fine_tune', epochs, base_lr, **kwargs)

    def inference(self):
        return self._all('inference')

    @property
    def shows_progress(self):
        return all(m.shows_progress for m in self.members)

    @contextmanager
    def _all(self, context):
        with ExitStack() as stack:
            for m in self.members:
                stack.enter_context(getattr(m, context)())
            yield self

    def no_bar(self):
        """Context in which no member shows a progress bar."""
        return self._all('no_bar')

    def no_logging(self):
        """Context in which no member prints its table."""
        return self._all('no_logging')

    @property
    def dls(self):
        """The loaders that the members were made for."""
        return self.members[0].dls

    # --- scores

    def parts(self):
        """The members."""
        return self.members

    def knows(self, side: str = 'item'):
        """bool (n,): users or items of which any of the members knows something."""
        return np.any([m.knows(side) for m in self.members], axis=0)

    def _comparable(self, scores):
        return standardised(scores) if self.scale == 'rank' else scores

    def in_context(self, values: dict):
        """The ensemble in one situation: its members' `in_context`."""
        if without := [m for m in self.members if not m.reads_context]:
            raise TypeError(f'members of type {type(without[0]).__name__} read no context')
        return Ensemble([m.in_context(values) for m in self.members], self.seed)

    def member_scores(self, users, items, context=None) -> torch.Tensor:
        """What each member says of pairs of codes: (n,), (n,)[, context (n, columns)] -> (members, n), on the CPU."""
        users, items = torch.as_tensor(users), torch.as_tensor(items)
        if self.scale != 'rank':
            return torch.stack(
                [
                    m.score(users, items, *([context] if context is not None and m.reads_context else [])).float().cpu()
                    for m in self.members
                ]
            )
        users, at = torch.unique(users, return_inverse=True)
        parts = [torch.empty(len(at)) for _ in self.members]
        for j in torch.arange(len(users)).split(max(1, 2**25 // self.catalog.n_items)):  # 128 MiB of scores
            mine = (at >= j[0]) & (at <= j[-1])
            for part, m in zip(parts, self.members):
                part[mine] = self._comparable(m.score_items(users[j]).float().cpu())[at[mine] - j[0], items[mine]]
        return torch.stack(parts)

    def score_rows(self, interactions, rows):
        """Mean scores of rows of `interactions`, each in its context as far as members read it: int array (n,) -> (n,)."""
        if self.scale == 'rank':
            return super().score_rows(interactions, rows)
        return torch.stack([m.score_rows(interactions, rows).float().cpu() for m in self.members]).mean(0)

    def score(self, users, items):
        """Mean scores of pairs of codes: (n,), (n,) -> (n,)."""
        return self.member_scores(users, items).mean(0)

    def spread(self, users, items) -> torch.Tensor:
        """Standard deviation of the members' scores of pairs of codes: (n,), (n,) -> (n,)."""
        return self.member_scores(users, items).std(0, correction=0)

    def score_items(self, users):
        """Mean scores of all items: codes (B,) -> (B, n_items), on the CPU."""
        return sum(self._comparable(m.score_items(users).float().cpu()) for m in self.members) / len(self)

    def get_preds(self, ds_idx=1, dl=None, with_spread: bool = False, **kwargs):
        """Mean predictions and targets, as a learner's `get_preds`; then, `with_spread`, the standard deviation of the members' predictions."""
        results = [m.get_preds(ds_idx, dl, **kwargs) for m in self.members]
        preds = torch.stack(
            [
                self._comparable(r[0]) if r[0].dim() == 2 and r[0].shape[1] == self.catalog.n_items else r[0]
                for r in results
            ]
        )
        return (preds.mean(0), *results[0][1:], *([preds.std(0, correction=0)] if with_spread else []))

    def predict(self, user, item=None) -> float:
        """Predicted score of one pair, the members' mean: `predict(user, item)` or `predict((user, item))`, ids as in the table."""
        if self.scale != 'rank':
            return float(np.mean([m.predict(user, item) for m in self.members]))
        user, item = user if item is None else (user, item)
        return self.score(
            *(torch.from_numpy(self.vocab[side].encode([o])) for side, o in (('user', user), ('item', item)))
        ).item()

    def predictions(self, pairs) -> pd.DataFrame:
        """A row for each pair of a table (or list) of users and items, in the context that it has columns of: user, item, title (if known), score, spread."""
        df = pairs if isinstance(pairs, pd.DataFrame) else pd.DataFrame(list(pairs), columns=['user', 'item'])
        ids = {side: df[column_of(df, side, self.catalog.names)].to_numpy() for side in ('user', 'item')}
        users, items = (torch.from_numpy(self.vocab[side].encode(o)) for side, o in ids.items())
        scores = self.member_scores(
            users,
            items,
            None if self.catalog.context_of is None else torch.from_numpy(self.catalog.context_of.encode(df)),
        )
        res = pd.DataFrame(ids)
        if self.catalog.title_name is not None:
            res['title'] = self.catalog.titles(items.numpy())
        return res.assign(score=scores.mean(0).numpy(), spread=scores.std(0, correction=0).numpy())

    def vectors(self, side: str = 'item') -> torch.Tensor:
        """Members' vectors side by side, (n, sum of d), of 'user' or 'item': their dot product is the mean of the members'."""
        return torch.cat([m.vectors(side).float().cpu() for m in self.members], 1) / len(self) ** 0.5

    def biases(self, side: str = 'item') -> torch.Tensor:
        """Mean biases, (n,), of 'user' or 'item'."""
        return sum(m.biases(side).float().cpu() for m in self.members) / len(self)
