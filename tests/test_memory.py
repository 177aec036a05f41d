"""What grows with the square of something says what it takes before it takes it, and fixed budgets are kept."""

import re
import subprocess
import sys
import textwrap

import numpy as np
import pandas as pd
import pytest
import torch

from fastrec import memory
from fastrec.all import (
    EASE,
    ItemKNN,
    Popularity,
    RecDataLoaders,
    RecInterpretation,
    collab_learner,
    diversity,
    evaluate,
    item_graph,
    synthetic_ratings,
)


def loaders(n_items=60, **options):
    rng = np.random.default_rng(0)
    df = pd.DataFrame(dict(user=np.repeat(np.arange(50), 12), item=rng.integers(0, n_items, 600))).drop_duplicates()
    return RecDataLoaders.from_df(df, target='implicit', seed=1, **options)


def needed(error):
    "Bytes that a `MemoryError` says are needed."
    return int(re.search(r'\(([\d,]+) bytes\)', str(error.value))[1].replace(',', ''))


def in_process(code):
    "What a fresh process prints: bytes at its peak, before and after."
    head = """
    import resource, warnings
    import numpy as np, pandas as pd, torch
    from fastrec.all import *
    warnings.filterwarnings('ignore')
    torch.set_num_threads(1)
    peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    """
    code = textwrap.dedent(head) + textwrap.dedent(code)
    run = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    return [int(o) for o in run.stdout.split()]


def test_what_is_available_is_a_number_of_bytes(monkeypatch, tmp_path):
    assert 2**20 < memory.available_memory() < 2**50
    (tmp_path / 'memory.max').write_text('3000000\n')
    (tmp_path / 'memory.current').write_text('1000000\n')
    monkeypatch.setattr(memory, 'CGROUP', tmp_path)
    assert memory.available_memory() == 2_000_000
    assert memory.default_budget() == 1_000_000
    (tmp_path / 'memory.max').write_text('max\n')
    assert memory.available_memory() > 2**20


def test_ease_says_what_it_takes_and_the_advice_works():
    dls = loaders()
    n = dls.n_items
    with pytest.raises(MemoryError, match='ItemKNN') as error:
        EASE(l2=7.0, budget=1000).fit(dls)
    assert needed(error) >= 12 * n * n
    assert '1,000 bytes, as given' in str(error.value)
    call = re.search(r'EASE\(.*?\)', str(error.value))[0]
    assert eval(call, dict(EASE=EASE)).fit(dls).recommend(0, 3).shape[0] == 3
    ItemKNN().fit(dls)


def test_ease_of_many_items_is_refused_before_anything_is_taken():
    before, after, ok = in_process("""
    df = pd.DataFrame(dict(user=np.arange(63773) % 500, item=np.arange(63773)))
    dls = RecDataLoaders.from_df(df, target='implicit', valid_pct=0)
    before = peak()
    ok = 0
    try:
        EASE(budget=8 * 2**30).fit(dls)
    except MemoryError as e:
        ok = int('63,773' in str(e))
    print(before, peak(), ok)
    """)
    assert ok == 1
    assert after - before < 50 * 2**20


def test_ease_takes_one_matrix():
    n = 9000
    before, after = in_process(f"""
    n = {n}
    df = pd.DataFrame(dict(user=np.arange(3 * n) % 400, item=np.arange(3 * n) % n))
    dls = RecDataLoaders.from_df(df, target='implicit', valid_pct=0)
    from fastrec.scorers import linear
    linear._invert = lambda matrix: True  # the time it takes is not what is measured, and it works in place
    before = peak()
    EASE().fit(dls)
    print(before, peak())
    """)
    assert after - before < 4 * n * n + 450 * 2**20


@pytest.mark.parametrize('dtype', [np.float32, np.float64])
def test_the_inverse_is_made_in_place(dtype, monkeypatch):
    from fastrec.scorers import linear

    monkeypatch.setattr(linear, 'MIRRORED', 7)
    x = np.random.default_rng(0).normal(size=(80, 30))
    matrix = (x.T @ x + np.eye(30)).astype(dtype)
    want = np.linalg.inv(matrix.astype(float))
    assert linear._invert(matrix)
    assert matrix == pytest.approx(want, abs=1e-5 if dtype is np.float32 else 1e-12)
    assert not linear._invert(-np.eye(3, dtype=dtype))


def test_ease_without_a_ridge_says_so():
    df = pd.DataFrame(dict(user=[0, 0, 1, 1, 2, 3], item=[0, 1, 0, 1, 2, 2]))
    dls = RecDataLoaders.from_df(df, target='implicit', valid_pct=0, n_neg=1)
    with pytest.raises(ValueError, match='larger ridge'):
        EASE(l2=0.0).fit(dls)


def test_exact_graphs():
    dls = loaders()
    vectors = torch.randn(100, 4)
    for source in (dls, ItemKNN().fit(dls), (range(100), vectors)):
        with pytest.raises(MemoryError, match='k=20') as error:
            item_graph(source, k=None, budget=1000)
        budget = int(re.search(r'item_graph\(\.\.\., budget=(\d+)\)', str(error.value))[1])
        assert len(item_graph(source, k=None, budget=budget))


def test_metrics_of_lists():
    dls = loaders()
    scorer = Popularity().fit(dls)
    with pytest.raises(MemoryError, match=r'vectors=') as error:
        evaluate(scorer, dls, [diversity(5)], budget=1000)
    assert needed(error) >= 4 * dls.n_items**2
    budget = int(re.search(r'budget=(\d+)\)', str(error.value))[1])
    got = evaluate(scorer, dls, [diversity(5)], budget=budget)
    # the mean over users of 1 - the mean cosine of pairs
    x = dls.catalog.history.positives.toarray() > 0
    n = np.maximum(np.sqrt(x.sum(0)), 1)
    alike = (x.T.astype(float) @ x) / np.outer(n, n)
    from fastrec.evaluation.evaluate import rank_held_out

    _, _, lists = rank_held_out(scorer, dls, k=5, cut=5)
    off = 1 - np.eye(5)
    want = np.mean([1 - (alike[np.ix_(items, items)] * off).sum() / 20 for items in lists.numpy()])
    assert got['diversity@5']['all'] == pytest.approx(want, abs=1e-6)


def test_a_step_over_the_whole_catalogue(monkeypatch):
    monkeypatch.setattr(memory, 'available_memory', lambda: 40_000)
    with pytest.raises(MemoryError, match='n_neg=None') as error:
        loaders(n_neg=None, bs=64)
    bs = int(re.search(r'take bs=(\d+) or less', str(error.value))[1])
    assert loaders(n_neg=None, bs=bs).train.bs == bs


def test_dense_weights_of_neighbors_are_refused(monkeypatch):
    knn = ItemKNN().fit(loaders())
    monkeypatch.setattr(memory, 'available_memory', lambda: 1000)
    with pytest.raises(MemoryError, match='similar_items'):
        knn.vectors('item')
    knn.similar_items(0)
    knn.recommend(basket=[0])


def test_scores_of_pairs_of_many_users_stay_within_the_budget(monkeypatch):
    from fastrec.scorers import linear

    knn = ItemKNN().fit(loaders())
    users = torch.randint(50, (300,))
    items = torch.randint(60, (300,)).clamp(max=knn.catalog.n_items - 1)
    want = knn.score_items(torch.arange(50))[users, items]
    monkeypatch.setattr(linear, 'MEMORY_BUDGET', 16 * knn.catalog.n_items * 3)  # 3 users at a time
    assert torch.equal(knn.score(users, items), want)


def test_whom_to_tell_about_many_items_stays_within_the_budget():
    before, after, ok = in_process("""
    rng = np.random.default_rng(0)
    n = 200_000
    df = pd.DataFrame(dict(user=np.repeat(np.arange(n), 3), item=rng.integers(0, 300, 3 * n))).drop_duplicates()
    df['rating'] = rng.integers(1, 6, len(df)).astype(float)
    learn = collab_learner(RecDataLoaders.from_df(df, seed=1, bs=4096), n_factors=8)
    learn.fits.append(dict(train_loss=0.0))  # its answers are looked at, not how good they are
    learn.recommend_users([0], k=5)
    before = peak()
    asked = list(range(0, 200))
    got = learn.recommend_users(asked, k=10, exclude_seen=False)
    after = peak()
    known = torch.from_numpy(np.flatnonzero(learn.catalog.known('user')))
    ok = True
    for item in asked[::50]:
        want = learn.score(known, torch.full_like(known, item)).sort(descending=True).values[:10]
        ok &= np.allclose(got[got['item'] == item].score, want, atol=1e-6)
    print(before, after, int(ok))
    """)
    assert ok == 1
    assert after - before < 150 * 2**20


def test_maps_of_many_dots():
    ratings, _, _ = synthetic_ratings(n_users=40, n_items=30, density=0.4, seed=1)
    interp = RecInterpretation.from_learner(collab_learner(RecDataLoaders.from_df(ratings, seed=1), n_factors=4))
    with pytest.raises(MemoryError, match='fewer dots') as error:
        interp.plot_tsne(k=20, budget=1000)
    assert needed(error) > 20 * 19 * 16
    assert interp.plot_tsne(k=20, budget=needed(error)).collections
