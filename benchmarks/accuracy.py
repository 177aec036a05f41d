"""Errors on ML-100K, every side on the very same rows in one run.

Splits: random 90/10 (seeds 0, 1, 2), the official folds u1..u5, and a cut in time.

    python benchmarks/accuracy.py --ml100k PATH/TO/ml-100k --peers-python .venv-peers/bin/python --out FILE.md

Settings are fixed: nothing is chosen by what comes out here (see defaults.py for how fastrec's were). Surprise runs in
its own environment through peers_surprise.py; all errors are computed here, by the same code, from predictions.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from itertools import chain
from pathlib import Path

import fastai.collab as fc
import numpy as np
import pandas as pd
import torch
from common import about, emit, fastai_dls, need, quiet, table
from fastai.torch_core import set_seed

from fastrec.all import (
    BiasOnly,
    GlobalMean,
    RecDataLoaders,
    TimeSplitter,
    collab_learner,
    evaluate,
    mlp_learner,
    movielens,
)

SEEDS = (0, 1, 2)
FOLDS = (1, 2, 3, 4, 5)
RECIPES = """fastrec collab: `collab_learner(dls, n_factors=50, y_range=(0.5, 5.5))`, `fit_one_cycle(10, 3e-3)`;
fastrec MLP: `mlp_learner(dls, y_range=(0.5, 5.5))`, `fit_one_cycle(3, 5e-3)`; all else by default.
fastai.collab: `collab_learner(dls, n_factors=50, y_range=(0, 5.5))`, and with `use_nn=True, layers=[100, 50]`,
batch size 64, `fit_one_cycle(5, 5e-3, wd=0.1)`. Surprise: its defaults (KNNBaseline by item with pearson_baseline)."""


def recipe(dls):
    """fastrec's README recipe."""
    learn = collab_learner(dls, n_factors=50, y_range=(0.5, 5.5))
    return fit(learn, 10, 3e-3)


def mlp_recipe(dls):
    return fit(mlp_learner(dls, y_range=(0.5, 5.5)), 3, 5e-3)


def fit(learn, epochs, lr, **kwargs):
    with quiet(learn):
        learn.fit_one_cycle(epochs, lr, **kwargs)
    return learn


OURS = 'fastrec collab'
OUR_MLP = 'fastrec MLP'
THEIRS = 'fastai.collab'
THEIR_NN = 'fastai.collab use_nn'
PERMUTED = 'fastai.collab, rows permuted'  # not what fastai does: its tabular loader draws rows with replacement
FASTREC = {
    OURS: recipe,
    OUR_MLP: mlp_recipe,
    'damped biases (fastrec)': lambda dls: BiasOnly().fit(dls),
    'global mean': lambda dls: GlobalMean().fit(dls),
}
FASTAI = {THEIRS: {}, THEIR_NN: dict(use_nn=True, layers=[100, 50])}


def splits(path, wanted):
    """name -> (table, (train, valid) rows, seed of the training)."""
    ratings, _ = movielens('100k', path)
    for s in SEEDS:
        if f'random {s}' in wanted:
            split = RecDataLoaders.from_df(ratings, valid_pct=0.1, seed=s).catalog.split[:2]
            yield f'random {s}', ratings, split, s
    for k in FOLDS:
        if f'u{k}' not in wanted:
            continue
        parts = [
            pd.read_csv(path / f'u{k}.{o}', sep='\t', names=['user', 'item', 'rating', 'time'])
            for o in ('base', 'test')
        ]
        n = len(parts[0])
        split = (np.arange(n), np.arange(n, n + len(parts[1])))
        yield f'u{k}', pd.concat(parts, ignore_index=True), split, k


def run_fastrec(df, split, seed):
    dls = RecDataLoaders.from_df(df, splitter=split)
    inter = dls.catalog.interactions
    rows = split[1]
    users, items = (torch.from_numpy(o[rows].astype(np.int64)) for o in (inter.users, inter.items))
    for name, build in FASTREC.items():
        set_seed(seed)
        start = time.process_time()
        scorer = build(dls)
        yield name, time.process_time() - start, scorer.score(users, items).numpy()


def run_fastai(df, split, seed):
    dls = fastai_dls(df, split, bs=64)
    for name, kwargs in FASTAI.items():
        if name == PERMUTED:
            dls.train.get_idxs = lambda: torch.randperm(dls.train.n).tolist()
        set_seed(seed)
        start = time.process_time()
        learn = fit(fc.collab_learner(dls, n_factors=50, y_range=(0, 5.5), **kwargs), 5, 5e-3, wd=0.1)
        seconds = time.process_time() - start
        with quiet(learn):
            preds, target = learn.get_preds()
        assert np.array_equal(target.numpy().ravel(), df.rating.to_numpy()[split[1]]), 'fastai returned other rows'
        yield name, seconds, preds.numpy().ravel()


def run_surprise(df, split, seed, python, versions):
    with tempfile.TemporaryDirectory() as folder:
        for name, rows in zip(('train', 'test'), split):
            df.iloc[rows].to_csv(f'{folder}/{name}.csv', index=False)
        script = Path(__file__).with_name('peers_surprise.py')
        subprocess.run(
            [python, script, folder, str(seed)],
            check=True,
            env={**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': ''},
        )
        run = json.loads(Path(folder, 'run.json').read_text())
        preds = pd.read_csv(f'{folder}/predictions.csv')
    versions.update(run['versions'])
    for name in preds:
        yield f'Surprise {name}', run['seconds'][name], preds[name].to_numpy()


def compare(path, wanted, python):
    """-> a row per model and split (rmse, mae, CPU seconds of the fit), versions of the peers."""
    results = []
    versions = {}
    for split_name, df, split, seed in splits(path, wanted):
        target = df.rating.to_numpy(np.float64)[split[1]]
        sides = [run_fastrec(df, split, seed), run_fastai(df, split, seed)]
        if python:
            sides.append(run_surprise(df, split, seed, python, versions))
        for model, seconds, preds in chain.from_iterable(sides):
            error = preds.astype(np.float64) - target
            rmse = (error**2).mean() ** 0.5
            mae = abs(error).mean()
            results.append(dict(model=model, split=split_name, rmse=rmse, mae=mae, seconds=seconds))
            print(f'{split_name}: {model} rmse {rmse:.4f}, {seconds:.1f} s', file=sys.stderr, flush=True)
    return pd.DataFrame(results), versions


def errors_table(results, column):
    """Models by mean error; the best of each column in bold."""
    wide = results.pivot(index='model', columns='split', values=column)
    groups = {
        'u1-u5 mean': [o for o in wide if o[0] == 'u'],
        'random mean': [o for o in wide if o[0] == 'r'],
    }
    parts = []
    for title, names in groups.items():
        if names:
            parts += [wide[names].mean(axis=1).rename(title), wide[names]]
    columns = pd.concat(parts, axis=1)
    columns = columns.sort_values(columns.columns[0])
    rounded = columns.round(4)
    cells = columns.map('{:.4f}'.format).where(rounded != rounded.min(), columns.map('**{:.4f}**'.format))
    cells['CPU s per fit'] = results.groupby('model').seconds.mean().map('{:.1f}'.format)
    return table(['model', *cells.columns], cells.reset_index().to_numpy())


def paired_table(results):
    """Our error minus the peer's on the same split: negative is better; who wins where."""
    wide = results.pivot(index='model', columns='split', values='rmse')
    rows = []
    won = []
    peers_of = {OURS: [o for o in wide.index if o not in (OURS, OUR_MLP)], OUR_MLP: [THEIR_NN]}
    for ours, peers in peers_of.items():
        for peer in peers:
            d = wide.loc[ours] - wide.loc[peer]
            rows.append(
                [ours, peer, f'{d.mean():+.4f}', f'{d.min():+.4f} to {d.max():+.4f}', f'{(d < 0).sum()} of {len(d)}']
            )
            if (d >= 0).any():
                won.append(f'{peer} wins over {ours} on {", ".join(d.index[d >= 0])}.')
    text = table(['ours', 'peer', 'mean difference of RMSE', 'smallest to largest', 'splits where ours is ahead'], rows)
    return text + '\n\n' + (' '.join(won) or 'No peer wins on any split.')


def time_table(path):
    """The last fifth in time predicted from what came before, for known pairs (warm) and the others (cold)."""
    ratings, _ = movielens('100k', path)
    dls = RecDataLoaders.from_df(ratings, splitter=TimeSplitter(0.2))
    groups = ('all', 'warm', 'cold')
    rows = []
    for name, build in FASTREC.items():
        set_seed(0)
        df = evaluate(build(dls))
        rows.append([name, *(f'{df.loc[g, m]:.4f}' for m in ('rmse', 'mae') for g in groups)])
    counts = ', '.join(f'{df.loc[g, "rows"]:,} {g}' for g in groups)
    header = ['model', *(f'{m} {g}' for m in ('RMSE', 'MAE') for g in groups)]
    return table(header, rows) + f'\n\nValidation rows: {counts}.'


if __name__ == '__main__':
    every = [f'random {s}' for s in SEEDS] + [f'u{k}' for k in FOLDS]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        '--ml100k', help="folder of GroupLens' ml-100k, with u.data, u.item and the folds u1.base .. u5.test"
    )
    parser.add_argument(
        '--peers-python',
        help='python of the environment made from peers-requirements.txt; without it Surprise is left out',
    )
    parser.add_argument(
        '--splits', nargs='+', default=every, choices=every, metavar='SPLIT', help=f'some of {every} (default: all)'
    )
    parser.add_argument(
        '--permuted',
        action='store_true',
        help='also fastai.collab with every row once an epoch, to tell what its sampling costs it',
    )
    parser.add_argument('--out', help='Markdown file to write')
    args = parser.parse_args()
    path = need(args.ml100k, '--ml100k', "the folder of GroupLens' ml-100k (grouplens.org/datasets/movielens/100k)")
    need(path / 'u1.base', '--ml100k', 'a folder that has the official folds u1.base .. u5.test')
    if args.peers_python:
        need(args.peers_python, '--peers-python', 'the python of the environment made from peers-requirements.txt')
    torch.set_num_threads(1)
    if args.permuted:
        FASTAI[PERMUTED] = {}
    results, versions = compare(path, args.splits, args.peers_python)
    peers = ', '.join(f'{k} {v}' for k, v in versions.items()) or 'Surprise left out: no --peers-python'
    emit(
        f"""# Accuracy on MovieLens 100K

{about()}; peers' environment: {peers}.

{RECIPES}
Random splits are 90/10 with seeds {', '.join(map(str, SEEDS))}; training is seeded with the split's seed or the
fold's number; one training per split. CPU seconds are of the fit alone (for fastrec and fastai with a validation each
epoch, as they come); KNNBaseline does most of its work when it predicts.

## RMSE

{errors_table(results, 'rmse')}

## MAE

{errors_table(results, 'mae')}

## Paired difference of RMSE

{paired_table(results)}

## Cut in time: the last 20% predicted from the first 80%

{time_table(path)}""",
        args.out,
    )
