"""Each loss against a naive loop of its formula."""

import math

import numpy as np
import pytest
import torch

from fastrec.models.losses import BCELoss, BPRLoss, SampledSoftmaxLoss, SoftmaxLoss, WARPLoss

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


def test_errors():
    with pytest.raises(ValueError, match="target='implicit'"):
        BPRLoss()(torch.rand(3), torch.rand(3))
    with pytest.raises(ValueError, match='one shape'):
        BCELoss()(torch.rand(3, 2), torch.rand(3, 3))
    with pytest.raises(ValueError, match='items='):
        SampledSoftmaxLoss(torch.zeros(3))(SCORES, TARGET)
    with pytest.raises(ValueError, match="'mean', 'sum' or 'none'"):
        BPRLoss('max')
