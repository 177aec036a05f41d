"""Codes to scores: `nn.Module`s and their losses. They know nothing of tables, vocabularies or loaders."""

from .base import RecModel
from .blocks import FeatureLinear
from .content import Content
from .context import Levels, TimeDependentBias
from .dot import DotBias
from .embedding import EmbeddingTable, pop_l2, set_l2
from .gated import ConcatHybrid, GatedHybrid, SumHybrid
from .losses import BCELoss, BPRLoss, InBatchSoftmaxLoss, MSELoss, SampledSoftmaxLoss, SoftmaxLoss, WARPLoss
from .neumf import GMF, MLP, NeuMF
from .svdpp import SVDpp
from .two_tower import TwoTower

__all__ = [
    'GMF',
    'MLP',
    'BCELoss',
    'BPRLoss',
    'ConcatHybrid',
    'Content',
    'DotBias',
    'EmbeddingTable',
    'FeatureLinear',
    'GatedHybrid',
    'InBatchSoftmaxLoss',
    'Levels',
    'MSELoss',
    'NeuMF',
    'RecModel',
    'SVDpp',
    'SampledSoftmaxLoss',
    'SoftmaxLoss',
    'SumHybrid',
    'TimeDependentBias',
    'TwoTower',
    'WARPLoss',
    'pop_l2',
    'set_l2',
]
