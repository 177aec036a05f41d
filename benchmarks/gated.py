"""The gated hybrid on ml-latest-small against ids alone, each kind of features alone, and both without a gate.

Figures are rating errors by the items' popularity, and ranking.

    python benchmarks/gated.py --ls PATH/TO/ml-latest-small --out benchmarks/results/gated.md
    python benchmarks/gated.py --ls PATH/TO/ml-latest-small --ml100k PATH/TO/ml-100k --users \
        --out benchmarks/results/gated_users.md

The second one is what the gate makes of the user's history (`user_trust`), with and without it, on both sets.

Rows fall into ten folds. Seed s tests on fold s and trains on the others but fold 3, which is for validation. Settings
were chosen with folds 0 to 2, which are all test rows here, left out.
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
DECILES = [f'decile {i}' for i in range(1, 11)]


def folds(n):
    return np.random.default_rng(2026).permutation(n) % 10


def rows_of(fold, test):
    """-> rows for training, validation (fold `VALID`) and test (fold `test`)."""
    train = np.flatnonzero((fold != test) & (fold != VALID))
    return [train, np.flatnonzero(fold == VALID), np.flatnonzero(fold == test)]


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


def rank_models(dls, feats):
    """name -> learner, to be trained alike."""
    return {
        'id alone (collab)': lambda: collab_learner(dls),
        'all features, no id (content)': lambda: content_learner(dls, feats, hidden=64, wd=0.1),
        'all, concat': lambda: gated_learner(dls, feats, PATHWAYS, fusion='concat', wd=0.1),
        'all, gate': lambda: gated_learner(dls, feats, PATHWAYS),
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

    def features_first(codes):
        has = present(codes)
        without_features = ~has[:, 1:].any(1, keepdim=True)
        return torch.cat([has[:, :1] & without_features, has[:, 1:]], 1)

    model.present = features_first
    try:
        return learn.score(users, items)
    finally:
        del model.present


def ranking(learn, dls, rows):
    """ndcg@10 and recall@20 over users, and ndcg@10 by group of `deciles`.

    A group's figure is of the users who have a positive of the group, which alone counts as relevant.
    """
    per_user = evaluate_users(learn, dls, [ndcg(10), recall(20)], split='test')
    inter = dls.catalog.interactions
    rows = inter.positive(rows)
    codes, at = np.unique(inter.users[rows], return_inverse=True)
    items = torch.from_numpy(inter.items[rows].astype(np.int64))
    scores = learn.score_items(torch.from_numpy(codes.astype(np.int64)))
    mask_seen(scores, dls.catalog.history.matrix(np.concatenate(dls.catalog.split[:2]))[codes])
    ranks = []
    for u, i in zip(torch.from_numpy(at).split(1024), items.split(1024)):
        ranks.append((scores[u] > scores[u, i][:, None]).sum(1).numpy() + 1)
    rank = np.concatenate(ranks)
    gain = np.where(rank <= 10, 1 / np.log2(1 + rank), 0)
    group = deciles(dls.catalog.counts['item'][items.numpy()])
    ideal = np.cumsum(1 / np.log2(np.arange(2, 12)))
    res = []
    for g in range(11):
        of_group = group == g
        n = np.bincount(at[of_group], None, len(codes))
        sums = np.bincount(at[of_group], gain[of_group], len(codes))
        has = n > 0
        res.append((sums[has] / ideal[np.minimum(n[has], 10).astype(int) - 1]).mean())
    return [per_user['ndcg@10'].mean(), per_user['recall@20'].mean(), *res]


def plus_minus(values):
    """Mean, and with several values their standard deviation."""
    text = f'{np.mean(values):.4f}'
    return text + f' ± {np.std(values):.4f}' if len(values) > 1 else text


def but_for(behind):
    """The end of a sentence on where something is at least as good, given where it is `behind`."""
    return 'but for: ' + '; '.join(behind) + '.' if behind else 'everywhere.'


def rating_errors(errors, seconds, ends):
    """Table of RMSE by popularity, and where the gate is behind the best single pathway."""
    mean = {name: np.nanmean(o, 0) for name, o in errors.items()}
    rows = []
    for name, m in mean.items():
        overall = plus_minus([o[0] for o in errors[name]])
        rows.append([name, overall, *(f'{o:.3f}' for o in m[1:]), f'{np.mean(seconds[name]):.0f}'])
    singles = ['id alone (collab)', *(f'{name} alone' for name in PATHWAYS), 'all features, no id (content)']
    singles = [o for o in singles if o in mean]
    gate = mean['all, gate']
    behind = []
    for c, label in enumerate(['overall', 'unseen items', *DECILES]):
        best = min(singles, key=lambda o: mean[o][c])
        if gate[c] > mean[best][c]:
            behind.append(f'{label} by {gate[c] - mean[best][c]:.4f} behind {best}')
    spread = ' (mean ± standard deviation)' if len(ends) > 1 else ''
    return [
        f'RMSE on test rows, {len(ends)} seed(s){spread}, 80,670 training rows; 5 epochs of one cycle at 5e-3 for '
        'all. Deciles are of test rows, by the training rows of their item (seed 0: ' + ', '.join(ends[0]) + '); '
        '"unseen": items without a training row. Image vectors come from an untrained ResNet18 (no pre-trained '
        'weights could be had): colors and textures, no meaning.',
        table(['', 'all', 'unseen', *range(1, 11), 'CPU s'], rows),
        'The gate is at least as good as the best single pathway ' + but_for(behind),
    ]


def gate_weights(shares, costs, n_seeds):
    """Table of what the gate leans on, by training rows of the item, and what the id is worth there."""
    rows = []
    for group in shares[0][0].index:
        row = [group]
        for pathway in ('id', *PATHWAYS):
            weight, part = (sum(s[kind].loc[group, pathway] for s in shares) / len(shares) for kind in (0, 1))
            row.append(f'{weight:.2f} ({part:.2f})')
        row.append(f'{np.mean([c.loc[group, "rmse"] for c in costs]):.3f}')
        row.append(f'{np.mean([c.loc[group, "cost"] for c in costs]):+.3f}')
        rows.append(row)
    return [
        f'What the gate leans on, items that have every pathway, by their training rows (mean of {n_seeds} '
        'seed(s)): weight, and in brackets the part in the scores (see `interp.gates`). Last: RMSE on the test rows '
        'of all items with so many training rows, and by how much it grows when the id is masked.',
        table(['training rows', 'id', *PATHWAYS, 'RMSE', 'without the id'], rows),
    ]


def rank_figures(ranks):
    """Table of ranking metrics, and where the gate is behind ids alone or features alone."""
    rows = []
    for name, figures in ranks.items():
        by_group = np.nanmean(np.array(figures)[:, 2:], 0)
        ndcgs = plus_minus([o[0] for o in figures])
        recalls = plus_minus([o[1] for o in figures])
        rows.append([name, ndcgs, recalls, *(f'{x:.3f}' for x in by_group)])
    mean = {o: np.nanmean(ranks[o], 0) for o in ranks if not o.startswith('all, ')}
    gate = np.nanmean(ranks['all, gate'], 0)
    behind = []
    for c, label in enumerate(['ndcg@10', 'recall@20', 'unseen items', *DECILES]):
        best = max(mean, key=lambda o: mean[o][c])
        if gate[c] < mean[best][c]:
            behind.append(f'{label} by {mean[best][c] - gate[c]:.4f} behind {best}')
    gain = gate[:2] / mean['id alone (collab)'][:2] - 1
    return [
        'Ranking: positives are ratings from 4 on, softmax over the whole catalogue, 20 epochs at 2e-2, over the '
        f'whole catalogue on test rows, {len(ranks["all, gate"])} seed(s). Deciles of ndcg@10: of the test rows by the '
        'training rows of their item; relevant are the items of the decile alone, and users are those who have one.',
        table(['', 'ndcg@10', 'recall@20', 'unseen', *range(1, 11)], rows),
        f'Over ids alone the gate gains {gain[0]:+.1%} ndcg@10 and {gain[1]:+.1%} recall@20. It is at least as good as '
        'ids and as features alone ' + but_for(behind),
    ]


def report(args, errors, seconds, ends, shares, costs, ranks):
    """Markdown of what there is so far."""
    text = ['# Gated hybrid on ml-latest-small', about()]
    text += rating_errors(errors, seconds, ends)
    text += gate_weights(shares, costs, len(ends))
    if args.out:
        text.append(f'![Weights of the gate]({Path(args.out).stem}.png)')
    if ranks:
        text += rank_figures(ranks)
    emit('\n\n'.join(text), args.out)


# --- the user's history

TRUSTS = {'without (None)': None, 'with (0.25, the default)': 0.25}
FIFTHS = 5


def small_features(ratings_of, folder, items):
    """Genres and years, and what else is short: keywords of ml-latest-small, directors of ml-100k. -> and pathways."""
    if ratings_of == 'ml-100k':
        more = pd.read_csv(folder / 'omdb.csv').rename(columns=str.lower)
        items = items.merge(more[['movie_id', 'director']], left_on='item', right_on='movie_id', how='left')
        name, column = 'people', 'director'
    else:
        more = pd.read_csv(folder / 'items_text.csv').rename(columns={'movieId': 'item', 'tmdb_keywords': 'keywords'})
        items = items.merge(more[['item', 'keywords']], on='item', how='left')
        name, column = 'keywords', 'keywords'
    feats = ItemFeatures.from_df(items, multilabel={'genres': 'genres', name: column}, numeric='year')
    return feats, {name: [name], 'category': ['genres', 'year']}


def weights_of_the_id(learn, n_items=400):
    """Mean weight of the id by fifth of the users' histories, over the `n_items` items with most training rows."""
    counts = learn.dls.catalog.counts
    known = np.flatnonzero(counts['user'])
    by_length = known[np.argsort(counts['user'][known], kind='stable')]
    items = torch.from_numpy(np.argsort(-counts['item'], kind='stable')[:n_items].copy())
    model = learn.model.eval()
    fifths = np.array_split(by_length, FIFTHS)
    lengths = [f'{counts["user"][fifth].min()} to {counts["user"][fifth].max()}' for fifth in fifths]
    with torch.no_grad():
        return lengths, [model.gate_weights(torch.from_numpy(o), items)[..., 0].mean().item() for o in fifths]


def users_histories(args):
    """Markdown: the id's weight by length of the user's history, and errors on test rows, with and without."""
    text = [
        "# The gate and the user's history",
        about(),
        '`gated_learner(dls, features, user_trust=)` of ratings, genres and years, and keywords (ml-latest-small) or '
        'directors (ml-100k); 5 epochs of one cycle at 1e-2, batches of 1,024. Rows fall into ten folds at random: '
        f'seed s tests on fold s, fold {VALID} was for choosing among None, 0.25, 0.5 and 1 (seed 0), the rest is for '
        "training. Weight of the id: mean over the 400 items with most rows, by fifth of the users' training rows.",
    ]
    for name in ('ml-100k', 'ml-latest-small'):
        folder = need(dict(zip(('ml-100k', 'ml-latest-small'), (args.ml100k, args.ls)))[name], '--ml100k, --ls', name)
        ratings, items = movielens('100k' if name == 'ml-100k' else 'latest-small', folder)
        feats, pathways = small_features(name, Path(folder), items)
        errors = {trust: [] for trust in TRUSTS}
        weights = {trust: [] for trust in TRUSTS}
        for seed in range(args.seeds):
            parts = rows_of(folds(len(ratings)), seed)
            dls = RecDataLoaders.from_df(ratings, splitter=parts, bs=1024)
            inter = dls.catalog.interactions
            users, codes = (torch.from_numpy(o[parts[2]].astype(np.int64)) for o in (inter.users, inter.items))
            for trust, value in TRUSTS.items():
                torch.manual_seed(seed)
                learn = gated_learner(dls, feats, pathways, user_trust=value)
                with quiet(learn):
                    learn.fit_one_cycle(5, 1e-2)
                square = (learn.score(users, codes).numpy() - inter.ratings[parts[2]]) ** 2
                errors[trust].append(np.sqrt(square.mean()))
                lengths, by_fifth = weights_of_the_id(learn)
                weights[trust].append(by_fifth)
                print(name, seed, trust, f'{errors[trust][-1]:.4f}', np.round(by_fifth, 3), flush=True)
        rows = []
        for trust in TRUSTS:
            by_seed = ', '.join(f'{error:.4f}' for error in errors[trust])
            rows.append([trust, plus_minus(errors[trust]), by_seed, *(f'{w:.3f}' for w in np.mean(weights[trust], 0))])
        text += [f'## {name}', table(['user_trust', 'RMSE', 'by seed', *(f'{o} rows' for o in lengths)], rows)]
        emit('\n\n'.join(text), args.out)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--ls', help='folder of ml-latest-small, with items_text.csv and posters.zip')
    parser.add_argument(
        '--posters',
        help='folder to keep the unpacked posters and their vectors in; by default they are made anew (three minutes)',
    )
    parser.add_argument('--ml100k', help='folder of ml-100k, with omdb.csv, for --users')
    parser.add_argument('--users', action='store_true', help="what the gate makes of the user's history, alone")
    parser.add_argument('--seeds', type=int, default=3)
    parser.add_argument('--rank-seeds', type=int, default=3)
    parser.add_argument('--out')
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter('ignore')
    if args.users:
        users_histories(args)
        return
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
        parts = rows_of(fold, seed)
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
                weights_and_parts = [interp.gates(shares=o) for o in (False, True)]
                weights = weights_and_parts[0]
                complete = (weights[list(PATHWAYS)] > 0).all(axis=1)
                bins = bins_of(weights.rows)[complete]
                grouped = [o[complete].groupby(bins, observed=False) for o in weights_and_parts]
                shares.append([o[['id', *PATHWAYS]].mean() for o in grouped])
                bare = (without_id(learn, users, items).numpy() - inter.ratings[parts[2]]) ** 2
                squares = pd.DataFrame(dict(with_id=square, bare=bare))
                by_rows = squares.groupby(bins_of(counts), observed=False).mean() ** 0.5
                costs.append(pd.DataFrame(dict(rmse=by_rows.with_id, cost=by_rows.bare - by_rows.with_id)))
                if seed == 0 and args.out:
                    stem = Path(args.out).with_suffix('').as_posix()
                    interp.plot_gates(shares=False)[0].figure.savefig(f'{stem}.png', dpi=90)
                    interp.plot_gates(shares=True)[0].figure.savefig(f'{stem}-shares.png', dpi=90)
        report(args, errors, seconds, ends, shares, costs, ranks)  # of the seeds so far: what is done is not lost
    for seed in range(args.rank_seeds):
        parts = rows_of(fold, seed)
        dls = RecDataLoaders.from_df(
            ratings, item_df=movies, splitter=parts, target='implicit', threshold=4, n_neg=None
        )
        for name, make in rank_models(dls, feats).items():
            torch.manual_seed(seed)
            learn = make()
            with quiet(learn):
                learn.fit_one_cycle(20, 2e-2)
            ranks.setdefault(name, []).append(ranking(learn, dls, parts[2]))
            print(seed, name, *(f'{o:.4f}' for o in ranks[name][-1][:2]), flush=True)
        report(args, errors, seconds, ends, shares, costs, ranks)


if __name__ == '__main__':
    main()
