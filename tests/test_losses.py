"""Each loss against a naive loop of its formula."""

import math
from functools import partial

import numpy as np
import pytest
import torch

from fastrec.data.datasets import synthetic_ratings
from fastrec.data.splits import LeaveLastSplitter
from fastrec.models.losses import BCELoss, BPRLoss, InBatchSoftmaxLoss, SampledSoftmaxLoss, SoftmaxLoss, WARPLoss
from fastrec.training.builders import collab_learner
from fastrec.training.dataloaders import RecDataLoaders

B = 5
C = 4
N = 30
g = torch.Generator().manual_seed(0)
SCORES = torch.randn(B, C, generator=g)
TARGET = torch.zeros(B, C)
TARGET[:, 0] = 1
WEIGHT = torch.tensor([1.0, 2.0, 0.5, 3.0, 1.0])


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def bce(s):
    return -np.mean([math.log(sigmoid(s[0])), *(math.log(1 - sigmoid(o)) for o in s[1:])])


def bpr(s):
    return -np.mean([math.log(sigmoid(s[0] - o)) for o in s[1:]])


def sampled(s):
    return -math.log(math.exp(s[0]) / sum(math.exp(o) for o in s))


def warp(s):
    margins = [max(0, 1 - s[0] + o) for o in s[1:]]
    rank = round(sum(m > 0 for m in margins) / len(margins) * (N - 1))
    return sum(1 / i for i in range(1, rank + 1)) * np.mean(margins)


CASES = {
    'bce': (BCELoss, {}, bce),
    'bpr': (BPRLoss, {}, bpr),
    'warp': (WARPLoss, dict(n_items=N), warp),
    'sampled': (SampledSoftmaxLoss, {}, sampled),
}


@pytest.mark.parametrize('name', CASES)
def test_formula_weights_and_reductions(name):
    make, kwargs, naive = CASES[name]
    rows = torch.tensor([naive(s.tolist()) for s in SCORES], dtype=torch.float32)
    assert torch.allclose(make(**kwargs, reduction='none')(SCORES, TARGET), rows, atol=1e-5)
    assert torch.allclose(make(**kwargs)(SCORES, TARGET), rows.mean(), atol=1e-5)
    assert torch.allclose(make(**kwargs, reduction='sum')(SCORES, TARGET), rows.sum(), atol=1e-4)
    assert torch.allclose(make(**kwargs)(SCORES, TARGET, WEIGHT), (rows * WEIGHT).sum() / WEIGHT.sum(), atol=1e-5)


@pytest.mark.parametrize('power', [0.0, 0.5, 1.0])
def test_softmax_over_the_catalogue(power):
    target = torch.tensor([[1.0, 0, 0, 1], [0, 1, 0, 0], [0, 0, 0, 0], [1, 1, 1, 0], [0, 0, 0, 2]])
    counts = [sum(x) for x in target.tolist()]
    mean = sum(n**power for n in counts) / B
    rows = []
    for s, x, n in zip(SCORES.tolist(), target.tolist(), counts):
        z = math.log(sum(math.exp(o) for o in s))
        rows.append(-sum(x_i * (s_i - z) for x_i, s_i in zip(x, s)) * (n ** (power - 1) if n else 0) / mean)
    assert torch.allclose(SoftmaxLoss(power, reduction='none')(SCORES, target), torch.tensor(rows), atol=1e-5)
    assert torch.allclose(SoftmaxLoss(power)(SCORES, target), torch.tensor(rows).mean(), atol=1e-5)
    assert SoftmaxLoss().power == 0.5


def test_log_q_makes_the_sampled_loss_estimate_the_whole_one():
    """Mean gradient of many sampled losses with a skewed sampler.

    Near the whole softmax's with the correction, far from it without.
    """
    gen = torch.Generator().manual_seed(1)
    n = 12
    n_neg = 30
    trials = 20000
    scores = torch.randn(n, generator=gen)
    q = torch.rand(n, generator=gen) ** 2 + 0.02
    q[0] = 0
    q /= q.sum()
    whole = scores.softmax(0) - torch.eye(n)[0]
    items = torch.cat(
        [
            torch.zeros(trials, 1, dtype=torch.long),
            torch.multinomial(q, trials * n_neg, True, generator=gen).view(trials, n_neg),
        ],
        1,
    )

    def mean_gradient(log_q):
        s = scores.clone().requires_grad_()
        target = torch.zeros(trials, n_neg + 1)
        loss = SampledSoftmaxLoss(log_q)
        (loss(s[items], target, items=items) if loss.needs_items else loss(s[items], target)).backward()
        return s.grad

    def apart(grad):
        return (grad - whole).abs().max().item()

    assert apart(mean_gradient(torch.log(q))) < 0.02 < 0.12 < apart(mean_gradient(None))


DISCOUNT = 0.4
COUNTS = torch.tensor([7, 0, 2, 1, 20, 3])


def discounted(logits, own, n_own):
    """-log of the share of `own` (of n_own positives) among `logits`, pairs of a logit and its number of positives."""
    n = [c + 1 for c in COUNTS.tolist()]
    share = {c: math.exp(DISCOUNT * math.log((c + 1) / sum(n))) for c in COUNTS.tolist()}
    return -math.log(math.exp(own) * share[n_own] / sum(math.exp(s) * share[c] for s, c in logits))


def test_discounted_softmax_over_the_catalogue():
    scores = torch.randn(2, 6, generator=torch.Generator().manual_seed(2))
    target = torch.tensor([[0, 0, 0, 0, 1.0, 0], [0, 1.0, 0, 0, 0, -1]])
    loss = SoftmaxLoss(reduction='none', popularity_discount=DISCOUNT)
    loss.set_counts(COUNTS)
    rows = []
    for s, t in zip(scores.tolist(), target.tolist()):
        at = t.index(1)
        pairs = [(s[i], COUNTS[i].item()) for i in range(6) if t[i] >= 0]
        rows.append(discounted(pairs, s[at], COUNTS[at].item()))
    assert torch.allclose(loss(scores, target), torch.tensor(rows), atol=1e-5)


def test_discounted_softmax_of_sampled_negatives():
    items = torch.randint(6, (B, C), generator=torch.Generator().manual_seed(3))
    loss = SampledSoftmaxLoss(reduction='none', popularity_discount=DISCOUNT)
    loss.set_counts(COUNTS)
    rows = []
    for s, i in zip(SCORES.tolist(), items):
        counts = COUNTS[i].tolist()
        rows.append(discounted(list(zip(s, counts)), s[0], counts[0]))
    assert torch.allclose(loss(SCORES, TARGET, items=items), torch.tensor(rows), atol=1e-5)


def test_a_discount_of_the_items_of_a_batch_is_that_of_shifted_scores():
    items = torch.tensor([[4, 0, 2, 3]])
    target = torch.eye(4)[:3]
    scores = SCORES[:3]
    shift = DISCOUNT * ((COUNTS + 1) / (COUNTS + 1).sum()).log()
    loss = InBatchSoftmaxLoss(COUNTS, 'none', popularity_discount=DISCOUNT)
    plain = InBatchSoftmaxLoss(COUNTS, 'none')
    assert torch.allclose(loss(scores, target, items=items), plain(scores + shift[items], target, items=items))


@pytest.mark.parametrize('n_neg', [None, 4, 0])
def test_a_discount_trades_popularity_for_novelty(n_neg):
    ratings, _, _ = synthetic_ratings(n_users=150, n_items=80, n_factors=3, density=0.15, noise=0.3, seed=3)
    often = ratings['item'].rank(pct=True) < 0.3
    ratings = ratings[often | (np.arange(len(ratings)) % 4 == 0)]  # a third of the items is popular
    dls = RecDataLoaders.from_df(ratings, target='implicit', n_neg=n_neg, bs=64, splitter=LeaveLastSplitter(1), seed=0)
    counts = dls.catalog.counts['item']
    losses = {None: SoftmaxLoss, 4: SampledSoftmaxLoss, 0: partial(InBatchSoftmaxLoss, counts)}
    popularity = []
    for discount in (0.0, 0.5, 1.0):
        given = losses[n_neg](popularity_discount=discount)
        torch.manual_seed(0)
        learn = collab_learner(dls, n_factors=8, loss_func=given)
        with learn.no_bar(), learn.no_logging():
            learn.fit_one_cycle(8, 0.1 if n_neg is None else 2e-2)  # of so many users an epoch is three steps
        top = learn.score_items(torch.arange(dls.n_users)).topk(10).indices
        popularity.append(counts[top.numpy()].mean())
        assert n_neg == 0 or not given.lacks_counts or given is not learn.loss_func, 'each learner has its own counts'
    assert popularity[0] > 1.1 * popularity[1] and popularity[1] > 1.1 * popularity[2]


def test_errors():
    with pytest.raises(ValueError, match="target='implicit'"):
        BPRLoss()(torch.rand(3), torch.rand(3))
    with pytest.raises(ValueError, match='one shape'):
        BCELoss()(torch.rand(3, 2), torch.rand(3, 3))
    with pytest.raises(ValueError, match='items='):
        SampledSoftmaxLoss(torch.zeros(3))(SCORES, TARGET)
    with pytest.raises(ValueError, match='needs to know how popular items are'):
        SoftmaxLoss(popularity_discount=0.2)(SCORES, TARGET)
    with pytest.raises(ValueError, match='popularity_discount=-1: a number from 0'):
        SoftmaxLoss(popularity_discount=-1)
    with pytest.raises(ValueError, match="'mean', 'sum' or 'none'"):
        BPRLoss('max')
