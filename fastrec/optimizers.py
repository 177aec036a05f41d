"Optimisers for embedding models, and the schedule that drives them, at the price of a step of torch."
from __future__ import annotations

import math
from functools import partial

import torch
from fastai.optimizer import OptimWrapper

__all__ = ['FusedAdam', 'one_cycle']


class FusedAdam(OptimWrapper):
    """Adam in one fused kernel (torch's `AdamW`) with fastai's hyper-parameters: lr, mom, sqr_mom, eps, wd (decoupled).

    Kingma and Ba 2015; Loshchilov and Hutter 2019 for the decay. It reads and sets its hyper-parameters directly: `OptimWrapper` rebuilds
    all of them at each of the five times a step that fastai's scheduler and recorder ask.
    """
    def __init__(self, params, lr:float=1e-3, mom:float=.9, sqr_mom:float=.99, eps:float=1e-5, wd:float=0.):
        super().__init__(params, opt=partial(torch.optim.AdamW, fused=True), lr=lr, betas=(mom, sqr_mom), eps=eps, weight_decay=wd)

    @property
    def hypers(self):
        "One dict of hyper-parameters per parameter group; `set_hyper` changes them."
        return [dict(lr=g['lr'], mom=g['betas'][0], sqr_mom=g['betas'][1], eps=g['eps'], wd=g['weight_decay']) for g in self.opt.param_groups]

    def set_hyper(self, k, v):
        "Set `k` to a number, or to one value or slice as fastai does."
        if isinstance(v, float): self._set_hyper(k, [v] * len(self.opt.param_groups))
        else: super().set_hyper(k, v)

    def _set_hyper(self, k, v):
        for g, v_ in zip(self.opt.param_groups, v):
            if k == 'mom': g['betas'] = (float(v_), g['betas'][1])
            elif k == 'sqr_mom': g['betas'] = (g['betas'][0], float(v_))
            else: g[{'wd': 'weight_decay'}.get(k, k)] = float(v_)


def one_cycle(pct_start:float, start, middle, end):
    """Cosine annealing from `start` to `middle` over the first `pct_start` of training, then to `end` (Smith 2018; fastai's `combined_cos`).

    A function of the share of training done, in [0, 1]; in plain floats, where fastai's goes through tensors at each step. Values may be arrays.
    """
    cos = lambda a, b, pos: a + (1 + math.cos(math.pi * (1 - pos))) * (b - a) / 2
    return lambda pct: cos(start, middle, pct / pct_start) if pct < pct_start else cos(middle, end, (pct - pct_start) / (1 - pct_start))
