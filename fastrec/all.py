"`from fastrec.all import *`: everything a notebook needs, on top of fastai's basics and callbacks."
from fastai.basics import *
from fastai.callback.all import *

from .interactions import *
from .datasets import *
from .splits import *
from .catalog import *
from .images import *
from .features import *
from .dataloaders import *
from .sampling import *
from .models import *
from .scoring import *
from .losses import *
from .optimizers import *
from .metrics import *
from .baselines import *
from .blend import *
from .recommend import *
from .rerank import *
from .evaluate import *
from .retrieval import *
from .artifact import *
from .callbacks import *
from .resume import *
from .learner import *
from .interpret import *
