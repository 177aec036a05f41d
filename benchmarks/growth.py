"""How the cost of a training step grows with the tables, and what row-sparse updates cost in accuracy.

    python benchmarks/growth.py [--ml100k PATH] [--ml1m PATH] [--out FILE.md]

Step time: `collab_learner`'s model and optimiser on generated pairs, CPU milliseconds per step (median; the sizes take turns). Accuracy: dense AdamW and the
row-sparse optimisers forced on small tables, at equal epochs and equal settings (Adagrad's rate apart), seeds 0, 1, 2.
"""
import argparse, time, warnings

import matplotlib
matplotlib.use('Agg')
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from fastai.torch_core import set_seed
from pathlib import Path

from common import about, emit, need, quiet, table
from fastrec.all import FusedAdam, LazyAdam, RecDataLoaders, RowwiseAdagrad, collab_learner, evaluate, hr, movielens, ndcg, rmse
from fastrec.models import DotBias, pop_l2, set_l2
from fastrec.models.embedding import set_gradients
from fastrec.optimizers import TableAdam

SIZES, SEEDS, DIM = (1_000, 10_000, 100_000, 1_000_000, 10_000_000), (0, 1, 2), 16


class Lazy(LazyAdam): large = 0
class Adagrad(RowwiseAdagrad): large = 0


class Steps:
    "A model with `n` users and n / 10 items, and steps on random batches."
    def __init__(self, n, bs, kind):
        self.model = DotBias(n, max(n // 10, 100), DIM, y_range=(.5, 5.5), mean=3.)
        large = dict(dense=np.inf).get(kind, 0 if n >= 10_000 else np.inf)
        self.opt = TableAdam(self.model.parameters(), lr=1e-3, rows='adagrad' if kind == 'adagrad' else 'adam', large=large)
        set_gradients(self.model.tables, 'rows', large)
        set_l2(self.model, .05)
        g = torch.Generator().manual_seed(0)
        self.batches = [(torch.randint(n, (bs,), generator=g), torch.randint(max(n // 10, 100), (bs,), generator=g), torch.rand(bs, generator=g) * 5) for _ in range(16)]
        self.at = 0

    def step(self):
        users, items, y = self.batches[self.at % 16]
        self.at += 1
        start = time.process_time()
        (F.mse_loss(self.model(users, items), y) + pop_l2(self.model)).backward()
        self.opt.step()
        self.opt.zero_grad()
        return time.process_time() - start


def step_times(bs, kinds, sizes, repeats):
    "kind -> ms per step at each size; the kinds take turns at each size, the first steps do not count."
    res = {kind: [] for kind in kinds}
    for n in sizes:
        sides = {kind: Steps(n, bs, kind) for kind in kinds if kind != 'dense' or n <= 1_000_000}
        times = {kind: [] for kind in sides}
        for r in range(repeats + 8):
            for kind, side in sides.items():
                t = side.step()
                if r >= 8: times[kind].append(t)
        for kind in kinds: res[kind].append(1e3 * np.median(times[kind]) if kind in times else np.nan)
    return res


def plot(all_times, sizes, path):
    fig, axes = plt.subplots(1, len(all_times), figsize=(5 * len(all_times), 3.6), squeeze=False)
    for ax, (bs, times) in zip(axes[0], all_times.items()):
        for kind, values in times.items(): ax.plot(sizes, values, marker='o', label={'dense': 'dense AdamW, fused', 'adam': 'lazy Adam', 'adagrad': 'row-wise Adagrad'}[kind])
        ax.set(xscale='log', yscale='log', xlabel='users (items: a tenth)', ylabel='CPU ms per step', title=f'batch size {bs:,}, {DIM} factors')
        ax.legend()
    fig.tight_layout()
    fig.savefig(path, dpi=110)


def accuracy(make, recipe, metric, seeds):
    rows = []
    for name, opt, scale in (('dense AdamW', FusedAdam, 1), ('lazy Adam', Lazy, 1), ('row-wise Adagrad, 30 times the rate', Adagrad, 30)):
        values = []
        for seed in seeds:
            dls = make(seed)
            set_seed(seed)
            dls.train.seed = seed
            learn = collab_learner(dls, opt_func=opt, **recipe['model'])
            with quiet(learn): learn.fit_one_cycle(recipe['epochs'], recipe['lr'] * scale)
            values.append(metric(learn))
        rows.append([name, f'{np.mean(values):.4f}', ' '.join(f'{v:.4f}' for v in values)])
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--ml100k', help="folder of GroupLens' ml-100k; without it no accuracy on it")
    parser.add_argument('--ml1m', help='folder with train_pairs.csv and ml-1m.test.rating; without it no accuracy on it')
    parser.add_argument('--sizes', type=int, nargs='+', default=SIZES, help='numbers of users')
    parser.add_argument('--batch-sizes', type=int, nargs='*', default=(1024, 8192), help='none: only the accuracy')
    parser.add_argument('--seeds', type=int, nargs='+', default=SEEDS)
    parser.add_argument('--repeats', type=int, default=40)
    parser.add_argument('--out', help='Markdown file to write; the plot goes beside it')
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings('ignore')
    text, kinds = [f'# Cost of a step as tables grow\n\n{about()}.\n\nUsers as said, a tenth as many items, {DIM} factors; CPU ms per step of forward, backward and optimiser, median of {args.repeats}. Up to 1,000 users lazy Adam and Adagrad are the dense kernel, too.'], ('dense', 'adam', 'adagrad')
    all_times = {bs: step_times(bs, kinds, args.sizes, args.repeats) for bs in args.batch_sizes}
    for bs, times in all_times.items():
        ref = next((i for i, n in enumerate(args.sizes) if n == 100_000), 0)
        text.append(f'## Batch size {bs:,}\n\n' + table(['users', 'dense AdamW, fused', 'lazy Adam', 'row-wise Adagrad', 'lazy Adam / at 100,000', 'Adagrad / at 100,000'],
                    [[f'{n:,}', *('-' if np.isnan(times[k][i]) else f'{times[k][i]:.2f}' for k in kinds), *(f'{times[k][i]/times[k][ref]:.2f}' for k in kinds[1:])] for i, n in enumerate(args.sizes)]))
    if args.out and all_times:
        plot(all_times, args.sizes, Path(args.out).with_name('growth.png'))
        text.append('![CPU ms per step against the number of users](growth.png)')
    header = ['optimiser', 'mean', f"seeds {', '.join(map(str, args.seeds))}"]
    if args.ml100k:
        ratings, _ = movielens('100k', need(args.ml100k, '--ml100k', "the folder of GroupLens' ml-100k"))
        rows = accuracy(lambda seed: RecDataLoaders.from_df(ratings, valid_pct=.1, seed=seed), dict(model=dict(y_range=(.5, 5.5)), epochs=10, lr=3e-3), lambda learn: evaluate(learn, metrics=[rmse]).rmse['all'], args.seeds)
        text.append('## Accuracy on ML-100K: RMSE, random 90/10, `fit_one_cycle(10, 3e-3)`\n\n' + table(header, rows))
    if args.ml1m:
        path = need(args.ml1m, '--ml1m', 'the folder of the NCF files')
        train = pd.read_csv(path/'train_pairs.csv')
        train.columns = ['user', 'item']
        rng = np.random.default_rng(0)
        held = train.groupby('user').sample(1, random_state=0).index.to_numpy()
        split = np.setdiff1d(np.arange(len(train)), held), held
        dls = RecDataLoaders.from_df(train, target='implicit', splitter=split, n_neg=4, bs=8192)
        rows = accuracy(lambda seed: dls, dict(model=dict(n_factors=32), epochs=5, lr=1e-2), lambda learn: evaluate(learn, metrics=[ndcg(10)])['ndcg@10']['all'], args.seeds)
        text.append('## Accuracy on ML-1M as clicks: NDCG@10 over the whole catalogue, one training item per user held out at random, 4 negatives, 32 factors, `fit_one_cycle(5, 1e-2)`\n\n' + table(header, rows))
    emit('\n\n'.join(text), args.out)


if __name__ == '__main__': main()
