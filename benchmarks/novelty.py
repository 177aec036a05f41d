"""What a discount on popularity costs in accuracy and brings in novelty, on ML-100K.

    python benchmarks/novelty.py --ml100k PATH/TO/ml-100k --out benchmarks/results/novelty.md

Matrix factorization on what users rated 4 or 5, a random tenth of the rows for validation and another for the test; the
recipes are the builders' own, and nothing is chosen by these figures.
"""

import argparse
import warnings
from functools import partial

import numpy as np
import torch
from common import about, emit, need, quiet, table

from fastrec.all import (
    InBatchSoftmaxLoss,
    Popularity,
    RecDataLoaders,
    SampledSoftmaxLoss,
    SoftmaxLoss,
    collab_learner,
    evaluate,
    movielens,
    recipe_of,
)

DISCOUNTS = [0.0, 0.1, 0.2, 0.3, 0.5, 1.0]
METRICS = ['ndcg@10', 'recall@10', 'novelty@10', 'coverage@10', 'gini@10']
OBJECTIVES = {'whole catalogue': None, 'four sampled negatives': 4, 'items of the batch': 0}


def loss_of(n_neg, discount, dls):
    """The softmax loss of an objective with this discount."""
    losses = {
        None: SoftmaxLoss,
        4: SampledSoftmaxLoss,
        0: partial(InBatchSoftmaxLoss, dls.catalog.counts['item']),
    }
    return losses[n_neg](popularity_discount=discount)


def figures(scorer, dls):
    """Metrics on the test rows, in the order of `METRICS`."""
    res = evaluate(scorer, dls, metrics=METRICS, split='test')
    return [float(res[name].iloc[0]) for name in METRICS]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--ml100k', help='folder of ml-100k')
    parser.add_argument('--seeds', type=int, default=2)
    parser.add_argument('--out')
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter('ignore')
    ratings, _ = movielens('100k', need(args.ml100k, '--ml100k', 'the folder of ml-100k'))
    fold = np.random.default_rng(2026).permutation(len(ratings)) % 10
    splitter = [np.flatnonzero(fold > 1), np.flatnonzero(fold == 0), np.flatnonzero(fold == 1)]
    text = [
        '# Popularity discount on ML-100K',
        about(),
        '`collab_learner(dls, loss_func=...)` of what was rated 4 or 5, with the recipe of the builder; means over '
        f'{args.seeds} seed(s), test rows of one random split. Novelty is the mean of -log2 of the share of users '
        'who have the item; coverage the share of the catalogue in all lists; gini 0 where all items are recommended '
        'equally often.',
    ]
    for name, n_neg in OBJECTIVES.items():
        size = dict(bs=32) if n_neg is None else dict(bs=1024)
        dls = RecDataLoaders.from_df(ratings, splitter=splitter, target='implicit', threshold=4, n_neg=n_neg, **size)
        rows = []
        for discount in DISCOUNTS:
            of_seeds = []
            for seed in range(args.seeds):
                torch.manual_seed(seed)
                learn = collab_learner(dls, loss_func=loss_of(n_neg, discount, dls))
                with quiet(learn):
                    learn.fit_one_cycle(recipe_of(collab_learner, dls).n_epoch)
                of_seeds.append(figures(learn, dls))
            rows.append([discount, *(f'{x:.4g}' for x in np.mean(of_seeds, 0))])
            print(name, *rows[-1], flush=True)
        rows.append(['Popularity', *(f'{x:.4g}' for x in figures(Popularity().fit(dls), dls))])
        text += [f'## {name[0].upper()}{name[1:]}', table(['popularity_discount', *METRICS], rows)]
        emit('\n\n'.join(text), args.out)


if __name__ == '__main__':
    main()
