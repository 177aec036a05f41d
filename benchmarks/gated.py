"""The gated hybrid on ml-latest-small against ids alone, each kind of features alone, and both without a gate: rating errors by the items' popularity, and ranking.

    python benchmarks/gated.py --ls PATH/TO/ml-latest-small --out benchmarks/results/gated.md

Rows fall into ten folds. Seed s tests on fold s and trains on the others but fold 3, which is for validation. Settings were chosen with folds 0 to 2, which are all test rows here, left out.
"""

import argparse
import tempfile
import time
import warnings
import zipfile
from pathlib import Path

import matplotlib

matplotlib.use('Agg')
import numpy as np
import pandas as pd
import torch
from common import about, emit, need, quiet, table

from fastrec.all import (
    BiasOnly,
    ImageEncoder,
    ItemFeatures,
    RecDataLoaders,
    RecInterpretation,
    collab_learner,
    content_learner,
    evaluate_users,
    gated_learner,
    movielens,
    ndcg,
    recall,
)
from fastrec.scorers.recommend import mask_seen

VALID = 3
PATHWAYS = {'text': ['text', 'keywords'], 'people': ['people'], 'category': ['genres', 'year'], 'image': ['poster']}
RANGE = (0.0, 5.5)


def folds(n):
    return np.random.default_rng(2026).permutation(n) % 10


def features(folder, posters):
    """Titles, plots, keywords, people, genres, years, and posters through an untrained ResNet18."""
    items = pd.read_csv(folder / 'items_text.csv').rename(columns={'movieId': 'item'})
    items['year'] = items.title.str.extract(r'\((\d{4})\)')[0].astype(float)
    items['genres'] = items.genres.replace('(no genres listed)', None)
    posters = Path(posters)
    if not list(posters.rglob('*.jpg')):
        with zipfile.ZipFile(folder / 'posters.zip') as z:
            z.extractall(posters)
    paths = {int(p.stem): str(p) for p in posters.rglob('*.jpg')}
    items['poster'] = items['item'].map(paths)
    encoder = ImageEncoder('resnet18', pretrained=False, size=(96, 64), cache=posters / 'vectors', progress=False)
    return ItemFeatures.from_df(
        items,
        text={'text': ['title', 'text']},
        multilabel={'genres': 'genres', 'people': ['Director', 'Actors', 'Writer'], 'keywords': 'tmdb_keywords'},
        numeric='year',
        images='poster',
        image_encoder=encoder,
    )


def rating_models(dls, feats):
    """name -> learner, to be trained alike."""

    def alone(name):
        return content_learner(dls, feats[PATHWAYS[name]], hidden=64, y_range=RANGE)

    def hybrid(fusion):
        return gated_learner(dls, feats, PATHWAYS, fusion=fusion, y_range=RANGE)

    return {
        'id alone (collab)': lambda: collab_learner(dls, y_range=RANGE),
        **{f'{name} alone': lambda name=name: alone(name) for name in PATHWAYS},
        'all features, no id (content)': lambda: content_learner(dls, feats, hidden=64, y_range=RANGE),
        'all, sum': lambda: hybrid('sum'),
        'all, concat': lambda: hybrid('concat'),
        'all, gate': lambda: hybrid('gate'),
    }


def deciles(counts):
    """Group of each row: 0 for an item without training rows, 1 to 10 by equal numbers of test rows."""
    res = np.zeros(len(counts), int)
    warm = counts > 0
    order = np.argsort(np.argsort(counts[warm], kind='stable'), kind='stable')
    res[warm] = 1 + order * 10 // warm.sum()
    return res


def bins_of(rows):
    return pd.cut(rows, [-1, 0, 1, 4, 16, 64, 10**6], labels=['0', '1', '2–4', '5–16', '17–64', '65+'])


def without_id(learn, users, items):
    """Scores as if no item had an id of its own: the features alone, but for items that have none."""
    model = learn.model
    present = learn.model.present
    model.present = lambda codes: torch.cat(
        [(has := present(codes))[:, :1] & ~has[:, 1:].any(1, keepdim=True), has[:, 1:]], 1
    )
    try:
        return learn.score(users, items)
    finally:
        del model.present


def ranking(learn, dls, rows):
    """ndcg@10 and recall@20 over users, and ndcg@10 by group of `deciles`: of the users who have a positive of the group, which alone counts as relevant."""
    per_user = evaluate_users(learn, dls, [ndcg(10), recall(20)], split='test')
    inter = dls.catalog.interactions
    rows = inter.positive(rows)
    codes, at = np.unique(inter.users[rows], return_inverse=True)
    items = torch.from_numpy(inter.items[rows].astype(np.int64))
    scores = learn.score_items(torch.from_numpy(codes.astype(np.int64)))
    mask_seen(scores, dls.catalog.history.matrix(np.concatenate(dls.catalog.split[:2]))[codes])
    rank = np.concatenate(
        [
            (scores[u] > scores[u, i][:, None]).sum(1).numpy() + 1
            for u, i in zip(torch.from_numpy(at).split(1024), items.split(1024))
        ]
    )
    gain = np.where(rank <= 10, 1 / np.log2(1 + rank), 0)
    group = deciles(dls.catalog.counts['item'][items.numpy()])
    ideal = np.cumsum(1 / np.log2(np.arange(2, 12)))
    res = []
    for g in range(11):
        n, sums = (np.bincount(at[group == g], w, len(codes)) for w in (None, gain[group == g]))
        res.append((sums[n > 0] / ideal[np.minimum(n[n > 0], 10).astype(int) - 1]).mean())
    return [per_user['ndcg@10'].mean(), per_user['recall@20'].mean(), *res]


def report(args, errors, seconds, ends, shares, costs, ranks):
    """Markdown of what there is so far."""
    mean = {name: np.nanmean(o, 0) for name, o in errors.items()}
    singles = [
        o
        for o in ('id alone (collab)', *(f'{name} alone' for name in PATHWAYS), 'all features, no id (content)')
        if o in mean
    ]
    best = np.min([mean[o] for o in singles], 0)
    wins = [
        (
            ''
            if mean['all, gate'][c] <= best[c]
            else f' by {mean["all, gate"][c] - best[c]:.4f} behind {min(singles, key=lambda o: mean[o][c])}'
        )
        for c in range(12)
    ]
    behind = [
        f'{label}{w}'
        for label, w in zip(['overall', 'unseen items', *(f'decile {i}' for i in range(1, 11))], wins)
        if w
    ]

    def spread(name):
        return f'{mean[name][0]:.4f}' + (f' ± {np.std([o[0] for o in errors[name]]):.4f}' if len(ends) > 1 else '')

    text = [
        '# Gated hybrid on ml-latest-small',
        about(),
        f'RMSE on test rows, {len(ends)} seed(s)'
        + (' (mean ± standard deviation)' if len(ends) > 1 else '')
        + ', 80,670 training rows; 5 epochs of one cycle at 5e-3 for all. Deciles are of test rows, by the training rows of their item (seed 0: '
        + ', '.join(ends[0])
        + '); "unseen": items without a training row. Image vectors come from an untrained ResNet18 (no pre-trained weights could be had): colours and textures, no meaning.',
        table(
            ['', 'all', 'unseen', *range(1, 11), 'CPU s'],
            [
                [name, spread(name), *(f'{o:.3f}' for o in m[1:]), f'{np.mean(seconds[name]):.0f}']
                for name, m in mean.items()
            ],
        ),
        'The gate is at least as good as the best single pathway '
        + ('everywhere.' if not behind else 'but for: ' + '; '.join(behind) + '.'),
        f'What the gate leans on, items that have every pathway, by their training rows (mean of {len(ends)} seed(s)): weight, and in brackets the part in the scores (see `interp.gates`). Last: RMSE on the test rows of all items with so many training rows, and by how much it grows when the id is masked.',
        table(
            ['training rows', 'id', *PATHWAYS, 'RMSE', 'without the id'],
            [
                [
                    o,
                    *(
                        f'{sum(s[0].loc[o, p] for s in shares) / len(shares):.2f} ({sum(s[1].loc[o, p] for s in shares) / len(shares):.2f})'
                        for p in ('id', *PATHWAYS)
                    ),
                    *(f'{np.mean([c.loc[o, k] for c in costs]):{f}}' for k, f in (('rmse', '.3f'), ('cost', '+.3f'))),
                ]
                for o in shares[0][0].index
            ],
        ),
    ]
    if args.out:
        text.append(f'![Weights of the gate]({Path(args.out).stem}.png)')
    if ranks:
        n = len(ranks['all, gate'])

        def spread(v):
            return f'{np.mean(v):.4f}' + (f' ± {np.std(v):.4f}' if len(v) > 1 else '')

        text += [
            f'Ranking: positives are ratings from 4 on, softmax over the whole catalogue, 20 epochs at 2e-2, over the whole catalogue on test rows, {n} seed(s). Deciles of ndcg@10: of the test rows by the training rows of their item; relevant are the items of the decile alone, and users are those who have one.',
            table(
                ['', 'ndcg@10', 'recall@20', 'unseen', *range(1, 11)],
                [
                    [
                        name,
                        spread([o[0] for o in v]),
                        spread([o[1] for o in v]),
                        *(f'{x:.3f}' for x in np.nanmean(np.array(v)[:, 2:], 0)),
                    ]
                    for name, v in ranks.items()
                ],
            ),
        ]
        alone = [o for o in ranks if not o.startswith('all, ')]
        mean = {o: np.nanmean(ranks[o], 0) for o in alone}
        gate = np.nanmean(ranks['all, gate'], 0)
        less = [
            f'{label} by {max(mean[o][c] for o in alone) - gate[c]:.4f} behind {max(alone, key=lambda o: mean[o][c])}'
            for c, label in enumerate(['ndcg@10', 'recall@20', 'unseen items', *(f'decile {i}' for i in range(1, 11))])
            if gate[c] < max(mean[o][c] for o in alone)
        ]
        text.append(
            f'Over ids alone the gate gains {gate[0] / mean["id alone (collab)"][0] - 1:+.1%} ndcg@10 and {gate[1] / mean["id alone (collab)"][1] - 1:+.1%} recall@20. It is at least as good as ids and as features alone '
            + ('everywhere.' if not less else 'but for: ' + '; '.join(less) + '.')
        )
    emit('\n\n'.join(text), args.out)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--ls', help='folder of ml-latest-small, with items_text.csv and posters.zip')
    parser.add_argument(
        '--posters',
        help='folder to keep the unpacked posters and their vectors in; by default they are made anew, in three minutes',
    )
    parser.add_argument('--seeds', type=int, default=3)
    parser.add_argument('--rank-seeds', type=int, default=3)
    parser.add_argument('--out')
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter('ignore')
    folder = need(args.ls, '--ls', 'the folder of ml-latest-small')
    ratings, movies = movielens('latest-small', folder)
    fold = folds(len(ratings))
    with tempfile.TemporaryDirectory() as aside:
        feats = features(folder, args.posters or aside)
    errors = {}
    seconds = {}
    ranks = {}
    shares = []
    costs = []
    ends = []
    for seed in range(args.seeds):
        parts = [
            np.flatnonzero((fold != seed) & (fold != VALID)),
            np.flatnonzero(fold == VALID),
            np.flatnonzero(fold == seed),
        ]
        dls = RecDataLoaders.from_df(ratings, item_df=movies, splitter=parts)
        inter = dls.catalog.interactions
        users, items = (torch.from_numpy(o[parts[2]].astype(np.int64)) for o in (inter.users, inter.items))
        counts = dls.catalog.counts['item'][items.numpy()]
        group = deciles(counts)
        ends.append([f'{counts[group == g].min()}–{counts[group == g].max()}' for g in range(1, 11)])
        for name, make in {'damped biases': None, **rating_models(dls, feats)}.items():
            torch.manual_seed(seed)
            start = time.process_time()
            if make is None:
                learn = BiasOnly().fit(dls)
            else:
                learn = make()
                with quiet(learn):
                    learn.fit_one_cycle(5, 5e-3)
            seconds.setdefault(name, []).append(time.process_time() - start)
            square = (learn.score(users, items).numpy() - inter.ratings[parts[2]]) ** 2
            errors.setdefault(name, []).append(
                [np.sqrt(square.mean()), *(np.sqrt(square[group == g].mean()) for g in range(11))]
            )
            print(seed, name, f'{errors[name][-1][0]:.4f}', f'{seconds[name][-1]:.0f} s', flush=True)
            if name == 'all, gate':
                interp = RecInterpretation.from_learner(learn)
                both = [interp.gates(shares=o) for o in (False, True)]
                complete = (both[0][list(PATHWAYS)] > 0).all(axis=1)
                bins = bins_of(both[0].rows)
                shares.append(
                    [o[complete].groupby(bins[complete], observed=False)[['id', *PATHWAYS]].mean() for o in both]
                )
                bare = (without_id(learn, users, items).numpy() - inter.ratings[parts[2]]) ** 2
                by_rows = (
                    pd.DataFrame(dict(with_id=square, bare=bare)).groupby(bins_of(counts), observed=False).mean() ** 0.5
                )
                costs.append(pd.DataFrame(dict(rmse=by_rows.with_id, cost=by_rows.bare - by_rows.with_id)))
                if seed == 0 and args.out:
                    for kind in (False, True):
                        interp.plot_gates(shares=kind)[0].figure.savefig(
                            Path(args.out).with_suffix('').as_posix() + ('-shares.png' if kind else '.png'), dpi=90
                        )
        report(args, errors, seconds, ends, shares, costs, ranks)  # of the seeds so far: what is done is not lost
    for seed in range(args.rank_seeds):
        parts = [
            np.flatnonzero((fold != seed) & (fold != VALID)),
            np.flatnonzero(fold == VALID),
            np.flatnonzero(fold == seed),
        ]
        dls = RecDataLoaders.from_df(
            ratings, item_df=movies, splitter=parts, target='implicit', threshold=4, n_neg=None
        )
        rankers = {
            'id alone (collab)': lambda: collab_learner(dls),
            'all features, no id (content)': lambda: content_learner(dls, feats, hidden=64, wd=0.1),
            'all, concat': lambda: gated_learner(dls, feats, PATHWAYS, fusion='concat', wd=0.1),
            'all, gate': lambda: gated_learner(dls, feats, PATHWAYS),
        }
        for name, make in rankers.items():
            torch.manual_seed(seed)
            learn = make()
            with quiet(learn):
                learn.fit_one_cycle(20, 2e-2)
            ranks.setdefault(name, []).append(ranking(learn, dls, parts[2]))
            print(seed, name, *(f'{o:.4f}' for o in ranks[name][-1][:2]), flush=True)
        report(args, errors, seconds, ends, shares, costs, ranks)


if __name__ == '__main__':
    main()
