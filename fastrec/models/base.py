"""The contract of a model: what learners and scorers ask of it, with a default for everything but `forward`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import chain
from typing import Any

import torch
from torch import nn

from .embedding import EmbeddingTable

__all__ = ['RecModel', 'from_range', 'sigmoid_range', 'to_range']

PAIRS = 2**18  # pairs that a model without a `score_items` of its own scores at a time


def sigmoid_range(
    x: torch.Tensor,  # logits, any shape
    low: float,  # the end of the range that no score goes below
    high: float,  # the end that none goes above
) -> torch.Tensor:
    """A sigmoid from `low` to `high`, as fastai's: any shape."""
    return torch.sigmoid(x) * (high - low) + low


def to_range(
    x: torch.Tensor,  # scores, any shape
    y_range: tuple[float, float] | None,  # (low, high); None: scores stay as they are
) -> torch.Tensor:
    """Scores `x` (any shape) through `sigmoid_range`; unchanged without a range."""
    return x if y_range is None else sigmoid_range(x, *y_range)


def from_range(
    y: float,  # a value of the range's scale, e.g. the mean rating
    y_range: tuple[float, float] | None,  # (low, high); None: unbounded
) -> float:
    """The score that `to_range` maps to `y`; at the ends of the range the score of a ten thousandth inside it."""
    if y_range is None:
        return float(y)
    low, high = y_range
    share = min(max((y - low) / (high - low), 1e-4), 1 - 1e-4)
    return math.log(share / (1 - share))


def as_range(
    y_range: Sequence[float] | None,  # two numbers, low and high; None: unbounded
) -> tuple[float, float] | None:
    """(low, high) as two floats; None stays None. `ValueError` unless they are finite and low < high."""
    if y_range is None:
        return None
    low, high = map(float, y_range)
    if not -math.inf < low < high < math.inf:
        raise ValueError(f'y_range={(low, high)}: give two numbers (low, high) with low < high, or None: unbounded')
    return low, high


def starting_mean(mean: float | None, y_range: tuple[float, float] | None) -> nn.Parameter:
    """The parameter that scores start at: what the range maps to `mean`; without a mean 0, the middle of the range."""
    return nn.Parameter(torch.tensor(0.0 if mean is None else from_range(mean, y_range)))


def over_items(rows: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
    """Rows of users (B, d) shaped to meet those of their items: (B, d) for items (B,), (B, 1, d) for (B, C)."""
    return rows if items.dim() == 1 else rows.unsqueeze(1)


def device_of(module: nn.Module) -> torch.device:
    """Where the parameters of a module are, or its buffers; the CPU for one that has neither."""
    first = next(chain(module.parameters(), module.buffers()), None)
    return torch.device('cpu') if first is None else first.device


def split_bias(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows (..., d + 1) whose last value is a bias -> vectors (..., d), biases (...)."""
    return rows[..., :-1], rows[..., -1]


class RecModel(nn.Module):
    """Codes of users and items in, scores out. A subclass writes `forward`; every other method has a default.

    `forward(users, items=None, context=None) -> scores`: int64 codes of users (B,), of items (B,), (B, C) or (1, C),
    and scores of the shape of the pairs: (B,), (B, C). Without items it returns `self.score_items(users)`, which is
    what objectives over the whole catalogue call. `context` (B, columns) comes only to models with `context_sizes`.

    What the constructor is to be given of the data it asks for by the names of its arguments (`known_users`,
    `history`, `item_counts`, ...): `fastrec.scorers.given` lists them.

    A subclass that overrides `forward` without `score_items` is scored pair by pair through its `forward`, whatever
    its parent's `score_items` does; one that overrides `score_items` without `ranking_items` is ranked by its scores.
    Neither `reset` nor `bias` may be the name of a method: fastai calls the one and collects the other.
    """

    y_range: tuple[float, float] | None = None  # (low, high) of the scores; None: unbounded
    context_sizes: Sequence[int] = ()  # levels of each column of context that is read (see `Levels`)
    reads_times: bool = True  # is the column of times read, whose size there is 0?
    is_view: bool = False  # does it stand beside a model, whose tensors it shares (`models/view.py`)?

    def __init_subclass__(cls, **kwargs) -> None:
        super().__init_subclass__(**kwargs)
        own = vars(cls)
        if 'forward' in own and 'score_items' not in own:
            cls.score_items = RecModel.score_items  # type: ignore[method-assign]  # the default, for this class
        if ('forward' in own or 'score_items' in own) and 'ranking_items' not in own:
            cls.ranking_items = RecModel.ranking_items  # type: ignore[method-assign]  # the same

    @property
    def _name(self) -> str:
        return type(self).__name__

    # --- scores

    def forward(
        self,
        users: torch.Tensor,  # codes of users, int64 (B,)
        items: torch.Tensor | None = None,  # codes of items, int64 (B,), (B, C) or (1, C); None: the whole catalogue
        # codes of the situation, int64 (B, columns); only for models with `context_sizes`
        context: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Scores of pairs; see the class."""
        raise NotImplementedError(f'{self._name} has no forward(users, items)')

    def score_items(
        self,
        users: torch.Tensor,  # codes of users, int64 (B,)
        # codes of the situation, int64 (B, columns); only for models with `context_sizes`
        context: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Scores of the whole catalogue for codes of users: (B,) -> (B, n_items); the same as of the pairs."""
        raise NotImplementedError(
            f'{self._name} has no score_items(users) -> (B, n_items), which an objective over the whole '
            'catalogue (n_neg=None) is trained on: write one, or take loaders with n_neg=4'
        )

    @property
    def scores_catalogue(self) -> bool:
        """Has the model a `score_items` of its own? Without one it is ranked pair by pair."""
        return type(self).score_items is not RecModel.score_items

    @property
    def knows_cold(self) -> bool:
        """Do scores of users and items without training rows mean something?

        By default they do where an `EmbeddingTable` holds the rows; of plain embeddings those rows are untrained.
        """
        return any(isinstance(m, EmbeddingTable) for m in self.modules())

    def in_range(
        self,
        x: torch.Tensor,  # scores before the range, any shape
    ) -> torch.Tensor:
        """Scores (any shape) through a sigmoid to `y_range`, if there is one."""
        return to_range(x, self.y_range)

    # --- ranking by one matrix product

    def ranking_items(self) -> torch.Tensor | None:
        """With `ranking_users`: (n_items, d), whose products with rows of users order each user's items as scores do.

        None: there is no such product, and scores are what ranks.
        """
        return None

    def ranking_users(
        self,
        users: torch.Tensor,  # codes of users, int64 (B,)
    ) -> torch.Tensor:
        """Rows (B, d) of codes of users (B,) that go with `ranking_items`."""
        raise NotImplementedError(f'{self._name} has ranking_items but no ranking_users(users) -> (B, d)')

    # --- what it has learned

    def vectors(
        self,
        side: str,  # 'user' or 'item'
    ) -> torch.Tensor | None:
        """Detached vectors (n, d) of 'user' or 'item'; None: it has none."""
        return None

    def biases(
        self,
        side: str,  # 'user' or 'item'
    ) -> torch.Tensor | None:
        """Detached biases (n,) of 'user' or 'item'; None: it has none."""
        return None

    def user_vectors(
        self,
        users: torch.Tensor,  # codes of users, int64 (B,)
    ) -> torch.Tensor:
        """What item vectors are multiplied with for codes of users: (B,) -> (B, d).

        `TypeError` where there are none.
        """
        vectors = self.vectors('user')
        if vectors is None:
            raise TypeError(f'{self._name} has no vectors of users')
        return vectors[users]

    def intercept(self) -> float:
        """What every score has, before `y_range`."""
        return 0.0

    @torch.no_grad()
    def explain(
        self,
        user: int,  # code of the user
        item: int,  # code of the item
    ) -> dict:
        """Parts of the score of a pair of codes that add up to it, before `y_range`.

        `mean`, `user_bias`, `item_bias` (floats) and `factors`, the product of each factor (d,). `TypeError` unless the
        score is the product of `vectors`, plus `biases`.
        """
        parts = self._parts(user, item)
        device = parts['factors'].device
        codes = [torch.tensor([code], device=device) for code in (user, item)]
        score = self(*codes).item()
        total = parts['factors'].sum() + parts['mean'] + parts['user_bias'] + parts['item_bias']
        total = self.in_range(total).item()
        if not math.isclose(score, total, rel_tol=1e-3, abs_tol=1e-3):
            raise TypeError(
                f'{self._name} scores a pair {score:.4g}, and its vectors and biases add up to {total:.4g}: '
                "it is not a dot product. because(user, item) tells it by the user's items; or give it a method explain"
            )
        return parts

    def carried(
        self,
        user: torch.Tensor,  # code of the user, int64 ()
        items: torch.Tensor,  # codes of the items that are asked about, int64 (m,)
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None:
        """What the sum over what a user has brings to the scores of items, by its terms; None: there is no such sum.

        Codes () and (m,) -> codes of what the user has (n,), contributions (n, m), scores (m,), before `y_range`.
        """
        return None

    def _parts(self, user: int, item: int) -> dict[str, Any]:
        """What `explain` returns, of `vectors` and `biases`; are they all that there is?"""
        p, q = self.vectors('user'), self.vectors('item')
        if p is None or q is None:
            raise TypeError(
                f'{self._name} has no vectors to explain a score by. because(user, item) tells it by the '
                "user's items; or give it a method explain"
            )
        user_biases, item_biases = self.biases('user'), self.biases('item')
        return dict(
            mean=self.intercept(),
            user_bias=0.0 if user_biases is None else user_biases[user].item(),
            item_bias=0.0 if item_biases is None else item_biases[item].item(),
            factors=p[user] * q[item],
        )

    # --- features

    def has_features(
        self,
        side: str,  # 'user' or 'item'
    ) -> torch.Tensor | None:
        """bool (n,): which users or items have features that the model reads; None: it reads none."""
        layers = self.feature_layers(side)
        return torch.stack([layer.present.any(1) for layer in layers]).any(0) if layers else None

    def feature_layers(
        self,
        side: str,  # 'user' or 'item'
    ) -> Sequence[nn.Module]:
        """The layers that read features of 'user' or 'item' (`FeatureLinear`); by default none."""
        return ()

    def add_items(
        self,
        blocks: dict,  # features of the further items by name, (n_new, columns) each
    ) -> None:
        """Take in further items by their features alone (name -> `Block`); their codes come after those there are.

        By default a `TypeError`: the model reads no features.
        """
        raise TypeError(
            f'{self._name} knows items by their ratings alone, so it can say nothing about new ones. '
            'Models that read features can: content_learner, gated_learner, two_tower_learner'
        )

    # --- leaving the notebook

    def config(self) -> dict:
        """Arguments of the constructor that make a model of the same shape; the rest is in its state.

        Values: plain data, tensors, sparse matrices, objects of fastrec. By default a `TypeError`.
        """
        raise TypeError(
            f'{self._name} does not say how to make one like it: give it a method `config()` that returns '
            'the arguments of its constructor as a dict, n_users and n_items among them, and load what was saved with '
            f'load_recommender(folder, classes=[{self._name}])'
        )

    def without_history(self) -> nn.Module:
        """A model with the same scores that holds no training rows: what is exported and saved. By default itself."""
        return self

    def set_user_counts(
        self,
        counts: torch.Tensor,  # training rows of each new user, (n_users,)
    ) -> None:
        """Training rows (n_users,) of new users, whose codes take the place of those there were (`fold_in`).

        For models that read `user_counts`; new tensors take the place of old ones, which other models may share.
        """


class DotModel(RecModel):
    """A model whose scores are mean + b_u + b_i + p_u . q_i, through a sigmoid to `y_range` if there is one.

    The constructor of a subclass sets `y_range` (`as_range`) and the parameter `mean` (`starting_mean`).
    """

    mean: nn.Parameter  # what every score has, before the range

    def intercept(self) -> float:
        """The mean."""
        return self.mean.item()

    def explain(self, user: int, item: int) -> dict:
        """Parts that add up to the score before the sigmoid.

        `mean`, `user_bias`, `item_bias` (floats) and `factors`, the product of each factor (n_factors,).
        """
        return self._parts(user, item)


class PlainModel(RecModel):
    """A module of a user's own behind the contract: `forward(users, items)` is enough, and what else it has is used.

    The only place that asks whether a method is there.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.__dict__['module'] = module  # not registered: its parameters stay its own
        for name in ('y_range', 'context_sizes', 'reads_times'):
            if hasattr(module, name):
                setattr(self, name, getattr(module, name))
        for name in CONTRACT:
            if callable(method := getattr(module, name, None)):
                self.__dict__[name] = method

    @property
    def _name(self) -> str:
        return type(self.module).__name__

    @property
    def scores_catalogue(self) -> bool:
        """Has the module a `score_items`?"""
        return 'score_items' in self.__dict__

    @property
    def knows_cold(self) -> bool:
        """As in `RecModel`, of the module."""
        return any(isinstance(m, EmbeddingTable) for m in self.module.modules())

    def forward(self, *args) -> torch.Tensor:
        """The module's scores."""
        return self.module(*args)

    def without_history(self) -> nn.Module:
        """The module, unless it has a method of that name."""
        return self.module


# what a module may have beside `forward`
CONTRACT = (
    'score_items', 'ranking_items', 'ranking_users', 'vectors', 'biases', 'user_vectors', 'intercept', 'explain',
    'has_features', 'add_items', 'config', 'without_history',
)  # fmt: skip


def as_rec_model(module: nn.Module) -> RecModel:
    """The module itself if it is a `RecModel`, else the module behind the contract (`PlainModel`)."""
    return module if isinstance(module, RecModel) else PlainModel(module)
