"""Are the builders' default learning rates, and what `lr_find` suggests, good ones?

For each builder, table, batch size and seed the best rate is looked for on a ladder of rates 2.15 apart: from the one
next to the default on, up or down, until both neighbors of the best one are worse. A fit is one cycle of the recipe's
epochs. Validation rows judge it: RMSE of ratings (10% held out), ROC AUC of likes and NDCG@10 over the whole catalogue
of clicks (20%). What a rate between two of the ladder would give is read off a parabola through the nearest three, so
that suggestions of many seeds cost no fits; regret is how much worse that is than the best of the ladder, in percent.

    python benchmarks/learning_rate.py --ml100k PATH/TO/ml-100k --ls PATH/TO/ml-latest-small

All of it takes many hours: `--tables`, `--cases` (e.g. collab:rating:64) and `--seeds` take a part, and `--cache FILE`
goes on from fits that are done.
"""

import argparse
import json
import time
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import torch
from common import about, emit, need, quiet, table
from fastai.torch_core import set_seed

import fastrec.all as fr

LADDER = [10 ** (k / 3) for k in range(-12, 1)]  # 1e-4 ... 1
CASES = [
    *(f'{builder}:rating:{bs}' for builder in ('collab', 'mlp', 'content', 'gated', 'svdpp') for bs in (64, 2048)),
    *(f'{builder}:liked:256' for builder in ('collab', 'content')),
    *(f'{builder}:negatives:{bs}' for builder in ('gmf', 'neumf', 'collab') for bs in (64, 256, 2048)),
    *(f'two_tower:in_batch:{bs}' for bs in (64, 256, 2048)),
    *(f'{builder}:catalogue:{bs}' for builder in ('collab', 'svdpp') for bs in (32, 256)),
]
TABLES = ('ml-100k', 'ml-latest-small', 'generated')
METRICS = dict(liked=fr.roc_auc_score(), negatives=fr.ndcg(10), in_batch=fr.ndcg(10), catalogue=fr.ndcg(10))
N_NEGATIVES = dict(negatives=4, in_batch=0, catalogue=None)


def generated(n_users=3000):
    """Ratings of many users and few items (14 a user) with a known answer, and the table of items."""
    return fr.synthetic_ratings(n_users=n_users, n_items=400, density=0.035, noise=0.9, step=1, seed=1)[:2]


def loaders(data, goal, bs, seed):
    ratings, items = data
    options = dict(item_df=items, seed=seed, bs=bs)
    if goal == 'rating':
        return fr.RecDataLoaders.from_df(ratings, valid_pct=0.1, **options)
    if goal == 'liked':
        return fr.RecDataLoaders.from_df(ratings, valid_pct=0.2, target='liked', **options)
    return fr.RecDataLoaders.from_df(ratings, valid_pct=0.2, target='implicit', n_neg=N_NEGATIVES[goal], **options)


def learner(case, dls, features):
    """What the builder makes, with all by default but the range of ratings."""
    build = getattr(fr, f'{case["builder"]}_learner')
    args = (features,) if case['builder'] in ('content', 'gated') else ()
    options = {}
    if case['goal'] == 'rating' and case['builder'] != 'svdpp':
        lo, hi = dls.y_bounds
        options = dict(y_range=(lo - 0.5, hi + 0.5))
    set_seed(case['seed'])
    return build(dls, *args, **options)


def fit(case, dls, features, lr, n_epoch):
    """The error or metric of the validation rows, validation loss of each epoch, and CPU seconds of the fit."""
    learn = learner(case, dls, features)
    start = time.process_time()
    with quiet(learn):
        learn.fit_one_cycle(n_epoch, lr)
    seconds = time.process_time() - start
    if case['goal'] == 'rating':
        value = fr.evaluate(learn).loc['all', 'rmse']
    else:
        metric = METRICS[case['goal']]
        value = fr.evaluate(learn, metrics=[metric])[metric.name].iloc[0]
    return dict(value=float(value), valid=[float(row[1]) for row in learn.recorder.values], cpu=seconds)


def suggested(case, dls, features):
    """The default rate of the builder, and the suggestion of `lr_find`."""
    learn = learner(case, dls, features)
    with quiet(learn):
        return learn.lr, learn.lr_find(show_plot=False).valley


class Cache(dict):
    """What a fit gave, by what it was of; in a file with a line for each, if one is given."""

    def __init__(self, path):
        super().__init__()
        self.path = None if path is None else Path(path)
        if self.path and self.path.exists():
            self.update(json.loads(line) for line in self.path.read_text().splitlines())

    def of(self, key, make):
        """What is kept under `key`; made and kept if there is nothing."""
        key = json.dumps(key, sort_keys=True)
        if key not in self:
            self[key] = make()
            if self.path:
                with self.path.open('a') as f:
                    f.write(json.dumps([key, self[key]]) + '\n')
        return self[key]


def climb(case, dls, features, recipe, cache):
    """-> place in `LADDER` -> value, with the best not at an end."""
    sign = 1 if case['goal'] == 'rating' else -1
    values = {}

    def cost(k):
        return sign * values[k] if np.isfinite(values[k]) else np.inf

    missing = [int(np.abs(np.log(np.array(LADDER) / recipe.lr)).argmin())]
    while missing:
        k = missing[0]
        key = {**case, 'lr': round(LADDER[k], 6), 'n_epoch': recipe.n_epoch}
        values[k] = cache.of(key, partial(fit, case, dls, features, LADDER[k], recipe.n_epoch))['value']
        best = min(values, key=cost)
        missing = [o for o in (best - 1, best + 1) if 0 <= o < len(LADDER) and o not in values]
    return values


def value_at(values, lr):
    """The value at a rate, by a parabola through the three of the ladder that are nearest."""
    place = 12 + 3 * np.log10(lr)
    nearest = sorted(values, key=lambda k: abs(k - place))[:3]
    return float(np.polyval(np.polyfit(nearest, [values[k] for k in nearest], len(nearest) - 1), place))


def row(name, data, features, text, seed, cache):
    """A row of the table: the best of the ladder, default and suggestion with their regret."""
    builder, goal, bs = text.split(':')
    case = dict(table=name, builder=builder, goal=goal, bs=int(bs), seed=seed)
    dls = loaders(data, goal, int(bs), seed)
    recipe = fr.recipe_of(f'{builder}_learner', dls)
    values = climb(case, dls, features, recipe, cache)
    sign = 1 if goal == 'rating' else -1
    best = min(values, key=lambda k: sign * values[k])

    def regret(lr):
        return 100 * sign * (value_at(values, lr) - values[best]) / values[best]

    default, valley = cache.of({**case, 'default': recipe.lr}, partial(suggested, case, dls, features))
    cells = [name, builder, goal, bs, seed, recipe.n_epoch, f'{LADDER[best]:.2g}', f'{values[best]:.4f}']
    res = [*cells, f'{default:.2g}', f'{regret(default):+.2f}', f'{valley:.2g}', f'{regret(valley):+.2f}']
    print(' '.join(map(str, res)), flush=True)
    return res


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--ml100k', help="folder or zip of GroupLens' ml-100k")
    parser.add_argument('--ls', help="folder or zip of GroupLens' ml-latest-small")
    parser.add_argument('--tables', nargs='+', choices=TABLES, help='some tables')
    parser.add_argument('--cases', nargs='+', default=CASES, metavar='BUILDER:GOAL:BS', help='some cases')
    parser.add_argument('--seeds', nargs='+', type=int, default=[0, 1, 2])
    parser.add_argument('--cache', help='file of fits that are done, to go on from')
    parser.add_argument('--quick', action='store_true', help='a small generated table: does it run?')
    parser.add_argument('--out', help='Markdown file to write')
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings('ignore')
    if args.quick:
        args.tables, args.cases, args.seeds = ['generated'], ['collab:rating:64'], [0]
    rows, cache = [], Cache(args.cache)
    for name in args.tables or TABLES:
        if name == 'generated':
            data = generated(300 if args.quick else 3000)
        elif name == 'ml-100k':
            data = fr.movielens('100k', need(args.ml100k, '--ml100k', "GroupLens' ml-100k"))
        else:
            data = fr.movielens('latest-small', need(args.ls, '--ls', "GroupLens' ml-latest-small"))
        features = fr.ItemFeatures.from_df(data[1], multilabel='genres', numeric='year')
        rows += [row(name, data, features, text, seed, cache) for text in args.cases for seed in args.seeds]
    head = ['table', 'builder', 'goal', 'batch', 'seed', 'epochs', 'best of the ladder', 'its value', 'default']
    head += ['regret, %', '`lr_find().valley`', 'regret, %']
    text = (
        '# Learning rates\n\n'
        f'{about()}.\n\n'
        "One cycle of the recipe's epochs; values are of validation rows: RMSE of ratings, ROC AUC of likes, NDCG@10 "
        'over the whole catalogue of clicks. Regret: how much worse than the best of the ladder.\n\n'
    )
    emit(text + table(head, rows), args.out)
