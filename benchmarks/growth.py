"""How the cost of a training step grows with users, items, factors, batch size and ratings.

Beside it: what row-sparse updates cost in accuracy.

    python benchmarks/growth.py [--ml100k PATH] [--ml1m PATH] [--out FILE.md]

Step time: `collab_learner`'s model and optimizers on generated pairs beside fastai.collab's, CPU milliseconds per step
(median; the optimizers take turns). Accuracy: dense AdamW and the row-sparse optimizers forced on small tables, at
equal epochs and equal settings (Adagrad's rate apart, which `--select` prints figures to choose by), seeds 0, 1, 2.
"""

import argparse
import sys
import time
import warnings

import matplotlib

matplotlib.use('Agg')
from pathlib import Path

import fastai.collab as fc
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from common import about, emit, need, quiet, table
from fastai.optimizer import Adam
from fastai.torch_core import set_seed
from ncf import ncf_1m

from fastrec.all import (
    FusedAdam,
    LazyAdam,
    RecDataLoaders,
    RowwiseAdagrad,
    collab_learner,
    evaluate,
    movielens,
    ndcg,
    rmse,
)
from fastrec.models import DotBias, set_l2
from fastrec.models.embedding import pop_penalties, set_gradients
from fastrec.training.optimizers import TableAdam

SIZES = (1_000, 10_000, 100_000, 1_000_000, 10_000_000)
SEEDS = (0, 1, 2)
DIM = 16
KINDS = {'fastai': 'fastai.collab', 'dense': 'dense AdamW, fused', 'adam': 'lazy Adam', 'adagrad': 'row-wise Adagrad'}
CENTRE = dict(n_users=100_000, n_items=10_000, dim=32, bs=1024)
VARIED = {
    'n_items': ('items', (100, 1_000, 10_000, 100_000, 1_000_000)),
    'dim': ('factors', (8, 16, 32, 64, 128, 256)),
    'bs': ('batch size', (64, 256, 1024, 4096, 16384, 65536)),
}
ROWS = (100_000, 1_000_000, 10_000_000)
ADAGRAD_1M = 10  # times Adam's rate: chosen by --select
BIG = 20_000_000  # values from which on dense sides are left out
ENOUGH = 4.0  # CPU seconds after which a side has had its turns


class Lazy(LazyAdam):
    large = 0


class Adagrad(RowwiseAdagrad):
    large = 0


class Steps:
    """A model of users and items, and steps on random batches."""

    def __init__(self, kind, n_users, n_items, dim, bs, lazy_from=0):
        large = 0 if kind in ('adam', 'adagrad') and n_users >= lazy_from else np.inf
        if kind == 'fastai':
            self.model = fc.EmbeddingDotBias(dim, n_users, n_items, y_range=(0, 5.5))
            self.opt = Adam(list(self.model.parameters()), lr=1e-3, wd=0.1)
            self.tables = []
        else:
            self.model = DotBias(n_users, n_items, dim, y_range=(0.5, 5.5), mean=3.0)
            self.opt = TableAdam(
                self.model.parameters(), lr=1e-3, rows='adagrad' if kind == 'adagrad' else 'adam', large=large
            )
            self.tables = self.model.tables
            set_gradients(self.tables, 'rows', large)
            set_l2(self.tables, 0.05)
        g = torch.Generator().manual_seed(0)
        self.batches = [
            (
                torch.randint(n_users, (bs,), generator=g),
                torch.randint(n_items, (bs,), generator=g),
                torch.rand(bs, generator=g) * 5,
            )
            for _ in range(16)
        ]
        self.at = 0

    def step(self):
        users, items, y = self.batches[self.at % 16]
        self.at += 1
        start = time.process_time()
        pred = self.model(torch.stack([users, items], 1)) if not self.tables else self.model(users, items)
        loss = F.mse_loss(pred, y)
        if self.tables:
            loss = loss + pop_penalties(self.tables)
        loss.backward()
        self.opt.step()
        self.opt.zero_grad()
        return time.process_time() - start


def step_times(kinds, settings, repeats, warm_up=8):
    """kind -> ms per step (median) at each of the settings.

    The kinds take turns at each; the first steps do not count.
    """
    res = {kind: [] for kind in kinds}
    for setting in settings:
        big = (setting['n_users'] + setting['n_items']) * setting['dim'] >= BIG
        sides = {kind: Steps(kind, **setting) for kind in kinds if not (big and kind in ('fastai', 'dense'))}
        times = {kind: [] for kind in sides}
        for r in range(repeats + warm_up):
            for kind, side in sides.items():
                if r > warm_up and sum(times[kind]) > ENOUGH:
                    continue
                t = side.step()
                if r >= warm_up or (r >= 3 and t > ENOUGH / 8):
                    times[kind].append(t)  # what takes long warms up for less long
        for kind in kinds:
            res[kind].append(1e3 * np.median(times[kind]) if kind in times else np.nan)
        last = {k: round(v[-1], 2) for k, v in res.items()}
        print(setting, last, file=sys.stderr, flush=True)
    return res


def by_rows(counts, bs=4096):
    """Rows of the table: CPU seconds of making loaders and of `fit_one_cycle(1)`, also per million ratings.

    The validation part is small.
    """
    rows = []
    epochs = {}
    for n in counts:
        rng = np.random.default_rng(0)
        keys = np.unique(rng.integers(0, 60_000 * 20_000, int(1.02 * (n + 64))))
        keys = rng.permutation(keys)[: n + 64]
        stars = rng.integers(1, 6, len(keys)).astype(np.float32)
        df = pd.DataFrame(dict(user=keys // 20_000, item=keys % 20_000, rating=stars))
        start = time.process_time()
        dls = RecDataLoaders.from_df(df, splitter=(np.arange(n), np.arange(n, len(df))), bs=bs)
        made = time.process_time() - start
        learn = collab_learner(dls, n_factors=32, y_range=(0.5, 5.5), opt_func=FusedAdam)
        seconds = []
        for _ in range(3):
            start = time.process_time()
            with quiet(learn):
                learn.fit_one_cycle(1, 3e-3)
            seconds.append(time.process_time() - start)
        epochs[n] = np.median(seconds[1:])
        rows.append(
            [f'{n:,}', f'{made:.2f}', f'{epochs[n]:.2f}', f'{1e6 * made / n:.2f}', f'{1e6 * epochs[n] / n:.2f}']
        )
    return rows


def others(key):
    """The centre but for `key`, in words."""
    words = dict(n_users='{:,} users', n_items='{:,} items', dim='{} factors', bs='batch size {:,}')
    return ', '.join(words[k].format(v) for k, v in CENTRE.items() if k != key)


def plot(by_users, varied, path):
    panels = []
    for bs, (sizes, times) in by_users.items():
        panels.append(('users (items: a tenth)', times, sizes, f'batch size {bs:,}, {DIM} factors'))
    for key, times in varied.items():
        label, values = VARIED[key]
        panels.append((label, times, values, others(key)))
    n = min(3, len(panels))
    n_lines = -(-len(panels) // n)
    fig, axes = plt.subplots(n_lines, n, figsize=(4.6 * n, 3.5 * n_lines), squeeze=False)
    for ax, (label, times, values, title) in zip(axes.flat, panels):
        for kind, t in times.items():
            ax.plot(values, t, marker='o', ms=4, label=KINDS[kind])
        ax.set(xscale='log', yscale='log', xlabel=label, ylabel='CPU ms per step')
        ax.set_title(title, fontsize=9)
    for ax in axes.flat[len(panels) :]:
        ax.axis('off')
    handles, labels = axes.flat[0].get_legend_handles_labels()
    if len(panels) < axes.size:
        axes.flat[-1].legend(handles, labels, loc='center')
    else:
        axes.flat[0].legend()
    fig.tight_layout()
    fig.savefig(path, dpi=110)


def accuracy(make, build, epochs, lr, metric, seeds, rates):
    """Table: each optimizer's mean over seeds, its difference to dense AdamW, and CPU seconds of a fit.

    Differences are on the same seed. `rates`: Adagrad's, as multiples of the rate.
    """
    sides = [('dense AdamW', FusedAdam, 1), ('lazy Adam', Lazy, 1)]
    sides += [(f'row-wise Adagrad, {r} times the rate', Adagrad, r) for r in rates]
    rows = []
    dense = None
    for name, opt, scale in sides:
        values = []
        seconds = []
        for seed in seeds:
            dls = make(seed)
            set_seed(seed)
            dls.train.seed = seed
            learn = build(dls, opt)
            start = time.process_time()
            with quiet(learn):
                learn.fit_one_cycle(epochs, lr * scale)
            seconds.append(time.process_time() - start)
            values.append(metric(learn))
        values = np.array(values)
        dense = values if dense is None else dense
        d = values - dense
        rows.append(
            [
                name,
                f'{values.mean():.4f}',
                '-' if opt is FusedAdam else f'{d.mean():+.4f} ({d.min():+.4f} to {d.max():+.4f})',
                ' '.join(f'{v:.4f}' for v in values),
                f'{np.median(seconds):.1f}',
            ]
        )
        print(*rows[-1], file=sys.stderr, flush=True)
    return table(
        [
            'optimizer',
            'mean',
            'less dense AdamW: mean (smallest to largest)',
            f'seeds {", ".join(map(str, seeds))}',
            'CPU s per fit',
        ],
        rows,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--ml100k', help="folder of GroupLens' ml-100k; without it no accuracy on it")
    parser.add_argument(
        '--ml1m',
        help='folder with train_pairs.csv, ml-1m.test.rating and ml-1m.test.negative; without it no accuracy on it',
    )
    parser.add_argument('--sizes', type=int, nargs='+', default=SIZES, help='numbers of users')
    parser.add_argument('--batch-sizes', type=int, nargs='*', default=(1024, 8192), help='none: only the accuracy')
    parser.add_argument('--rows', type=int, nargs='*', default=ROWS, help='numbers of ratings')
    parser.add_argument('--seeds', type=int, nargs='+', default=SEEDS)
    parser.add_argument('--repeats', type=int, default=40)
    parser.add_argument(
        '--select',
        action='store_true',
        help="ML-1M: figures on one further training item per user, with several rates of Adagrad's",
    )
    parser.add_argument('--out', help='Markdown file to write; the plot goes beside it')
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings('ignore')
    text = [f'# Cost of a step as tables grow\n\n{about()}.']

    def cells(values):
        return ['-' if np.isnan(v) else f'{v:.2f}' for v in values]

    by_users = {}
    varied = {}
    for bs in args.batch_sizes:
        settings = []
        for n in args.sizes:
            settings.append(dict(n_users=n, n_items=max(n // 10, 100), dim=DIM, bs=bs, lazy_from=10_000))
        times = step_times(KINDS, settings, args.repeats)
        by_users[bs] = args.sizes, times
        ref = next((i for i, n in enumerate(args.sizes) if n == 100_000), 0)
        if bs == args.batch_sizes[0]:
            text.append(
                f'CPU ms per step of forward, backward and optimizer, median of {args.repeats} (fewer of what takes '
                'long). fastai.collab: its model and its Adam. '
                f'Dense optimizers are left out from {BIG:,} values on.\n\n'
                f'## Users, with a tenth as many items, {DIM} factors'
            )
        header = ['users', *KINDS.values(), 'lazy Adam / at 100,000', 'Adagrad / at 100,000', 'fastai / lazy Adam']
        rows = []
        for i, n in enumerate(args.sizes):
            of_kinds = cells(t[i] for t in times.values())
            to_ref = cells(times[k][i] / times[k][ref] for k in ('adam', 'adagrad'))
            to_fastai = cells([times['fastai'][i] / times['adam'][i]])
            rows.append([f'{n:,}', *of_kinds, *to_ref, *to_fastai])
        text.append(
            f'Batch size {bs:,}. At 1,000 users lazy Adam and Adagrad are the dense kernel, as the builders have '
            'it.\n\n' + table(header, rows)
        )
    if args.batch_sizes:
        text.append('## One thing at a time\n\nThe others as at ' + others(None) + '.')
        for key, (label, values) in VARIED.items():
            times = step_times(KINDS, [{**CENTRE, key: v} for v in values], args.repeats // 2)
            varied[key] = times
            header = [label, *KINDS.values()]
            rows = [[f'{v:,}', *cells(t[i] for t in times.values())] for i, v in enumerate(values)]
            if key == 'bs':
                header.append('lazy Adam, microseconds per row')
                for row, bs, ms in zip(rows, values, times['adam']):
                    row += cells([1e3 * ms / bs])
            text.append(table(header, rows))
    if args.out and by_users:
        plot(by_users, varied, Path(args.out).with_name('growth.png'))
        text.append('![CPU ms per step against users, items, factors and batch size](growth.png)')
    if args.rows:
        text.append(
            '## Ratings\n\n60,000 users x 20,000 items, batch size 4,096, 32 factors, dense AdamW: CPU seconds of '
            '`RecDataLoaders.from_df` and of `fit_one_cycle(1)`.\n\n'
            + table(['ratings', 'loaders', 'epoch', 'loaders, per million', 'epoch, per million'], by_rows(args.rows))
        )
    if args.ml100k:
        ratings, _ = movielens('100k', need(args.ml100k, '--ml100k', "the folder of GroupLens' ml-100k"))
        text.append(
            '## Accuracy on ML-100K at equal epochs: RMSE, random 90/10 (split and training by the same seed), '
            '`fit_one_cycle(10, 3e-3)`\n\n'
            + accuracy(
                lambda seed: RecDataLoaders.from_df(ratings, valid_pct=0.1, seed=seed),
                lambda dls, opt: collab_learner(dls, y_range=(0.5, 5.5), opt_func=opt),
                10,
                3e-3,
                lambda learn: evaluate(learn, metrics=[rmse]).rmse['all'],
                args.seeds,
                (30,),
            )
        )
    if args.ml1m:
        dls, *_ = ncf_1m(need(args.ml1m, '--ml1m', 'the folder of the NCF files'), args.select)
        held = 'one further training item per user' if args.select else 'the last item of each user'
        text.append(
            f'## Accuracy on ML-1M as clicks at equal epochs: NDCG@10 over the whole catalogue, {held}, 4 negatives, '
            '64 factors, `fit_one_cycle(10, 2e-2)`\n\n'
            + accuracy(
                lambda seed: dls,
                lambda dls, opt: collab_learner(dls, n_factors=64, opt_func=opt),
                10,
                2e-2,
                lambda learn: evaluate(learn, metrics=[ndcg(10)])['ndcg@10']['all'],
                args.seeds,
                (3, 10, 30) if args.select else (ADAGRAD_1M,),
            )
        )
    emit('\n\n'.join(text), args.out)


if __name__ == '__main__':
    main()
