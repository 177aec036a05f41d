"""`from fastrec.all import *`: everything a notebook needs, on top of fastai's basics and callbacks."""

from fastai.basics import *
from fastai.callback.all import *

from .progress import *
from .data.interactions import *
from .data.history import *
from .data.files import *
from .data.stream import *
from .data.datasets import *
from .data.splits import *
from .data.catalog import *
from .data.block import *
from .data.images import *
from .data.features import *
from .data.sampling import *
from .models.base import *
from .models.embedding import *
from .models.blocks import *
from .models.context import *
from .models.dot import *
from .models.svdpp import *
from .models.neumf import *
from .models.content import *
from .models.gated import *
from .models.two_tower import *
from .models.losses import *
from .scorers.scorer import *
from .scorers.model_scorer import *
from .scorers.recommend import *
from .scorers.retrieval import *
from .scorers.coldstart import *
from .scorers.extend import *
from .scorers.baselines import *
from .scorers.linear import *
from .scorers.neighbors import *
from .scorers.factorization import *
from .scorers.blend import *
from .scorers.refine import *
from .scorers.rerank import *
from .scorers.artifact import *
from .evaluation.metrics import *
from .evaluation.ranking import *
from .evaluation.evaluate import *
from .evaluation.compare import *
from .evaluation.fidelity import *
from .evaluation.card import *
from .training.batches import *
from .training.stream_batches import *
from .training.dataloaders import *
from .training.recipes import *
from .training.optimizers import *
from .training.callbacks import *
from .training.decay import *
from .training.loop import *
from .training.learner import *
from .training.builders import *
from .training.candidates import *
from .training.choose import *
from .training.resume import *
from .training.cross_validation import *
from .training.selection import *
from .interpretation.explanations import *
from .interpretation.interpret import *
from .renamed import *

from .arguments import show_arguments as _show_arguments

_show_arguments(__package__)
