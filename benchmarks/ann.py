"""Search among a million items: recall against exact search, and queries per second.

After the search alone come whole recommendations, seen items left out.

    python benchmarks/ann.py --out FILE.md

The vectors are generated, in the shape of learned ones: 64 dimensions, a mixture of 1,000 directions whose sizes follow
Zipf's law; lengths are lognormal (sd 0.35) and biases normal, as a matrix factorization has them ('dot product and
bias'), or all are of length 1, as those of two towers ('cosine'). Users are near one to three of the directions. Real
catalogues may be easier or harder: `learn.index()` measures the recall on its own users. Recall here is that of 300
users who had no part in setting the effort; queries per second are per second of one core's time, by one thread.
"""

import argparse
import time
from functools import partial

import numpy as np
import pandas as pd
import torch
from common import about, emit, table

from fastrec.data.catalog import Catalog
from fastrec.data.history import History
from fastrec.data.interactions import Interactions
from fastrec.data.splits import make_split
from fastrec.models.dot import DotBias
from fastrec.scorers.model_scorer import ModelScorer
from fastrec.scorers.retrieval import Inner

D = 64
DIRECTIONS = 1000
TEST = 300


def generated(n_items, n_users, cosine, seed=0):
    """-> items (n_items, D), biases (n_items,), users (n_users, D)."""
    g = torch.Generator().manual_seed(seed)
    centres = torch.nn.functional.normalize(torch.randn(DIRECTIONS, D, generator=g), dim=1)
    share = 1 / torch.arange(1, DIRECTIONS + 1.0)
    items = centres[torch.multinomial(share, n_items, True, generator=g)] + 0.1 * torch.randn(n_items, D, generator=g)
    mix = torch.rand(n_users, 3, generator=g) ** 2
    liked = torch.multinomial(share.expand(n_users, -1), 3, False, generator=g)
    users = (centres[liked] * mix[..., None]).sum(1) + 0.06 * torch.randn(n_users, D, generator=g)
    if cosine:
        return (
            torch.nn.functional.normalize(items, dim=1),
            torch.zeros(n_items),
            torch.nn.functional.normalize(users, dim=1) / 0.1,
        )
    return (
        items * torch.exp(0.35 * torch.randn(n_items, 1, generator=g)),
        0.15 * torch.randn(n_items, generator=g),
        users * 3,
    )


def seconds(f, times=1):
    """CPU seconds of a call, the least of some."""
    best = float('inf')
    for _ in range(times):
        start = time.process_time()
        f()
        best = min(best, time.process_time() - start)
    return best


def seconds_per_query(index, queries, n_single, times=1):
    """-> CPU seconds a query for 10 items: one at a time (the first `n_single` queries), and all at once."""
    one = seconds(lambda: [index.search(q[None], 10) for q in queries[:n_single]], times) / n_single
    many = seconds(lambda: index.search(queries, 10), times) / len(queries)
    return one, many


def recall(found, exact):
    return np.mean([len(np.intersect1d(a, b)) / len(b) for a, b in zip(found, exact)])


def search(kind, n_items, cosine, kinds, rows):
    """Append to `rows` the figures of exact search and of each of `kinds`: (name of the index, recalls asked for)."""
    items, biases, users = generated(n_items, 2000, cosine)
    x = items if cosine else torch.cat([items, biases[:, None]], 1)
    q = users if cosine else torch.nn.functional.pad(users, (0, 1), value=1.0)
    tune = q[:256]
    test = q[1000 : 1000 + TEST]
    exact_index = Inner(x, 'exact')
    exact = {k: exact_index.search(test, k) for k in (10, 100)}
    one, many = seconds_per_query(exact_index, test, n_single=10)
    rows.append([kind, f'{n_items:,}', 'exact', '', '1', '1', f'{1 / one:,.0f}', f'{1 / many:,.0f}', '1', ''])
    print(*rows[-1], flush=True)
    for name, targets in kinds:
        start = time.process_time()
        inner = Inner(x, name)
        built = time.process_time() - start
        for target in targets:
            inner.tune(tune, 100, target)
            found = {k: inner.search(test, k) for k in (10, 100)}
            approx_one, approx_many = seconds_per_query(inner, test, n_single=100, times=2)
            effort = f'{inner.effort} of {inner.faiss.nlist} lists' if name == 'ivf' else f'{inner.effort}'
            rows.append(
                [
                    kind,
                    f'{n_items:,}',
                    f'{name}, recall={target}',
                    effort,
                    f'{recall(found[10], exact[10]):.3f}',
                    f'{recall(found[100], exact[100]):.3f}',
                    f'{1 / approx_one:,.0f}',
                    f'{1 / approx_many:,.0f}',
                    f'{one / approx_one:.0f}',
                    f'{built:.0f}',
                ]
            )
            print(*rows[-1], flush=True)


def recommendations(n_items, n_users=20_000, n_seen=100):
    """Table rows: `recommend` of 10 items without and with an index.

    Users have about `n_seen` items each, chosen among their best thousand or at random.
    """
    items, biases, users = generated(n_items, n_users, False)
    rng = np.random.default_rng(0)
    some = torch.from_numpy(rng.choice(n_items, 20_000, replace=False))
    liked = some[(users @ items[some].T + biases[some]).topk(n_seen // 2, dim=1).indices].numpy()
    df = pd.DataFrame(
        dict(
            user=np.concatenate([np.repeat(np.arange(n_users), n_seen // 2), rng.integers(n_users, size=n_items)]),
            item=np.concatenate([liked.ravel(), np.arange(n_items)]),
        )
    ).drop_duplicates()
    inter = Interactions.from_df(df.sample(frac=1, random_state=0)).implicit()
    n = len(inter)
    catalog = Catalog(History(inter, make_split(inter, (np.arange(n - 1), np.array([n - 1])))))
    model = DotBias(
        n_users,
        n_items,
        D,
        known_users=torch.from_numpy(catalog.known('user')),
        known_items=torch.from_numpy(catalog.known('item')),
    )
    with torch.no_grad():
        model.user_factors.weight.copy_(users)
        model.item_factors.weight.copy_(items)
        model.item_biases.weight.copy_(biases[:, None])
    scorer = ModelScorer(model, catalog, 'rank')
    own = catalog.vocab['user'].ids[-TEST:]
    rows = []
    want = None
    seen = catalog.require_history().seen  # built here, before any clock runs
    for kind in (None, 'exact', 'ivf'):
        build = 0.0 if kind is None else seconds(partial(scorer.index, kind))
        df = scorer.recommend(own)
        if want is None:
            want = df
        codes = [catalog.vocab[o].encode(df[o]) for o in ('user', 'item')]
        hits = int(np.asarray(seen[codes[0], codes[1]] != 0).sum())
        one = seconds(lambda: [scorer.recommend(u) for u in own[:10]]) / 10
        many = seconds(lambda: scorer.recommend(own)) / len(own)
        share = recall(df.item.to_numpy().reshape(-1, 10), want.item.to_numpy().reshape(-1, 10))
        rows.append(
            [
                'no index' if kind is None else repr(scorer.item_index()),
                f'{share:.3f}',
                hits,
                f'{1 / one:,.0f}',
                f'{1 / many:,.0f}',
                f'{build:.0f}',
            ]
        )
        print(*rows[-1], flush=True)
    return rows


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--items', type=int, default=1_000_000)
    parser.add_argument(
        '--hnsw',
        type=int,
        default=100_000,
        help='items for the rows with the graph, which takes long to build; 0: leave them out',
    )
    parser.add_argument('--out')
    args = parser.parse_args()
    torch.set_num_threads(1)
    import faiss

    faiss.omp_set_num_threads(1)
    rows = []
    search('dot product and bias', args.items, False, [('ivf', (0.8, 0.9, 0.95))], rows)
    search('cosine', args.items, True, [('ivf', (0.95,))], rows)
    if args.hnsw:
        search('cosine', args.hnsw, True, [('ivf', (0.9,)), ('hnsw', (0.9,))], rows)
    whole = recommendations(args.items)
    emit(
        '# Search among a million items\n\n'
        f'{about()}; faiss {faiss.__version__}.\n\n'
        f'Generated vectors of {D} dimensions, {DIRECTIONS:,} directions of Zipf-distributed size; see the script. '
        '"recall=" is what was asked for, at 100 on 256 users; '
        f'recall@10 and @100 are those of {TEST} others. Queries per CPU second of one thread, for 10 items, one query '
        f'at a time and {TEST} at once.\n\n'
        + table(
            [
                'vectors',
                'items',
                'search',
                'effort',
                'recall@10',
                'recall@100',
                'queries/s, one',
                f'queries/s, {TEST} at once',
                'times exact (one)',
                'CPU s to build',
            ],
            rows,
        )
        + '\n\n## `recommend(k=10)`, about 100 seen items a user left out\n\n'
        + table(
            [
                'index',
                'of the exact 10',
                'seen items among them',
                'users/s, one at a time',
                f'users/s, {TEST} at once',
                'CPU s to build',
            ],
            whole,
        ),
        args.out,
    )
