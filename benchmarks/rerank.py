"""What re-ranking costs in accuracy and gains in diversity, novelty and coverage: MovieLens 100K and latest-small.

    python benchmarks/rerank.py --ml100k PATH/TO/ml-100k --ls PATH/TO/ml-latest-small --out FILE.md

Ratings from 4 on are positives. The curves are drawn over the strengths of the table, on one held-out fifth: they show
a trade-off, nothing is chosen on them. Intervals: 1.96 standard errors over users.
"""

import argparse
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from common import about, emit, need, quiet, table
from fastai.torch_core import set_seed

from fastrec.all import (
    RecDataLoaders,
    Reranked,
    correct_popularity,
    coverage,
    diversity,
    epsilon_greedy,
    evaluate_users,
    mmr,
    movielens,
    ndcg,
    novelty,
    popularity_lift,
    quota,
    svdpp_learner,
    thompson_sampling,
)

METRICS = [ndcg(10), diversity(10), novelty(10), popularity_lift(10), coverage(10)]
N = 100  # recommendations that go in


def fitted(name, path):
    ratings, movies = movielens(name, path)
    dls = RecDataLoaders.from_df(
        ratings, item_df=movies, target='implicit', threshold=4, valid_pct=0.2, seed=0, n_neg=None
    )
    set_seed(0)
    learn = svdpp_learner(dls, n_factors=64)
    with quiet(learn):
        learn.fit_one_cycle(15, 5e-3)
    genres = movies.set_index('item').genres.fillna('').str.get_dummies('|')
    return learn, genres, genres.reindex(dls.vocab['item'].ids).fillna(0)


def figures(scorer, genres):
    """-> means per metric (diversity: 1 - mean cosine of genres); standard error of ndcg."""
    per_user = evaluate_users(scorer, None, METRICS, vectors=torch.tensor(genres.to_numpy(np.float32)))
    return pd.Series({**per_user.mean(), **per_user.attrs['overall']}), per_user['ndcg@10'].sem()


def curves(learn, genres):
    """name -> [(strength, function of the recommendations)]."""
    main_genre = genres.idxmax(axis=1)

    def both(recs):
        return recs.pipe(correct_popularity, learn, 0.5).pipe(mmr, learn, diversity=0.3)

    greedy = dict(k=10, seed=0)
    diversities = (0.1, 0.3, 0.6, 0.9)
    epsilons = (0.1, 0.2, 0.4, 0.8)
    return {
        'mmr, learned vectors': [(d, partial(mmr, vectors=learn, diversity=d)) for d in diversities],
        'mmr, genres': [(d, partial(mmr, vectors=genres, diversity=d)) for d in diversities],
        'correct_popularity': [
            (s, partial(correct_popularity, popularity=learn, strength=s)) for s in (0.25, 0.5, 1.0, 2.0)
        ],
        'thompson_sampling': [
            (s, partial(thompson_sampling, popularity=learn, scale=s, seed=0)) for s in (0.5, 1.0, 2.0, 4.0)
        ],
        'epsilon_greedy, in the list': [(e, partial(epsilon_greedy, epsilon=e, **greedy)) for e in epsilons],
        'epsilon_greedy, catalogue': [(e, partial(epsilon_greedy, epsilon=e, items=learn, **greedy)) for e in epsilons],
        'quota, at most n of a main genre': [
            (n, partial(quota, categories=main_genre, at_most=n)) for n in (5, 3, 2, 1)
        ],
        'mmr .3 after correct_popularity .5': [('', both)],
    }


def measure(learn, movies_genres, genres):
    """(name, strength) -> `figures` of what comes out."""
    rows = {('none', ''): figures(learn, genres)}
    for name, points in curves(learn, movies_genres).items():
        for strength, f in points:
            rows[name, strength] = figures(Reranked(learn, f, N), genres)
            print(name, strength, *rows[name, strength][0].round(4), flush=True)
    return rows


def draw(results, path):
    """A line of panels per data set: ndcg against each other metric, a curve per function."""
    import matplotlib.pyplot as plt

    shown = {'diversity@10': 'diversity@10 (genres)', 'novelty@10': 'novelty@10 (bits)', 'coverage@10': 'coverage@10'}
    size = (4 * len(shown), 3.6 * len(results))
    fig, axes = plt.subplots(len(results), len(shown), figsize=size, layout='constrained', squeeze=False, sharey='row')
    for row, (data, rows) in zip(axes, results.items()):
        base = rows['none', ''][0]
        for ax, (metric, label) in zip(row, shown.items()):
            for i, name in enumerate(dict.fromkeys(n for n, _ in rows if n != 'none')):
                points = [base] + [v for (n, _), (v, _) in rows.items() if n == name]
                x = [p[metric] for p in points]
                y = [p['ndcg@10'] for p in points]
                look = dict(marker='o', ms=4) if len(points) > 2 else dict(marker='*', ms=11, ls='')
                ax.plot(x, y, lw=1.2, color=f'C{i}', label=name, **look)
            ax.plot(base[metric], base['ndcg@10'], 'ks', ms=8, label='not re-ranked', zorder=5)
            ax.set(xlabel=label)
            ax.grid(alpha=0.25)
        row[0].set_ylabel(f'{data}\nndcg@10')
    fig.legend(*axes[0, 0].get_legend_handles_labels(), loc='outside lower center', ncols=3, frameon=False)
    fig.savefig(path, dpi=110)


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--ml100k', help="folder of GroupLens' ml-100k")
    parser.add_argument('--ls', help="folder of GroupLens' ml-latest-small")
    parser.add_argument('--out', help='write the tables to this file, and the curves beside it as a PNG')
    args = parser.parse_args()
    torch.set_num_threads(1)
    results = {}
    texts = []
    header = ['re-ranking', 'strength', 'ndcg@10', 'change']
    header += ['diversity@10 (genres)', 'novelty@10, bits', 'popularity lift@10', 'coverage@10']
    others = ('diversity@10', 'novelty@10', 'popularity_lift@10', 'coverage@10')
    data = (
        ('MovieLens 100K', '100k', need(args.ml100k, '--ml100k', "GroupLens' folder ml-100k")),
        ('MovieLens latest-small', 'latest-small', need(args.ls, '--ls', "GroupLens' folder ml-latest-small")),
    )
    for label, name, path in data:
        learn, movies_genres, genres = fitted(name, path)
        rows = measure(learn, movies_genres, genres)
        results[label] = rows
        base = rows['none', ''][0]['ndcg@10']
        cells = []
        for (function, strength), (means, error) in rows.items():
            ours = means['ndcg@10']
            figure = f'{ours:.4f} ± {1.96 * error:.4f}'
            cells.append([function, strength, figure, f'{ours / base - 1:+.1%}', *(f'{means[m]:.3f}' for m in others)])
        texts.append(f'## {label}\n\n' + table(header, cells))
    picture = ''
    if args.out:
        file = Path(args.out).with_suffix('.png')
        draw(results, file)
        picture = f'![ndcg@10 against diversity, novelty and coverage, a curve per function]({file.name})\n\n'
    emit(
        '# Re-ranking: accuracy against diversity\n\n'
        f'{about()}\n\n'
        '`svdpp_learner`, softmax over the catalogue, 64 factors, 15 epochs, seed 0; ratings from 4 on are '
        'positives, a random fifth held out; '
        f'the first {N} recommendations of each user go in, 10 come out.\n\n' + picture + '\n\n'.join(texts),
        args.out,
    )
