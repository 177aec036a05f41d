"""Negative samples: never seen, never twice in a row, with the right frequencies.

Also for users who have seen nearly everything.
"""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

from fastrec.data.sampling import NegativeSampler, _alias


def matrix(seed=0, n_users=20, n_items=50, density=0.3):
    return csr_matrix((np.random.default_rng(seed).random((n_users, n_items)) < density).astype(np.float32))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 5), st.sampled_from([0.0, 0.75, 1.0]), st.floats(0.05, 0.8), st.booleans())
def test_never_seen_never_twice(seed, n, alpha, density, as_keys):
    seen = matrix(seed, density=density)
    sampler = NegativeSampler(seen, alpha)
    if as_keys:  # the form for huge tables
        coo = seen.tocoo()
        sampler.bits = None
        sampler.keys = torch.from_numpy(np.unique(coo.row.astype(np.int64) * seen.shape[1] + coo.col))
    users = torch.from_numpy(np.repeat(np.flatnonzero(sampler.left() >= n), 8))
    if not len(users):
        return
    items = sampler.sample(users, n, torch.Generator().manual_seed(seed))
    dense = torch.from_numpy(seen.toarray() > 0)
    assert items.shape == (len(users), n)
    assert not dense[users[:, None], items].any()
    assert all(len(set(row)) == n for row in items.tolist())


def test_is_seen_and_left():
    seen = matrix(3)
    sampler = NegativeSampler(seen)
    users, items = (torch.from_numpy(o.ravel()) for o in np.meshgrid(np.arange(20), np.arange(50), indexing='ij'))
    assert torch.equal(sampler.is_seen(users, items).view(20, 50), torch.from_numpy(seen.toarray() > 0))
    assert sampler.left().tolist() == (50 - np.diff(seen.indptr)).tolist()
    empty = csr_matrix(np.array([[0, 0, 0], [1, 1, 0], [0, 0, 0]], dtype=np.float32))
    assert NegativeSampler(empty).left().tolist() == [3, 1, 3]


@pytest.mark.parametrize('alpha', [0.0, 0.5])
def test_items_that_nobody_has_are_not_drawn(alpha):
    seen = matrix(3, density=0.1).tolil()
    seen[:, [4, 17]] = 0
    seen = seen.tocsr()
    has = np.flatnonzero(np.bincount(seen.indices, minlength=50))
    items = NegativeSampler(seen, alpha).sample(torch.arange(20).repeat(200), 3, torch.Generator().manual_seed(0))
    assert set(has) == set(items.unique().tolist())
    assert 4 not in has
    if not alpha:  # who has all the others
        everything = csr_matrix(np.array([[1, 1, 0], [1, 0, 0]], dtype=np.float32))
        assert NegativeSampler(everything).sample(torch.tensor([0, 1]), 1).tolist() == [[2], [1]]


def test_one_item_left_is_found():
    seen = np.ones((3, 200), np.float32)
    seen[[0, 1, 2], [7, 100, 199]] = 0
    items = NegativeSampler(csr_matrix(seen)).sample(torch.tensor([0, 1, 2, 1]), 1)
    assert items.squeeze().tolist() == [7, 100, 199, 100]
    with pytest.raises(ValueError, match=r'2 negatives asked for.*only 1 items left.*smaller n_neg'):
        NegativeSampler(csr_matrix(seen)).sample(torch.tensor([0]), 2)


@pytest.mark.parametrize('alpha', [0.0, 0.5, 1.0])
def test_frequencies(alpha):
    seen = matrix(5, n_users=200, n_items=12, density=0.4)
    counts = np.bincount(seen.indices, minlength=12)
    user = 0
    allowed = seen[user].toarray().ravel() == 0
    want = np.where(allowed, counts.astype(float) ** alpha if alpha else 1.0, 0)
    want /= want.sum()
    items = NegativeSampler(seen, alpha).sample(torch.full((60_000,), user), 1, torch.Generator().manual_seed(0))
    got = np.bincount(items.ravel(), minlength=12) / 60_000
    assert np.abs(got - want).max() < 0.008


def test_alias_table_is_exact():
    p = np.random.default_rng(0).random(17) ** 3
    p /= p.sum()
    keep, alias = (o.numpy().astype(np.float64) for o in _alias(p))
    got = keep / 17
    np.add.at(got, alias.astype(int), (1 - keep) / 17)
    assert got == pytest.approx(p, abs=1e-6)


def test_seeded():
    sampler = NegativeSampler(matrix())
    users = torch.arange(20)

    def draw(s):
        return sampler.sample(users, 4, torch.Generator().manual_seed(s))

    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))


def test_many_negatives():
    seen = matrix(1, n_items=400, density=0.2)
    items = NegativeSampler(seen).sample(torch.arange(20), 99)
    assert all(len(set(row)) == 99 for row in items.tolist())
    assert not torch.from_numpy(seen.toarray() > 0)[torch.arange(20)[:, None], items].any()
