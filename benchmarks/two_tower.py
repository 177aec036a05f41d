"""Two towers beside a matrix factorization, EASE and popularity.

Protocols are the NCF paper's on MovieLens 1M, the whole catalogue of MovieLens 100K, and items without a training row.

    python benchmarks/two_tower.py --ml1m PATH/TO/ml-1m-ncf --ml100k PATH/TO/ml-100k --out FILE.md

As in ncf.py, settings were chosen on one further training item per user (`--select` prints those figures; MovieLens 1M:
drawn at random, since its pairs have no times; 100K: the last but one) and the test items are used once. Intervals are
percentile bootstraps over users, of the first seed. Cold items: a tenth of the items of MovieLens 100K (seed 0), with
all their ratings, are held out; a user's are ranked among all items that are held out, and there is no training row to
rank them by but genres, year and title.
"""

import argparse
import warnings

import numpy as np
import pandas as pd
import torch
from common import about, emit, need, quiet, table
from fastai.torch_core import set_seed
from ncf import METRICS, ncf_1m, rows_of

from fastrec.all import (
    EASE,
    ItemFeatures,
    LeaveLastSplitter,
    Popularity,
    RecDataLoaders,
    collab_learner,
    evaluate_users,
    movielens,
    two_tower_learner,
)

# settings of two_tower_learner, all else by default
ML1M = dict(bs=1024, epochs=5, lr=5e-3)
ML100K = dict(bs=1024, epochs=10, lr=1e-2)


def towers(bs, epochs, lr, **kwargs):
    """-> function of the two kinds of loaders that trains towers."""

    def fit(dls, users, seed):
        set_seed(seed)
        learn = two_tower_learner(dls.in_batch(bs), **kwargs)
        with quiet(learn):
            learn.fit_one_cycle(epochs, lr)
        return learn

    return fit


def factors(epochs, lr, **kwargs):
    """-> function of the two kinds of loaders that trains a matrix factorization."""

    def fit(dls, users, seed):
        set_seed(seed)
        learn = collab_learner(dls, **kwargs)
        with quiet(learn):
            learn.fit_one_cycle(epochs, lr)
        return learn

    return fit


def baseline(make):
    return lambda dls, users, seed: make().fit(dls)


def models(which, n_seeds):
    """name -> (fit, seeds)."""
    one = range(1)
    if which == '1m':
        return {
            'Popularity': (baseline(Popularity), one),
            'EASE, l2 1000': (baseline(lambda: EASE(1000.0)), one),
            'collab_learner, BCE, 4 negatives, 64 factors': (factors(20, 2e-2, n_factors=64), one),
            'two_tower_learner, ids, 64 factors': (towers(**ML1M), range(n_seeds)),
        }
    return {
        'Popularity': (baseline(Popularity), one),
        'EASE, l2 500': (baseline(EASE), one),
        'collab_learner, BCE, 4 negatives, 64 factors': (factors(10, 5e-3, n_factors=64), range(n_seeds)),
        'two_tower_learner, ids, 64 factors': (towers(**ML100K), range(n_seeds)),
        'two_tower_learner, no hidden layer': (towers(**ML100K, layers=()), range(n_seeds)),
        'two_tower_learner, temperature=1': (towers(**ML100K, temperature=1.0), one),
    }


def dls_100k(path, select):
    ratings, _ = movielens('100k', path)
    if select:  # without the last item of each user
        ordered = ratings.sort_values(['user', 'time'], kind='stable')
        to_come = ordered.groupby('user').cumcount(ascending=False)
        ratings = ordered[to_come > 0].reset_index(drop=True)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        return RecDataLoaders.from_df(ratings, target='implicit', splitter=LeaveLastSplitter(1))


def cold(path):
    """Table rows: recall of held-out items' users."""
    ratings, movies = movielens('100k', path)
    out = np.random.default_rng(0).choice(movies.item, len(movies) // 10, replace=False)
    held = ratings.item.isin(out).to_numpy()
    split = (np.flatnonzero(~held), np.flatnonzero(held))
    dls = RecDataLoaders.from_df(ratings, item_df=movies, target='implicit', splitter=split)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        feats = ItemFeatures.from_df(movies, text='title', multilabel='genres', numeric='year')
    sides = [dls.vocab['user'].ids, np.intersect1d(out, ratings.item)]
    pairs = pd.MultiIndex.from_product(sides, names=['user', 'item']).to_frame(index=False)
    models = {
        'by chance (constant scores)': baseline(Popularity),
        'two_tower_learner, ids': towers(**ML100K),
        'two_tower_learner, title, genres and year': towers(**ML100K, item_features=feats),
        'the same, id_dropout=0.5': towers(**ML100K, item_features=feats, id_dropout=0.5),
    }
    rows = []
    for name, fit in models.items():
        per_user = evaluate_users(fit(dls, None, 0), dls, METRICS, candidates=pairs)
        rows.append([name, *(f'{per_user[c].mean():.4f} ± {1.96 * per_user[c].sem():.4f}' for c in per_user)])
        print(*rows[-1], flush=True)
    return table(['model', *per_user.columns], rows), int(held.sum())


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--ml1m', help='folder with train_pairs.csv, ml-1m.test.rating and ml-1m.test.negative')
    parser.add_argument('--ml100k', help="folder of GroupLens' ml-100k")
    parser.add_argument('--select', action='store_true', help='figures on the validation items, to choose settings by')
    parser.add_argument('--only', nargs='+', help='models whose name has one of these in it')
    parser.add_argument('--seeds', type=int, default=3)
    parser.add_argument('--out')
    args = parser.parse_args()
    torch.set_num_threads(1)
    parts = []
    if args.ml100k:
        dls = dls_100k(need(args.ml100k, '--ml100k', "GroupLens' folder ml-100k"), args.select)
        protocols = [{}, dict(n_candidates=99)]
        parts.append(
            '## MovieLens 100K, leave the last one out: the whole catalogue, and among 99 unseen items drawn at '
            'random\n\n' + rows_of(models('100k', args.seeds), dls, None, protocols, 'valid', args.only)
        )
        if not args.select and not args.only:
            text, n = cold(args.ml100k)
            parts.append(
                f'## Items without a training row, MovieLens 100K ({n:,} held-out rows)\n\n'
                '± is 1.96 standard errors over users.\n\n' + text
            )
    if args.ml1m:
        dls, _, candidates, part = ncf_1m(need(args.ml1m, '--ml1m', 'the folder ml-1m-ncf'), args.select)
        protocols = [dict(n_candidates=99) if candidates is None else dict(candidates=candidates), {}]
        parts.append(
            "## MovieLens 1M, leave one out, the NCF paper's 99 negatives, and the whole catalogue\n\n"
            + rows_of(models('1m', 1), dls, None, protocols, part, args.only)
        )
    emit(
        f'# Two towers\n\n{about()}\n\n'
        'Mean over users; ± is the standard deviation over seeds, the brackets are the 95% bootstrap interval over '
        'users of the first seed.\n\n' + '\n\n'.join(parts),
        args.out,
    )
