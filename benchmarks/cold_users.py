"""Users and items without a single training row, on ML-100K: what is predicted of them, against damped biases.

    python benchmarks/cold_users.py --ml100k PATH/TO/ml-100k --out benchmarks/results/cold_users.md

Splits: 150 users held out whole, a tenth of the items held out whole, a cut in time (the last fifth of the rows, of
which most users are new), and a random 90/10, in which nobody is cold. How a cold user is scored was chosen on
ml-latest-small: `--ls PATH` in the place of `--ml100k` prints the same of it.
"""

import argparse
import warnings

import numpy as np
import torch
from common import about, emit, need, quiet, table
from fastai.torch_core import set_seed

from fastrec.all import BiasOnly, GlobalMean, RecDataLoaders, TimeSplitter, collab_learner, movielens, svdpp_learner

N_USERS = 150  # held out whole
ITEM_SHARE = 0.1
BEST_KNOWN = 200  # items with the most training rows
SIDES = ('svdpp', 'damped biases', 'collab', 'global mean')


def held_out(ratings, side, n, seed):
    """Rows (train, valid): all those of `n` users or items are valid."""
    ids = np.random.default_rng(seed).permutation(ratings[side].unique())[:n]
    is_out = ratings[side].isin(ids).to_numpy()
    return np.flatnonzero(~is_out), np.flatnonzero(is_out)


def scorers(ratings, split, seed):
    """name -> a scorer that has learned from the training rows; recipes of the README."""
    dls = RecDataLoaders.from_df(ratings, splitter=split, bs=2048)
    set_seed(seed)
    svdpp = svdpp_learner(dls)
    with quiet(svdpp):
        svdpp.fit_one_cycle(15, 5e-3)
    low, high = dls.y_bounds
    small_batches = RecDataLoaders.from_df(ratings, splitter=split)
    set_seed(seed)
    collab = collab_learner(small_batches, n_factors=50, y_range=(low - 0.5, high + 0.5))
    with quiet(collab):
        collab.fit_one_cycle(10, 3e-3)
    fitted = svdpp, BiasOnly().fit(dls), collab, GlobalMean().fit(dls)
    return dict(zip(SIDES, fitted))


def groups_of(catalog, rows):
    """name -> bool (rows,): of which rows the user, the item, both or none has training rows."""
    inter = catalog.interactions
    cold_user = ~catalog.known('user')[inter.users[rows]]
    cold_item = ~catalog.known('item')[inter.items[rows]]
    return {
        'all': np.ones(len(rows), dtype=bool),
        'cold user': cold_user & ~cold_item,
        'cold item': cold_item & ~cold_user,
        'both cold': cold_user & cold_item,
        'cold': cold_user | cold_item,
        'warm': ~cold_user & ~cold_item,
    }


def means_of_best_known(scorer):
    """Mean scores of the best-known items: from users without training rows, and from the others."""
    catalog = scorer.catalog
    best = torch.from_numpy(np.argsort(-catalog.counts['item'])[:BEST_KNOWN].copy())
    known = torch.from_numpy(catalog.known('user'))
    scores = scorer.score_items(torch.arange(catalog.n_users))[:, best]
    return scores[~known].mean().item(), scores[known].mean().item()


def measure(ratings, split, seed):
    """Results of a split: ({group: {side: RMSE}}, {group: rows}, {side: mean scores of the best-known items})."""
    fitted = scorers(ratings, split, seed)
    catalog = fitted['svdpp'].catalog
    inter = catalog.interactions
    rows = catalog.split.valid
    users, items = (torch.from_numpy(o[rows].astype(np.int64)) for o in (inter.users, inter.items))
    target = inter.ratings[rows].astype(np.float64)
    groups = {name: chosen for name, chosen in groups_of(catalog, rows).items() if chosen.any()}
    errors = {name: {} for name in groups}
    for side, scorer in fitted.items():
        squares = (scorer.score(users, items).numpy() - target) ** 2
        for name, chosen in groups.items():
            errors[name][side] = squares[chosen].mean() ** 0.5
    has_cold_users = not catalog.known('user').all()
    means = {side: means_of_best_known(scorer) for side, scorer in fitted.items()} if has_cold_users else {}
    return errors, {name: int(chosen.sum()) for name, chosen in groups.items()}, means


def line(name, group, runs):
    """A row of the table: mean RMSE of each side over seeds, and by how much svdpp is above damped biases."""
    of = [errors[group] for errors, _, _ in runs]
    n = round(np.mean([sizes[group] for _, sizes, _ in runs]))
    mean = {side: np.mean([errors[side] for errors in of]) for side in SIDES}
    apart = mean['svdpp'] - mean['damped biases']
    return [name, f'{n:,}', *(f'{mean[side]:.4f}' for side in SIDES), f'{apart:+.4f}']


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--ml100k', help='folder of ml-100k')
    parser.add_argument('--ls', help='folder of ml-latest-small, to choose by')
    parser.add_argument('--seeds', type=int, default=3)
    parser.add_argument('--out')
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter('ignore')
    if args.ml100k or not args.ls:
        name = 'ML-100K'
        ratings, _ = movielens('100k', need(args.ml100k, '--ml100k', 'the folder of ml-100k'))
    else:
        name = 'ml-latest-small'
        ratings, _ = movielens('latest-small', need(args.ls, '--ls', 'the folder of ml-latest-small'))
    n_items = round(ITEM_SHARE * ratings['item'].nunique())
    seeds = range(args.seeds)
    splits = {
        'users': [held_out(ratings, 'user', N_USERS, seed) for seed in seeds],
        'items': [held_out(ratings, 'item', n_items, seed) for seed in seeds],
        'time': [TimeSplitter(0.2)],
        'random': [RecDataLoaders.from_df(ratings, valid_pct=0.1, seed=seed).catalog.split[:2] for seed in seeds],
    }
    runs = {}
    for kind, of_kind in splits.items():
        runs[kind] = [measure(ratings, split, seed) for seed, split in enumerate(of_kind)]
        print(kind, [errors['all'] for errors, _, _ in runs[kind]], flush=True)
    lines = [
        line(f'{N_USERS} users held out', 'all', runs['users']),
        line(f'{n_items} items held out', 'all', runs['items']),
        *(
            line(f'last fifth in time: {group}', group, runs['time'])
            for group in ('all', 'cold', 'cold user', 'cold item', 'both cold', 'warm')
            if group in runs['time'][0][0]
        ),
        line('random 90/10', 'all', runs['random']),
        line('random 90/10: warm', 'warm', runs['random']),
    ]
    means = [
        [side, *(f'{np.mean([means[side][i] for _, _, means in runs["users"]]):.3f}' for i in range(2))]
        for side in SIDES
    ]
    emit(
        '\n\n'.join(
            [
                f'# Cold users and items on {name}',
                about(),
                f'RMSE, means over {args.seeds} seeds (the cut in time is one). A cold row is one whose user or item '
                'has no training row. svdpp: `bs=2048`, `fit_one_cycle(15, 5e-3)`; collab: `n_factors=50`, '
                '`y_range` half a star wider than the ratings, `fit_one_cycle(10, 3e-3)`.',
                table(['rows', 'n', *SIDES, 'svdpp - biases'], lines),
                f'Mean score of the {BEST_KNOWN} items with the most training rows, with {N_USERS} users held out:',
                table(['', 'cold users', 'the others'], means),
            ]
        ),
        args.out,
    )


if __name__ == '__main__':
    main()
