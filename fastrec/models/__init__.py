"Codes to scores: `nn.Module`s and their losses. They know nothing of tables, vocabularies or loaders."
from .blocks import FeatureLinear
from .content import Content
from .context import Levels, Mood
from .dot import DotBias
from .embedding import EmbeddingTable, pop_l2, set_l2, squash, unsquash
from .gated import ConcatHybrid, GatedHybrid, SumHybrid
from .losses import BCELoss, BPRLoss, InBatchSoftmaxLoss, MSELoss, SampledSoftmaxLoss, SoftmaxLoss, WARPLoss
from .neumf import GMF, MLP, NeuMF
from .svdpp import SVDpp
from .two_tower import TwoTower

__all__ = [
    'BCELoss', 'BPRLoss', 'ConcatHybrid', 'Content', 'DotBias', 'EmbeddingTable', 'FeatureLinear', 'GMF', 'GatedHybrid',
    'InBatchSoftmaxLoss', 'Levels', 'MLP', 'MSELoss', 'Mood', 'NeuMF', 'SVDpp', 'SampledSoftmaxLoss', 'SoftmaxLoss',
    'SumHybrid', 'TwoTower', 'WARPLoss', 'pop_l2', 'set_l2', 'squash', 'unsquash',
]
