"""fastrec: recommenders the fastai way. `from fastrec.all import *` brings everything a notebook needs."""

__version__ = '0.1.0'
