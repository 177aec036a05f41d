"Models: integer codes in, scores out. They know nothing of tables, vocabularies or DataLoaders."
from .embedding import *
from .blocks import *
from .context import *
from .dot import *
from .svdpp import *
from .neumf import *
from .content import *
from .gated import *
from .two_tower import *
