"""What is looked at before training begins, so that it is said before work is lost."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from ..data.catalog import Catalog
from ..data.splits import KFoldSplitter, LeaveLastSplitter, TimeSplitter
from ..models.base import as_rec_model
from ..models.view import evaluating
from ..scorers.scorer import Scorer
from .dataloaders import RecDataLoaders, StreamDataLoaders

__all__: list[str] = []

FEW = 2  # users, and items of each, that a model is tried on
TOLERANCE = 1e-3  # share of the largest score by which two ways to the same score may differ


def check_loaders(dls: object) -> None:
    """`TypeError` unless `dls` are `RecDataLoaders`."""
    if not isinstance(dls, RecDataLoaders):
        raise TypeError(
            f'expected RecDataLoaders, got {type(dls).__name__}. Make them from the rating table: '
            "`dls = RecDataLoaders.from_df(ratings)`; for fastai's own DataLoaders there is "
            '`fastai.collab.collab_learner`'
        )


def check_builder(builder: object, who: str) -> None:
    """`TypeError` unless `builder` makes learners: for loaders, tables, texts and what is made already."""
    if callable(builder) and not isinstance(builder, (Scorer, nn.Module)):
        return
    what = repr(builder) if isinstance(builder, str) else type(builder).__name__
    raise TypeError(
        f'{who} takes a builder, which it calls as builder(dls, **options), such as collab_learner or svdpp_learner '
        f'without brackets, got {what}'
    )


def check_held_out(dls: RecDataLoaders) -> None:
    """`ValueError` for loaders without valid rows, and for rows that stay in their files: nothing is chosen on them."""
    if isinstance(dls, StreamDataLoaders):
        raise ValueError(
            'most models read all rows at once, and these stay in their files: choose on some users, '
            'dls.of_users(10_000)'
        )
    split = dls.catalog.require_history().split
    if split is None or not len(split.valid):
        raise ValueError(
            'no rows are held out (valid_pct=0), so there is nothing to choose on: make loaders that hold some out, '
            'then train the best one on all rows'
        )


def check_parts(loss_func: object, opt_func: object, splitter: object) -> None:
    """`TypeError` for a loss, an optimizer or layer groups that could not be called as such, before any work."""
    if loss_func is not None and (isinstance(loss_func, type) or not callable(loss_func)):
        what = f'the class {loss_func.__name__}' if isinstance(loss_func, type) else repr(loss_func)
        raise TypeError(f'loss_func is called as loss_func(scores, target), got {what}: e.g. loss_func=nn.MSELoss()')
    if opt_func is not None and not callable(opt_func):
        raise TypeError(f'opt_func makes an optimizer of parameters, got {opt_func!r}: e.g. opt_func=torch.optim.AdamW')
    if isinstance(splitter, (TimeSplitter, LeaveLastSplitter, KFoldSplitter)):
        raise TypeError(
            f'{splitter!r} splits rows, which loaders do: RecDataLoaders.from_df(ratings, splitter=...). splitter= of '
            'a learner makes groups of its parameters'
        )


def check_takes_weights(dls: RecDataLoaders, loss_func: Callable | None) -> None:
    """`TypeError` if the loaders have a weight for each rating, and the loss could not take it."""
    inter = dls.catalog.interactions
    if loss_func is None or inter is None or inter.row_weights is None:
        return
    call = loss_func.forward if isinstance(loss_func, nn.Module) else loss_func
    parameters = inspect.signature(call).parameters.values()
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return
    if sum(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters) < 3:
        raise TypeError(
            f'{loss_func!r} takes no weights, which these loaders have (weight_name=): leave loss_func out, or give '
            'one that is called as loss(scores, target, weight), such as fastrec.losses.MSELoss()'
        )


def takes_logits(loss_func: Callable) -> bool:
    """Does a loss for labels take logits? All do but regression on 0 and 1, and torch's `BCELoss`."""
    loss = getattr(loss_func, 'func', loss_func)  # fastai's losses wrap torch's
    if isinstance(loss, (nn.MSELoss, nn.L1Loss, nn.SmoothL1Loss, nn.HuberLoss, nn.BCELoss)):
        return False
    return loss not in (F.mse_loss, F.l1_loss, F.huber_loss, F.binary_cross_entropy)


def check_model(model: nn.Module, dls: RecDataLoaders) -> None:
    """Try a model of a user's own on a few pairs: `TypeError` or `ValueError` that names what to change.

    Scores have the shape of the items; where the loaders have several items a user, the model takes them; the whole
    catalogue is scored as its pairs are, and ranked as it is scored. Models of fastrec are left to their tests.
    """
    if not isinstance(model, nn.Module):
        what = repr(model) if isinstance(model, str) else type(model).__name__
        raise TypeError(
            f'a learner trains a model, a torch nn.Module or its class, got {what}: e.g. rec_learner(dls, DotBias). '
            'Baselines have no training loop: EASE().fit(dls)'
        )
    if type(model).__module__.startswith('fastrec.models.'):
        return
    try:
        device = next(model.parameters()).device
    except StopIteration:
        raise TypeError(
            f'{type(model).__name__} does not have parameters, so there is nothing to train: a scorer that needs no '
            'training loop is a `Scorer`, like the baselines'
        ) from None
    with evaluating(model) as view, torch.random.fork_rng(devices=[]):
        _try_out(view, dls, device)


def _try_out(model: nn.Module, dls: RecDataLoaders, device: torch.device) -> None:
    catalog = dls.catalog
    users = _known_codes(catalog, 'user').to(device)
    items = _known_codes(catalog, 'item').to(device)
    context: tuple = ()
    if dls.has_context:
        context = (torch.from_numpy(catalog.require_history().interactions.context[: len(users)]).to(device),)
    if dls.objective == 'catalogue':
        _try_catalogue(model, users, catalog.n_items)
    else:
        _same_shape(model, model(users, items, *context), items, '(B,)')
        if dls.target == 'implicit':
            _try_several(model, users, items)
    _try_agreement(model, users, items, context)


def _known_codes(catalog: Catalog, side: str) -> torch.Tensor:
    """Codes of the first few users or items with training rows."""
    return torch.from_numpy(catalog.known(side).nonzero()[0][:FEW])


def _same_shape(model: nn.Module, scores: torch.Tensor, items: torch.Tensor, which: str) -> None:
    if scores.shape == items.shape:
        return
    name, got, wanted = type(model).__name__, tuple(scores.shape), tuple(items.shape)
    way = 'End its forward with `.squeeze(-1)`' if got == (*wanted, 1) else 'Return a score for each pair'
    raise TypeError(
        f'{name} returns scores of shape {got} for items {which} of shape {wanted}: a loss would spread them over the '
        f'targets and learn something else. {way}'
    )


def _try_several(model: nn.Module, users: torch.Tensor, items: torch.Tensor) -> None:
    """Several items a user, which loaders of implicit feedback have: the positive and its negatives."""
    several = items.repeat(len(users), 2)
    try:
        scores = model(users, several)
    except Exception as e:
        raise TypeError(
            f'{type(model).__name__} does not take items (B, C), several a user, and these loaders (implicit feedback) '
            f'have a positive and its negatives in a row ({type(e).__name__}: {e}). Where `items.dim() == 2`, give the '
            'users a dimension: `users = users[:, None]`, and sum over the last one'
        ) from e
    _same_shape(model, scores, several, '(B, C)')


def _try_catalogue(model: nn.Module, users: torch.Tensor, n_items: int) -> None:
    """Scores of all items, which an objective over the whole catalogue trains on."""
    name = type(model).__name__
    try:
        scores = model(users)
    except Exception as e:
        raise TypeError(
            f'these loaders (n_neg=None) train on the whole catalogue, and {name} does not score it ({e}). Let '
            'forward take `items=None` and begin with `if items is None: return self.score_items(users)`, or take '
            'loaders with n_neg=4'
        ) from e
    if tuple(scores.shape) != (len(users), n_items):
        raise TypeError(
            f'{name} returns scores of shape {tuple(scores.shape)} without items, in place of {(len(users), n_items)}: '
            'users x all items'
        )


def _try_agreement(model: nn.Module, users: torch.Tensor, items: torch.Tensor, context: tuple) -> None:
    """Are pairs, the catalogue and the ranking scored alike?"""
    rec_model = as_rec_model(model)
    if not rec_model.scores_catalogue:
        return
    name = type(model).__name__
    pairs = torch.stack([model(users, item.expand(len(users)), *context) for item in items], 1)
    whole = rec_model.score_items(users, *context)
    scale = pairs.abs().max().clamp(min=1.0)
    if (pairs - whole[:, items]).abs().max() > TOLERANCE * scale:
        raise ValueError(
            f'{name} scores pairs otherwise than its score_items(users) does (e.g. {pairs[0, 0].item():.4g} and '
            f'{whole[0, items[0]].item():.4g}): it would be trained on the one and ranked by the other. '
            'Let score_items follow forward'
        )
    if context or (ranking_items := rec_model.ranking_items()) is None:
        return
    products = rec_model.ranking_users(users) @ ranking_items.T
    ordered = whole.gather(1, products.argsort(dim=1))
    if (ordered.cummax(1).values - ordered).max() > TOLERANCE * scale:
        raise ValueError(
            f'{name} is ranked by ranking_items() and ranking_users(users) otherwise than it scores: let their '
            'product follow score_items, or leave them out'
        )
