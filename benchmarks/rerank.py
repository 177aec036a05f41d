"""What re-ranking costs in accuracy and gains in diversity, novelty and coverage: MovieLens 100K and latest-small.

    python benchmarks/rerank.py --ml100k PATH/TO/ml-100k --ls PATH/TO/ml-latest-small --out FILE.md

Ratings from 4 on are positives. The curves are drawn over the strengths of the table, on one held-out fifth: they show a trade-off, nothing is chosen on them.
Intervals: 1.96 standard errors over users.
"""

import argparse
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
    """name -> (what is varied, [(strength, function)])."""
    one = genres.idxmax(axis=1)
    return {
        'mmr, learned vectors': [(d, lambda r, d=d: mmr(r, learn, diversity=d)) for d in (0.1, 0.3, 0.6, 0.9)],
        'mmr, genres': [(d, lambda r, d=d: mmr(r, genres, diversity=d)) for d in (0.1, 0.3, 0.6, 0.9)],
        'correct_popularity': [(s, lambda r, s=s: correct_popularity(r, learn, s)) for s in (0.25, 0.5, 1.0, 2.0)],
        'thompson_sampling': [
            (s, lambda r, s=s: thompson_sampling(r, learn, scale=s, seed=0)) for s in (0.5, 1.0, 2.0, 4.0)
        ],
        'epsilon_greedy, in the list': [
            (e, lambda r, e=e: epsilon_greedy(r, e, k=10, seed=0)) for e in (0.1, 0.2, 0.4, 0.8)
        ],
        'epsilon_greedy, catalogue': [
            (e, lambda r, e=e: epsilon_greedy(r, e, k=10, items=learn, seed=0)) for e in (0.1, 0.2, 0.4, 0.8)
        ],
        'quota, at most n of a main genre': [(n, lambda r, n=n: quota(r, one, at_most=n)) for n in (5, 3, 2, 1)],
        'mmr .3 after correct_popularity .5': [
            ('', lambda r: r.pipe(correct_popularity, learn, 0.5).pipe(mmr, learn, diversity=0.3))
        ],
    }


def measure(learn, movies_genres, genres):
    rows = {('none', ''): figures(learn, genres)}
    for name, points in curves(learn, movies_genres).items():
        for strength, f in points:
            rows[name, strength] = figures(Reranked(learn, f, N), genres)
            print(name, strength, *rows[name, strength][0].round(4), flush=True)
    return rows


def draw(results, path):
    import matplotlib.pyplot as plt

    shown = {'diversity@10': 'diversity@10 (genres)', 'novelty@10': 'novelty@10 (bits)', 'coverage@10': 'coverage@10'}
    fig, axes = plt.subplots(
        len(results),
        len(shown),
        figsize=(4 * len(shown), 3.6 * len(results)),
        layout='constrained',
        squeeze=False,
        sharey='row',
    )
    for row, (data, rows) in zip(axes, results.items()):
        base = rows['none', ''][0]
        for ax, (metric, label) in zip(row, shown.items()):
            for i, name in enumerate(dict.fromkeys(n for n, _ in rows if n != 'none')):
                points = [base] + [v for (n, _), (v, _) in rows.items() if n == name]
                ax.plot(
                    [p[metric] for p in points],
                    [p['ndcg@10'] for p in points],
                    'o-' if len(points) > 2 else '*',
                    ms=4 if len(points) > 2 else 11,
                    lw=1.2,
                    color=f'C{i}',
                    label=name,
                )
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
    for label, name, path in (
        ('MovieLens 100K', '100k', need(args.ml100k, '--ml100k', "GroupLens' folder ml-100k")),
        ('MovieLens latest-small', 'latest-small', need(args.ls, '--ls', "GroupLens' folder ml-latest-small")),
    ):
        learn, movies_genres, genres = fitted(name, path)
        rows = results[label] = measure(learn, movies_genres, genres)
        base = rows['none', ''][0]
        cells = [
            [
                n,
                s,
                f'{v["ndcg@10"]:.4f} ± {1.96 * e:.4f}',
                f'{v["ndcg@10"] / base["ndcg@10"] - 1:+.1%}',
                *(f'{v[m]:.3f}' for m in ('diversity@10', 'novelty@10', 'popularity_lift@10', 'coverage@10')),
            ]
            for (n, s), (v, e) in rows.items()
        ]
        texts.append(
            f'## {label}\n\n'
            + table(
                [
                    're-ranking',
                    'strength',
                    'ndcg@10',
                    'change',
                    'diversity@10 (genres)',
                    'novelty@10, bits',
                    'popularity lift@10',
                    'coverage@10',
                ],
                cells,
            )
        )
    picture = ''
    if args.out:
        draw(results, file := Path(args.out).with_suffix('.png'))
        picture = f'![ndcg@10 against diversity, novelty and coverage, a curve per function]({file.name})\n\n'
    emit(
        f'# Re-ranking: accuracy against diversity\n\n{about()}\n\n`svdpp_learner`, softmax over the catalogue, 64 factors, 15 epochs, seed 0; ratings from 4 on are positives, a random fifth held out; '
        f'the first {N} recommendations of each user go in, 10 come out.\n\n' + picture + '\n\n'.join(texts),
        args.out,
    )
