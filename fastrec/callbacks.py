"What fastrec adds to fastai's training loop."
from __future__ import annotations

import torch
from fastai.learner import Metric

from . import metrics

__all__ = ['RatingMetric']


class RatingMetric(Metric):
    """`rmse` or `mae` over a whole validation set, as a column of the training table.

    Sums are kept in float64 on the device and read once an epoch. With `rows='warm'` or `'cold'` only pairs whose user and item both have training
    rows count, or only the others.
    """
    def __init__(self, func, rows:str='all'): self.func, self.rows = func, rows

    def reset(self): self.total, self.count = 0., 0

    def accumulate(self, learn):
        errors = (learn.pred.float() - learn.yb[0].float()).double()
        values = errors.square() if self.func is metrics.rmse else errors.abs()
        if self.rows != 'all':
            known = {side: torch.from_numpy(learn.dls.catalog.known(side)).to(values.device) for side in ('user', 'item')}
            warm = known['user'][learn.xb[0]] & known['item'][learn.xb[1]]
            mask = warm if self.rows == 'warm' else ~warm
            values, n = values * mask, mask.sum()
        else: n = values.numel()
        self.total, self.count = self.total + values.sum(), self.count + n

    @property
    def value(self):
        if not self.count: return None
        mean = torch.as_tensor(self.total / self.count)
        return mean.sqrt() if self.func is metrics.rmse else mean

    @property
    def name(self): return self.func.__name__ + ('' if self.rows == 'all' else f'_{self.rows}')
