"""20 million ratings (138,493 users x 26,744 items, generated): from the table to the first batch, recommending for everybody, and the price of the import.

    python benchmarks/large.py [--rows 20000000] [--out FILE.md]

Seconds and peak memory (what the process holds above what it held before, the table included; Linux) from a table in memory, parquet and CSV, each in a process of its own.
Recommending: top 10 of the whole catalogue, against a plain matrix product with topk in blocks and against `implicit.cpu.topk` on the same vectors; the sides take turns.
"""
import argparse, subprocess, sys, tempfile, time, warnings
from pathlib import Path

import numpy as np
import pandas as pd

N_USERS, N_ITEMS, K, DIM = 138_493, 26_744, 10, 50


def generated(n_rows):
    "Distinct pairs: users have as many items as a log-normal says, at steps that meet none twice; no structure."
    rng = np.random.default_rng(0)
    share = rng.lognormal(0, 1.1, N_USERS)
    per_user = np.clip(share / share.sum() * n_rows, 1, N_ITEMS // 4).astype(np.int64)
    users = np.repeat(np.arange(N_USERS), per_user)
    nth = np.arange(len(users)) - np.repeat(per_user.cumsum() - per_user, per_user)
    items = (rng.integers(0, N_ITEMS, N_USERS)[users] + nth * 7919) % N_ITEMS  # 7919 is prime and no factor of the number of items
    order = rng.permutation(len(users))
    return pd.DataFrame(dict(user=users[order] + 1, item=items[order] + 1, rating=(rng.integers(1, 11, len(users)) / 2).astype(np.float32), time=rng.integers(789652009, 1427784002, len(users))))


def status(key): return next(int(line.split()[1]) * 1024 for line in open('/proc/self/status') if line.startswith(key))


def load(kind, path):
    "In a process of its own: prints seconds, CPU seconds, and the peak above the start in units of the raw columns."
    import torch
    from fastrec.all import RecDataLoaders
    torch.set_num_threads(1)
    start, raw = status('VmRSS'), None
    if kind == 'table': df = pd.DataFrame({k: np.load(f'{path}.{k}.npy') for k in ('user', 'item', 'rating', 'time')})
    open('/proc/self/clear_refs', 'w').write('5')  # the peak from here on
    t, c = time.perf_counter(), time.process_time()
    if kind == 'table': dls = RecDataLoaders.from_df(df, valid_pct=.1, seed=0)
    else: dls = getattr(RecDataLoaders, f'from_{kind}')(f'{path}.{kind}', valid_pct=.1, seed=0)
    dls.one_batch()
    raw = len(dls.catalog.interactions) * 28
    print(time.perf_counter() - t, time.process_time() - c, (status('VmHWM') - start) / raw)


def recommending(n_users, repeats):
    import torch
    from implicit.cpu.topk import topk
    from fastrec.all import RecDataLoaders, collab_learner
    torch.set_num_threads(1)
    learn = collab_learner(RecDataLoaders.from_df(generated(2_000_000), valid_pct=.01, seed=0), n_factors=DIM, y_range=(.5, 5.5))
    generator = torch.Generator().manual_seed(0)
    for t in learn.model.tables: t.weight.data.normal_(std=.3, generator=generator)
    users = learn.vocab['user'].ids[:n_users].to_numpy()
    P, Q = learn.model.vectors('user')[:n_users], learn.model.vectors('item')
    Qt, few = Q.T.contiguous(), learn.vocab['item'].ids[:50].to_numpy()
    def plain(block):
        for part in P.split(block): (part @ Qt).topk(K)
    sides = {'matrix product and topk, blocks of 128': lambda: plain(128), 'matrix product and topk, blocks of 1024': lambda: plain(1024),
             'implicit.cpu.topk, 1 thread': lambda: topk(Q.numpy(), P.numpy(), K, num_threads=1),
             'learn.recommend, seen items in': lambda: learn.recommend(users, k=K, exclude_seen=False), 'learn.recommend, seen items left out': lambda: learn.recommend(users, k=K),
             'learn.recommend among 50 candidates': lambda: learn.recommend(users, k=K, candidates=few)}
    times = {name: [] for name in sides}
    for r in range(repeats + 1):
        for name, f in sides.items():
            c = time.process_time()
            f()
            if r: times[name].append(time.process_time() - c)
    base = np.array(times['matrix product and topk, blocks of 128'])
    return [[name, f'{np.median(t):.2f}', f'{np.median(np.array(t) / base):.2f}', f'{np.median(t) * N_USERS / n_users:.0f}'] for name, t in times.items()]


def imports(repeats):
    "CPU seconds of an import in a process of its own, in turns."
    def seconds(code):
        out = subprocess.run([sys.executable, '-W', 'ignore', '-c', f'import time; c = time.process_time()\n{code}\nprint(time.process_time() - c)'], capture_output=True, text=True, check=True)
        return float(out.stdout.split()[-1])
    codes = {'from fastai.collab import *; from fastai.tabular.all import *': 'from fastai.tabular.all import *\nfrom fastai.collab import *', 'from fastrec.all import *': 'from fastrec.all import *', 'from fastrec.artifact import load_recommender': 'from fastrec.artifact import load_recommender'}
    times = {name: [] for name in codes}
    for r in range(repeats + 1):
        for name, code in codes.items():
            t = seconds(code)
            if r: times[name].append(t)
    base = np.array(next(iter(times.values())))
    return [[f'`{name}`', f'{np.median(t):.2f}', f'{np.median(np.array(t) / base):.2f}'] for name, t in times.items()]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--rows', type=int, default=20_000_000, help='about so many rows')
    parser.add_argument('--users', type=int, default=8192, help='users to recommend for; seconds for all of them are this scaled up')
    parser.add_argument('--repeats', type=int, default=3)
    parser.add_argument('--out', help='Markdown file to write')
    args = parser.parse_args()
    from common import about, emit, table
    warnings.filterwarnings('ignore')
    with tempfile.TemporaryDirectory() as folder:
        df, path = generated(args.rows), f'{folder}/ratings'
        n = len(df)
        for k in df: np.save(f'{path}.{k}.npy', df[k].to_numpy())
        df.to_parquet(f'{path}.parquet', row_group_size=2**20)
        import pyarrow as pa, pyarrow.csv
        pyarrow.csv.write_csv(pa.Table.from_pandas(df), f'{path}.csv')
        del df
        rows = []
        for kind in ('table', 'parquet', 'csv'):
            wall, cpu, peak = map(float, subprocess.run([sys.executable, '-W', 'ignore', __file__, '--load', kind, path], capture_output=True, text=True, check=True).stdout.split()[-3:])
            rows.append([kind, f'{wall:.1f}', f'{cpu:.1f}', f'{peak:.2f}'])
    emit(f"""# Large tables

{about()}.

## From the table to the first batch

{n:,} rows, {N_USERS:,} users, {N_ITEMS:,} items; raw columns (two int64, a float32, an int64) {28 * n / 2**20:,.0f} MiB.

{table(['from', 'seconds', 'CPU seconds', 'peak memory / raw columns (the table included)'], rows)}

## Top {K} of {N_ITEMS:,} items, {DIM} factors, {args.users:,} users

{table(['', 'CPU s', '/ matrix product and topk', f's for {N_USERS:,} users at this rate'], recommending(args.users, args.repeats))}

## Imports

{table(['', 'CPU s', '/ fastai.collab'], imports(args.repeats))}""", args.out)


if __name__ == '__main__':
    if sys.argv[1:2] == ['--load']: load(*sys.argv[2:])
    else: main()
