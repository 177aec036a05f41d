"""Training throughput of whole epochs on one thread.

Sides are fastrec, fastai.collab, and two hand-written torch loops, with fastrec's model and optimizer and with torch's.

    python benchmarks/speed.py --out FILE.md

The table is generated in the shape of ML-100K (943 users, 1,682 items, 100,000 training rows; more rows: more users),
so it runs anywhere. The four take turns (A B C D A B C D ...), and each is compared with the others of its own turn.
CPU seconds are counted, which other work on the machine disturbs less than it does the clock; still, trust the ratios
and not the rows per second.
"""

import argparse
import io
import time
import warnings
from contextlib import nullcontext, redirect_stdout

import fastai.collab as fc
import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from common import about, emit, fastai_dls, table
from fastai.callback.schedule import combined_cos
from fastai.torch_core import set_seed
from torch import nn

from fastrec.all import RecDataLoaders, collab_learner
from fastrec.models.embedding import pop_penalties, set_gradients, set_l2
from fastrec.training.optimizers import TableAdam

BATCH_SIZES = (64, 1024, 8192)
N_ITEMS = 1682
N_VALID = 64
Y_RANGE = (0.5, 5.5)
LR = 3e-3
WD = 0.08


def generated(n_rows):
    """A rating table without structure: distinct pairs, ratings 1 to 5."""
    rng = np.random.default_rng(0)
    n_users = max(2, round(943 * n_rows / 100_000))
    pairs = rng.choice(n_users * N_ITEMS, n_rows + N_VALID, replace=False)
    stars = rng.integers(1, 6, len(pairs)).astype(np.float32)
    return pd.DataFrame(dict(user=pairs // N_ITEMS, item=pairs % N_ITEMS, rating=stars))


class Loop:
    """What one would write by hand for this one purpose, without fastai: fastrec's model and optimizer as they are.

    The learning rate and momentum of every step are computed ahead. No losses are recorded, nothing can be hooked in.
    """

    def __init__(self, learn, bs):
        self.model = learn.model
        self.bs = bs
        dataset = learn.dls.train.dataset
        self.users, self.items, self.y = dataset[torch.arange(len(dataset))]
        self.generator = torch.Generator().manual_seed(0)
        steps = -(-len(self.y) // bs)
        self.lrs = [combined_cos(0.25, LR / 25, LR, LR / 1e5)(i / steps) for i in range(steps)]
        self.moms = [combined_cos(0.25, 0.95, 0.85, 0.95)(i / steps) for i in range(steps)]
        self.prepare()

    def prepare(self):
        self.opt = TableAdam(self.model.parameters(), lr=LR, betas=(0.9, 0.99), eps=1e-5)
        self.tables = self.model.tables
        set_l2(self.tables, WD)
        set_gradients(self.tables, 'rows')

    def loss(self, users, items, y):
        return F.mse_loss(self.model(users, items), y) + pop_penalties(self.tables)

    def epoch(self):
        opt = self.opt
        group = self.opt.param_groups[0]
        idx = torch.randperm(len(self.y), generator=self.generator)
        self.model.train()
        batches = zip(self.lrs, self.moms, *(o[idx].split(self.bs) for o in (self.users, self.items, self.y)))
        for lr, mom, users, items, y in batches:
            group['lr'] = lr
            group['betas'] = (mom, 0.99)
            self.loss(users, items, y).backward()
            opt.step()
            opt.zero_grad()


class Plain(nn.Module):
    """The same model of torch's own parts."""

    def __init__(self, like):
        super().__init__()
        self.p, self.q, self.b, self.c = (
            nn.Embedding.from_pretrained(t.weight.detach().clone(), freeze=False) for t in like.tables
        )
        self.mean = nn.Parameter(like.mean.detach().clone())

    def forward(self, users, items):
        p = self.p(users)
        q = self.q(items)
        x = (p * q).sum(1) + self.b(users).squeeze(1) + self.c(items).squeeze(1) + self.mean
        return torch.sigmoid(x) * (Y_RANGE[1] - Y_RANGE[0]) + Y_RANGE[0], p, q


class PlainLoop(Loop):
    """The same with nothing of fastrec in it.

    It has four `nn.Embedding`, autograd, the L2 of the rows, `AdamW(fused=True)`.
    """

    def prepare(self):
        self.model = Plain(self.model)
        self.opt = torch.optim.AdamW(
            self.model.parameters(), lr=LR, fused=True, betas=(0.9, 0.99), eps=1e-5, weight_decay=0.0
        )

    def loss(self, users, items, y):
        pred, p, q = self.model(users, items)
        return F.mse_loss(pred, y) + WD * (p.square().sum() + q.square().sum()) / len(users)


def sides(df, split, bs):
    """-> name -> function that trains one epoch; `bar` shows fastai's progress bar."""
    set_seed(0)
    dls = RecDataLoaders.from_df(df, splitter=split, bs=bs)
    dls.train.seed = 0  # the order of rows; the loop draws the same
    ours, twin = (collab_learner(dls, n_factors=50, y_range=Y_RANGE, wd=WD) for _ in range(2))
    twin.model.load_state_dict(ours.model.state_dict())
    plain = PlainLoop(twin, bs)
    loop = Loop(twin, bs)
    theirs = fc.collab_learner(fastai_dls(df, split, bs), n_factors=50, y_range=(0, 5.5))

    def one_cycle(learn, **kwargs):
        def epoch(bar=False):
            with redirect_stdout(io.StringIO()), nullcontext() if bar else learn.no_bar():
                learn.fit_one_cycle(1, LR, **kwargs)

        return epoch

    res = {
        'fastrec': one_cycle(ours),
        'fastai.collab': one_cycle(theirs, wd=0.1),
        'loop': loop.epoch,
        'plain loop': plain.epoch,
    }

    def difference():
        """Largest difference of a weight of the loops to ours, in rows that have been trained."""
        for o in (ours, twin):
            o.model.eval()  # which also sets the rows of cold items
        warm = [torch.from_numpy(dls.catalog.known(side)) for side in ('user', 'item')]

        def state(model, tables):  # tables: user and item vectors, user and item biases
            return [model.mean.detach()[None], *(t.weight.detach()[w] for t, w in zip(tables, warm * 2))]

        start = state(ours.model, ours.model.tables)
        of_loop = state(twin.model, twin.model.tables)
        of_plain = state(plain.model, (plain.model.p, plain.model.q, plain.model.b, plain.model.c))
        return max((a - b).abs().max().item() for other in (of_loop, of_plain) for a, b in zip(start, other))

    return res, difference


def seconds(epoch, **kwargs):
    start = time.process_time()
    epoch(**kwargs)
    return time.process_time() - start


def ratio(a, b):
    r = np.array(a) / np.array(b)
    return f'{np.median(r):.2f} ({r.min():.2f} to {r.max():.2f})'


def measure(df, split, bs, repeats):
    """A row of the table, of one batch size."""
    epochs, difference = sides(df, split, bs)
    n = len(split[0])
    apart = None
    times = {name: [] for name in epochs}
    for r in range(repeats + 1):
        for name, epoch in epochs.items():
            times[name].append(seconds(epoch))
        if r == 0:
            apart = difference()  # both started from the same weights and saw the same batches
    ours, theirs, loop, plain = (o[1:] for o in times.values())  # the first turn warms up
    with_bar = {name: seconds(epochs[name], bar=True) for name in ('fastrec', 'fastai.collab')}
    return [
        f'{bs:,}',
        ratio(theirs, ours),
        ratio(ours, loop),
        ratio(ours, plain),
        *(f'{n / np.median(o):,.0f}' for o in (ours, theirs, loop, plain)),
        f'{with_bar["fastai.collab"] / with_bar["fastrec"]:.2f}',
        f'{n / with_bar["fastrec"]:,.0f}',
        f'{apart:.0e}',
    ]


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--rows', type=int, default=100_000, help='training rows')
    parser.add_argument('--repeats', type=int, default=5, help='turns that count; one more warms up')
    parser.add_argument('--batch-sizes', type=int, nargs='+', default=BATCH_SIZES)
    parser.add_argument('--out', help='Markdown file to write')
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings('ignore', 'bs=')
    df = generated(args.rows)
    split = (np.arange(args.rows), np.arange(args.rows, len(df)))
    rows = [measure(df, split, bs, args.repeats) for bs in args.batch_sizes]
    header = [
        'batch size',
        'fastai / fastrec',
        'fastrec / loop',
        'fastrec / plain loop',
        'fastrec rows/s',
        'fastai rows/s',
        'loop rows/s',
        'plain loop rows/s',
        'fastai / fastrec, both with progress bar',
        'fastrec rows/s with bar',
        'largest weight difference of fastrec and the loops after an epoch',
    ]
    emit(
        f"""# Training throughput

{about()}.

One epoch of {args.rows:,} rows ({df.user.nunique():,} users, {df.item.nunique():,} items),
`fit_one_cycle(1, {LR:g})`, {N_VALID} validation rows, no progress bar unless said; 50 factors. Times are compared:
*loop* is hand-written around fastrec's model and optimizer, *plain loop* has nothing of fastrec in it (four
`nn.Embedding`, autograd, the same L2, torch's fused AdamW), both with the one-cycle schedule computed ahead. Median of
{args.repeats} turns (smallest to largest); with the bar: once. fastai.collab has its defaults (its own Adam, its
tabular loader).

{table(header, rows)}""",
        args.out,
    )
