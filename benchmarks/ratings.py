"""Rating accuracy at the state of the art: `svdpp_learner` on ids alone, with side features, with times.

Beside it: its steps one by one, its ensemble, and Bayesian peers, on the same rows.

    python benchmarks/ratings.py --ml100k PATH/TO/ml-100k --ls PATH/TO/ml-latest-small \\
        --peers-python .venv-peers/bin/python --cache runs.jsonl --out FILE.md

Splits: the official folds u1..u5, random 90/10 with seeds 0, 1, 2, and 5 folds of ml-latest-small (numpy's
default_rng(0).permutation, every fifth). Settings are the builder's defaults, which were chosen on folds 0, 1 and 2 of
ml-latest-small and on its items with 20 ratings or more: there the figures of fastrec are optimistic by what the choice
gained. On ML-100K no setting was chosen by test errors; u1.test had been looked at once with earlier defaults (0.8977),
and all folds were scored with those of before times and features (0.8874 on average). Random rows lie between others of
the same sitting, which is what the mood of a user at a time is made of: 'by time' holds out the last tenth of
ml-latest-small and shows what is left of each step where the future is to be predicted. `--cache` keeps finished fits,
a line each, so that a run that was cut off goes on; delete it for a fresh run.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from common import about, emit, need, quiet, table
from fastai.torch_core import set_seed

from fastrec.all import (
    ItemFeatures,
    RecDataLoaders,
    UserFeatures,
    collab_learner,
    ensemble_learner,
    movielens,
    svdpp_learner,
)

SEEDS = (0, 1, 2)
FOLDS = (1, 2, 3, 4, 5)
EPOCHS = 15
LR = 5e-3
BS = 2048
ONE = 'svdpp_learner'
FEATURES = 'svdpp_learner + features'
TIME = 'svdpp_learner + time'
BOTH = 'svdpp_learner + features + time'
ENSEMBLE = 'svdpp_learner + features + time, ensemble of 4'
OURS = (ONE, BOTH, FEATURES, TIME, ENSEMBLE)
ABLATED = ('small 0',)
PLAIN = 'plain dot product (user sums, item sums and histories left out): collab_learner'
ABLATION = {  # name -> options of svdpp_learner
    PLAIN: None,
    'SVD++ (Koren): user side only, nothing left out': dict(
        item_side=False, leave_one_out=False, residuals=False, own_decay=1.0, history_decay=0.0, wd=0.08
    ),
    'both sides, one L2 for all': dict(leave_one_out=False, residuals=False, own_decay=1.0, history_decay=0.0, wd=0.08),
    '+ L2 of own and history vectors apart': dict(leave_one_out=False, residuals=False),
    '+ the row itself left out of the histories': dict(residuals=False),
    '+ sums weighted by residuals = svdpp_learner': {},
    'svdpp_learner without the item side': dict(item_side=False),
    'svdpp_learner, 20 factors': dict(n_factors=20),
    'svdpp_learner, 100 factors': dict(n_factors=100),
}


def known_of(items, users=None):
    """What `svdpp_learner` takes of genres, year and (of ML-100K) age in decades, gender and occupation."""
    res = dict(item_features=ItemFeatures.from_df(items, multilabel='genres', category='year'))
    if users is not None:
        res['user_features'] = UserFeatures.from_df(
            users.assign(age=users.age // 10), category=['age', 'gender', 'occupation']
        )
    return res


def splits(ml100k, ls):
    """name -> (table, (train, valid) rows, seed of the training, features)."""
    if ml100k:
        ratings, items = movielens('100k', ml100k)
        users = pd.read_csv(ml100k / 'u.user', sep='|', names=['user', 'age', 'gender', 'occupation', 'zip'])
        known = known_of(items, users)
        for k in FOLDS:
            parts = [
                pd.read_csv(ml100k / f'u{k}.{o}', sep='\t', names=['user', 'item', 'rating', 'time'])
                for o in ('base', 'test')
            ]
            n = len(parts[0])
            split = (np.arange(n), np.arange(n, n + len(parts[1])))
            yield f'u{k}', pd.concat(parts, ignore_index=True), split, k, known
        for s in SEEDS:
            split = RecDataLoaders.from_df(ratings, valid_pct=0.1, seed=s).catalog.split[:2]
            yield f'random {s}', ratings, split, s, known
    if ls:
        ratings, items = movielens('latest-small', ls)
        known = known_of(items)
        order = np.random.default_rng(0).permutation(len(ratings))
        for k in range(5):
            train = np.concatenate([order[j::5] for j in range(5) if j != k])
            yield f'small {k}', ratings, (np.sort(train), np.sort(order[k::5])), k, known
        late = ratings.time.to_numpy().argsort(kind='stable')
        n = len(late) // 10
        past = late[:-n]
        future = late[-n:]
        has_past = ratings.iloc[future].user.isin(ratings.iloc[past].user).to_numpy()
        yield 'by time', ratings, (np.sort(past), np.sort(future[has_past])), 0, known


def run_fastrec(df, split, seed, known, name):
    dls = RecDataLoaders.from_df(df, splitter=split, bs=BS, context='time' if 'time' in name else None)
    set_seed(seed)
    start = time.process_time()
    options = dict(ABLATION.get(name) or {})
    if 'features' in name:
        options.update(known)
    epochs = EPOCHS
    lr = LR
    if name == ENSEMBLE:
        members = [partial(svdpp_learner, **options), partial(svdpp_learner, residuals=False, **options)]
        learn = ensemble_learner(dls, members, 4, seed=100 * seed)
    elif name == PLAIN:  # its own recipe, as in accuracy.py
        dls = RecDataLoaders.from_df(df, splitter=split)
        lo, hi = dls.y_bounds
        learn = collab_learner(dls, n_factors=50, y_range=(lo - 0.5, hi + 0.5))
        epochs = 10
        lr = 3e-3
    else:
        learn = svdpp_learner(dls, **options)
    with quiet(learn):
        learn.fit_one_cycle(epochs, lr)
    seconds = time.process_time() - start
    yield name, seconds, learn.score_rows(dls.catalog.interactions, split[1]).cpu().numpy()


def run_myfm(df, split, seed, known, python):
    with tempfile.TemporaryDirectory() as folder:
        for name, rows in zip(('train', 'test'), split):
            df.iloc[rows][['user', 'item', 'rating']].to_csv(f'{folder}/{name}.csv', index=False)
        subprocess.run(
            [python, Path(__file__).with_name('peers_myfm.py'), folder, str(seed)],
            check=True,
            env={**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': ''},
            stderr=subprocess.DEVNULL,
        )
        run = json.loads(Path(folder, 'run.json').read_text())
        preds = pd.read_csv(f'{folder}/predictions.csv')
    for name in preds:
        yield f'myFM {name}', run['seconds'][name], preds[name].to_numpy()


def fits(args, cache):
    """-> rows (model, split, rmse, mae, seconds) of everything that was asked for; those in the cache from there."""
    done = []
    if cache and cache.exists():
        done = [json.loads(o) for o in cache.read_text().splitlines()]
    for name, df, split, seed, known in splits(args.ml100k, args.ls):
        if args.splits and name not in args.splits:
            continue
        jobs = []
        if 'fastrec' in args.sides:
            jobs += [(o, run_fastrec) for o in OURS if o != ENSEMBLE]
        if 'ensemble' in args.sides and name != 'by time':
            jobs.append((ENSEMBLE, run_fastrec))
        if 'ablation' in args.sides and name in ABLATED:
            jobs += [(o, run_fastrec) for o in ABLATION if not o.endswith('= svdpp_learner')]
        if 'myfm' in args.sides and args.peers_python:
            jobs.append(('myFM Bayesian MF', run_myfm))
        target = df.rating.to_numpy(np.float64)[split[1]]
        for job, run in jobs:
            if any(o['model'] == job and o['split'] == name for o in done):
                continue
            for model, seconds, preds in run(df, split, seed, known, args.peers_python if run is run_myfm else job):
                error = np.asarray(preds, np.float64) - target
                rmse = (error**2).mean() ** 0.5
                row = dict(model=model, split=name, rmse=rmse, mae=abs(error).mean(), seconds=seconds)
                done.append(row)
                if cache:
                    with open(cache, 'a') as f:
                        f.write(json.dumps(row) + '\n')
                print(f'{name}: {model} rmse {row["rmse"]:.4f}, {seconds:.1f} s', file=sys.stderr, flush=True)
    return pd.DataFrame(done)


def errors(results, names, column='rmse'):
    """A row per model: the mean over `names`, each of them, CPU seconds; best in bold. Only models that have all."""
    asked = results[results.split.isin(names)]
    wide = asked.pivot(index='model', columns='split', values=column).reindex(columns=names).dropna()
    if wide.empty:
        return '(none run)'
    wide.insert(0, 'mean', wide.mean(axis=1))
    wide = wide.sort_values('mean')
    rounded = wide.round(4)
    cells = wide.map('{:.4f}'.format).where(rounded != rounded.min(), wide.map('**{:.4f}**'.format))
    cells['CPU s per fit'] = asked.groupby('model').seconds.mean().map('{:.0f}'.format)
    return table(['model', *cells.columns], cells.reset_index().to_numpy())


def paired(results):
    """Ours minus the peer's RMSE on the same split."""
    wide = results.pivot(index='model', columns='split', values='rmse')
    groups = {'u1..u5': 'u', 'random': 'r', 'ml-latest-small': 's', 'by time': 'b'}  # title -> start of the names
    peers = [o for o in wide.index if o.startswith('myFM')]
    rows = []
    for ours in [o for o in (ONE, BOTH, ENSEMBLE) if o in wide.index]:
        for peer in peers:
            differences = (wide.loc[ours] - wide.loc[peer]).dropna()
            for group, start in groups.items():
                d = differences[[o for o in differences.index if o.startswith(start)]]
                if len(d):
                    ends = f'{d.min():+.4f} to {d.max():+.4f}'
                    rows.append([ours, peer, group, f'{d.mean():+.4f}', ends, f'{(d < 0).sum()} of {len(d)}'])
    return table(['ours', 'peer', 'splits', 'mean difference of RMSE', 'smallest to largest', 'ours ahead'], rows)


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--ml100k', help="folder of GroupLens' ml-100k with the folds u1.base .. u5.test")
    parser.add_argument('--ls', help="folder or zip of GroupLens' ml-latest-small")
    parser.add_argument(
        '--peers-python', help='python of the environment made from peers-requirements.txt; without it myFM is left out'
    )
    parser.add_argument(
        '--splits', nargs='+', help='some of u1 .. u5, "random 0" .., "small 0" .., "by time" (default: all)'
    )
    parser.add_argument(
        '--sides',
        nargs='+',
        default=['fastrec', 'ensemble', 'ablation', 'myfm'],
        choices=['fastrec', 'ensemble', 'ablation', 'myfm'],
    )
    parser.add_argument('--cache', type=Path, help='file of finished fits, to go on from')
    parser.add_argument('--out', help='Markdown file to write')
    args = parser.parse_args()
    if args.ml100k:
        args.ml100k = need(args.ml100k, '--ml100k', "the folder of GroupLens' ml-100k")
    if args.ls:
        args.ls = need(args.ls, '--ls', "the folder or zip of GroupLens' ml-latest-small")
    if not (args.ml100k or args.ls):
        sys.exit(__doc__)
    torch.set_num_threads(1)
    for o in ('bs=', '.*without a value', '.*no row in the features'):
        warnings.filterwarnings('ignore', o)
    results = fits(args, args.cache)
    main = results[~results.model.isin(ABLATION)]
    groups = {
        'ML-100K, official folds': [f'u{k}' for k in FOLDS],
        'ML-100K, random 90/10': [f'random {s}' for s in SEEDS],
        'ml-latest-small, 5 folds': [f'small {k}' for k in range(5)],
        'ml-latest-small, the last tenth in time': ['by time'],
    }
    small = [o for o in ABLATED if o in set(results.split)]
    ablated = results[results.model.isin([*ABLATION, *OURS])]
    text = '\n\n'.join(f'## {title}: RMSE\n\n{errors(main, names)}' for title, names in groups.items())
    emit(
        f"""# Rating accuracy: SVD++ of both sides, its ensemble, and Bayesian peers

{about()}

fastrec: `dls = RecDataLoaders.from_df(ratings, splitter=..., bs={BS})`, `learn = svdpp_learner(dls)`,
`learn.fit_one_cycle({EPOCHS}, {LR:g})`. 'features': `item_features=` genres and year, on ML-100K also
`user_features=` age, gender, occupation. 'time': the loaders have `context='time'`. The ensemble:
`ensemble_learner(dls, [svdpp_learner, partial(svdpp_learner, residuals=False)], 4)` with both. CPU seconds are of the
fit alone, with a validation each epoch. myFM, ids only: see peers_myfm.py.

{text}

## Paired difference of RMSE

{paired(main)}

## Steps, on ml-latest-small

{errors(ablated, small)}""",
        args.out,
    )
