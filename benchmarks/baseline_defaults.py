"""How the defaults of the baselines were chosen: regret over data sets of different density, on validation rows alone.

Ranking: NDCG@10 over the whole catalogue, of 700 users, on ML-100K, ml-latest-small, ML-1M, Amazon Beauty (and 5,000
of its users, which is sparser) and 4,000 users of Gowalla. Ratings: RMSE on ML-100K and ml-latest-small. The regret of
a setting on a set is what it has less than the best setting of the grid there, in percent; the default is the setting
with the least mean regret, unless one near it has a far smaller worst one. Rows of tests are not looked at: a tenth
(ML-100K, ml-latest-small), the last item of each user (Beauty), the official test rows of the others.

    python benchmarks/baseline_defaults.py --data FOLDER --cache runs.jsonl --out FILE.md
"""

import argparse
import json
import warnings
from copy import copy
from pathlib import Path

import numpy as np
import pandas as pd
from common import about, emit, need, table

from fastrec.all import ALS, EASE, IALS, BiasOnly, ItemKNN, RecDataLoaders, UserKNN, evaluate, hr, ndcg, show_progress
from fastrec.scorers.neighbors import _top_per_row

USERS = 700
KNN_K = (200, 100, 50, 20)
KNN_SHRINK = (0.0, 20.0, 50.0, 100.0)
EASE_L2 = (20.0, 100.0, 200.0, 500.0, 1000.0)
# IALS: (alpha, l2 in units of the root of mean rows per user x mean rows per item)
IALS_GRID = (
    *((1.0, 1 / 16), (1.0, 1 / 4), (1.0, 1.0), (4.0, 1 / 16), (4.0, 1 / 4), (4.0, 1 / 2), (4.0, 1.0)),
    *((16.0, 1 / 16), (16.0, 1 / 4), (16.0, 1.0), (16.0, 2.0), (64.0, 1.0), (64.0, 2.0), (64.0, 4.0)),
)
RATINGS = [
    *(BiasOnly(damping, passes) for damping, passes in (((5.0, 10.0), 1), ((5.0, 5.0), 10), ((15.0, 10.0), 10))),
    *(ItemKNN(k, shrink, 'rating') for k, shrink in ((40, 100.0), (20, 100.0), (80, 100.0), (40, 50.0), (40, 200.0))),
    *(UserKNN(k, shrink) for k, shrink in ((40, 100.0), (80, 100.0), (40, 50.0), (40, 25.0))),
    *(ALS(32, l2, n_prior=n) for l2, n in ((0.1, 0.0), (0.1, 20.0), (0.1, 40.0), (0.08, 40.0), (0.06, 80.0))),
]


# --- data: (table, training rows, validation rows)


def random_rows(df):
    """A tenth for validation; another one, for tests, is left out."""
    part = np.random.default_rng(0).random(len(df))
    return df, np.flatnonzero(part < 0.8), np.flatnonzero((part >= 0.8) & (part < 0.9))


def ml_100k(folder):
    return random_rows(pd.read_csv(folder / 'ml-100k/u.data', sep='\t', names=['user', 'item', 'rating', 'time']))


def latest_small(folder):
    df = pd.read_csv(folder / 'ml-latest-small/ratings.csv')
    return random_rows(df.set_axis(['user', 'item', 'rating', 'time'], axis=1))


def ml_1m(folder):
    """One training pair of each user at random, since they come without times."""
    df = pd.read_csv(folder / 'ml-1m-ncf/train_pairs.csv').sample(frac=1, random_state=0, ignore_index=True)
    is_valid = ~df.duplicated('user')
    return df, np.flatnonzero(~is_valid), np.flatnonzero(is_valid)


def beauty(folder, n_users=None):
    df = pd.read_csv(folder / 'amazon-beauty-order/interactions.csv')
    if n_users:
        users = np.random.default_rng(0).choice(df.user.unique(), n_users, replace=False)
        df = df[df.user.isin(users)]
    df = df.sort_values(['user', 'step'], ignore_index=True)
    from_end = df.groupby('user').cumcount(ascending=False)
    return df[['user', 'item']], np.flatnonzero(from_end > 1), np.flatnonzero(from_end == 1)


def beauty_5k(folder):
    return beauty(folder, 5000)


def gowalla(folder):
    """4,000 users' rows of items that three of them have; a seventh for validation."""
    lines = (folder / 'gowalla/train.txt').read_text().splitlines()
    rng = np.random.default_rng(0)
    some = [lines[i].split() for i in rng.choice(len(lines), 4000, replace=False)]
    df = pd.DataFrame([(row[0], item) for row in some for item in row[1:]], columns=['user', 'item'])
    df = df[df.groupby('item').user.transform('size') >= 3].reset_index(drop=True)
    part = rng.random(len(df))
    return df, np.flatnonzero(part > 1 / 7), np.flatnonzero(part <= 1 / 7)


SETS = {
    'ML-100K': ml_100k,
    'Beauty, 5,000 users': beauty_5k,
    'Gowalla, 4,000 users': gowalla,
    'ml-latest-small': latest_small,
    'ML-1M': ml_1m,
    'Beauty': beauty,
}


# --- grids: (setting, function that makes it of loaders)


def knns():
    whole = {}  # shrink -> the largest neighborhoods, of which others are the nearest

    def made(dls, k, shrink):
        if shrink not in whole:
            whole.clear()
            whole[shrink] = ItemKNN(max(KNN_K), shrink).fit(dls)
        knn = copy(whole[shrink])
        knn.k, knn.weights = k, _top_per_row(knn.weights.T.tocsr(), k).T.tocsr()
        return knn

    return [(dict(k=k, shrink=shrink), made) for shrink in KNN_SHRINK for k in KNN_K]


def eases():
    return [(dict(l2=l2), lambda dls, l2: EASE(l2).fit(dls)) for l2 in EASE_L2]


def factorizations():
    def made(dls, alpha, per_row):
        counts = dls.catalog.counts
        l2 = per_row * np.sqrt(counts['user'].mean() * counts['item'].mean())
        return IALS(64, float(l2), n_iter=10, alpha=alpha, num_threads=1).fit(dls)

    return [(dict(alpha=alpha, per_row=per_row), made) for alpha, per_row in IALS_GRID]


GRIDS = {'ItemKNN': knns, 'IALS': factorizations, 'EASE': eases}


def words(setting):
    return ', '.join(f'{name}={value:g}' for name, value in setting.items())


class Runs:
    """Figures of settings, from a file where they were worked out before."""

    def __init__(self, cache):
        self.cache = cache
        lines = cache.read_text().splitlines() if cache and cache.exists() else []
        self.rows = [json.loads(line) for line in lines]

    def has(self, **what):
        return any(what.items() <= row.items() for row in self.rows)

    def add(self, value, **what):
        row = dict(**what, value=float(value))
        self.rows.append(row)
        print(row, flush=True)
        if self.cache:
            with self.cache.open('a') as file:
                file.write(json.dumps(row) + '\n')


def regrets(rows, sign):
    """Markdown: a row for each setting, least mean regret first; `sign` -1 where less is better."""
    df = pd.DataFrame(rows).pivot_table(index='setting', columns='set', values='value', sort=False).dropna()
    best = df.max() if sign > 0 else df.min()
    regret = 100 * sign * (best - df) / best + 0.0  # no -0.0
    order = regret.mean(axis=1).sort_values(kind='stable').index
    cells = [
        [setting, f'{regret.loc[setting].mean():.1f}', f'{regret.loc[setting].max():.1f}']
        + [f'{df.loc[setting, o]:.4f} ({regret.loc[setting, o]:.1f})' for o in df.columns]
        for setting in order
    ]
    return table(['setting', 'mean regret, %', 'worst', *df.columns], cells)


def rank(dls, kind, name, runs):
    """NDCG@10 of the settings of a kind of scorer; of ML-1M also HR@10 as in the paper of NeuMF."""
    for setting, make in GRIDS[kind]():
        what = dict(kind=kind, setting=words(setting))
        if runs.has(**what, set=name):
            continue
        scorer = make(dls, **setting)
        runs.add(evaluate(scorer, dls, ndcg(10), users=USERS).loc['all', 'ndcg@10'], **what, set=name)
        if SETS[name] is ml_1m:
            sampled = evaluate(scorer, dls, hr(10), users=USERS, n_candidates=99).loc['all']
            runs.add(sampled.filter(like='hr@10').iloc[0], **what, set=f'{name}: HR@10 among 99')


def rate(dls, name, runs):
    """RMSE of baselines of ratings."""
    for made in RATINGS:
        scorer = type(made)(**made.config())
        what = dict(kind='ratings', setting=repr(scorer).removesuffix(', not fitted'), set=name)
        if not runs.has(**what):
            runs.add(evaluate(scorer.fit(dls), dls).loc['all', 'rmse'], **what)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data', help='folder with ml-100k, ml-latest-small, ml-1m-ncf, amazon-beauty-order, gowalla')
    parser.add_argument('--sets', nargs='+', choices=list(SETS), default=list(SETS))
    parser.add_argument('--only', nargs='+', choices=[*GRIDS, 'ratings'], default=[*GRIDS, 'ratings'])
    parser.add_argument('--cache', type=Path, help='file of finished settings, to go on from')
    parser.add_argument('--out')
    args = parser.parse_args()
    folder = need(args.data, '--data', 'a folder with the data sets')
    warnings.filterwarnings('ignore')
    show_progress(False)
    runs = Runs(args.cache)
    for name in args.sets:
        df, train, valid = SETS[name](folder)
        if 'ratings' in args.only and 'rating' in df:
            rate(RecDataLoaders.from_df(df, splitter=(train, valid)), name, runs)
        dls = RecDataLoaders.from_df(df[['user', 'item']], target='implicit', splitter=(train, valid))
        for kind in args.only:
            if kind != 'ratings':
                rank(dls, kind, name, runs)
    text = ['# Defaults of the baselines', about()]
    for kind in args.only:
        rows = [row for row in runs.rows if row['kind'] == kind]
        if rows:
            unit = 'RMSE' if kind == 'ratings' else 'NDCG@10'
            text.append(
                f'**{kind}** ({unit}, in brackets the regret in %)\n\n{regrets(rows, -1 if kind == "ratings" else 1)}'
            )
    emit('\n\n'.join(text), args.out)


if __name__ == '__main__':
    main()
