"""20 million ratings (138,493 users x 26,744 items, generated), each step on its own.

The steps: from the table to the first batch, rows that stay in their file, recommending and evaluating for everybody,
and the price of the import.

    python benchmarks/large.py [--rows 20000000] [--out FILE.md]

Seconds and peak memory (what the process holds above what it held before, the table included; Linux) from a table in
memory, parquet, CSV, and parquet that is streamed, each in a process of its own. Recommending and evaluating: top 10 of
the whole catalogue, against a plain matrix product with topk in blocks and against `implicit.cpu.topk` on the same
vectors; the sides take turns.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd

N_USERS = 138_493
N_ITEMS = 26_744
K = 10
DIM = 50


def generated(n_rows):
    """Distinct pairs: users have as many items as a log-normal says, at steps that meet none twice; no structure."""
    rng = np.random.default_rng(0)
    share = rng.lognormal(0, 1.1, N_USERS)
    per_user = np.clip(share / share.sum() * n_rows, 1, N_ITEMS // 4).astype(np.int64)
    users = np.repeat(np.arange(N_USERS), per_user)
    nth = np.arange(len(users)) - np.repeat(per_user.cumsum() - per_user, per_user)
    start = rng.integers(0, N_ITEMS, N_USERS)
    items = (start[users] + nth * 7919) % N_ITEMS  # 7919 is prime and no factor of the number of items
    order = rng.permutation(len(users))
    return pd.DataFrame(
        dict(
            user=users[order] + 1,
            item=items[order] + 1,
            rating=(rng.integers(1, 11, len(users)) / 2).astype(np.float32),
            time=rng.integers(789652009, 1427784002, len(users)),
        )
    )


def status(key):
    """Bytes of a figure of this process (VmRSS: memory it holds; VmHWM: the peak of that)."""
    for line in Path('/proc/self/status').read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1]) * 1024
    raise KeyError(key)


@contextmanager
def measured(result):
    """Appends to `result` seconds, CPU seconds and the peak of memory in bytes above the start of what is inside."""
    start = status('VmRSS')
    Path('/proc/self/clear_refs').write_text('5')  # the peak from here on
    clock = time.perf_counter()
    cpu = time.process_time()
    yield
    result += [time.perf_counter() - clock, time.process_time() - cpu, status('VmHWM') - start]


def from_file(kind, path):
    from fastrec.all import RecDataLoaders

    if kind == 'csv':
        return RecDataLoaders.from_csv(f'{path}.csv', valid_pct=0.1, seed=0)
    return RecDataLoaders.from_parquet(f'{path}.parquet', valid_pct=0.1, seed=0, stream=kind == 'stream')


def load(kind, path):
    """From the table to the first batch."""
    from fastrec.all import RecDataLoaders

    res = []
    before = status('VmRSS')
    if kind == 'table':
        df = pd.DataFrame({k: np.load(f'{path}.{k}.npy') for k in ('user', 'item', 'rating', 'time')})
    held = status('VmRSS') - before
    with measured(res):
        dls = RecDataLoaders.from_df(df, valid_pct=0.1, seed=0) if kind == 'table' else from_file(kind, path)
        dls.one_batch()
    raw = 28 * len(np.load(f'{path}.user.npy', mmap_mode='r'))
    return [res[0], res[1], (res[2] + held) / raw]


def epochs(kind, path, repeats):
    """CPU seconds of reading all batches, and of training on them; peak memory above the loaders."""
    from fastrec.all import collab_learner

    dls = from_file(kind, path)
    read = []
    fit = []
    for _ in range(repeats):
        figures = []
        with measured(figures):
            for _ in dls.train:
                pass
        read.append(figures)
    learn = collab_learner(dls, n_factors=DIM, y_range=(0.5, 5.5))
    with learn.no_bar(), learn.no_logging(), measured(fit):
        learn.fit_one_cycle(1, 5e-3)
    return [
        float(np.median([o[1] for o in read])),
        max(o[2] for o in read) / 2**20,
        fit[1],
        fit[2] / 2**20,
        dls.train.bs,
    ]


def whole(path, n_users, repeats):
    """-> rows of sides that take turns, and rows of what was done once for everybody."""
    import torch
    from implicit.cpu.topk import topk

    from fastrec.all import RecDataLoaders, auc, collab_learner, evaluate, hr, ndcg

    titles = [f'A film of some title or other, number {i} ({1930 + i % 90})' for i in range(N_ITEMS)]
    titles = pd.DataFrame(dict(item=np.arange(1, N_ITEMS + 1), title=titles))
    dls = RecDataLoaders.from_parquet(f'{path}.parquet', valid_pct=0.05, seed=0, item_df=titles)
    learn = collab_learner(dls, n_factors=DIM, y_range=(0.5, 5.5))
    generator = torch.Generator().manual_seed(0)
    for t in learn.model.tables:
        t.weight.data.normal_(std=0.3, generator=generator)
    learn.model.eval()  # cold rows are filled in
    everybody = learn.vocab['user'].ids.to_numpy()
    held = np.unique(dls.catalog.interactions.users[dls.catalog.split.valid])
    users = everybody[:n_users]
    some = everybody[np.random.default_rng(0).choice(held, n_users, replace=False)]
    P = learn.model.vectors('user')
    Q = learn.model.vectors('item')
    Qt = Q.T.contiguous()
    few = learn.vocab['item'].ids[:50].to_numpy()

    def plain(block, n=n_users):
        for part in P[:n].split(block):
            (part @ Qt).topk(K)

    def metrics_of_some(metrics):
        evaluate(learn, dls, metrics, users=some, relevant=0)

    metrics = [hr(K), ndcg(K)]
    recs = f'{path}.recs.parquet'
    sides = {
        'matrix product and topk, blocks of 128': lambda: plain(128),
        'matrix product and topk, blocks of 1024': lambda: plain(1024),
        '`implicit.cpu.topk`, 1 thread': lambda: topk(Q.numpy(), P[:n_users].numpy(), K, num_threads=1),
        '`learn.recommend`, seen items in': lambda: learn.recommend(users, k=K, exclude_seen=False),
        '`learn.recommend`, seen items left out': lambda: learn.recommend(users, k=K),
        '`learn.recommend(..., to="recs.parquet")`': lambda: learn.recommend(users, k=K, to=recs),
        '`learn.recommend` among 50 candidates': lambda: learn.recommend(users, k=K, candidates=few),
        '`evaluate`, hr@10 and ndcg@10': lambda: metrics_of_some(metrics),
        '`evaluate`, auc besides (exact ranks)': lambda: metrics_of_some([*metrics, auc()]),
    }
    _ = dls.catalog.require_history().seen  # made once, before any clock runs
    times = {name: [] for name in sides}
    for r in range(repeats + 1):
        for name, f in sides.items():
            start = time.process_time()
            f()
            if r:  # the first turn warms up
                times[name].append(time.process_time() - start)
    base = np.array(times['matrix product and topk, blocks of 128'])
    turns = [[name, f'{np.median(t):.2f}', f'{np.median(np.array(t) / base):.2f}'] for name, t in times.items()]
    for_everybody = {
        'matrix product and topk, blocks of 128': lambda: plain(128, len(P)),
        '`learn.recommend(everybody)`': lambda: learn.recommend(everybody, k=K),
        '`learn.recommend(everybody, to="recs.parquet")`': lambda: learn.recommend(everybody, k=K, to=recs),
        f'`evaluate`, {len(held):,} users with held-out items': lambda: evaluate(learn, dls, metrics, relevant=0),
    }
    once = []
    for name, f in for_everybody.items():
        res = []
        with measured(res):
            f()
        once.append([name, f'{res[1]:.1f}', f'{max(res[2], 0) / 2**20:.0f}'])
    return turns, once


def imports(repeats):
    """CPU seconds of an import in a process of its own, in turns."""

    def seconds(code):
        script = f'import time; c = time.process_time()\n{code}\nprint(time.process_time() - c)'
        python = [sys.executable, '-W', 'ignore', '-c', script]
        out = subprocess.run(python, capture_output=True, text=True, check=True)
        return float(out.stdout.split()[-1])

    whole = 'from fastrec.all import *'
    artifact = 'from fastrec.scorers.artifact import load_recommender'
    codes = {
        'from fastai.collab import *; from fastai.tabular.all import *': (
            'from fastai.tabular.all import *\nfrom fastai.collab import *'
        ),
        whole: whole,
        artifact: artifact,
    }
    times = {name: [] for name in codes}
    for r in range(repeats + 1):
        for name, code in codes.items():
            spent = seconds(code)
            if r:  # the first turn warms up
                times[name].append(spent)
    base = np.array(next(iter(times.values())))
    return [[f'`{name}`', f'{np.median(t):.2f}', f'{np.median(np.array(t) / base):.2f}'] for name, t in times.items()]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--rows', type=int, default=20_000_000, help='about so many rows')
    parser.add_argument('--users', type=int, default=16384, help='users to recommend for in turns')
    parser.add_argument('--repeats', type=int, default=3)
    parser.add_argument('--out', help='Markdown file to write')
    args = parser.parse_args()
    from common import about, emit, table

    warnings.filterwarnings('ignore')
    with tempfile.TemporaryDirectory() as folder:
        df = generated(args.rows)
        path = f'{folder}/ratings'
        n = len(df)
        for k in df:
            np.save(f'{path}.{k}.npy', df[k].to_numpy())
        df.to_parquet(f'{path}.parquet', row_group_size=2**20)
        import pyarrow as pa
        import pyarrow.csv

        pyarrow.csv.write_csv(pa.Table.from_pandas(df), f'{path}.csv')
        del df

        def alone(*what):
            """What a function of this script returns, run in a process of its own."""
            command = [sys.executable, '-W', 'ignore', __file__, '--alone', *map(str, what)]
            out = subprocess.run(command, capture_output=True, text=True, check=True)
            return json.loads(out.stdout.splitlines()[-1])

        starts = []
        for kind in ('table', 'parquet', 'csv', 'stream'):
            seconds, cpu, peak = alone('load', kind, path)
            starts.append([kind, f'{seconds:.1f}', f'{cpu:.1f}', f'{peak:.2f}'])
        read = {kind: alone('epochs', kind, path, args.repeats) for kind in ('parquet', 'stream')}
        turns, once = alone('whole', path, args.users, args.repeats)
    batch_size = read['stream'][4]
    reading = []
    for name, (cpu, peak, fit_cpu, fit_peak, _) in zip(('in memory', 'in parquet (`stream=True`)'), read.values()):
        reading.append([name, f'{cpu:.1f}', f'{peak:.0f}', f'{fit_cpu:.0f}', f'{fit_peak:.0f}'])
    read_columns = [
        'rows',
        'CPU s to read an epoch',
        'peak MiB',
        'CPU s to train an epoch, with validation',
        'peak MiB',
    ]
    emit(
        f"""# Large tables

{about()}.

## From the table to the first batch

{n:,} rows, {N_USERS:,} users, {N_ITEMS:,} items; raw columns (two int64, a float32, an int64)
{28 * n / 2**20:,.0f} MiB. `table`: a DataFrame that is there before and stays; the others are files.

{table(['from', 'seconds', 'CPU seconds', 'peak memory / raw columns (the table included)'], starts)}

## Rows in memory and rows in their file

{0.9 * n:,.0f} training rows, batches of {batch_size:,}, {DIM} factors. Peak: MiB above the loaders.

{table(read_columns, reading)}

## Top {K} of {N_ITEMS:,} items, {DIM} factors, {args.users:,} users, in turns

{table(['', 'CPU s', '/ matrix product and topk'], turns)}

## Everybody, once

{table(['', 'CPU s', 'peak MiB above the start, results included'], once)}

## Imports

{table(['', 'CPU s', '/ fastai.collab'], imports(args.repeats))}""",
        args.out,
    )


if __name__ == '__main__':
    if sys.argv[1:2] == ['--alone']:
        import torch

        torch.set_num_threads(1)
        what, *rest = sys.argv[2:]
        os.environ['FASTREC_PROGRESS'] = '0'
        function = dict(load=load, epochs=epochs, whole=whole)[what]
        print(json.dumps(function(*(int(o) if o.isdigit() else o for o in rest))))
    else:
        main()
