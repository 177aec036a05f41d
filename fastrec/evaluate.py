"Honest evaluation: errors on held-out rows, warm and cold apart, and over folds."
from __future__ import annotations

import numpy as np
import pandas as pd
import torch

from . import metrics as _metrics
from .recommend import cold_mask

__all__ = ['evaluate', 'cross_validate']


def evaluate(
    scorer, # a fitted learner, baseline, or any other `Scorer`
    dls=None, # `RecDataLoaders` whose held-out rows are scored; by default the scorer's own
    metrics=(_metrics.rmse, _metrics.mae), # functions of (scores, target)
    split:str='valid' # 'valid' or 'test' (or 'train')
)->pd.DataFrame:
    """Errors of predicted ratings: a row each for all pairs, and, if there are any, the warm ones and the cold ones (a user or item without training row).

    Columns: rows (how many) and one per metric. Index: all, warm, cold.
    """
    catalog = (dls or scorer).catalog
    inter = catalog.require_history()
    rows = getattr(catalog.split, split, None)
    if rows is None: raise ValueError(f"there is no {split!r} part: the split has {[o for o in catalog.split._fields if getattr(catalog.split, o) is not None]}")
    if scorer.scale != 'rating': raise ValueError(f'{type(scorer).__name__} scores on the scale {scorer.scale!r}, not as ratings: its errors would mean nothing')
    users, items = inter.users[rows].astype(np.int64), inter.items[rows].astype(np.int64)
    scores = scorer.score(torch.from_numpy(users), torch.from_numpy(items)).cpu()
    target = torch.from_numpy(inter.ratings[rows])
    cold = torch.from_numpy(cold_mask(catalog, users, items))
    groups = dict(all=torch.ones_like(cold), warm=~cold, cold=cold) if cold.any() else dict(all=~cold)
    return pd.DataFrame([dict(rows=int(m.sum()), **{f.__name__: f(scores[m], target[m]).item() for f in metrics}) for m in groups.values() if m.any()],
                        index=[g for g, m in groups.items() if m.any()])


def cross_validate(
    df:pd.DataFrame, # the rating table
    fit, # function of `RecDataLoaders` that returns a fitted learner or baseline
    splitter=None, # iterable of splitters or of (train, valid) index arrays; by default `KFoldSplitter(5)`
    metrics=(_metrics.rmse, _metrics.mae), # functions of (scores, target)
    **kwargs # passed to `RecDataLoaders.from_df`
)->pd.DataFrame:
    "Validation errors per fold, and their mean and standard deviation: a row each, a column per metric. `fit` is called afresh for each fold."
    from .dataloaders import RecDataLoaders
    from .splits import KFoldSplitter
    folds = list(KFoldSplitter(5) if splitter is None else splitter)
    if not folds: raise ValueError('no folds given')
    results = []
    for fold in folds:
        dls = RecDataLoaders.from_df(df, splitter=fold, **kwargs)
        results.append(evaluate(fit(dls), dls, metrics).loc['all'])
    table = pd.DataFrame(results, index=pd.Index(range(len(folds)), name='fold')).drop(columns='rows')
    return pd.concat([table, pd.DataFrame([table.mean(), table.std()], index=['mean', 'std'])])
