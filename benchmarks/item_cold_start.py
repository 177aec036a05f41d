"""Items that training never saw, on ML-100K, ranked by their features.

10% of the items are held out with all their rows, added by their features (`learn.add_items`), and ranked for every
user.

    python benchmarks/item_cold_start.py --ml100k PATH/TO/ml-100k --out benchmarks/results/item_cold_start.md

Sides: popularity by genre (the mean number of training rows of the genres' items), that of the genres the user has
(share of the user's training rows that has the genre), random. Plots and people come from omdb.csv beside the ratings.
Settings were chosen with a tenth of the items that is in no test here.
"""

import argparse
import time
import warnings
from functools import partial

import numpy as np
import pandas as pd
import torch
from common import about, emit, need, quiet, table

from fastrec.all import ItemFeatures, RecDataLoaders, content_learner, gated_learner, movielens

K = 10


def features(folder, movies):
    """-> the table of items, and a function that makes features of some: genres, year, title and plot, people."""
    omdb = pd.read_csv(folder / 'omdb.csv').rename(columns={'movie_id': 'item'})
    items = movies.merge(omdb[['item', 'Plot', 'Director', 'Actors', 'Writer']], on='item', how='left')

    def make(known):
        return ItemFeatures.from_df(
            known,
            text={'text': ['title', 'Plot']},
            multilabel={'genres': 'genres', 'people': ['Director', 'Actors', 'Writer']},
            numeric='year',
        )

    return items, make


def models_of(dls, make_features, select):
    """name -> function that makes a learner; `select`: with further settings of the gated hybrid."""

    def gated(**kwargs):
        return lambda: gated_learner(dls, make_features(), **kwargs)

    together = dict(pathways={'features': make_features().names}, hidden=64)
    models = {
        'content': lambda: content_learner(dls, make_features(), hidden=64, wd=0.1),
        'gated hybrid': gated(**together),
    }
    if select:
        settings = [
            {},
            dict(hidden=64),
            dict(dropout=0.4),
            dict(id_dropout=0.4),
            dict(id_dropout=0.4, feature_dropout=0.0),
            {**together, 'wd': 0.1},
        ]
        models.update({f'gated {setting}': gated(**setting) for setting in settings})
    return models


def per_user(scores, positives, users):
    """ndcg@10, recall@10 and ROC AUC of each user with positives among the new items.

    `scores`: (n_users, n_new); `positives` the same as bool; ties at random.
    """
    scores = scores + 1e-9 * np.random.default_rng(0).random(scores.shape) * np.abs(scores).max()
    res = []
    for u in users:
        hit = positives[u]
        if not hit.any() or hit.all():
            continue
        rank = np.argsort(np.argsort(-scores[u])) + 1
        r = rank[hit]
        n = hit.sum()
        ideal = (1 / np.log2(1 + np.arange(1, min(n, K) + 1))).sum()
        among_positives = np.argsort(np.argsort(r)) + 1
        auc = 1 - (r - among_positives).sum() / (n * (len(hit) - n))
        ndcg = (1 / np.log2(1 + r[r <= K])).sum() / ideal
        res.append([ndcg, (r <= K).mean(), auc])
    return np.array(res)


def genre_matrix(items):
    g = items.genres.str.get_dummies()
    return g.to_numpy(float) / np.maximum(g.to_numpy(float).sum(1, keepdims=True), 1)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--ml100k', help='folder of ml-100k, with omdb.csv')
    parser.add_argument('--seeds', type=int, default=3)
    parser.add_argument(
        '--select', action='store_true', help='validation: the tenth of the items that no test holds, other settings'
    )
    parser.add_argument('--out')
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter('ignore')
    folder = need(args.ml100k, '--ml100k', 'the folder of ml-100k')
    ratings, movies = movielens('100k', folder)
    items, make = features(folder, movies)
    tenth = np.random.default_rng(7).permutation(len(items)) % 10
    results = {}
    seconds = {}
    for seed in [9] if args.select else range(args.seeds):
        out = set(items['item'][tenth == seed])
        train = ratings[~ratings['item'].isin(out)].reset_index(drop=True)
        old = items[~items['item'].isin(out)]
        new = items[items['item'].isin(out)]
        dls = RecDataLoaders.from_df(train, item_df=movies, target='implicit', valid_pct=0.02, seed=seed, n_neg=None)
        users = dls.vocab['user']
        test = ratings[ratings['item'].isin(out) & ratings.user.isin(users.ids)]
        positives = np.zeros((len(users), len(new)), bool)
        positives[users.encode(test.user), pd.Index(new['item']).get_indexer(test['item'])] = True
        at = range(len(users))
        g_old = genre_matrix(items)[items['item'].isin(dls.vocab['item'].ids).to_numpy()]
        g_new = genre_matrix(items)[items['item'].isin(out).to_numpy()]
        counts = dls.catalog.counts['item']
        # mean number of rows of an item of the genre
        popular = (g_old * counts[:, None]).sum(0) / np.maximum(g_old.sum(0), 1e-9)
        taste = np.asarray(dls.catalog.require_history().positives @ g_old)
        taste /= np.maximum(taste.sum(1, keepdims=True), 1e-9)
        sides = {
            'random': np.random.default_rng(seed).random(positives.shape),
            'popularity by genre': np.tile(g_new @ popular, (len(users), 1)),
            "popularity by genre, weighted by the user's": taste * popular @ g_new.T,
        }
        for name, build in models_of(dls, partial(make, old), args.select).items():
            torch.manual_seed(seed)
            start = time.process_time()
            learn = build()
            with quiet(learn):
                learn.fit_one_cycle(10, 1e-2)
            seconds.setdefault(name, []).append(time.process_time() - start)
            learn.add_items(new)
            sides[name] = learn.score_items(torch.arange(len(users)))[:, -len(new) :].numpy()
            print(name, per_user(sides[name], positives, at).mean(0).round(4), flush=True)
        for name, scores in sides.items():
            results.setdefault(name, []).append(per_user(scores, positives, at).mean(0))
            spent = [f'{seconds[name][-1]:.0f} s'] if name in seconds else []
            print(seed, name, results[name][-1].round(4), *spent, flush=True)
    n = len(new)

    def cell(v):
        return f'{np.mean(v):.4f} ± {np.std(v):.4f}'

    emit(
        '\n\n'.join(
            [
                '# Item cold start on ML-100K',
                about(),
                f'A tenth of the items (about {n}) without a single training row, ranked among themselves for each '
                'user with a rating of one of them; positives are what the user rated. Mean ± standard deviation '
                f'over {args.seeds} tenths. Features: genres, year, title and plot, people. '
                'Softmax over the whole catalogue of training items, 10 epochs at 1e-2.',
                table(
                    ['', 'ndcg@10', 'recall@10', 'ROC AUC', 'CPU s to train'],
                    [
                        [
                            name,
                            *(cell([o[i] for o in v]) for i in range(3)),
                            f'{np.mean(seconds[name]):.0f}' if name in seconds else '',
                        ]
                        for name, v in results.items()
                    ],
                ),
            ]
        ),
        None if args.select else args.out,
    )


if __name__ == '__main__':
    main()
