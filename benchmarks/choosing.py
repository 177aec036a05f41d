"""How good is the first choice of `quick_compare`: chosen on valid rows, how far behind the best one on test rows?

Regret is how much worse the chosen model is on test rows than the best of all that were fitted, in percent of the
best. No recipe and no list of candidates was chosen on these test rows; the batch size of SVD++ was, on other random
rows of ml-latest-small.

    python benchmarks/choosing.py --data FOLDER [--only NAME ...] [--budget 10min] [--out FILE.md]

FOLDER holds ml-100k/, ml-latest-small/ and amazon-beauty-order/interactions.csv; sets that are not there are skipped.
u1, u1-features: the official fold of ML-100K, a tenth of its base is valid. small, small-...: ml-latest-small, all of
it, 40 users, 5,000 rows, or what is liked, a tenth each is valid and test. clicks, beauty: ML-100K as clicks and Amazon
Beauty, each user's last row is test, the one before valid.
"""

import argparse
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from common import about, emit, need, table

from fastrec.all import (
    ItemFeatures,
    LeaveLastSplitter,
    RecDataLoaders,
    movielens,
    quick_compare,
)
from fastrec.evaluation.metrics import lower_is_better


def shares(n, seed, valid=0.1, test=0.1):
    """Random rows for training, valid and test."""
    order = np.random.default_rng(seed).permutation(n)
    n_valid, n_test = int(valid * n), int(test * n)
    return order[n_valid + n_test :], order[:n_valid], order[n_valid : n_valid + n_test]


def ml100k(folder):
    """The official fold u1: a tenth of u1.base is valid, u1.test is test."""
    names = ['user', 'item', 'rating', 'time']
    base, test = (pd.read_csv(folder / 'ml-100k' / f'u1.{part}', sep='\t', names=names) for part in ('base', 'test'))
    order = np.random.default_rng(0).permutation(len(base))
    n_valid = len(base) // 10
    split = order[n_valid:], order[:n_valid], len(base) + np.arange(len(test))
    return RecDataLoaders.from_df(pd.concat([base, test], ignore_index=True), splitter=split), {}


def ml100k_features(folder):
    """The same with genres and years."""
    dls, _ = ml100k(folder)
    _, movies = movielens('100k', folder / 'ml-100k')
    return dls, dict(item_features=ItemFeatures.from_df(movies, multilabel='genres', numeric='year'))


def latest_small(folder, target='rating', users=None, rows=None, seed=0):
    """A tenth each for valid and test, at random; of all users or some, of all rows or some."""
    ratings, _ = movielens('latest-small', folder / 'ml-latest-small')
    rng = np.random.default_rng(seed)
    if users:
        ratings = ratings[ratings['user'].isin(rng.choice(ratings['user'].unique(), users, replace=False))]
    if rows:
        ratings = ratings.sample(rows, random_state=seed)
    ratings = ratings.reset_index(drop=True)
    return RecDataLoaders.from_df(ratings, splitter=shares(len(ratings), seed), target=target), {}


def clicks(folder):
    """ML-100K as clicks: the last row of each user is test, the one before valid."""
    ratings, _ = movielens('100k', folder / 'ml-100k')
    return RecDataLoaders.from_df(ratings, target='implicit', splitter=LeaveLastSplitter(1, 1)), {}


def beauty(folder):
    """Amazon Beauty: each user's last item is test, the one before valid."""
    rows = pd.read_csv(folder / 'amazon-beauty-order' / 'interactions.csv')
    options = dict(target='implicit', rating_name=False, time_name='step', splitter=LeaveLastSplitter(1, 1))
    return RecDataLoaders.from_df(rows, **options), {}


SETS = {
    'u1': ml100k,
    'u1-features': ml100k_features,
    'small': latest_small,
    'small-40-users': lambda folder: latest_small(folder, users=40),
    'small-5000-rows': lambda folder: latest_small(folder, rows=5000),
    'small-liked': lambda folder: latest_small(folder, 'liked'),
    'clicks': clicks,
    'beauty': beauty,
}


def judged(name, make, folder, budget):
    """Rows of the summary and the whole tables of one set."""
    dls, features = make(folder)
    found = quick_compare(dls, budget, **features)
    metric = found.table.columns[0]
    test = found.test().xs(metric)['mean']
    lower = lower_is_better(metric)
    best = test.idxmin() if lower else test.idxmax()
    regret = abs(test[found.name] - test[best]) / test[best]
    row = [
        name,
        metric,
        found.name,
        f'{found.table[metric].iloc[0]:.4f}',
        f'{test[found.name]:.4f}',
        f'{best} {test[best]:.4f}',
        f'{regret:.2%}',
        f'{found.table["seconds"].sum():.0f}',
    ]
    rows = [
        [model, f'{o[metric]:.4f}', f'{test[model]:.4f}' if model in test else '', f'{o["seconds"]:.1f}', o['note']]
        for model, o in found.table.iterrows()
    ]
    return row, f'### {name}\n\n' + table(['model', f'valid {metric}', f'test {metric}', 'seconds', 'note'], rows)


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data', help='folder that holds ml-100k/, ml-latest-small/, amazon-beauty-order/')
    parser.add_argument('--only', nargs='+', choices=SETS, help='some of the sets')
    parser.add_argument('--budget', default='10min', help='of each set')
    parser.add_argument('--out', help='Markdown file to write')
    args = parser.parse_args()
    folder = need(args.data, '--data', 'the folder that holds the data sets')
    torch.set_num_threads(1)
    warnings.filterwarnings('ignore')
    rows, texts = [], []
    for name, make in SETS.items():
        if args.only and name not in args.only:
            continue
        try:
            row, text = judged(name, make, Path(folder), args.budget)
        except FileNotFoundError as e:
            print(f'{name} is skipped: {e}', flush=True)
            continue
        rows.append(row)
        texts.append(text)
        print(text, flush=True)
        print(row, flush=True)
    head = ['data', 'metric', 'chosen on valid', 'valid', 'test', 'best on test', 'regret', 'seconds of fits']
    emit(
        f'# The first choice of `quick_compare`\n\n{about()}. Budget {args.budget} a set, seed 0.\n\n'
        f'{table(head, rows)}\n\n' + '\n\n'.join(texts),
        args.out,
    )
