"""How the defaults of `collab_learner` and `mlp_learner` were chosen.

The measure is validation RMSE on ml-latest-small over random 90/10 splits. One setting is varied at a time around a
centre (weight decay for both schedules). ML-100K, on which results are reported, is not touched.

    python benchmarks/defaults.py --ls PATH/TO/ml-latest-small
"""

import argparse
import time
import warnings

import numpy as np
import torch
from common import about, emit, need, quiet
from fastai.torch_core import set_seed

from fastrec.all import RecDataLoaders, collab_learner, evaluate, mlp_learner, movielens

SEEDS = (0, 1, 2)
Y_RANGE = (0, 5.5)
COLLAB = dict(n_factors=50, wd=0.08, epochs=10, lr=3e-3, bs=256)
DECAYS = (0.0, 0.03, 0.05, 0.07, 0.08, 0.1)
COLLAB_GRID = [
    *(dict(wd=wd, epochs=5, lr=5e-3) for wd in DECAYS),
    *(dict(wd=wd, epochs=10, lr=3e-3) for wd in DECAYS),
    *(dict(n_factors=n) for n in (20, 50, 100)),
    *(dict(bs=bs) for bs in (128, 256, 512, 1024)),
]
MLP = dict(n_factors=32, layers=(64, 32), dropout=0.0, wd=0.05, epochs=5, lr=5e-3, bs=256)
MLP_GRID = [
    *(dict(n_factors=n) for n in (16, 32, 64)),
    *(dict(layers=o) for o in ((64, 32), (128, 64), (100, 50))),
    *(dict(dropout=p) for p in (0.0, 0.1, 0.25)),
    *(dict(wd=wd) for wd in (0.0, 0.01, 0.05, 0.1)),
    *(dict(epochs=n) for n in (3, 5, 8)),
]
# the first round says that the MLP overfits; the second starts from where each single change pointed
MLP2 = {**MLP, **dict(n_factors=16, dropout=0.25, wd=0.1)}
MLP2_GRID = [
    dict(n_factors=32),
    dict(dropout=0.5),
    dict(wd=0.2),
    dict(wd=0.3),
    dict(epochs=3),
    dict(epochs=3, dropout=0.1),
    dict(lr=2e-3),
    dict(lr=1e-2),
    dict(dropout=0.5, epochs=3),
    dict(dropout=0.5, wd=0.2),
    dict(dropout=0.5, n_factors=8),
    dict(dropout=0.5, n_factors=32),
]


def fit(learner, ratings, seed, epochs, lr, bs, **kwargs):
    """-> validation RMSE and CPU seconds of the fit."""
    dls = RecDataLoaders.from_df(ratings, valid_pct=0.1, seed=seed, bs=bs)
    set_seed(seed)
    learn = learner(dls, y_range=Y_RANGE, **kwargs)
    start = time.process_time()
    with quiet(learn):
        learn.fit_one_cycle(epochs, lr)
    return evaluate(learn).loc['all', 'rmse'], time.process_time() - start


def grid(name, learner, ratings, centre, changes):
    """The table of all settings, printed row by row; each row's difference is to the centre on the same splits."""

    def show(o):
        return ', '.join(f'{k}={v}' for k, v in o.items())

    def run(setting):
        return np.array([fit(learner, ratings, seed, **setting) for seed in SEEDS])

    def key(setting):
        return tuple(sorted(setting.items()))

    results = {key(centre): run(centre)}
    lines = []

    def say(line):
        lines.append(line)
        print(line, flush=True)

    say(
        f'## {name}\n\nCentre: {show(centre)}\n\n'
        '| setting | mean rmse | to the centre: mean | on each split | CPU s per fit |\n'
        '|---|---|---|---|---|'
    )
    for change in changes:
        setting = {**centre, **change}
        if key(setting) not in results:
            results[key(setting)] = run(setting)
        rmse, cpu = results[key(setting)].T
        base = results[key(centre)].T[0]
        row = [
            show(change),
            f'{rmse.mean():.4f}',
            f'{(rmse - base).mean():+.4f}',
            ' '.join(f'{o:+.4f}' for o in rmse - base),
            f'{cpu.mean():.1f}',
        ]
        say('| ' + ' | '.join(row) + ' |')
    return '\n'.join(lines)


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--ls', help="folder or zip of GroupLens' ml-latest-small")
    parser.add_argument('--only', choices=['collab', 'mlp', 'mlp2'], help='one of the three grids')
    parser.add_argument('--out', help='Markdown file to write')
    args = parser.parse_args()
    path = need(args.ls, '--ls', "the folder or zip of GroupLens' ml-latest-small (grouplens.org/datasets/movielens)")
    torch.set_num_threads(1)
    warnings.filterwarnings('ignore', 'bs=')
    ratings, _ = movielens('latest-small', path)
    head = (
        '# Defaults, chosen on ml-latest-small\n\n'
        f'{about()}.\n\n'
        f'Validation RMSE on ml-latest-small ({len(ratings):,} ratings), random 90/10 with seeds {SEEDS}, '
        f'y_range={Y_RANGE}'
    )
    grids = dict(
        collab=(collab_learner, COLLAB, COLLAB_GRID),
        mlp=(mlp_learner, MLP, MLP_GRID),
        mlp2=(mlp_learner, MLP2, MLP2_GRID),
    )
    texts = [
        grid(f'{learner.__name__}{", second round" if name == "mlp2" else ""}', learner, ratings, centre, changes)
        for name, (learner, centre, changes) in grids.items()
        if args.only in (None, name)
    ]
    emit('\n\n'.join([head, *texts]), args.out)
