"""A line for each model: builders of learners, with the defaults that suit what the loaders are made for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal, cast

import numpy as np
import torch
from fastcore.meta import delegates
from torch import nn

from ..data.features import Features, ItemFeatures, UserFeatures
from ..data.interactions import check_y_range
from ..keywords import check_arguments
from ..models.base import RecModel
from ..models.content import Content
from ..models.dot import DotBias
from ..models.gated import ConcatHybrid, GatedHybrid, SumHybrid
from ..models.neumf import GMF, MLP, NeuMF
from ..models.svdpp import SVDpp
from ..models.two_tower import TwoTower
from ..scorers.blend import Ensemble
from ..scorers.given import given_to
from .batches import InBatchDL
from .callbacks import GateCallback
from .checks import check_loaders, takes_logits
from .dataloaders import RecDataLoaders
from .learner import RecLearner
from .optimizers import FusedAdam, LazyAdam
from .recipes import goal_of, recipe_of

__all__ = [
    'collab_learner',
    'content_learner',
    'ensemble_learner',
    'gated_learner',
    'gmf_learner',
    'mlp_learner',
    'neumf_learner',
    'rec_learner',
    'svdpp_learner',
    'two_tower_learner',
]

# (low, high) of predictions; None: `_range_of_ratings`; False: unbounded
YRange = tuple[float, float] | Literal[False] | None

MARGIN = 0.1  # of the range of ratings: how far beyond it predictions may go (a sigmoid never reaches its ends)
TAIL = 0.02  # of the range of ratings: a mean as near to an end has a long tail on the other side

# default weight decay by what the loaders are made for: see `goal_of`
NO_DECAY: Mapping[str, float] = dict(rating=0.0, liked=0.0, negatives=0.0, catalogue=0.0)


@check_arguments
@delegates(RecLearner.__init__)
def rec_learner(
    dls: RecDataLoaders,  # loaders of ratings, of likes or of implicit feedback
    model: nn.Module | type[nn.Module],  # a model, or a class: see below
    loss_func: Callable | None = None,  # by default by what the loaders are made for, as in `collab_learner`
    opt_func: Callable | None = None,  # by default `FusedAdam`, for large tables `LazyAdam`
    metrics: Any = None,  # e.g. `[rmse, mae]`
    **kwargs,
) -> RecLearner:
    """A `RecLearner` for any model: a `RecModel`, or a module with `forward(users, items) -> scores`.

    Of a class, `model(n_users, n_items, ...)` makes one. What it asks for by name it is given of the data:
    `known_users`, `known_items`, `user_counts`, `item_counts`, `history`, `times`, `context_sizes` (see
    `fastrec.scorers.given`) and `mean`. The model is tried on a few pairs first: `TypeError` or `ValueError` say what
    it lacks.
    """
    check_loaders(dls)
    if isinstance(model, type):
        given = given_to(model, dls.catalog, mean=_start(dls, loss_func))
        model = model(dls.n_users, dls.n_items, **given)
        return RecLearner(dls, model, loss_func, opt_func, metrics, **kwargs).starts_at_random()
    return RecLearner(dls, model, loss_func, opt_func, metrics, **kwargs)


@check_arguments
@delegates(RecLearner.__init__)
def collab_learner(
    dls: RecDataLoaders,  # loaders of ratings, of likes or of implicit feedback
    n_factors: int = 50,  # length of the vectors of users and items
    y_range: YRange = None,  # (low, high) of predictions; None: a tenth beyond the ratings; False: unbounded
    loss_func: Callable | None = None,  # by default by what the loaders are made for, see below
    opt_func: Callable | None = None,  # by default `FusedAdam`, for large tables `LazyAdam`
    metrics: Any = None,  # e.g. `[rmse, mae]`; for implicit feedback `[hr(10), ndcg(10)]`
    wd: float | None = None,  # L2 of the factors per observed row; by default by what the loaders are made for
    **kwargs,
) -> RecLearner:
    """A learner for matrix factorization with biases (`DotBias`).

    `loss_func` is by default `nn.MSELoss()` for ratings, `BCELoss()` for what is liked and with sampled negatives,
    `InBatchSoftmaxLoss` with the negatives of the batch, `SoftmaxLoss()` over the whole catalogue. `wd` (see
    `RecLearner`) is by default 0.08 for ratings, 0.01 for what is liked, 0 for sampled negatives, 0.3 over the whole
    catalogue. Implicit feedback and likes take no `y_range`.

    Fewer factors may be better where the last rows of each user are predicted, of tastes that have moved on: with
    `TimeSplitter(by='user')` on ML-100K the RMSE is .9488 with 20 factors and .9507 with 50 (64 rows a batch, 10 epochs
    at 3e-3, one seed). `ValueError` where the context is the time alone.
    """
    check_loaders(dls)
    sizes = [] if dls.catalog.context_of is None else dls.catalog.context_of.sizes
    if sizes and not any(sizes):
        raise ValueError(
            'the context of these loaders is the time alone, which collab_learner does not read: take svdpp_learner, '
            'or make a column of what matters, e.g. the weekday'
        )
    make = partial(DotBias, n_factors=n_factors)
    wds = dict(rating=0.08, liked=0.01, negatives=0.0, catalogue=0.3)
    return _build(
        'collab_learner', dls, make, y_range, loss_func, opt_func, metrics, wd, wds, reads_context=True, **kwargs
    )


@check_arguments
@delegates(RecLearner.__init__)
def svdpp_learner(
    dls: RecDataLoaders,  # loaders of ratings, of likes or of implicit feedback
    n_factors: int = 50,  # length of the vectors of users and items
    dropout: float | None = None,  # share of a user's history left out at each step; by default 0, implicit 0.4
    item_side: bool | None = None,  # do items sum who rated them, as users what they rated? By default for ratings
    residuals: bool | None = None,  # sums weighted by what biases leave of the ratings, too? By default for ratings
    leave_one_out: bool | None = None,  # is a row scored as if it were not in the histories? By default for ratings
    y_range: YRange = None,  # (low, high) of predictions; None: a tenth beyond the ratings; False: unbounded
    loss_func: Callable | None = None,  # as in `collab_learner`
    opt_func: Callable | None = None,  # by default `FusedAdam`; for implicit feedback and large tables `LazyAdam`
    metrics: Any = None,  # e.g. `[rmse, mae]`; for implicit feedback `[hr(10), ndcg(10)]`
    wd: float | None = None,  # L2 of the summed vectors per observed row (see `SVDpp`); for the defaults see below
    own_decay: float | None = None,  # L2 of one's own vector, as a multiple of `wd`; by default 80 for ratings, else 1
    history_decay: float | None = None,  # L2 of vectors that are summed, the same; by default 10 for ratings, else 0
    residual_decay: float | None = None,  # L2 of vectors in sums weighted by residuals, the same; by default 30
    user_features: UserFeatures | None = None,  # what is known of users
    item_features: ItemFeatures | None = None,  # of items: those without training rows are scored by them
    feature_decay: float = 1.0,  # L2 of what features add, as a multiple of `wd`
    bias_decay: float | None = None,  # L2 of biases, the same; by default 5 for ratings with features, else 0
    **kwargs,
) -> RecLearner:
    """A learner for `SVDpp`: vectors that add what a user has, and who has an item, in the training rows.

    Of ratings the most accurate model here, with `fit_one_cycle(15)`. Each step works out all sums anew, so batches are
    better large, as long as there are enough of them: `RecDataLoaders.from_df(ratings, bs=2048)` for 100,000 ratings
    and more, and for fewer about 40 steps an epoch (of 40 users of MovieLens latest-small RMSE .819, against .837 with
    `bs=2048`). In training a rating is predicted as if it were not in the histories. Loaders with `context=` have
    levels of it, and with the time among it the user's bias at the time (`TimeDependentBias`), which takes more off the
    error than anything else where ratings between others are to be filled in. What is saved or exported has vectors
    worked out once and for all and the levels of context; biases of the time, and new items by their features, only the
    learner itself has. With `n_neg=None` (softmax over the whole catalogue) this is a denoising autoencoder with a
    vector of its own for each user: the strongest ranker here.

    How many epochs are right depends on the table. Over the whole catalogue the recipe's 20 are right for some, and 30
    are worse there: watch `metrics=[ndcg(10)]`, and keep the best with `SaveModelCallback(monitor='ndcg@10')`.

    `wd` is by default 0.02 times the variance of the ratings, 0.01 for what is liked, 0 for sampled negatives, 0.4 over
    the whole catalogue. `ValueError` for `residuals` where there are no ratings.
    """
    check_loaders(dls)
    of_ratings = dls.target == 'rating'
    if residuals and not of_ratings:
        raise ValueError(
            'residuals=True weighs histories by ratings, and these loaders learn from choices: leave it out, '
            "or make them with target='rating'"
        )
    has_features = user_features is not None or item_features is not None
    make = partial(
        SVDpp,
        n_factors=n_factors,
        dropout=_default(dropout, 0.4 if dls.target == 'implicit' else 0.0),
        norm=0.4 if dls.target == 'implicit' else 0.5,
        item_side=_default(item_side, of_ratings),
        residuals=_default(residuals, of_ratings),
        leave_one_out=_default(leave_one_out, of_ratings),
        own_decay=_default(own_decay, 80.0 if of_ratings else 1.0),
        history_decay=_default(history_decay, 10.0 if of_ratings else 0.0),
        residual_decay=_default(residual_decay, 30.0),
        feature_decay=feature_decay,
        bias_decay=_default(bias_decay, 5.0 if of_ratings and has_features else 0.0),
        user_blocks=_blocks(dls, user_features, 'user'),
        item_blocks=_blocks(dls, item_features, 'item'),
    )
    wds = dict(rating=0.0, liked=0.01, negatives=0.0, catalogue=0.4)
    if of_ratings:
        opt_func = _default(opt_func, FusedAdam)  # sums touch every row at every step
        history = dls.catalog.require_history()
        wds['rating'] = 0.02 * history.interactions.ratings[history.split.train].var().item()
    learn = _build(
        'svdpp_learner', dls, make, y_range, loss_func, opt_func, metrics, wd, wds, reads_context=True, **kwargs
    )
    return _with_features(learn, item_features, user_features)


@check_arguments
@delegates(RecLearner.__init__)
def mlp_learner(
    dls: RecDataLoaders,  # loaders of ratings, of likes or of implicit feedback
    n_factors: int = 16,  # length of the vectors of users and items
    layers: list[int] | tuple[int, ...] = (64, 32),  # widths of the hidden layers
    dropout: float | None = None,  # after each hidden layer; by default 0.5 for ratings, 0 for implicit feedback
    y_range: YRange = None,  # (low, high) of predictions; None: a tenth beyond the ratings; False: unbounded
    loss_func: Callable | None = None,  # as in `collab_learner`
    opt_func: Callable | None = None,  # by default `FusedAdam`, for large tables `LazyAdam`
    metrics: Any = None,  # e.g. `[rmse, mae]`; for implicit feedback `[hr(10), ndcg(10)]`
    wd: float | None = None,  # L2 of the embeddings per observed row, and weight decay of the layers
    **kwargs,
) -> RecLearner:
    """A learner for a perceptron over user and item embeddings (`MLP`).

    fastai's `use_nn`, and the MLP of neural collaborative filtering. `wd` (see `RecLearner`) is by default 0.1 for
    ratings, 0.03 for what is liked, else 0.
    """
    check_loaders(dls)
    dropout = _default(dropout, 0.0 if dls.target == 'implicit' else 0.5)
    make = partial(MLP, n_factors=n_factors, layers=layers, dropout=dropout)
    wds = dict(rating=0.1, liked=0.03, negatives=0.0, catalogue=0.0)
    _check_pairs(dls, 'mlp_learner')
    return _build('mlp_learner', dls, make, y_range, loss_func, opt_func, metrics, wd, wds, **kwargs)


@check_arguments
@delegates(RecLearner.__init__)
def gmf_learner(
    dls: RecDataLoaders,  # loaders of implicit feedback
    n_factors: int = 32,  # length of the vectors of users and items
    loss_func: Callable | None = None,  # by default `BCELoss()`
    opt_func: Callable | None = None,  # by default `FusedAdam`, for large tables `LazyAdam`
    metrics: Any = None,  # e.g. `[hr(10), ndcg(10)]`
    wd: float | None = None,  # L2 of the embeddings per observed row; by default 0
    **kwargs,
) -> RecLearner:
    """A learner for generalized matrix factorization (`GMF`)."""
    check_loaders(dls)
    _check_implicit(dls, 'gmf_learner')
    _check_pairs(dls, 'gmf_learner')
    make = partial(GMF, n_factors=n_factors)
    return _build('gmf_learner', dls, make, None, loss_func, opt_func, metrics, wd, NO_DECAY, **kwargs)


@check_arguments
@delegates(RecLearner.__init__)
def neumf_learner(
    dls: RecDataLoaders,  # loaders of implicit feedback
    n_factors: int = 32,  # length of the vectors of both pathways
    layers: list[int] | tuple[int, ...] = (128, 64, 32),  # widths of the hidden layers of the MLP pathway
    dropout: float = 0.0,  # after each hidden layer
    pretrain: int = 0,  # epochs of GMF and of MLP that are trained first, to start from (He et al. 2017, 3.4.1)
    pretrain_lr: float = 5e-3,  # highest rate of their one cycle
    alpha: float = 0.5,  # share of the pre-trained GMF in the output layer
    gmf_dim: int | None = None,  # length of the vectors of the GMF pathway; None: `n_factors`
    mlp_dim: int | None = None,  # of those of the MLP pathway; None: `n_factors`
    loss_func: Callable | None = None,  # by default `BCELoss()`
    opt_func: Callable | None = None,  # by default `FusedAdam`, for large tables `LazyAdam`
    metrics: Any = None,  # e.g. `[hr(10), ndcg(10)]`
    wd: float | None = None,  # L2 of the embeddings per observed row and weight decay of the layers; by default 0
    **kwargs,
) -> RecLearner:
    """A learner for neural matrix factorization (`NeuMF`), its pathways pre-trained if asked.

    `ValueError` for an `alpha` that is not a share.
    """
    check_loaders(dls)
    _check_implicit(dls, 'neumf_learner')
    _check_pairs(dls, 'neumf_learner')
    options = dict(loss_func=loss_func, opt_func=opt_func, wd=wd)
    if not 0 <= alpha <= 1:
        raise ValueError(f'alpha={alpha}: a share from 0, the MLP alone, to 1, the GMF alone')
    if pretrain:
        gmf = gmf_learner(dls, _default(gmf_dim, n_factors), **options)
        mlp = mlp_learner(dls, _default(mlp_dim, n_factors), layers, dropout, **options)
        for name, learn in (('GMF', gmf), ('MLP', mlp)):
            print(f'pre-training {name}')
            learn.fit_one_cycle(pretrain, pretrain_lr)
        model = NeuMF.from_pretrained(gmf.model.cpu(), mlp.model.cpu(), alpha)
        kwargs = dict(wd=_default(wd, NO_DECAY[goal_of(dls)]), lr=recipe_of('neumf_learner', dls).lr) | kwargs
        learn = rec_learner(dls, model, loss_func, opt_func, metrics, **kwargs)
        learn.builder = 'neumf_learner'
        return learn
    make = partial(NeuMF, n_factors=n_factors, layers=layers, dropout=dropout, gmf_dim=gmf_dim, mlp_dim=mlp_dim)
    return _build('neumf_learner', dls, make, None, loss_func, opt_func, metrics, wd, NO_DECAY, **kwargs)


@check_arguments
@delegates(RecLearner.__init__)
def two_tower_learner(
    dls: RecDataLoaders,  # loaders of implicit feedback
    user_features: UserFeatures | None = None,  # what is known of users
    item_features: ItemFeatures | None = None,  # items without training rows get their vectors from them
    n_factors: int = 64,  # length of the vectors
    layers: list[int] | tuple[int, ...] = (128,),  # widths of the hidden layers of both towers; (): none
    temperature: float = 0.1,  # of the softmax: scores are cosines over it
    dropout: float = 0.0,  # after each hidden layer
    id_dropout: float = 0.1,  # share of rows that train without their id, by features alone
    loss_func: Callable | None = None,  # by default `InBatchSoftmaxLoss`
    opt_func: Callable | None = None,  # by default `FusedAdam`
    metrics: Any = None,  # e.g. `[hr(10), ndcg(10)]`
    wd: float | None = None,  # L2 of the id vectors per row of a batch and weight decay of the layers; by default 0
    **kwargs,
) -> RecLearner:
    """A learner for `TwoTower`: users and items encoded apart, trained by a softmax over the items of the batch.

    Made for `learn.index()`. Whatever negatives `dls` draw, `learn.dls` are loaders of the same rows whose negatives
    are the other items of the batch (`dls.in_batch()`): larger batches have more of them.
    """
    check_loaders(dls)
    _check_implicit(dls, 'two_tower_learner')
    if not isinstance(dls.train, InBatchDL):
        dls = dls.in_batch()
    make = partial(
        TwoTower,
        n_factors=n_factors,
        layers=layers,
        temperature=temperature,
        dropout=dropout,
        id_dropout=id_dropout,
        user_blocks=_blocks(dls, user_features, 'user'),
        item_blocks=_blocks(dls, item_features, 'item'),
    )
    learn = _build('two_tower_learner', dls, make, None, loss_func, opt_func, metrics, wd, NO_DECAY, **kwargs)
    return _with_features(learn, item_features, user_features)


@check_arguments
@delegates(RecLearner.__init__)
def content_learner(
    dls: RecDataLoaders,  # loaders of ratings, of likes or of implicit feedback
    item_features: ItemFeatures,  # what items are known by
    user_features: UserFeatures | None = None,  # for users of whom something is known, too
    n_factors: int = 64,  # length of the vectors of users and items
    hidden: int = 256,  # width of the hidden layer over the features; 0: none
    dropout: float = 0.2,  # after it
    y_range: YRange = None,  # (low, high) of predictions; None: a tenth beyond the ratings; False: unbounded
    loss_func: Callable | None = None,  # as in `collab_learner`
    opt_func: Callable | None = None,  # by default `LazyAdam`: a large first layer at the columns of the batch
    metrics: Any = None,  # e.g. `[rmse, mae]`; for implicit feedback `[hr(10), ndcg(10)]`
    wd: float | None = None,  # L2 of the user vectors per observed row, and weight decay of the layers
    **kwargs,
) -> RecLearner:
    """A learner for `Content`: items are known by their features alone, so that new ones (`learn.add_items`) work.

    `wd` (see `RecLearner`) is by default 0.1 for ratings and over the whole catalogue, 0.2 for what is liked (with
    less of it a few epochs learn the training rows by heart), 0 for sampled negatives.
    """
    check_loaders(dls)
    make = partial(
        Content,
        blocks=_aligned(dls, item_features, 'item').blocks,
        n_factors=n_factors,
        hidden=hidden,
        dropout=dropout,
        user_blocks=_blocks(dls, user_features, 'user'),
    )
    wds = dict(rating=0.1, liked=0.2, negatives=0.0, catalogue=0.1)
    opt_func = _default(opt_func, LazyAdam)
    learn = _build('content_learner', dls, make, y_range, loss_func, opt_func, metrics, wd, wds, **kwargs)
    return _with_features(learn, item_features, user_features)


@check_arguments
@delegates(RecLearner.__init__)
def gated_learner(
    dls: RecDataLoaders,  # loaders of ratings, of likes or of implicit feedback
    item_features: ItemFeatures,  # what is known of items
    pathways: dict | None = None,  # name -> the blocks that share a pathway; by default each block has its own
    n_factors: int = 50,  # length of the vectors of users and items
    fusion: str = 'gate',  # 'gate': `GatedHybrid`; without gate 'sum': `SumHybrid`, 'concat': `ConcatHybrid`
    hidden: int = 0,  # width of a hidden layer in each pathway of features; 0: linear
    dropout: float = 0.2,  # of the pathways of features
    id_dropout: float = 0.2,  # share of items whose id is hidden at each step of training
    feature_dropout: float = 0.2,  # share of items whose features are hidden
    shrinkage: float = 8.0,  # training rows at which the gate starts with as much weight for the id as for all features
    user_trust: float | None = 0.25,  # how the id's weight rises with the user's rows (`GatedHybrid`); None: not
    y_range: YRange = None,  # (low, high) of predictions; None: a tenth beyond the ratings; False: unbounded
    loss_func: Callable | None = None,  # as in `collab_learner`
    opt_func: Callable | None = None,  # by default `FusedAdam`
    metrics: Any = None,  # e.g. `[rmse, mae]`; for implicit feedback `[hr(10), ndcg(10)]`
    wd: float | None = None,  # as in `collab_learner`, and weight decay of the layers
    **kwargs,
) -> RecLearner:
    """A learner for a hybrid: the item's own embedding and its features, behind a gate that looks at both sides.

    See `GatedHybrid`, and what it learned with `interp.plot_gates()`. `ValueError` for another `fusion`.
    """
    check_loaders(dls)
    models = dict(gate=GatedHybrid, sum=SumHybrid, concat=ConcatHybrid)
    if fusion not in models:
        raise ValueError(f'fusion={fusion!r}: choose one of {list(models)}')
    features = _aligned(dls, item_features, 'item')
    if pathways is None:
        pathways = {name: [name] for name in features}
    groups = {name: [of] if isinstance(of, str) else list(of) for name, of in pathways.items()}
    options: dict[str, Any] = dict(shrinkage=shrinkage, user_trust=user_trust) if fusion == 'gate' else {}
    make: partial[RecModel] = partial(
        models[fusion],
        pathways={name: features[names].blocks for name, names in groups.items()},
        n_factors=n_factors,
        hidden=hidden,
        dropout=dropout,
        id_dropout=id_dropout,
        feature_dropout=feature_dropout,
        **options,
    )
    wds = dict(rating=0.08, liked=0.01, negatives=0.0, catalogue=0.3)
    learn = _build('gated_learner', dls, make, y_range, loss_func, opt_func, metrics, wd, wds, **kwargs)
    if fusion == 'gate':
        learn.add_cb(GateCallback())
    return _with_features(learn, item_features)


@check_arguments
def ensemble_learner(
    dls: RecDataLoaders,  # loaders that all members share
    learner: Callable | list[Callable] = svdpp_learner,  # a builder, or a list of builders for members that differ
    n_members: int = 5,  # members to train; with a list of builders they take turns
    seed: int = 0,  # member i starts from, and is trained with, seed + i
    **kwargs,  # of the builder, which is called as builder(dls, **kwargs)
) -> Ensemble:
    """Several learners behind one `Scorer` (`Ensemble`), trained in one call.

    Their mean score is more accurate than each, and their spread says how sure it is. `ens = ensemble_learner(dls,
    svdpp_learner, 5)`, `ens.fit_one_cycle(15, 5e-3)`; `evaluate(ens)`, `ens.recommend(user)`, `ens.predictions(pairs)`
    with a column of spreads. `ValueError` without members, `TypeError` for what is not a builder.
    """
    builders = list(learner) if isinstance(learner, (list, tuple)) else [learner]
    if n_members < 1:
        raise ValueError(f'n_members={n_members}: an ensemble needs members')
    if not builders or not all(map(callable, builders)):
        raise TypeError('learner= takes a builder such as svdpp_learner, or a list of them')
    members = []
    for i in range(n_members):
        with torch.random.fork_rng():
            torch.manual_seed(seed + i)
            members.append(builders[i % len(builders)](dls, **kwargs))
    return Ensemble(members, seed)


# --- what the builders share


def _build(
    builder: str,  # who makes it: its name in `RECIPES`
    dls: RecDataLoaders,
    make: partial[RecModel],  # the model's class with the options that were asked for
    y_range: YRange,
    loss_func: Callable | None,
    opt_func: Callable | None,
    metrics: Any,
    wd: float | None,
    wds: Mapping[str, float],  # default weight decay by `goal_of`
    reads_context: bool = False,
    lr: float | slice | None = None,
    **kwargs,
) -> RecLearner:
    """Make the model with what the data say, and the learner; decay and rate by what the loaders are made for."""
    if dls.has_context and not reads_context:
        raise ValueError(
            f'these loaders have context ({dls.catalog.context_of}), which this model does not read: '
            'make them without context=, or take svdpp_learner or collab_learner'
        )
    _check_sizes(builder, make.keywords)
    options = _rating_options(dls, y_range, loss_func)
    wanted = {name: value for name, value in options.items() if value is not None}
    cls = cast('type[RecModel]', make.func)
    model = make(dls.n_users, dls.n_items, **given_to(cls, dls.catalog, **wanted))
    kwargs |= dict(wd=_default(wd, wds[goal_of(dls)]), lr=_default(lr, recipe_of(builder, dls).lr))
    learn = rec_learner(dls, model, loss_func, opt_func, metrics, **kwargs)
    learn.builder = builder
    return learn.starts_at_random()


def _check_sizes(builder: str, options: Mapping[str, Any]) -> None:
    """`ValueError` or `TypeError`, by name, for lengths, widths and shares that no model could have."""
    for name in ('n_factors', 'gmf_dim', 'mlp_dim'):
        size = options.get(name)
        if size is not None and (size < 1 or not isinstance(size, (int, np.integer))):
            raise ValueError(f'{builder}: {name}={size}: the length of a vector, a whole number from 1 on')
    layers = options.get('layers', ())
    if not isinstance(layers, (list, tuple)) or not all(isinstance(width, (int, np.integer)) for width in layers):
        raise TypeError(f'{builder}: layers={layers!r}: a list of the widths of hidden layers, e.g. layers=[64, 32]')
    if min(layers, default=1) < 1:
        raise ValueError(f'{builder}: layers={layers!r}: a hidden layer is at least 1 wide')
    for name, share in options.items():
        if name.endswith('dropout') and not 0 <= share < 1:
            raise ValueError(f'{builder}: {name}={share:g}: a share from 0 to below 1')


def _rating_options(dls: RecDataLoaders, y_range: YRange, loss_func: Callable | None) -> dict:
    """`y_range` and `mean` of a rating model, after the checks; {} for implicit feedback."""
    from_ratings = y_range is None and (loss_func is None or not takes_logits(loss_func))
    if y_range is False:
        y_range = None
    if dls.target == 'liked':
        logits = loss_func is None or takes_logits(loss_func)
        if logits and y_range is not None:
            raise ValueError(
                f"y_range={y_range}: with target='liked' scores are logits and have no range: leave it out, "
                'or learn probabilities with y_range=(0, 1), loss_func=nn.MSELoss()'
            )
        if not logits:
            check_y_range(0, 1, y_range, 'liked')
        return dict(y_range=y_range, mean=_start(dls, loss_func))
    if dls.target == 'implicit':
        if y_range is not None:
            raise ValueError(
                f'y_range={y_range} is for ratings, and these loaders hold implicit feedback, '
                'whose scores only rank: leave it out'
            )
        return {}
    lo, hi = dls.y_bounds
    if lo == hi:
        raise ValueError(
            f'all ratings are {lo:g}: there is nothing to regress on. Such a table says who chose what: '
            "rank with RecDataLoaders.from_df(..., target='implicit')"
        )
    if from_ratings:
        y_range = _range_of_ratings(dls)
    check_y_range(lo, hi, y_range, dls.catalog.names['rating'])
    return dict(y_range=y_range, mean=dls.catalog.mean_rating)


def _range_of_ratings(dls: RecDataLoaders) -> tuple[float, float] | None:
    """The ratings' range and `MARGIN` beyond it either way.

    None, unbounded, where the mean rating lies within `TAIL` of the range from an end: a long tail, as counts have.
    """
    lo, hi = dls.y_bounds
    width = hi - lo
    mean = dls.catalog.mean_rating
    if mean is None or min(mean - lo, hi - mean) < TAIL * width:
        return None
    return lo - MARGIN * width, hi + MARGIN * width


def _start(dls: RecDataLoaders, loss_func: Callable | None) -> float | None:
    """The score of the average training row: the mean rating, or the share of liked rows, as a logit if need be."""
    if dls.target != 'liked':
        return dls.catalog.mean_rating
    liked = dls.catalog.liked(dls.catalog.require_history().split.train)
    share = float(np.clip(liked.mean(), 1e-3, 1 - 1e-3))
    if loss_func is None or takes_logits(loss_func):
        return float(np.log(share / (1 - share)))
    return share


def _default(value, default):
    """`default` in the place of None."""
    return default if value is None else value


def _check_implicit(dls: RecDataLoaders, builder: str) -> None:
    if dls.target != 'implicit':
        raise ValueError(
            f'{builder} ranks implicit feedback, and these loaders hold ratings. Make them with '
            "RecDataLoaders.from_df(..., target='implicit', threshold=), or predict ratings with collab_learner or "
            'mlp_learner'
        )


def _check_pairs(dls: RecDataLoaders, builder: str) -> None:
    if dls.objective == 'catalogue':
        raise ValueError(
            f'{builder} scores pairs, and these loaders (n_neg=None) give a whole catalogue per user. '
            'Make them with n_neg=4, or take collab_learner or svdpp_learner'
        )


def _aligned(dls: RecDataLoaders, features: Features, side: str) -> Features:
    """Features with a row per code."""
    if not isinstance(features, Features) or features.side != side:
        wanted = 'ItemFeatures' if side == 'item' else 'UserFeatures'
        raise TypeError(
            f'expected {wanted}, got {type(features).__name__}. '
            f'Make them from the metadata table: `{wanted}.from_df(df, ...)`'
        )
    return features.align(dls.vocab[side])


def _blocks(dls: RecDataLoaders, features: Features | None, side: str) -> dict | None:
    """The blocks of features, a row per code; None without features."""
    return None if features is None else _aligned(dls, features, side).blocks


def _with_features(
    learn: RecLearner, item_features: ItemFeatures | None, user_features: UserFeatures | None = None
) -> RecLearner:
    """The learner, which keeps what tells how to read features of new items and users."""
    if item_features is not None:
        learn.item_features = item_features.without_rows()
    if user_features is not None:
        learn.user_features = user_features.without_rows()
    return learn
