"""Scorers combined into one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from numbers import Real
from operator import methodcaller
from typing import Any

import numpy as np
import pandas as pd
import torch

from ..data.columns import as_frame, column_of, first_few, is_table
from ..data.interactions import Interactions
from ..keywords import check_arguments
from .carried import Explainer, PartsTogether
from .linear import ItemWeights
from .recommend import require_numbers
from .scorer import Scorer, require_scorer

__all__ = ['Blend', 'Ensemble']

SCORES_AT_A_TIME = 2**25  # of whole catalogues, from which scores of pairs are picked: 128 MiB


def standardized(scores: torch.Tensor) -> torch.Tensor:
    """Each user's scores (B, n_items) with mean 0 and standard deviation 1 over the catalogue."""
    return (scores - scores.mean(1, keepdim=True)) / scores.std(1, keepdim=True).clamp(min=1e-9)


def _as_list(scorers: Iterable[Scorer] | Mapping[Any, Scorer]) -> list:
    """The scorers of a sequence, or of a dict by name; `TypeError` for what is neither, and for what does not score."""
    if isinstance(scorers, Scorer) or not isinstance(scorers, Iterable):
        raise TypeError(f'several scorers are put together, in a list or a dict by name, got {type(scorers).__name__}')
    res = list(scorers.values() if isinstance(scorers, Mapping) else scorers)
    for scorer in res:
        require_scorer(scorer, 'what puts scorers together')
    return res


def _by_name(scorers: Any, weights: Mapping[Any, float]) -> list[float]:
    """The weights in the order of the scorers, which have the same names."""
    if not isinstance(scorers, Mapping):
        raise TypeError('weights by name are for scorers by name: give both as a dict, or a list of weights')
    if set(scorers) != set(weights):
        raise ValueError(
            f'the scorers are called {first_few(scorers, 20)}, the weights {first_few(weights, 20)}: '
            'give each scorer a weight by its name'
        )
    return [weights[name] for name in scorers]


def _check_same_ids(scorers: Sequence[Scorer]) -> None:
    if any(s.vocab != scorers[0].vocab for s in scorers):
        raise ValueError('the scorers were fitted to different users or items: fit all of them to the same loaders')


class Blend(Scorer):
    """Weighted sum of scorers, each standardized over the catalogue per user: sum_m w_m (s_m - mean_i s_m) / std_i s_m.

    For ranking: models that err differently, such as a learner and `EASE`, are often better together than each alone.
    Choose the weights on validation data. All scorers have to know the same users and items. `ValueError` without
    scorers and for another number of weights, `TypeError` for weights that are not numbers.
    """

    scale = 'rank'

    @check_arguments
    def __init__(
        self,
        scorers: Iterable[Scorer] | Mapping[Any, Scorer],  # fitted scorers, or a dict of them by name
        # one each, of a dict of scorers also by the same names; None: equal
        weights: Iterable[float] | Mapping[Any, float] | None = None,
    ) -> None:
        if isinstance(weights, Mapping):
            weights = _by_name(scorers, weights)
        self.scorers = _as_list(scorers)
        if not self.scorers:
            raise ValueError('nothing to blend')
        n = len(self.scorers)
        self.weights = [1 / n] * n if weights is None else list(weights)
        if len(self.weights) != n:
            raise ValueError(f'{n} scorers, but {len(self.weights)} weights')
        if not all(isinstance(weight, Real) for weight in self.weights):
            raise TypeError(f'weights={self.weights!r}: a number for each scorer')
        _check_same_ids(self.scorers)
        self.catalog = self.scorers[0].catalog
        self.knows_cold = all(s.knows_cold for s in self.scorers)
        self._remember_parts()

    def __repr__(self) -> str:
        parts = ' + '.join(f'{weight:.2g} {_kind(s)}' for weight, s in zip(self.weights, self.scorers))
        return f'Blend({parts}, {self.catalog})'

    def config(self) -> dict[str, Any]:
        """Arguments of the constructor: the weights."""
        return dict(weights=self.weights)

    def parts(self) -> list[Scorer]:
        """The blended scorers."""
        return self.scorers

    def explainer(self) -> Explainer:
        """As in `Scorer`: the weighted sums of what the parts say."""
        return PartsTogether(self, self.weights, standardized=True)

    def knows(self, side: str = 'item') -> np.ndarray:
        """bool (n,): users or items of which any of the scorers knows something."""
        return np.any([s.knows(side) for s in self.scorers], axis=0)

    @contextmanager
    def inference(self) -> Iterator[None]:
        """Context of many calls in a row: that of all the scorers."""
        with ExitStack() as stack:
            for scorer in self.scorers:
                stack.enter_context(scorer.inference())
            yield

    @property
    def shows_progress(self) -> bool:  # type: ignore[override]  # that of the scorers, nothing to be set
        """May its verbs show a bar? Where all scorers may."""
        return all(s.shows_progress for s in self.scorers)

    def score_items(self, users: torch.Tensor) -> torch.Tensor:
        """Blended scores of all items: codes (B,) -> (B, n_items), on the CPU."""
        self.require_current()
        total = torch.zeros(())
        for weight, scorer in zip(self.weights, self.scorers):
            total = total + weight * standardized(scorer.score_items(users).float().cpu())
        return total

    def score(self, users: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        """Blended scores of pairs of codes: (n,), (n,) -> (n,)."""
        distinct, of_pair = torch.unique(torch.as_tensor(users), return_inverse=True)
        return self.score_items(distinct)[of_pair, torch.as_tensor(items)]


class Ensemble(Scorer):
    """The mean of members that differ in what training left to chance, or in more, and how far they are apart.

    What is left to chance are seeds: the start, the order of rows. Averaging takes the variance out of the error
    (Lakshminarayanan et al., 'Simple and Scalable Predictive Uncertainty Estimation using Deep Ensembles', NeurIPS
    2017). The spread, the standard deviation of the members' scores, says where training data do not settle a score;
    it knows nothing of the noise of the ratings themselves, so errors are larger. Ratings, logits and probabilities are
    averaged as they are; scores that only rank are standardized over the catalogue per user first, since each member
    has a scale of its own.

    `ensemble_learner` makes one of learners: `fit`, `fit_one_cycle`, `fit_flat_cos` and `fine_tune` then train all of
    them, one after the other, each with a seed of its own; torch's global generator stays as it is. `ValueError`
    without members, and for scores of different kinds.
    """

    @check_arguments
    def __init__(
        self,
        members: Iterable[Scorer] | Mapping[Any, Scorer],  # scorers of the same users and items
        seed: int = 0,  # member i is trained with seed + i
    ) -> None:
        self.members = _as_list(members)
        if not self.members:
            raise ValueError('an ensemble needs members')
        _check_same_ids(self.members)
        scales = {m.scale for m in self.members}
        if len(scales) > 1:
            raise ValueError(
                f'members have scores of different kinds ({first_few(sorted(scales))}), of which there is no mean: '
                'combine them with Blend, which standardises'
            )
        self.seed = seed
        self.scale = self.members[0].scale
        self.catalog = self.members[0].catalog
        self.knows_cold = all(m.knows_cold for m in self.members)
        self._remember_parts()

    def __len__(self) -> int:
        return len(self.members)

    def __repr__(self) -> str:
        kinds = dict.fromkeys(_kind(m) for m in self.members)
        return f'Ensemble({len(self)} x {first_few(kinds)}, {self.scale}, {self.catalog})'

    def config(self) -> dict[str, Any]:
        """Arguments of the constructor: the seed."""
        return dict(seed=self.seed)

    # --- training

    def _train_each(self, verb: str, *args, **kwargs) -> None:
        """Call the method `verb` of one member after the other, each with its seed."""
        if not all(_has_training_loop(m) for m in self.members):
            kinds = first_few(sorted({type(m).__name__ for m in self.members}))
            raise TypeError(
                f'members of type {kinds} have no {verb}: an ensemble is trained where its members are learners '
                '(ensemble_learner)'
            )
        train = methodcaller(verb, *args, **kwargs)
        for i, member in enumerate(self.members):
            with torch.random.fork_rng():
                torch.manual_seed(self.seed + i)
                train(member)

    def fit(
        self,
        n_epoch: int,  # epochs of each member
        lr: Any = None,  # rate, as in `RecLearner.fit`
        **kwargs,  # arguments of `RecLearner.fit`
    ) -> None:
        """Each member's `fit`; arguments as there. `TypeError`, here and below, where members are not learners."""
        self._train_each('fit', n_epoch, lr, **kwargs)

    def fit_one_cycle(
        self,
        n_epoch: int,  # epochs of each member
        lr_max: Any = None,  # highest rate; None: the recipe's
        **kwargs,  # arguments of `RecLearner.fit_one_cycle`
    ) -> None:
        """Each member's `fit_one_cycle`; arguments as there."""
        self._train_each('fit_one_cycle', n_epoch, lr_max, **kwargs)

    def fit_flat_cos(
        self,
        n_epoch: int,  # epochs of each member
        lr: Any = None,  # rate of the flat part
        **kwargs,  # arguments of `RecLearner.fit_flat_cos`
    ) -> None:
        """Each member's `fit_flat_cos`; arguments as there."""
        self._train_each('fit_flat_cos', n_epoch, lr, **kwargs)

    def fine_tune(
        self,
        epochs: int,  # of all rows, after those of new ones
        base_lr: Any = 2e-3,  # rate of the new rows; all rows get half of it
        **kwargs,  # arguments of `RecLearner.fine_tune`
    ) -> None:
        """Each member's `fine_tune`; arguments as there."""
        self._train_each('fine_tune', epochs, base_lr, **kwargs)

    # --- contexts

    @contextmanager
    def _all_in(self, context: Callable[[Any], AbstractContextManager]) -> Iterator[Any]:
        """All members in the context that `context` makes of each -> the ensemble."""
        with ExitStack() as stack:
            for member in self.members:
                stack.enter_context(context(member))
            yield self

    @contextmanager
    def inference(self) -> Iterator[Any]:
        """Context of many calls in a row: that of all members."""
        with self._all_in(methodcaller('inference')):
            yield self

    def no_bar(self) -> AbstractContextManager[Ensemble]:
        """Context in which no member shows a progress bar."""
        return self._all_in(methodcaller('no_bar'))

    def no_logging(self) -> AbstractContextManager[Ensemble]:
        """Context in which no member prints its table."""
        return self._all_in(methodcaller('no_logging'))

    @property
    def shows_progress(self) -> bool:  # type: ignore[override]  # that of the members, nothing to be set
        """May its verbs show a bar? Where all members may."""
        return all(m.shows_progress for m in self.members)

    @property
    def dls(self) -> Any:
        """The loaders that the members were made for."""
        return self.members[0].dls

    # --- scores

    def parts(self) -> list[Scorer]:
        """The members, as scorers."""
        return self.members

    def explainer(self) -> Explainer:
        """As in `Scorer`: the means of what the members say."""
        return PartsTogether(self, [1 / len(self)] * len(self), standardized=self.scale == 'rank')

    def knows(self, side: str = 'item') -> np.ndarray:
        """bool (n,): users or items of which any of the members knows something."""
        return np.any([m.knows(side) for m in self.members], axis=0)

    def _comparable(self, scores: torch.Tensor) -> torch.Tensor:
        """A member's scores of the whole catalogue (B, n_items), on a scale that members share."""
        return standardized(scores) if self.scale == 'rank' else scores

    def _predicted(self, scores: torch.Tensor) -> torch.Tensor:
        """What `predict` says of scores: of logits probabilities."""
        return scores.sigmoid() if self.scale == 'logit' else scores

    def in_context(
        self,
        values: dict,  # column of context -> its level, or the time
    ) -> Ensemble:
        """The ensemble in one situation: its members' `in_context`. `TypeError` if one of them reads no context."""
        for member in self.members:
            if not member.reads_context:
                raise TypeError(f'members of type {type(member).__name__} read no context')
        return Ensemble([m.in_context(values) for m in self.members], self.seed)

    def member_scores(
        self,
        users: torch.Tensor,  # codes (n,)
        items: torch.Tensor,  # codes (n,)
        context: torch.Tensor | None = None,  # (n, columns), for the members that read it
    ) -> torch.Tensor:
        """What each member says of pairs of codes: (members, n), on the CPU."""
        self.require_current()
        users, items = torch.as_tensor(users), torch.as_tensor(items)
        if self.scale == 'rank':
            return self._standardized_member_scores(users, items)
        scores = []
        for member in self.members:
            if context is not None and member.reads_context:
                of_member = member.score(users, items, context)
            else:
                of_member = member.score(users, items)
            scores.append(of_member.float().cpu())
        return torch.stack(scores)

    def _standardized_member_scores(self, users: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        """As `member_scores`, picked from whole catalogues, some users at a time."""
        distinct, of_pair = torch.unique(users, return_inverse=True)
        res = torch.empty(len(self), len(of_pair))
        step = max(1, SCORES_AT_A_TIME // self.require_fitted().n_items)
        for start in range(0, len(distinct), step):
            some_users = distinct[start : start + step]
            pairs = (of_pair >= start) & (of_pair < start + len(some_users))
            rows = of_pair[pairs] - start
            for i, member in enumerate(self.members):
                scores = self._comparable(member.score_items(some_users).float().cpu())
                res[i, pairs] = scores[rows, items[pairs]]
        return res

    def score_rows(self, interactions: Interactions, rows: np.ndarray) -> torch.Tensor:
        """Mean scores of rows of `interactions`, int (n,) -> (n,), each in its context as far as members read it."""
        if self.scale == 'rank':
            return super().score_rows(interactions, rows)
        self.require_current()
        return torch.stack([m.score_rows(interactions, rows).float().cpu() for m in self.members]).mean(0)

    def score(self, users: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        """Mean scores of pairs of codes: (n,), (n,) -> (n,)."""
        return self.member_scores(users, items).mean(0)

    def spread(
        self,
        users: torch.Tensor,  # codes of users, int64 (n,)
        items: torch.Tensor,  # codes of items, int64 (n,)
    ) -> torch.Tensor:
        """Standard deviation of the members' scores of pairs of codes: (n,), (n,) -> (n,)."""
        return self.member_scores(users, items).std(0, correction=0)

    def score_items(self, users: torch.Tensor) -> torch.Tensor:
        """Mean scores of all items: codes (B,) -> (B, n_items), on the CPU."""
        self.require_current()
        scores = (self._comparable(m.score_items(users).float().cpu()) for m in self.members)
        return sum(scores, torch.zeros(())) / len(self)

    def get_preds(
        self,
        ds_idx: int = 1,  # which part of the loaders
        dl: Any = None,  # a loader in its place
        with_spread: bool = False,  # return the standard deviation of the members' predictions as well, last
        **kwargs,  # of the learner's `get_preds`
    ) -> tuple:
        """Mean predictions and targets, as a learner's `get_preds`; of logits, as `predict`, the sigmoid of their mean.

        With an `act=` of your own the mean of what it makes of each member's scores.
        """
        asks_probabilities = self.scale == 'logit' and kwargs.get('act') is None
        if asks_probabilities:
            kwargs['act'] = torch.nn.Identity()  # scores as they are
        results = [m.get_preds(ds_idx, dl, **kwargs) for m in self.members]
        n_items = self.require_fitted().n_items
        of_members = []
        for preds, *_ in results:
            whole_catalogue = preds.dim() == 2 and preds.shape[1] == n_items
            of_members.append(self._comparable(preds) if whole_catalogue else preds)
        stacked = torch.stack(of_members)
        mean = stacked.mean(0)
        if asks_probabilities:
            mean, stacked = mean.sigmoid(), stacked.sigmoid()
        res = (mean, *results[0][1:])
        return (*res, stacked.std(0, correction=0)) if with_spread else res

    def predictions(
        self,
        pairs: pd.DataFrame | Iterable,  # a table with columns of users and items, or a list of pairs
    ) -> pd.DataFrame:
        """A row for each pair: user, item, title (if known), score, spread.

        Scores are what `predict` says, probabilities where members give logits; the spread is that of what each member
        predicts. Pairs are scored in the context that the table has columns of.
        """
        catalog = self.require_fitted()
        df = as_frame(pairs) if is_table(pairs) else pd.DataFrame(list(pairs), columns=['user', 'item'])
        ids = {side: df[column_of(df, side, catalog.names)].to_numpy() for side in ('user', 'item')}
        users, items = (torch.from_numpy(self.vocab[side].encode(o)) for side, o in ids.items())
        context = None if catalog.context_of is None else torch.from_numpy(catalog.context_of.encode(df))
        scores = self.member_scores(users, items, context)
        require_numbers(scores)
        res = pd.DataFrame({catalog.columns[side]: values for side, values in ids.items()})
        if catalog.shows_titles:
            res['title'] = catalog.titles(items.numpy())
        res['score'] = self._predicted(scores.mean(0)).numpy()
        res['spread'] = self._predicted(scores).std(0, correction=0).numpy()
        return res

    def vectors(self, side: str = 'item') -> torch.Tensor:
        """Members' vectors side by side, (n, sum of d), of 'user' or 'item'.

        Their dot product is the mean of the members'.
        """
        return torch.cat([m.vectors(side).float().cpu() for m in self.members], 1) / len(self) ** 0.5

    def neighbors(self, codes: np.ndarray, k: int, side: str = 'item') -> tuple[np.ndarray, np.ndarray]:
        """As in `Scorer`; of members that have worked out weights of items (`EASE`, `ItemKNN`) by the mean of these."""
        if side != 'item' or not all(isinstance(m, ItemWeights) for m in self.members):
            return super().neighbors(codes, k, side)
        n_items = self.catalog.n_items
        shape = len(codes), min(k, n_items)
        scores: np.ndarray = np.full(shape, -np.inf, np.float32)
        found: np.ndarray = np.zeros(shape, np.int64)
        for row, code in enumerate(codes):
            mean: np.ndarray = np.zeros(n_items, np.float32)
            for member in self.members:
                weights, near = (o[0] for o in member.neighbors(np.array([code]), n_items))
                there = np.isfinite(weights)
                mean[near[there]] += weights[there] / len(self)
            best = np.argsort(-mean, kind='stable')[: scores.shape[1]]
            scores[row] = np.where(mean[best] > 0, mean[best], -np.inf)
            found[row] = best
        return scores, found

    def basket_scores(self, codes: np.ndarray) -> torch.Tensor:
        """As in `Scorer`; of members that have worked out weights of items the mean of theirs."""
        if not all(isinstance(m, ItemWeights) for m in self.members):
            return super().basket_scores(codes)
        scores = torch.stack([m.basket_scores(codes) for m in self.members])
        mean = scores.masked_fill(~scores.isfinite(), 0.0).mean(0)
        return mean.where(mean != 0, -torch.inf)

    def biases(self, side: str = 'item') -> torch.Tensor | None:
        """Mean biases, (n,), of 'user' or 'item'; a member without any counts as 0. None if none has some."""
        of_members = [m.biases(side) for m in self.members]
        there = [biases.float().cpu() for biases in of_members if biases is not None]
        return torch.stack(there).sum(0) / len(self) if there else None


def _kind(scorer: Scorer) -> str:
    """What a member is, in a word: its model, or itself."""
    thing = scorer if scorer.model is None else scorer.model
    return repr(thing).split('(')[0]


def _has_training_loop(scorer: Scorer) -> bool:
    """Is it a learner, or an ensemble, which says so of its own members?"""
    return scorer.loss_func is not None or isinstance(scorer, Ensemble)
