"""Dot-product models."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from .base import DotModel, as_range, over_items, starting_mean
from .context import Levels
from .embedding import EmbeddingTable
from .fused import fused_scores

__all__ = ['DotBias']


def dot_bias(
    mean: torch.Tensor, user_bias: torch.Tensor, item_bias: torch.Tensor, p: torch.Tensor, q: torch.Tensor
) -> torch.Tensor:
    """mean + b_u + b_i + p_u . q_i, of biases (..., 1) and vectors (..., d) that broadcast: (...)."""
    return (p * q).sum(-1) + user_bias.squeeze(-1) + item_bias.squeeze(-1) + mean


class DotBias(DotModel):
    """Matrix factorization with biases: score = mean + b_u + b_i + p_u . q_i, through a sigmoid to `y_range` if given.

    Koren, Bell, Volinsky, 'Matrix Factorization Techniques for Recommender Systems', Computer 2009, eq. 4; the sigmoid
    and the order of initialization follow fastai's `EmbeddingDotBias`. Deviation from both: the mean is a parameter of
    its own that starts at the mean rating, so biases start, and are regularized, around zero.

    With context (`context_sizes`) each level of each column has a vector, which is added to the user's, and a bias.
    """

    reads_times = False

    def __init__(
        self,
        n_users: int,  # how many users
        n_items: int,  # how many items
        n_factors: int = 50,  # length of the vectors
        y_range: tuple[float, float] | None = None,  # (low, high) of the scores; None: unbounded
        mean: float | None = None,  # mean rating, where scores start (None: 0, or the middle of `y_range`)
        known_users: torch.Tensor | None = None,  # bool (n_users,): users with training rows (None: all)
        known_items: torch.Tensor | None = None,  # bool (n_items,): items with training rows (None: all)
        std: float = 0.01,  # factors start as N(0, std)
        bias_decay: float = 0.0,  # weight decay of the biases as a share of that of the factors
        context_sizes: Sequence[int] = (),  # levels of each column of context (see `Levels`); 0: it is not read
    ) -> None:
        super().__init__()
        self.y_range = as_range(y_range)
        self.user_factors = EmbeddingTable(n_users, n_factors, known_users, std)
        self.item_factors = EmbeddingTable(n_items, n_factors, known_items, std)
        self.user_biases = EmbeddingTable(n_users, 1, known_users, 0, bias_decay)
        self.item_biases = EmbeddingTable(n_items, 1, known_items, 0, bias_decay)
        self.mean = starting_mean(mean, self.y_range)
        self.context_sizes = list(context_sizes)
        self.levels: Levels | None = Levels(self.context_sizes, n_factors) if any(self.context_sizes) else None

    def forward(
        self, users: torch.Tensor, items: torch.Tensor | None = None, context: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Scores of pairs: users (B,), items (B,), (B, C) or (1, C) -> (B,) or (B, C); without items (B, n_items).

        `context` (B, columns), with items (B,); None: it is not given.
        """
        if items is None:
            return self.score_items(users, context)
        if self.training:
            scores = fused_scores(self, users, items, plain=DotBias)  # the same, faster
            if scores is not None:
                return scores
        p, bu = self._in_context(users, context, self.user_vectors(users), self.user_biases(users))
        q, bi = self.item_factors(items), self.item_biases(items)
        return self.in_range(dot_bias(self.mean, over_items(bu, items), bi, over_items(p, items), q))

    def score_items(self, users: torch.Tensor, context: torch.Tensor | None = None) -> torch.Tensor:
        """Scores of the whole catalogue by one matrix product: (B,)[, context (B, columns)] -> (B, n_items)."""
        p, bu = self._in_context(users, context, self.user_vectors(users), self.user_biases(users))
        return self.in_range(p @ self.item_factors.weight.T + bu + self.item_biases.weight.T + self.mean)

    def user_vectors(self, users: torch.Tensor) -> torch.Tensor:
        """What is multiplied with item factors for `users`: (B,) -> (B, n_factors)."""
        return self.user_factors(users)

    @property
    def tables(self) -> tuple[EmbeddingTable, EmbeddingTable, EmbeddingTable, EmbeddingTable]:
        """User and item factors, user and item biases."""
        m = self._modules  # asked for at every step: nn.Module's getattr takes longer
        return m['user_factors'], m['item_factors'], m['user_biases'], m['item_biases']

    # --- context

    def _in_context(
        self, users: torch.Tensor, context: torch.Tensor | None, p: torch.Tensor, bu: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Vectors (B, n_factors) and biases (B, 1) of users, with what the levels of the context add to them."""
        if self.levels is None:
            return p, bu
        more, bias = self._of_context(users, context)
        return p + more, bu + bias[:, None]

    def _of_context(self, users: torch.Tensor, context: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        """What is added to users' vectors and biases: (B, n_factors), (B,); without context that of level 0."""
        assert self.levels is not None
        if context is None:
            context = torch.zeros(len(users), len(self.context_sizes), dtype=torch.long, device=users.device)
        return self.levels(context)

    @torch.no_grad()
    def _out_of_context(self, side: str) -> tuple[torch.Tensor | float, torch.Tensor | float]:
        """What is added to vectors (n_factors,) and to biases () of 'user' or 'item' where no context is given."""
        if self.levels is None or side == 'item':
            return 0.0, 0.0
        anybody = torch.zeros(1, dtype=torch.long, device=self.mean.device)
        more, bias = self._of_context(anybody, None)
        return more[0], bias[0]

    # --- ranking by one matrix product

    def ranking_items(self) -> torch.Tensor:
        """With `ranking_users`: (n_items, n_factors + 1), whose products order each user's items as `score_items` does.

        The user's bias, the mean and the sigmoid, which leave the order alone, are not in it.
        """
        return torch.cat([self.item_factors.weight, self.item_biases.weight], 1)

    def ranking_users(self, users: torch.Tensor) -> torch.Tensor:
        """See `ranking_items`: (B,) -> (B, n_factors + 1); without context."""
        p = self.user_vectors(users)
        if self.levels is not None:
            p = p + self._of_context(users, None)[0]
        return F.pad(p, (0, 1), value=1.0)  # the 1 meets the item's bias

    # --- what it has learned

    def vectors(self, side: str) -> torch.Tensor:
        """Detached factors, (n, n_factors), of 'user' or 'item'; of users those without context."""
        table = self.item_factors if side == 'item' else self.user_factors
        return table.weight.detach() + self._out_of_context(side)[0]

    def biases(self, side: str) -> torch.Tensor:
        """Detached biases, (n,), of 'user' or 'item'; of users those without context."""
        table = self.item_biases if side == 'item' else self.user_biases
        return table.weight.detach().squeeze(-1) + self._out_of_context(side)[1]

    # --- leaving the notebook

    def config(self) -> dict:
        """Arguments that make a model of this shape; the rest is in its state."""
        return dict(
            n_users=self.user_factors.num_embeddings,
            n_items=self.item_factors.num_embeddings,
            n_factors=self.item_factors.embedding_dim,
            y_range=self.y_range,
            bias_decay=self.user_biases.decay,
            context_sizes=self.context_sizes,
        )

    @classmethod
    def from_vectors(
        cls,
        user_vectors: torch.Tensor,  # (n_users, d)
        item_vectors: torch.Tensor,  # (n_items, d)
        user_biases: torch.Tensor | None = None,  # (n_users,); None: 0
        item_biases: torch.Tensor | None = None,  # (n_items,); None: 0
        mean: float = 0.0,  # what every score has, before the range
        y_range: tuple[float, float] | None = None,  # (low, high) of the scores; None: unbounded
    ) -> DotBias:
        """A model that holds vectors and biases worked out elsewhere: mean + b_u + b_i + p_u . q_i, to `y_range`.

        It has copies of them, on the device of `user_vectors`; all rows count as known, and it is in eval mode.
        `ValueError` where the shapes do not go together.
        """
        n_users, n_factors = user_vectors.shape
        n_items = len(item_vectors)
        with torch.random.fork_rng(devices=[]):  # nobody asked for its first values
            res = cls(n_users, n_items, n_factors, y_range)
        computed = [user_vectors, item_vectors, user_biases, item_biases]
        with torch.no_grad():
            for table, rows in zip(res.tables, computed):
                if rows is None:
                    continue
                if rows.dim() == 1:
                    rows = rows[:, None]
                if rows.shape != table.weight.shape:
                    raise ValueError(
                        f'rows of shape {tuple(rows.shape)} for a table of {tuple(table.weight.shape)}: vectors are '
                        '(n_users, d) and (n_items, d), biases (n_users,) and (n_items,)'
                    )
                table.weight.copy_(rows)
            res.mean.fill_(mean)
        return res.to(user_vectors.device).eval()
