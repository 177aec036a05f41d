"""Correct-and-Smooth on ML-100K with OMDb's texts.

Tables say which graph helps which model, how the settings move it, and what chunks of users gain over a loop over them.

Rows are split 70/10/20 at random. Models and graphs see the training part; settings are chosen on the validation part
by the mean ROC AUC of users; the test part is looked at once, with those settings.
"""

import argparse
import itertools
import time
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from common import about, emit, need, quiet, table

from fastrec.all import (
    ItemFeatures,
    LabelPropagation,
    RecDataLoaders,
    Scorer,
    accuracy_score,
    collab_learner,
    compare_models,
    content_learner,
    correct_and_smooth,
    evaluate_users,
    f1_score,
    item_graph,
    movielens,
    ndcg_score,
    plot_gains,
    precision_score,
    recall_score,
    roc_auc_score,
)

torch.set_num_threads(1)
METRICS = [roc_auc_score(), f1_score(), precision_score(), recall_score(), accuracy_score(), ndcg_score()]
NAMES = [m.name for m in METRICS]
KS = (10, 40)
ALPHAS = (0.4, 0.8)
BETAS = (0.1, 0.3, 0.5)
STEPS = dict(anchor=(1, 2), residual=(1, 5))
LP = list(itertools.product((0.5, 0.8, 0.95), (1, 10)))
DEFAULT = dict(alpha=0.8, beta=0.5, n_steps=1, mode='anchor')


class Kept(Scorer):
    """A scorer with its scores worked out once."""

    def __init__(self, scorer):
        self.catalog = scorer.catalog
        self.scale = scorer.scale
        self.scores = scorer.score_items(torch.arange(self.catalog.n_users)).cpu()

    def score_items(self, users):
        return self.scores[users].clone()

    def score(self, users, items):
        return self.scores[users, items]


def bases(dls, feats, seed):
    """name -> fitted model; all with their defaults."""
    torch.manual_seed(seed)
    learners = {
        'content: plots': content_learner(dls, feats[['plot']]),
        'content: plots + genres': content_learner(dls, feats[['plot', 'genres']]),
        'collab': collab_learner(dls),
    }
    for learn in learners.values():
        with quiet(learn):
            learn.fit_one_cycle(5, 5e-3)
    return {name: Kept(learn) for name, learn in learners.items()}


def graphs(dls, feats, k):
    """name -> function that makes it."""
    both = feats[['plot', 'genres']]
    return {
        'plots': lambda: item_graph(feats[['plot']], k),
        'genres': lambda: item_graph(feats[['genres']], k),
        'plots + genres': lambda: item_graph(both, k),
        'people': lambda: item_graph(feats[['people']], k, link='shared'),
        'co-watch': lambda: item_graph(dls, k),
    }


def named_graph(dls, feats, name, k):
    return graphs(dls, feats, k)[name]()


def auc(scorer, dls):
    """Mean ROC AUC of the users of the validation part."""
    return evaluate_users(scorer, dls, METRICS[0])['roc_auc'].mean()


def choose(base, of_k, dls):
    """-> graph and settings with the best validation AUC.

    First k is chosen with the default settings, then all of the others together.
    """
    graph = max(map(of_k, KS), key=lambda graph: auc(correct_and_smooth(base, graph, **DEFAULT), dls))
    grid = []
    for mode, steps in STEPS.items():
        for alpha, beta, n in itertools.product(ALPHAS, BETAS, steps):
            grid.append(dict(alpha=alpha, beta=beta, n_steps=n, mode=mode))
    return graph, max(grid, key=lambda setting: auc(correct_and_smooth(base, graph, **setting), dls))


def propagation(graph, dls):
    """Label propagation with the settings of the best validation AUC."""
    made = [LabelPropagation(graph, beta=b, n_steps=n).fit(dls) for b, n in LP]
    return max(made, key=lambda s: auc(s, dls))


def sensitivity(base, name, dls, feats):
    """Validation AUC when one setting moves and the others stay at their defaults, less that of the base."""
    start = auc(base, dls)
    default = graphs(dls, feats, 20)[name]()
    values = dict(alpha=(0.0, 0.4, 0.8, 1.0), beta=(0.1, 0.3, 0.5, 0.7, 0.9), n_steps=(0, 1, 2, 3, 5))
    rows = {}

    def gain(graph, **changes):
        return auc(correct_and_smooth(base, graph, **{**DEFAULT, **changes}), dls) - start

    for key, of_key in values.items():
        for v in of_key:
            rows[key, v] = gain(default, **{key: v})
    for k in (5, 10, 20, 40, 80):
        rows['k', k] = gain(graphs(dls, feats, k)[name]())
    for n in (1, 3, 10):
        rows['residual, n_steps', n] = gain(default, mode='residual', n_steps=n)
    for n in (0, 5, 20, 80):
        rows['alpha_rows', n] = gain(default, alpha_rows=n)
    return pd.Series(rows)


def speed(n_users, n_items, per_user, n_steps, turns=5):
    """A row of the table: seconds of refining all users in chunks and one by one, and the largest difference of scores.

    One by one is the loop of scipy products that one would write. Seconds are the better of `turns`, by turns.
    """
    rng = np.random.default_rng(0)
    users = np.repeat(np.arange(n_users), per_user)
    items = rng.integers(n_items, size=n_users * per_user)
    rows = pd.DataFrame(dict(user=users, item=items)).drop_duplicates()
    rows['rating'] = rng.integers(1, 6, len(rows)).astype(np.float32)
    dls = RecDataLoaders.from_df(rows, target='liked', valid_pct=0.01, seed=0)
    n_users = dls.n_users
    n_items = dls.n_items

    class Random(Scorer):
        scale = 'probability'
        catalog = dls.catalog
        scores = torch.rand(n_users, n_items, generator=torch.Generator().manual_seed(0))

        def score_items(self, users):
            return self.scores[users]  # a copy

    graph = item_graph((dls.vocab['item'].ids, rng.normal(size=(n_items, 32))), 20)
    refined = correct_and_smooth(Random(), graph, **{**DEFAULT, 'n_steps': n_steps})
    a = refined.graph.matrix
    labels = refined.labels
    y0 = Random.scores.numpy()
    users = torch.arange(n_users)
    isolated = np.diff(a.indptr) == 0
    steps = users.split(refined._step)

    def chunks():
        return [refined.score_items(o) for o in steps][-1]

    def loop():
        for u in range(n_users):
            y = y0[u].copy()
            part = slice(labels.indptr[u], labels.indptr[u + 1])
            at = labels.indices[part]
            y[at] += 0.8 * (labels.data[part] - y[at])
            for _ in range(n_steps):
                y = np.where(isolated, y, 0.5 * y + 0.5 * (a @ y))
        return y

    last = [chunks()[-1].numpy(), loop()]  # both warm
    times = {chunks: [], loop: []}
    for _ in range(turns):
        for side in times:
            start = time.perf_counter()
            side()
            times[side].append(time.perf_counter() - start)
    ours = min(times[chunks])
    theirs = min(times[loop])
    apart = np.abs(last[0] - last[1]).max()
    return (
        f'{n_users:,}',
        f'{n_items:,}',
        n_steps,
        f'{ours:.2f}',
        f'{theirs:.2f}',
        f'{theirs / ours:.1f}x',
        f'{apart:.0e}',
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--ml100k', help='folder of ml-100k with omdb.csv')
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    parser.add_argument('--out')
    args = parser.parse_args()
    folder = need(args.ml100k, '--ml100k', 'the folder ml-100k, with omdb.csv in it')
    ratings, movies = movielens('100k', folder)
    omdb = pd.read_csv(need(folder / 'omdb.csv', '--ml100k', 'a folder that holds omdb.csv, too'))
    omdb = omdb.rename(columns={'movie_id': 'item'})
    feats = ItemFeatures.from_df(
        omdb, text=dict(plot='Plot'), multilabel=dict(genres='Genre', people=['Director', 'Actors']), sep=','
    )
    per_user = []
    chosen = []
    moves = {}
    best = None
    for seed in args.seeds:
        order = np.random.default_rng(seed).permutation(len(ratings))
        parts = np.split(order, [int(0.7 * len(order)), int(0.8 * len(order))])
        dls = RecDataLoaders.from_df(ratings, item_df=movies, target='liked', splitter=tuple(parts))
        models = bases(dls, feats, seed)
        for name in graphs(dls, feats, 20):
            of_k = partial(named_graph, dls, feats, name)
            alone = None
            for base_name, base in models.items():
                graph, settings = choose(base, of_k, dls)
                if alone is None:
                    alone = propagation(of_k(20), dls)
                refined = correct_and_smooth(base, graph, **settings)
                sides = {'base': base, 'label propagation': alone, 'refined': refined}
                res = compare_models(sides, dls, METRICS, split='test', against='base', plot=False, n_boot=10)
                what = dict(seed=seed, base=base_name, graph=name)
                chosen.append(dict(**what, k=round(graph.degrees.mean(), 1), **settings))
                users = dict(one_class=res.attrs['one_class'], users=len(res.attrs['per_user']))
                for (metric, model), row in res.iterrows():
                    figures = dict(mean=row['mean'], difference=row.difference, p=row.p)
                    per_user.append(dict(**what, metric=metric, model=model, **figures, **users))
                if seed == args.seeds[0] and base_name == 'content: plots' and name == 'co-watch':
                    best = res
            print(seed, name, flush=True)
        for base_name, name in (('content: plots', 'plots'), ('content: plots', 'co-watch'), ('collab', 'people')):
            moves.setdefault((base_name, name), []).append(sensitivity(models[base_name], name, dls, feats))
    df = pd.DataFrame(per_user)
    picks = pd.DataFrame(chosen)
    mean = df.groupby(['base', 'graph', 'model', 'metric'], sort=False)['mean'].mean().unstack()[NAMES]
    lines = [
        '# Correct-and-Smooth',
        about(),
        'ML-100K, plots, genres and people of OMDb; target liked; rows 70/10/20 at random, seeds '
        f'{", ".join(map(str, args.seeds))}. Settings chosen on the validation part, figures of the test part: means '
        'over users, then over seeds. '
        f'Per seed {df.users.min()}-{df.users.max()} users; {df.one_class.min()}-{df.one_class.max()} more had test '
        'rows of one class only and are left out.',
    ]

    def cells(base_name, name, model):
        return [f'{mean.loc[(base_name, name, model), m]:.4f}' for m in NAMES]

    rows = []
    for base_name in df.base.unique():
        rows.append([base_name, '', 'base', *cells(base_name, df.graph.iloc[0], 'base'), '', ''])
        for name in df.graph.unique():
            refined = df[(df.base == base_name) & (df.graph == name) & (df.model == 'refined')]
            of_auc = refined[refined.metric == 'roc_auc']
            differences = ' / '.join(f'{o:+.4f}' for o in of_auc.difference)
            p = ' / '.join(f'{o:.0e}' for o in of_auc.p)
            rows.append(['', name, 'refined', *cells(base_name, name, 'refined'), differences, p])
    for name in df.graph.unique():
        alone = cells(df.base.iloc[0], name, 'label propagation')
        rows.append(['no model', name, 'label propagation', *alone, '', ''])
    per_seed = ['roc_auc: refined - base, per seed', 'p (Wilcoxon), per seed']
    lines += [
        '## Base, refined and label propagation alone',
        table(['model', 'graph', 'scores', *NAMES, *per_seed], rows),
    ]
    picked = picks[['seed', 'base', 'graph', 'k', 'alpha', 'beta', 'n_steps', 'mode']]
    lines += [
        '## Settings that were chosen',
        table(picked.rename(columns={'k': 'neighbors'}).columns, picked.values.tolist()),
    ]
    means = {f'{b}, graph {g}': pd.concat(of_seeds, axis=1).mean(axis=1) for (b, g), of_seeds in moves.items()}
    together = pd.DataFrame(means)
    moved = []
    for (key, v), row in zip(together.index, together.values):
        moved.append([key, f'{v:g}', *(f'{o:+.4f}' for o in row)])
    lines += [
        '## How the settings move it',
        'Validation ROC AUC, refined less base, mean over the seeds; one setting moves, the others are alpha 0.8, '
        'beta 0.5, n_steps 1, k 20, anchor.',
        table(['setting', 'value', *together], moved),
    ]
    lines += [
        '## Chunks of users against a loop over users',
        'Seconds to refine the scores of all users, which are there before; the better of 5 turns. The last column: '
        'largest difference between the two.',
        table(
            ['users', 'items', 'steps', 'chunks, s', 'loop, s', 'ratio', 'difference'],
            [
                speed(1000, 1700, 100, 1),
                speed(1000, 1700, 100, 10),
                speed(500, 20_000, 100, 1),
                speed(500, 20_000, 100, 10),
            ],
        ),
    ]
    if args.out:
        figure = Path(args.out).with_suffix('.png')
        plot_gains(best, 'roc_auc')[0].figure.savefig(figure, dpi=110)
        lines += [
            '![How the gain over the content model is spread over users (co-watch graph, first seed, test '
            f'part)]({figure.name})'
        ]
    emit('\n\n'.join(lines), args.out)


if __name__ == '__main__':
    main()
