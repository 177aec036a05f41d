"""How a trained model's score comes from what a user rated: the user's row is the solution of a ridge regression.

What is solved for new users (`fold_in`) holds, about, for the trained ones: training finds their rows so, too."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ..models.base import as_rec_model, device_of
from .carried import Carried, Explainer, Own, on_scale
from .coldstart import MASKED, Objective, OfTables, dot_parts, noise_of, prior_of, user_tables, with_tables

__all__: list[str] = []


class Influence(Explainer):
    """What each row of a user brings to scores, by the ridge regression that the user's row x solves.

    One step of Newton's method from the trained row x, for the objective of `fold_in`, leads to

        x' - m = A^-1 sum_j g_j / noise,    A = Z' D Z / noise + C^-1,    g_j = (d_j (t_j - t_j(m)) - l_j) z_j

    with t_j the scores of the user's items before `y_range`, z_j their slopes by x, l_j and d_j the first and second
    derivatives of the loss by t_j, m and C the mean and covariance of the known users' rows. So the score of item i is
    that of the average user, plus z_i' A^-1 g_j / noise of each item j, plus z_i' (x - x'), which training found
    besides. For squares without a range g_j = (y_j - s_j(m)) z_j: how much higher than the average user this one rated
    j, times how alike i and j are to the regression.

    Over the whole catalogue each positive comes with its share of what is not chosen. Where scores are not linear in x
    their slopes at x are taken.
    """

    method = 'influence'

    def __init__(self, scorer: Any) -> None:
        super().__init__(scorer)
        with scorer.inference():
            parts = dot_parts(scorer)
            if parts is None:
                self.rows: Rows = _RowsOfTables(scorer)
                self.is_quick = False
            else:
                self.rows = _DotRows(*parts)
            prior, noise = scorer.prior_of_users()
            if prior is None:
                prior = prior_of(self.rows.users[torch.from_numpy(scorer.catalog.known('user'))].double().cpu())
            self.mean, self.precision = prior
            self.objective = Objective(scorer, noise_of(scorer) if noise is None else noise)
        self.knows_item = torch.from_numpy(scorer.knows('item'))

    def of(self, user: int, items: np.ndarray, own: Own) -> Carried:
        """As in `Explainer`."""
        with self.scorer.inference():
            x = self.rows.users[user].double().cpu()
            asked, z_asked = self.rows.slopes(x, torch.from_numpy(items), len(own.items))
            pulls, hessian = self._pulls(x, own)
        hessian = hessian + self.precision
        reach = torch.linalg.solve(hessian, z_asked.T)  # (d, m)
        contributions = (pulls @ reach / self.objective.noise).numpy()
        return self.carried(user, items, own, on_scale(contributions, asked.numpy(), self.rows.y_range))

    def _pulls(self, x: torch.Tensor, own: Own) -> tuple[torch.Tensor, torch.Tensor]:
        """g (n, d) of the user's items, and the second derivatives of the loss by x (d, d)."""
        objective = self.objective
        n_items = self.scorer.catalog.n_items
        at, y, w = objective.targets(torch.from_numpy(own.items), torch.from_numpy(own.values), own.threshold, n_items)
        codes = torch.arange(n_items) if at is None else at
        t, z = self.rows.slopes(x, codes, len(own.items))
        y, w = y.double(), w.double()
        moved = z @ (x - self.mean)  # of each score, since the average user
        hessian = objective.newton(t, y, w, z, self.rows.y_range)[1]
        if at is not None:
            first, second = objective.by_row(t, y, w, self.rows.y_range)
            pulls = (second * moved - first)[:, None] * z
            return pulls * self.knows_item[codes][:, None], hessian
        own_codes = torch.from_numpy(own.items)
        chosen = torch.from_numpy(own.values).double().clamp(min=0)
        share = chosen / chosen.sum().clamp(min=1e-12)
        if objective.scale == 'rank':
            # -sum_j y_j log softmax(t)_j: each positive has y_j of what the softmax takes from all items
            p = t.where(w > 0, MASKED).softmax(0)
            mean_z = z.T @ p
            common = z.T @ (p * moved) - mean_z * (p @ moved)
            pulls = chosen[:, None] * (z[own_codes] - mean_z + common)
            return pulls, hessian
        first, second = objective.by_row(t, y, w, None)
        of_each = (second * moved - first)[:, None] * z
        is_own = torch.zeros(n_items, dtype=torch.bool)
        is_own[own_codes] = True
        return of_each[own_codes] + share[:, None] * of_each[~is_own].sum(0), hessian


class Rows:
    """Rows of users, and scores as a function of such a row."""

    users: torch.Tensor  # (n_users, d)
    y_range: tuple[float, float] | None  # that comes after the scores

    def slopes(self, x: torch.Tensor, items: torch.Tensor, n_own: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Scores (m,) before the range of codes of items (m,) for a row x (d,), and their derivatives (m, d); float64.

        `n_own` is how many rows the user has, which some models read.
        """
        raise NotImplementedError


class _DotRows(Rows):
    """Of scores that are dot products: rows (bias, vector)."""

    def __init__(
        self,
        users: torch.Tensor,
        items: torch.Tensor,
        mean: float,
        y_range: tuple[float, float] | None,
    ) -> None:
        self.users = users
        self.items = items.double()
        self.mean = mean
        self.y_range = y_range

    def slopes(self, x: torch.Tensor, items: torch.Tensor, n_own: int) -> tuple[torch.Tensor, torch.Tensor]:
        z = self.items[items].clone()
        biases = z[:, 0].clone()
        z[:, 0] = 1.0
        return self.mean + biases + z @ x, z


class _RowsOfTables(Rows):
    """Of other models with tables of users: what they have of one, side by side."""

    y_range = None  # the model's own range is part of the function

    def __init__(self, scorer: Any) -> None:
        model = scorer.model
        self.tables = user_tables(model, scorer.catalog.n_users)
        weights = [model.get_submodule(at).weight.detach() for at in self.tables]
        self.widths = [weight.shape[1] for weight in weights]
        self.users = torch.cat(weights, 1)
        self.model = with_tables(model, self.tables, 1).eval()
        self.device = device_of(model)

    def slopes(self, x: torch.Tensor, items: torch.Tensor, n_own: int) -> tuple[torch.Tensor, torch.Tensor]:
        as_rec_model(self.model).set_user_counts(torch.full((len(items),), n_own, device=self.device))
        scores = OfTables(self.model, self.tables, self.widths, items.to(self.device))
        t, z = scores.slopes(x.float().to(self.device))
        return t.double().cpu(), z.double().cpu()


class SumsInModel(Explainer):
    """Of models whose user vectors sum what the user has (`RecModel.carried`): the terms of the sum themselves."""

    method = 'exact'

    def of(self, user: int, items: np.ndarray, own: Own) -> Carried:
        """As in `Explainer`; what the model has of the user besides the sum is part of the base."""
        scorer = self.scorer
        with scorer.inference() as device:
            model = scorer.rec_model
            found = model.carried(torch.tensor(user, device=device), torch.from_numpy(items).to(device))
            if found is None:
                raise TypeError(
                    f"{type(scorer.model).__name__} does not sum what users have: by='items' works for every model"
                )
            codes, parts, scores = (o.cpu().numpy() for o in found)
        order = np.argsort(codes)
        place = np.searchsorted(codes[order], own.items).clip(max=max(len(codes) - 1, 0))
        contributions = np.zeros((len(own.items), len(items)))
        if len(codes):
            there = codes[order][place] == own.items
            contributions[there] = parts[order][place[there]]
        return self.carried(user, items, own, on_scale(contributions, scores.astype(np.float64), model.y_range))
