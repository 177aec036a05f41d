"""The first layer over sparse features: time of a training step, and memory.

fastrec's weighted EmbeddingBag over the items of a batch stands against densifying their rows.

    python benchmarks/sparse_features.py --out benchmarks/results/sparse_features.md

20,000 items with 50,000 features, 40 of them each (Zipf); a hidden layer of 256; items are drawn by popularity. Times
are of sides that take turns; memory is each side's own process.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from common import about, emit, table
from scipy.sparse import csr_matrix
from torch import nn

from fastrec.data.block import Block
from fastrec.models import Content
from fastrec.models.blocks import FeatureLinear
from fastrec.models.embedding import EmbeddingTable, set_gradients
from fastrec.training.optimizers import FusedAdam, LazyAdam

N_ITEMS = 20_000
N_COLUMNS = 50_000
PER_ROW = 40
N_USERS = 5_000


def rows():
    """The features of all items as 0 and 1, sparse: (N_ITEMS, N_COLUMNS)."""
    rng = np.random.default_rng(0)
    p = 1 / np.arange(1, N_COLUMNS + 1) ** 0.8
    columns = rng.choice(N_COLUMNS, (N_ITEMS, PER_ROW), p=p / p.sum())
    items = np.repeat(np.arange(N_ITEMS), PER_ROW)
    ones = np.ones(columns.size, np.float32)
    x = csr_matrix((ones, (items, columns.ravel())), shape=(N_ITEMS, N_COLUMNS))
    x.data[:] = 1
    return x


class Densified(nn.Module):
    """What `FeatureLinear` replaces: the rows of the batch as a dense matrix, times the weight."""

    def __init__(self, like, x):
        super().__init__()
        self.weight = nn.Parameter(like.weight.detach().clone())
        self.x = x
        self.present = like.present
        self.names = like.names

    def __len__(self):
        return len(self.present)

    def forward(self, codes):
        return torch.from_numpy(self.x[codes.numpy()].toarray()) @ self.weight


class Side:
    """A content model with one way of doing the first layer; `step` trains on a batch."""

    def __init__(self, name):
        x = rows()
        torch.manual_seed(0)
        self.model = Content(N_USERS, N_ITEMS, {'words': Block(x, np.ones(N_ITEMS, bool), 'text')}, 64, 256)
        first = self.model.item_net.first
        if name == 'densified rows':  # the matrix that the layer holds, with its column that marks absent blocks
            parts = tuple(o.numpy() for o in (first.values, first.indices, first.indptr))
            matrix = csr_matrix(parts, shape=(N_ITEMS, first.n_columns))
            self.model.item_net.first = Densified(first, matrix)
        parameters = [list(self.model.parameters())]
        if name == 'EmbeddingBag, LazyAdam':
            self.opt = LazyAdam(parameters, lr=1e-3)
            tables = [m for m in self.model.modules() if isinstance(m, (EmbeddingTable, FeatureLinear))]
            set_gradients(tables, 'rows', self.opt.large)
        else:
            self.opt = FusedAdam(parameters, lr=1e-3)
        self.model.train()

    def step(self, users, items, target):
        loss = F.mse_loss(self.model(users, items), target)
        loss.backward()
        self.opt.step()
        self.opt.zero_grad()
        return loss.item()


SIDES = ['densified rows', 'EmbeddingBag, dense gradient', 'EmbeddingBag, LazyAdam']


def batches(bs, n, seed=1):
    rng = np.random.default_rng(seed)
    p = 1 / np.arange(1, N_ITEMS + 1) ** 0.7
    for _ in range(n):
        yield (
            torch.from_numpy(rng.integers(N_USERS, size=bs)),
            torch.from_numpy(rng.choice(N_ITEMS, bs, p=p / p.sum())),
            torch.from_numpy(rng.normal(size=bs).astype(np.float32)),
        )


def memory(name, bs):
    """MiB that training adds to a process that has imported all and made the data."""
    rows()

    before = peak_memory()
    side = Side(name)
    for b in batches(bs, 3):
        side.step(*b)
    return peak_memory() - before


def peak_memory():
    """MiB at the peak of this process (ru_maxrss would start at the parent's)."""
    for line in Path('/proc/self/status').read_text().splitlines():
        if line.startswith('VmHWM'):
            return int(line.split()[1]) / 1024
    raise OSError('no VmHWM in /proc/self/status')


def memory_apart(name, bs):
    """`memory`, measured in a process of its own."""
    command = [sys.executable, '-W', 'ignore', __file__, '--memory-of', name, '--bs', str(bs)]
    out = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(out.stdout.splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--steps', type=int, default=3, help='per turn and side')
    parser.add_argument('--turns', type=int, default=2)
    parser.add_argument('--memory-of', help=argparse.SUPPRESS)
    parser.add_argument('--bs', type=int, help=argparse.SUPPRESS)
    parser.add_argument('--out')
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.memory_of:
        print(json.dumps(memory(args.memory_of, args.bs)))
        return
    lines = []
    for bs in (256,):
        sides = {name: Side(name) for name in SIDES}
        times = {name: [] for name in SIDES}
        losses = {}
        for turn in range(args.turns + 1):
            for name, side in sides.items():
                for b in batches(bs, args.steps, turn):
                    start = time.perf_counter()
                    loss = side.step(*b)
                    if turn:  # the first turn warms up
                        times[name].append(time.perf_counter() - start)
                losses[name] = loss
        assert np.allclose(losses[SIDES[0]], losses[SIDES[1]], rtol=1e-2), losses  # the same model
        ms = {name: 1e3 * np.median(t) for name, t in times.items()}
        for name in SIDES:
            first = bs if name == SIDES[0] else ''
            speed = f'{ms[SIDES[0]] / ms[name]:.1f}x'
            lines.append([first, name, f'{ms[name]:.1f}', speed, f'{memory_apart(name, bs):,.0f}'])
        print(lines[-3:], flush=True)
    emit(
        '\n\n'.join(
            [
                '# Sparse features: the first layer',
                about(),
                f'{N_ITEMS:,} items, {N_COLUMNS:,} features, {PER_ROW} each, hidden layer of 256 '
                f'({N_COLUMNS * 256 / 1e6:.1f} million weights: with the two moments of Adam '
                f'{N_COLUMNS * 256 * 12 / 2**20:,.0f} MiB on every side). A step is forward, backward and '
                'optimizer, median; memory is the peak that training adds to a process, the model and its optimizer '
                'included. The first two sides make the same steps; `LazyAdam` (the default of `content_learner`) '
                'updates the columns of the batch.',
                table(['batch', 'first layer', 'ms a step', 'speed', 'MiB'], lines),
            ]
        ),
        args.out,
    )


if __name__ == '__main__':
    main()
