"""Steps of row-sparse optimizers against FBGEMM's table-batched embeddings on the CPU.

FBGEMM's optimizer and backward pass are one kernel.

    python benchmarks/fbgemm.py --out FILE.md      # needs `pip install fbgemm-gpu-cpu` in fastrec's own environment

A dot product of two tables, users and a tenth as many items, squared error, no biases and no L2 on any side: forward,
backward and update of a batch of random pairs, CPU milliseconds (median). Sides take turns.
"""

import argparse
import sys
import time
from importlib.metadata import version

import numpy as np
import torch
from common import about, emit, table

from fastrec.models.embedding import EmbeddingTable, set_gradients
from fastrec.training.optimizers import TableAdam

SIZES = (10_000, 100_000, 1_000_000, 10_000_000)
DIM = 16


class Ours:
    def __init__(self, sizes, dim, rows):
        self.tables = [EmbeddingTable(n, dim) for n in sizes]
        self.opt = TableAdam([t.weight for t in self.tables], lr=0.01, rows=rows, large=0)
        set_gradients(self.tables, 'rows', 0)

    def step(self, users, items, y):
        p, q = (t(o) for t, o in zip(self.tables, (users, items)))
        ((p * q).sum(1) - y).square().mean().backward()
        self.opt.step()
        self.opt.zero_grad()


class Fbgemm:
    def __init__(self, sizes, dim, optimizer):
        from fbgemm_gpu.split_embedding_configs import EmbOptimType
        from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation, PoolingMode
        from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
            ComputeDevice,
            SplitTableBatchedEmbeddingBagsCodegen,
        )

        self.dim = dim
        self.tables = SplitTableBatchedEmbeddingBagsCodegen(
            [(n, dim, EmbeddingLocation.HOST, ComputeDevice.CPU) for n in sizes],
            optimizer=getattr(EmbOptimType, optimizer),
            learning_rate=0.01,
            eps=1e-5,
            pooling_mode=PoolingMode.SUM,
        )
        for w in self.tables.split_embedding_weights():
            w.data.normal_(0, 0.01)

    def step(self, users, items, y):
        x = self.tables(torch.cat([users, items]), torch.arange(2 * len(users) + 1))
        ((x[:, : self.dim] * x[:, self.dim :]).sum(1) - y).square().mean().backward()


SIDES = {
    'lazy Adam': lambda *a: Ours(*a, 'adam'),
    'row-wise Adagrad': lambda *a: Ours(*a, 'adagrad'),
    'FBGEMM row-wise Adagrad': lambda *a: Fbgemm(*a, 'EXACT_ROWWISE_ADAGRAD'),
}


def refused():
    """What FBGEMM says of Adam on a CPU."""
    try:
        codes = torch.zeros(4, dtype=torch.int64)
        Fbgemm((100, 100), DIM, 'ADAM').step(codes, codes, torch.zeros(4))
    except Exception as e:
        return f'{type(e).__name__}: {e}'
    return 'works'


def measure(n, bs, repeats, warm_up=8):
    """-> side -> median ms of a step."""
    sizes = (n, max(n // 10, 100))
    g = torch.Generator().manual_seed(0)
    batches = [
        (
            torch.randint(sizes[0], (bs,), generator=g),
            torch.randint(sizes[1], (bs,), generator=g),
            torch.rand(bs, generator=g),
        )
        for _ in range(16)
    ]
    sides = {name: make(sizes, DIM) for name, make in SIDES.items()}
    times = {name: [] for name in sides}
    for r in range(repeats + warm_up):
        for name, side in sides.items():
            start = time.process_time()
            side.step(*batches[r % 16])
            if r >= warm_up:
                times[name].append(time.process_time() - start)
    return {name: 1e3 * np.median(t) for name, t in times.items()}


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--sizes', type=int, nargs='+', default=SIZES, help='numbers of users')
    parser.add_argument('--batch-sizes', type=int, nargs='+', default=(1024, 8192))
    parser.add_argument('--repeats', type=int, default=60)
    parser.add_argument('--out', help='Markdown file to write')
    args = parser.parse_args()
    try:
        import fbgemm_gpu  # noqa: F401
    except ImportError:
        sys.exit('fbgemm_gpu is not installed: pip install fbgemm-gpu-cpu')
    torch.set_num_threads(1)
    parts = []
    for bs in args.batch_sizes:
        rows = {n: measure(n, bs, args.repeats) for n in args.sizes}
        parts.append(
            f'## Batch size {bs:,}\n\n'
            + table(
                ['users', *SIDES, 'row-wise Adagrad / FBGEMM'],
                [
                    [
                        f'{n:,}',
                        *(f'{v:.2f}' for v in t.values()),
                        f'{t["row-wise Adagrad"] / t["FBGEMM row-wise Adagrad"]:.2f}',
                    ]
                    for n, t in rows.items()
                ],
            )
        )
    emit(
        f'# Row-sparse steps against FBGEMM\n\n{about()}; fbgemm-gpu-cpu {version("fbgemm-gpu-cpu")}.\n\n'
        f'CPU ms of a step (forward, backward, update) of a dot product of two tables, {DIM} factors, median of '
        f'{args.repeats}. Adam on the CPU, asked of FBGEMM: {refused()}\n\n' + '\n\n'.join(parts),
        args.out,
    )
