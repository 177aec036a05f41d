"""A line for each model: builders of learners, with the defaults that suit what the loaders are made for."""

from __future__ import annotations

import inspect
from functools import partial

import numpy as np
import torch
from fastcore.meta import delegates

from ..data.features import Features
from ..data.interactions import check_y_range
from ..models.content import Content
from ..models.dot import DotBias
from ..models.gated import ConcatHybrid, GatedHybrid, SumHybrid
from ..models.neumf import GMF, MLP, NeuMF
from ..models.svdpp import SVDpp
from ..models.two_tower import TwoTower
from ..scorers.blend import Ensemble
from .batches import InBatchDL
from .callbacks import GateCallback
from .learner import RecLearner, _check, _takes_logits
from .optimizers import FusedAdam, LazyAdam

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


@delegates(RecLearner.__init__)
def rec_learner(
    dls,  # `RecDataLoaders`
    model,  # an `nn.Module` with `forward(users, items) -> scores`, or a class of which `model(n_users, n_items)` makes one (`known_users`, `known_items` and `mean` are passed if it takes them)
    loss_func=None,  # by default by what the loaders are made for, as in `collab_learner`
    opt_func=None,  # by default `FusedAdam`, for large tables `LazyAdam`
    metrics=None,  # e.g. `[rmse, mae]`
    **kwargs,
) -> RecLearner:
    """A `RecLearner` for any model; `score_items(users)`, `vectors(side)` and `biases(side)` are used where the model has them."""
    _check(dls)
    if isinstance(model, type):
        takes = inspect.signature(model).parameters
        model = model(
            dls.n_users,
            dls.n_items,
            **{k: v for k, v in {**_known(dls), 'mean': _start(dls, loss_func)}.items() if k in takes},
        )
    return RecLearner(dls, model, loss_func, opt_func, metrics, **kwargs)


def _rating_options(dls, y_range, loss_func=None):
    """What rating models are built with, after the checks."""
    if dls.target == 'liked':
        logits = loss_func is None or _takes_logits(loss_func)
        if logits and y_range is not None:
            raise ValueError(
                f"y_range={tuple(y_range)}: with target='liked' scores are logits and have no range: leave it out, or learn probabilities with y_range=(0, 1), loss_func=nn.MSELoss()"
            )
        if not logits:
            check_y_range(0, 1, y_range, 'liked')
        return dict(y_range=y_range, mean=_start(dls, loss_func), **_known(dls))
    if dls.target != 'rating':
        if y_range is not None:
            raise ValueError(
                f'y_range={y_range} is for ratings, and these loaders hold implicit feedback, whose scores only rank: leave it out'
            )
        return _known(dls)
    lo, hi = dls.y_bounds
    if lo == hi:
        raise ValueError(
            f"all ratings are {lo:g}: there is nothing to regress on. Such a table says who chose what: rank with RecDataLoaders.from_df(..., target='implicit')"
        )
    check_y_range(lo, hi, y_range, dls.catalog.names['rating'])
    return dict(y_range=y_range, mean=dls.catalog.mean_rating, **_known(dls))


def _start(dls, loss_func):
    """The score of the average training row: the mean rating, or the share of liked rows, as a logit where the loss takes those."""
    if dls.target != 'liked':
        return dls.catalog.mean_rating
    share = float(np.clip(dls.catalog.liked(dls.catalog.split.train).mean(), 1e-3, 1 - 1e-3))
    return float(np.log(share / (1 - share))) if loss_func is None or _takes_logits(loss_func) else share


def _known(dls):  # what every model of ours is built with
    return {f'known_{side}s': torch.from_numpy(dls.catalog.known(side)) for side in ('user', 'item')}


@delegates(RecLearner.__init__)
def collab_learner(
    dls,  # `RecDataLoaders` of ratings or of implicit feedback
    n_factors: int = 50,  # length of the vectors of users and items
    y_range: tuple = None,  # (low, high) of predicted ratings, a little wider than the ratings; None: unbounded, and for implicit feedback
    loss_func=None,  # by default `nn.MSELoss()` for ratings, `BCELoss()` for what is liked and with sampled negatives, `SoftmaxLoss()` over the whole catalogue
    opt_func=None,  # by default `FusedAdam`, for large tables `LazyAdam`
    metrics=None,  # e.g. `[rmse, mae]`; for implicit feedback `[hr(10), ndcg(10)]`
    wd: float = None,  # L2 of the factors per observed row (see `RecLearner`); by default 0.08 for ratings, 0.01 for what is liked, 0 for sampled negatives, 0.3 over the whole catalogue
    **kwargs,
) -> RecLearner:
    """A learner for matrix factorisation with biases (`DotBias`)."""
    if fastais := kwargs.keys() & {'use_nn', 'emb_szs', 'layers', 'config', 'loss'}:
        raise TypeError(
            f"collab_learner is the dot-product model and takes no {', '.join(sorted(fastais))}: for fastai's `use_nn` there is `mlp_learner(dls, n_factors=, layers=)`"
        )
    _check(dls)
    if (sizes := _context_sizes(dls)) and not any(sizes):
        raise ValueError(
            'the context of these loaders is the time alone, which collab_learner does not read: take svdpp_learner, or make a column of what matters, e.g. the weekday'
        )
    model = lambda **options: DotBias(dls.n_users, dls.n_items, n_factors, context_sizes=sizes, **options)
    return _build(dls, model, y_range, loss_func, opt_func, metrics, wd, (0.08, 0.0, 0.3, 0.01), context=True, **kwargs)


@delegates(RecLearner.__init__)
def svdpp_learner(
    dls,  # `RecDataLoaders` of ratings or of implicit feedback
    n_factors: int = 50,  # length of the vectors of users and items
    dropout: float = None,  # share of a user's history left out at each step of training; by default 0 for ratings, 0.4 for implicit feedback
    item_side: bool = None,  # do items sum who rated them, as users what they rated? By default yes for ratings, no for implicit feedback
    residuals: bool = None,  # are there sums weighted by what is left of the ratings without biases, too? By default yes for ratings; for them only
    leave_one_out: bool = None,  # in training, is a row scored as if it were not in the histories? By default yes for ratings
    y_range: tuple = None,  # (low, high) of predicted ratings; None: the range of the ratings and a tenth of it more at both ends, and for implicit feedback unbounded
    loss_func=None,  # as in `collab_learner`
    opt_func=None,  # by default `FusedAdam`; for implicit feedback and large tables `LazyAdam`
    metrics=None,  # e.g. `[rmse, mae]`; for implicit feedback `[hr(10), ndcg(10)]`
    wd: float = None,  # L2 of the summed vectors per observed row (see `SVDpp`); by default 0.02 times the variance of the ratings, 0 for sampled negatives, 0.4 over the whole catalogue
    own_decay: float = None,  # L2 of the vectors that are a user's or an item's own, as a multiple of `wd`; by default 80 for ratings, else 1
    history_decay: float = None,  # L2 of the vectors that are summed, as a multiple of `wd`; by default 10 for ratings, else 0
    residual_decay: float = None,  # L2 of the vectors in sums weighted by residuals, as a multiple of `wd`; by default 30
    user_features=None,  # `UserFeatures`, if anything is known of users
    item_features=None,  # `ItemFeatures`: items without training rows are scored by them
    feature_decay: float = 1.0,  # L2 of what features add, as a multiple of `wd`
    bias_decay: float = None,  # L2 of biases, as a multiple of `wd`; by default 5 for ratings with features, else 0
    **kwargs,
) -> RecLearner:
    """A learner for `SVDpp`: vectors that add what a user has, and who has an item, in the training rows.

    Of ratings the most accurate model here: `RecDataLoaders.from_df(ratings, bs=2048)` and `fit_one_cycle(15, 5e-3)`. In training a rating is predicted as if it were not in the histories.
    Loaders with `context=` have levels of it, and with the time among it the user's mood at the time (see `TimeDependentBias`), which takes more off the error than anything else where ratings between others are to be filled in.
    What is saved or exported has vectors worked out once and for all and the levels of context; moods, and new items by their features, only the learner itself has.
    With `n_neg=None` (softmax over the whole catalogue) this is a denoising autoencoder with a vector of its own for each user: the strongest ranker here.
    """
    _check(dls)
    of_ratings = dls.target == 'rating'
    if dropout is None:
        dropout = 0.4 if dls.target == 'implicit' else 0.0
    if item_side is None:
        item_side = of_ratings
    if own_decay is None:
        own_decay = 80.0 if of_ratings else 1.0
    if history_decay is None:
        history_decay = 10.0 if of_ratings else 0.0
    if residuals is None:
        residuals = of_ratings
    if residuals and not of_ratings:
        raise ValueError(
            "residuals=True weighs histories by ratings, and these loaders learn from choices: leave it out, or make them with target='rating'"
        )
    if residual_decay is None:
        residual_decay = 30.0
    if of_ratings:
        lo, hi = dls.y_bounds
        if y_range is None and lo < hi:
            y_range = lo - (hi - lo) / 10, hi + (hi - lo) / 10
        if opt_func is None:
            opt_func = FusedAdam  # sums touch every row at every step
        if wd is None:
            wd = 0.02 * dls.catalog.require_history().interactions.ratings[dls.catalog.split.train].var().item()
    norm = 0.4 if dls.target == 'implicit' else 0.5
    blocks = {
        f'{side}_blocks': None if f is None else _aligned(dls, f, side).blocks
        for side, f in (('user', user_features), ('item', item_features))
    }
    if bias_decay is None:
        bias_decay = 5.0 if of_ratings and (user_features is not None or item_features is not None) else 0.0
    sums = dict(
        **blocks,
        feature_decay=feature_decay,
        bias_decay=bias_decay,
        context_sizes=_context_sizes(dls),
        times=dls.catalog.require_history().times(),
        norm=norm,
        item_side=item_side,
        residuals=residuals,
        leave_one_out=of_ratings if leave_one_out is None else leave_one_out,
        own_decay=own_decay,
        history_decay=history_decay,
        residual_decay=residual_decay,
    )
    model = lambda **options: SVDpp(
        dls.n_users, dls.n_items, dls.catalog.require_history().positives, n_factors, dropout, **sums, **options
    )
    learn = _build(dls, model, y_range, loss_func, opt_func, metrics, wd, (0.0, 0.0, 0.4, 0.01), context=True, **kwargs)
    if item_features is not None:
        learn.item_features = item_features.without_rows()
    return learn


@delegates(RecLearner.__init__)
def mlp_learner(
    dls,  # `RecDataLoaders` of ratings or of implicit feedback
    n_factors: int = 16,  # length of the vectors of users and items
    layers: list = (64, 32),  # widths of the hidden layers
    dropout: float = None,  # after each hidden layer; by default 0.5 for ratings, 0 for implicit feedback
    y_range: tuple = None,  # (low, high) of predicted ratings, a little wider than the ratings; None: unbounded, and for implicit feedback
    loss_func=None,  # as in `collab_learner`
    opt_func=None,  # by default `FusedAdam`, for large tables `LazyAdam`
    metrics=None,  # e.g. `[rmse, mae]`; for implicit feedback `[hr(10), ndcg(10)]`
    wd: float = None,  # L2 of the embeddings per observed row and weight decay of the layers (see `RecLearner`); by default 0.1 for ratings, 0.03 for what is liked, else 0
    **kwargs,
) -> RecLearner:
    """A learner for a perceptron over user and item embeddings (`MLP`): fastai's `use_nn`, and the MLP of neural collaborative filtering."""
    _check(dls)
    if dropout is None:
        dropout = 0.0 if dls.target == 'implicit' else 0.5
    model = lambda **options: MLP(dls.n_users, dls.n_items, n_factors, layers, dropout, **options)
    return _build(
        dls, model, y_range, loss_func, opt_func, metrics, wd, (0.1, 0.0, 0.0, 0.03), pairs_only='mlp_learner', **kwargs
    )


@delegates(RecLearner.__init__)
def gmf_learner(
    dls,  # `RecDataLoaders` of implicit feedback
    n_factors: int = 32,  # length of the vectors of users and items
    loss_func=None,  # by default `BCELoss()`
    opt_func=None,  # by default `FusedAdam`, for large tables `LazyAdam`
    metrics=None,  # e.g. `[hr(10), ndcg(10)]`
    wd: float = None,  # L2 of the embeddings per observed row; by default 0
    **kwargs,
) -> RecLearner:
    """A learner for generalised matrix factorisation (`GMF`)."""
    return _build(
        dls,
        lambda **options: GMF(dls.n_users, dls.n_items, n_factors, **options),
        None,
        loss_func,
        opt_func,
        metrics,
        wd,
        (0.0, 0.0, 0.0, 0.0),
        pairs_only='gmf_learner',
        implicit_only=True,
        **kwargs,
    )


@delegates(RecLearner.__init__)
def neumf_learner(
    dls,  # `RecDataLoaders` of implicit feedback
    n_factors: int = 32,  # length of the vectors of both pathways
    layers: list = (128, 64, 32),  # widths of the hidden layers of the MLP pathway
    dropout: float = 0.0,  # after each hidden layer
    pretrain: int = 0,  # epochs of GMF and of MLP that are trained first, with one cycle at `pretrain_lr`, to start from (He et al. 2017, section 3.4.1)
    pretrain_lr: float = 5e-3,
    loss_func=None,  # by default `BCELoss()`
    opt_func=None,  # by default `FusedAdam`, for large tables `LazyAdam`
    metrics=None,  # e.g. `[hr(10), ndcg(10)]`
    wd: float = None,  # L2 of the embeddings per observed row and weight decay of the layers; by default 0
    **kwargs,
) -> RecLearner:
    """A learner for neural matrix factorisation (`NeuMF`), its pathways pre-trained if asked."""
    options = dict(loss_func=loss_func, opt_func=opt_func, wd=wd)
    build = partial(
        _build, dls, y_range=None, defaults=(0.0, 0.0, 0.0, 0.0), pairs_only='neumf_learner', implicit_only=True
    )
    if pretrain:
        gmf = gmf_learner(dls, n_factors, **options)
        mlp = mlp_learner(dls, n_factors, layers, dropout, **options)
        for name, learn in (('GMF', gmf), ('MLP', mlp)):
            print(f'pre-training {name}')
            learn.fit_one_cycle(pretrain, pretrain_lr)
        model = lambda **_: NeuMF.from_pretrained(gmf.model.cpu(), mlp.model.cpu())
    else:
        model = lambda **known: NeuMF(dls.n_users, dls.n_items, n_factors, layers, dropout, **known)
    return build(model, metrics=metrics, **options, **kwargs)


@delegates(RecLearner.__init__)
def two_tower_learner(
    dls,  # `RecDataLoaders` of implicit feedback
    user_features=None,  # `UserFeatures`, if anything is known of users
    item_features=None,  # `ItemFeatures`: items without training rows get their vectors from them
    n_factors: int = 64,  # length of the vectors
    layers: list = (128,),  # widths of the hidden layers of both towers; (): none
    temperature: float = 0.1,  # of the softmax: scores are cosines over it
    dropout: float = 0.0,  # after each hidden layer
    id_dropout: float = 0.1,  # share of rows that train without their id, by features alone
    loss_func=None,  # by default `InBatchSoftmaxLoss`
    opt_func=None,  # by default `FusedAdam`
    metrics=None,  # e.g. `[hr(10), ndcg(10)]`
    wd: float = None,  # L2 of the id vectors per row of a batch and weight decay of the layers; by default 0
    **kwargs,
) -> RecLearner:
    """A learner for `TwoTower`: users and items encoded apart, trained by a softmax over the items of the batch, and made for `learn.index()`.

    Whatever negatives `dls` draw, `learn.dls` are loaders of the same rows whose negatives are the other items of the batch (`dls.in_batch()`): larger batches have more of them.
    """
    _check(dls)
    if dls.target == 'implicit' and not isinstance(dls.train, InBatchDL):
        dls = dls.in_batch()
    blocks = {
        f'{side}_blocks': None if f is None else _aligned(dls, f, side).blocks
        for side, f in (('user', user_features), ('item', item_features))
    }
    model = lambda **options: TwoTower(
        dls.n_users,
        dls.n_items,
        n_factors,
        layers,
        temperature,
        dropout=dropout,
        id_dropout=id_dropout,
        **blocks,
        **{k: v for k, v in options.items() if k in ('known_users', 'known_items')},
    )
    learn = _build(
        dls,
        model,
        None,
        loss_func,
        opt_func,
        metrics,
        wd,
        (0.0, 0.0, 0.0, 0.0),
        pairs_only='two_tower_learner',
        implicit_only=True,
        **kwargs,
    )
    if item_features is not None:
        learn.item_features = item_features.without_rows()
    return learn


@delegates(RecLearner.__init__)
def content_learner(
    dls,  # `RecDataLoaders` of ratings, of likes or of implicit feedback
    item_features,  # `ItemFeatures`
    user_features=None,  # `UserFeatures`, for users of whom something is known, too
    n_factors: int = 64,  # length of the vectors of users and items
    hidden: int = 256,  # width of the hidden layer over the features; 0: none
    dropout: float = 0.2,  # after it
    y_range: tuple = None,  # (low, high) of predicted ratings, a little wider than the ratings; None: unbounded, and for likes and implicit feedback
    loss_func=None,  # as in `collab_learner`
    opt_func=None,  # by default `LazyAdam`, which updates a large first layer at the columns of the batch
    metrics=None,  # e.g. `[rmse, mae]`; for implicit feedback `[hr(10), ndcg(10)]`
    wd: float = None,  # L2 of the user vectors per observed row and weight decay of the layers (see `RecLearner`); by default 0.1 for ratings and over the whole catalogue, 0.03 for what is liked, 0 for sampled negatives
    **kwargs,
) -> RecLearner:
    """A learner for `Content`: items are known by their features alone, so that new ones (`learn.add_items`) work at once."""
    _check(dls)
    features, user_blocks = (
        _aligned(dls, item_features, 'item'),
        None if user_features is None else _aligned(dls, user_features, 'user').blocks,
    )
    model = lambda **options: Content(
        dls.n_users, dls.n_items, features.blocks, n_factors, hidden, dropout, user_blocks, **options
    )
    learn = _build(
        dls,
        model,
        y_range,
        loss_func,
        LazyAdam if opt_func is None else opt_func,
        metrics,
        wd,
        (0.1, 0.0, 0.1, 0.03),
        **kwargs,
    )
    learn.item_features = features.without_rows()
    return learn


@delegates(RecLearner.__init__)
def gated_learner(
    dls,  # `RecDataLoaders` of ratings, of likes or of implicit feedback
    item_features,  # `ItemFeatures`
    pathways: dict = None,  # name -> the blocks that share a pathway; by default each block has its own
    n_factors: int = 50,  # length of the vectors of users and items
    fusion: str = 'gate',  # 'gate': `GatedHybrid`; without gate 'sum': `SumHybrid`, 'concat': `ConcatHybrid`
    hidden: int = 0,  # width of a hidden layer in each pathway of features; 0: linear
    dropout: float = 0.2,  # of the pathways of features
    id_dropout: float = 0.2,  # share of items whose id is hidden at each step of training
    feature_dropout: float = 0.2,  # share of items whose features are hidden
    shrinkage: float = 8.0,  # training rows at which the gate starts with as much weight for the id as for all features together
    y_range: tuple = None,  # (low, high) of predicted ratings, a little wider than the ratings; None: unbounded, and for likes and implicit feedback
    loss_func=None,  # as in `collab_learner`
    opt_func=None,  # by default `FusedAdam`
    metrics=None,  # e.g. `[rmse, mae]`; for implicit feedback `[hr(10), ndcg(10)]`
    wd: float = None,  # as in `collab_learner`, and weight decay of the layers
    **kwargs,
) -> RecLearner:
    """A learner for a hybrid: the item's own embedding and its features, behind a gate that looks at user and item (`GatedHybrid`). See what it learned with `interp.plot_gates()`."""
    _check(dls)
    models = dict(gate=GatedHybrid, sum=SumHybrid, concat=ConcatHybrid)
    if fusion not in models:
        raise ValueError(f'fusion={fusion!r}: choose one of {list(models)}')
    features = _aligned(dls, item_features, 'item')
    groups = {
        name: features[names if isinstance(names, (list, tuple)) else [names]].blocks
        for name, names in (pathways or {o: o for o in features}).items()
    }
    gate = dict(shrinkage=shrinkage) if fusion == 'gate' else {}
    model = lambda **options: models[fusion](
        dls.n_users,
        dls.n_items,
        groups,
        n_factors,
        hidden,
        dropout,
        id_dropout,
        feature_dropout,
        item_counts=dls.catalog.counts['item'],
        **gate,
        **options,
    )
    learn = _build(dls, model, y_range, loss_func, opt_func, metrics, wd, (0.08, 0.0, 0.3, 0.01), **kwargs)
    if fusion == 'gate':
        learn.add_cb(GateCallback())
    learn.item_features = features.without_rows()
    return learn


def _context_sizes(dls):
    return [] if dls.catalog.context_of is None else dls.catalog.context_of.sizes


def _aligned(dls, features, side):
    """Features with a row per code."""
    if not isinstance(features, Features) or features.side != side:
        raise TypeError(
            f'expected {"ItemFeatures" if side == "item" else "UserFeatures"}, got {type(features).__name__}. Make them from the metadata table: `{"ItemFeatures" if side == "item" else "UserFeatures"}.from_df(df, ...)`'
        )
    return features.align(dls.vocab[side])


def ensemble_learner(
    dls,  # `RecDataLoaders`
    learner=svdpp_learner,  # a builder, or a list of builders for members that differ: called with `dls` and `kwargs`
    n_members: int = 5,  # members to train; with a list of builders they take turns
    seed: int = 0,  # member i starts from, and is trained with, seed + i
    **kwargs,  # of the builder
) -> Ensemble:
    """Several learners behind one `Scorer` (`Ensemble`), trained in one call: their mean score is more accurate than each, and their spread says how sure it is.

    `ens = ensemble_learner(dls, svdpp_learner, 5)`, `ens.fit_one_cycle(15, 5e-3)`; `evaluate(ens)`, `ens.recommend(user)`, `ens.predictions(pairs)` with a column of spreads.
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


def _build(
    dls,
    model,
    y_range,
    loss_func,
    opt_func,
    metrics,
    wd,
    defaults,
    pairs_only=None,
    implicit_only=False,
    context=False,
    **kwargs,
):
    """What the builders share: `model` is made with what the data say, `wd` by default by what the loaders are made for (ratings, negatives, whole catalogue)."""
    _check(dls)
    if dls.n_inp == 3 and not context:
        raise ValueError(
            f'these loaders have context ({dls.catalog.context_of}), which this model does not read: make them without context=, or take svdpp_learner or collab_learner'
        )
    if implicit_only and dls.target != 'implicit':
        raise ValueError(
            f"{pairs_only} ranks implicit feedback, and these loaders hold ratings. Make them with RecDataLoaders.from_df(..., target='implicit', threshold=), or predict ratings with collab_learner or mlp_learner"
        )
    if pairs_only and dls.n_inp == 1:
        raise ValueError(
            f'{pairs_only} scores pairs, and these loaders (n_neg=None) give a whole catalogue per user. Make them with n_neg=4, or take collab_learner or svdpp_learner'
        )
    if wd is None:
        wd = defaults[{'rating': 0, 'liked': 3}.get(dls.target, 2 if dls.n_inp == 1 else 1)]
    return rec_learner(
        dls, model(**_rating_options(dls, y_range, loss_func)), loss_func, opt_func, metrics, wd=wd, **kwargs
    )
