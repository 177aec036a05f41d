"""Metrics: pure functions of scores and targets."""
from __future__ import annotations

import torch

__all__ = ['rmse', 'mae', 'LOWER_IS_BETTER']


def rmse(scores, target):
    "Root of the mean squared error of `scores` against `target` (same shape), a scalar tensor."
    return _errors(scores, target).square().mean().sqrt()


def mae(scores, target):
    "Mean absolute error of `scores` against `target` (same shape), a scalar tensor."
    return _errors(scores, target).abs().mean()


def _errors(scores, target):
    if scores.shape != target.shape:
        raise ValueError(f'scores {tuple(scores.shape)} and target {tuple(target.shape)} differ in shape; broadcasting them would compare every score with every target')
    return scores.float() - target.float()


# names of metrics of which less is more; everything called a loss or an error is, too
LOWER_IS_BETTER = {'rmse', 'mae'}
