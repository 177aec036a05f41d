"""Ranking metrics against scikit-learn, a slow reference, and cases worked by hand."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, ndcg_score, roc_auc_score

from fastrec.evaluation.metrics import Ranks, ap, auc, hr, lower_is_better, mae, mrr, ndcg, precision, recall, rmse

FAR = 10**6


def random_case(seed, n_users=6, n_items=30, n_held=4):
    """Scores without ties, some items masked, 1 to n_held relevant items per user."""
    rng = np.random.default_rng(seed)
    scores = rng.permutation(n_users * n_items).reshape(n_users, n_items).astype(np.float32)
    held = [np.sort(rng.choice(n_items, rng.integers(1, n_held + 1), replace=False)) for _ in range(n_users)]
    for u in range(n_users):
        scores[u, rng.choice(np.setdiff1d(np.arange(n_items), held[u]), 5, replace=False)] = -np.inf
    users = np.repeat(np.arange(n_users), [len(h) for h in held])
    items = np.concatenate(held)
    return scores, held, Ranks.of(torch.from_numpy(scores), torch.from_numpy(users), torch.from_numpy(items))


def reference(scores, held, k):
    """One user, by sorting."""
    order = [i for i in np.argsort(-scores) if np.isfinite(scores[i])]
    hits = [order[r] in held for r in range(min(k, len(order)))]
    positions = [r + 1 for r, h in enumerate(hits) if h]
    ideal = sum(1 / math.log2(r + 2) for r in range(min(k, len(held))))
    return dict(
        hr=float(any(hits)),
        recall=sum(hits) / len(held),
        precision=sum(hits) / k,
        mrr=1 / positions[0] if positions else 0.0,
        ndcg=sum(1 / math.log2(p + 1) for p in positions) / ideal,
        map=sum((j + 1) / p for j, p in enumerate(positions)) / min(k, len(held)),
    )


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([1, 3, 10, 100]))
def test_against_a_slow_reference(seed, k):
    scores, held, ranks = random_case(seed)
    for metric in (hr(k), recall(k), precision(k), mrr(k), ndcg(k), ap(k)):
        want = [reference(s, set(h), k)[metric.label] for s, h in zip(scores, held)]
        assert metric(ranks).tolist() == pytest.approx(want, abs=1e-9), metric


@pytest.mark.parametrize('seed', range(5))
def test_against_scikit_learn(seed):
    scores, held, ranks = random_case(seed)
    for u, (s, h) in enumerate(zip(scores, held)):
        ok = np.isfinite(s)
        y = np.isin(np.arange(len(s)), h)[ok].astype(int)
        assert auc()(ranks)[u].item() == pytest.approx(roc_auc_score(y, s[ok]))
        assert ap(FAR)(ranks)[u].item() == pytest.approx(average_precision_score(y, s[ok]))
        for k in (3, 10):
            assert ndcg(k)(ranks)[u].item() == pytest.approx(ndcg_score([y], [s[ok]], k=k))


def test_auc_with_ties_is_scikit_learns():
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 4, (5, 20)).astype(np.float32)
    held = [np.sort(rng.choice(20, 3, replace=False)) for _ in range(5)]
    ranks = Ranks.of(
        torch.from_numpy(scores), torch.arange(5).repeat_interleave(3), torch.from_numpy(np.concatenate(held))
    )
    want = [roc_auc_score(np.isin(np.arange(20), h), s) for s, h in zip(scores, held)]
    assert auc()(ranks).tolist() == pytest.approx(want)


def one(scores, items):
    return Ranks.of(torch.tensor([scores]), torch.zeros(len(items), dtype=torch.long), torch.tensor(items))


def test_by_hand():
    ranks = one([9.0, 8.0, 7.0, 6.0, 5.0], [1, 3])  # relevant at ranks 2 and 4
    assert ranks.ranks.tolist() == [2.0, 4.0]
    assert ranks.n_candidates.tolist() == [5.0]
    assert [m(ranks).item() for m in (hr(1), hr(2), recall(3), precision(4), mrr(10))] == [0.0, 1.0, 0.5, 0.5, 0.5]
    assert ndcg(4)(ranks).item() == pytest.approx((1 / math.log2(3) + 1 / math.log2(5)) / (1 + 1 / math.log2(3)))
    assert ap(4)(ranks).item() == pytest.approx((1 / 2 + 2 / 4) / 2)
    assert auc()(ranks).item() == pytest.approx(1 - 3 / 6)  # of 2 x 3 pairs, 1 + 2 are out of order


def test_ties_count_as_their_expected_rank():
    ranks = one([1.0] * 9, [0])  # constant scores earn no luck: rank 5 of 9, wherever the item stands
    assert ranks.ranks.item() == 5.0 == one([1.0] * 9, [8]).ranks.item()
    assert hr(4)(ranks).item() == 0.0
    assert hr(5)(ranks).item() == 1.0
    assert auc()(ranks).item() == 0.5
    assert one([3.0, 2.0, 2.0, 1.0], [2]).ranks.item() == 2.5


def test_k_beyond_the_catalogue():
    ranks = one([3.0, 2.0, 1.0], [2])
    assert recall(99)(ranks).item() == 1.0
    assert precision(99)(ranks).item() == pytest.approx(1 / 99)
    assert ndcg(99)(ranks).item() == 0.5


def test_all_candidates_relevant():
    assert math.isnan(auc()(one([2.0, 1.0], [0, 1])).item())
    assert ndcg(5)(one([2.0, 1.0], [0, 1])).item() == 1.0


def test_sorting_and_counting_agree():
    g = torch.Generator().manual_seed(0)
    scores = torch.randint(0, 12, (4, 200), generator=g).float()
    held = [torch.randperm(200, generator=g)[:40].sort().values for _ in range(4)]
    many = Ranks.of(scores, torch.arange(4).repeat_interleave(40), torch.cat(held))
    for u in range(4):
        singles = sorted(
            Ranks.of(scores[u : u + 1], torch.zeros(1, dtype=torch.long), i[None]).ranks.item() for i in held[u]
        )
        assert many.ranks[many.users == u].tolist() == singles


def test_masked_held_out_items_are_an_error():
    with pytest.raises(ValueError, match='training rows as well'):
        one([1.0, -math.inf], [1])


def test_names_and_arguments():
    assert [m.name for m in (hr(5), recall(20), precision(3), ndcg(), ap(7), mrr(10), auc())] == [
        'hr@5',
        'recall@20',
        'precision@3',
        'ndcg@10',
        'map@7',
        'mrr@10',
        'auc',
    ]
    assert ndcg(10).at(5) == ndcg(5)
    assert auc().at(5) == auc()
    for bad in (0, 2.5, -1):
        with pytest.raises(ValueError, match='whole number'):
            hr(bad)
    assert lower_is_better('rmse_cold')
    assert lower_is_better('mae')
    assert not lower_is_better('ndcg@10')


def test_errors():
    a = torch.tensor([1.0, 2.0, 4.0])
    b = torch.tensor([1.0, 4.0, 3.0])
    assert rmse(a, b).item() == pytest.approx(math.sqrt(5 / 3))
    assert mae(a, b).item() == pytest.approx(1.0)
    with pytest.raises(ValueError, match='broadcasting'):
        rmse(a, b[:, None])


@pytest.mark.parametrize('per_user', [3, 12])  # counted, sorted
def test_ranks_up_to_a_cut_off_are_exact_and_those_beyond_it_infinite(per_user):
    g = torch.Generator().manual_seed(0)
    scores = torch.randint(0, 30, (9, 60), generator=g).float()  # many ties
    scores[:, :5] = -torch.inf
    users = torch.arange(9).repeat_interleave(per_user)
    items = torch.cat([5 + torch.randperm(55, generator=g)[:per_user] for _ in range(9)])
    exact = Ranks.of(scores, users, items)
    among = scores.topk(10, dim=1).values[:, -1]
    some = Ranks.of(scores, users, items, among, torch.full((9,), 55))
    inside = torch.isfinite(some.ranks)
    assert 0 < inside.sum() < len(inside)
    assert torch.equal(some.ranks[inside], exact.ranks[inside])
    assert (exact.ranks[~inside] > 10).all()
    assert torch.equal(some.n_candidates, exact.n_candidates)
    for metric in (hr(10), ndcg(10), ndcg(3), ap(10), mrr(10), recall(10), precision(5)):
        assert torch.equal(metric(some), metric(exact))
