"""Shared by the tests: one thread (tables are small), no progress bars, a synthetic table whose truth is known."""

import os
from pathlib import Path

import matplotlib

matplotlib.use('Agg')
import pytest
import torch

from fastrec.data.datasets import movielens, synthetic_ratings

torch.set_num_threads(1)


@pytest.fixture(scope='session')
def synthetic():
    """(ratings, item_df, truth): 300 users, 120 items, strong factors, little noise."""
    return synthetic_ratings(n_users=300, n_items=120, n_factors=3, density=0.25, noise=0.2, step=0.5, seed=1)


@pytest.fixture()
def dls(synthetic):
    from fastrec.training.dataloaders import RecDataLoaders

    ratings, items, _ = synthetic
    return RecDataLoaders.from_df(ratings, item_df=items, valid_pct=0.1, seed=3, bs=64)


@pytest.fixture(scope='session')
def data_folder():
    """Folder with real data sets (environment variable FASTREC_DATA); tests that need it skip without."""
    folder = Path(os.environ.get('FASTREC_DATA', Path(__file__).parents[2] / 'shared' / 'data'))
    if not folder.is_dir():
        pytest.skip('no real data: set FASTREC_DATA to a folder that holds ml-100k/ and ml-latest-small/')
    return folder


@pytest.fixture(scope='session')
def ml100k():
    """(ratings, movies) of MovieLens 100K from whichever source there is."""
    try:
        return movielens('100k')
    except FileNotFoundError:
        pass
    folder = Path(os.environ.get('FASTREC_DATA', Path(__file__).parents[2] / 'shared' / 'data')) / 'ml-100k'
    if not folder.is_dir():
        pytest.skip('no MovieLens 100K: `make test` installs the copy in the recbole wheel, or set FASTREC_DATA')
    return movielens('100k', folder)
