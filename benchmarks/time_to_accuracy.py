"""How many CPU seconds it takes to be how accurate: fastrec and its peers.

All have the same rows, one thread each, in turns in one run.

    python benchmarks/time_to_accuracy.py --ml100k PATH/TO/ml-100k --ml1m PATH/TO/ml-1m-ncf \\
        --peers-python .venv-peers/bin/python --recbole-python .venv-recbole/bin/python --out FILE.md

Ratings: RMSE on ML-100K, random 80/20, seeds 0, 1, 2. Clicks: NDCG@10 over the whole catalogue of ML-1M, the last item
of each user. Time counts from the tables in memory to the model; looking at held-out rows is free. The thresholds are
round numbers fixed beforehand, from what README and accuracy.py had published. Each side has the settings below, chosen
with `--select`: on ml-latest-small (80/20, seed 7; `--ls`) and on one further training item per user of ML-1M. What can
be looked at after each epoch is; what has a schedule that ends, or cannot be looked at, is trained for several numbers
of epochs. A side's time is its best.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import warnings
from functools import partial
from pathlib import Path

import matplotlib

matplotlib.use('Agg')
import fastai.collab as fc
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from common import about, emit, fastai_dls, need, quiet, table
from curves import Curve, Errors, Ranking
from fastai.callback.core import Callback, CancelValidException
from fastai.torch_core import set_seed
from ncf import ncf_1m

from fastrec.all import EASE, BiasOnly, ItemKNN, Popularity, RecDataLoaders, collab_learner, movielens, svdpp_learner

SEEDS = (0, 1, 2)
CLICK_SEEDS = (0,)
RMSE = (0.94, 0.93, 0.92, 0.91, 0.90, 0.89, 0.885)
NDCG = (0.03, 0.04, 0.045, 0.05, 0.054)


class Look(Callback):
    """In the place of each validation: stop the clock and look."""

    order = -100

    def __init__(self, curve, *args):
        self.curve = curve
        self.args = args

    def before_validate(self):
        training = self.learn.model.training
        self.learn.model.eval()
        with torch.no_grad():
            self.curve.look(*self.args)
        self.learn.model.train(training)
        raise CancelValidException


def ratings_side(build):
    """-> function (train, held, seed, settings) -> a list of runs.

    `build(df, split, **setting)` -> (learner, function that predicts the held-out rows, rate, arguments of the fit).
    """

    def runs(train, held, seed, settings):
        df = pd.concat([train, held], ignore_index=True)
        split = (np.arange(len(train)), np.arange(len(train), len(train) + len(held)))
        for setting in settings:
            options = {k: v for k, v in setting.items() if k != 'epochs'}
            for n in setting.get('epochs', [None]):
                set_seed(seed)
                curve = Curve(Errors(train, held))
                learn, predict, lr, kwargs = build(df, split, **options)
                if n is None:
                    curve.look(predict())
                else:
                    with quiet(learn):
                        learn.fit_one_cycle(n, lr, cbs=Look(curve, _Lazy(predict)), **kwargs)
                yield curve.points

    return runs


class _Lazy:
    """Predictions made when they are looked at."""

    def __init__(self, predict):
        self.predict = predict

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self.predict(), dtype)


def ours(make):
    """`build` for `ratings_side`, of a builder of learners or scorers."""

    def build(df, split, bs=None, lr=None, **options):
        dls = RecDataLoaders.from_df(df, splitter=split, bs=bs)
        inter = dls.catalog.interactions
        users = torch.from_numpy(inter.users[split[1]].astype(np.int64))
        items = torch.from_numpy(inter.items[split[1]].astype(np.int64))
        scorer = make(dls, **options)
        return scorer, lambda: scorer.score(users, items).numpy(), lr, {}

    return build


def fastai_side(df, split, bs, lr, wd, **options):
    """`build` for `ratings_side`."""
    dls = fastai_dls(df, split, bs)
    learn = fc.collab_learner(dls, y_range=(df.rating.min() - 0.5, df.rating.max() + 0.5), **options)
    x = torch.from_numpy(dls.valid.dataset.items[['user', 'item']].to_numpy(np.int64))
    return learn, lambda: learn.model(x).numpy(), lr, dict(wd=wd)


def scores_of(scorer, users):
    """Scores of all items; codes are the ids, which are sorted and without gaps."""
    return scorer.score_items(torch.from_numpy(users)).numpy()


def ranking_side(build):
    """As `ratings_side`, of `build(df, split, **setting)` -> (scorer or learner, rate)."""

    def runs(train, held, seed, settings):
        df = pd.concat([train, held], ignore_index=True)
        split = (np.arange(len(train)), np.arange(len(train), len(train) + len(held)))
        for setting in settings:
            options = {k: v for k, v in setting.items() if k != 'epochs'}
            for n in setting.get('epochs', [None]):
                set_seed(seed)
                curve = Curve(Ranking(train, held, df.user.max() + 1, df.item.max() + 1))
                scorer, lr = build(df, split, **options)
                score = partial(scores_of, scorer)
                if n is None:
                    curve.look(score)
                else:
                    with quiet(scorer):
                        scorer.fit_one_cycle(n, lr, cbs=Look(curve, score))
                yield curve.points

    return runs


def clicks(make, n_neg):
    """`build` for `ranking_side`, of a builder of learners or scorers."""

    def build(df, split, lr=None, bs=None, **options):
        dls = RecDataLoaders.from_df(df, target='implicit', splitter=split, n_neg=n_neg, bs=bs)
        assert (np.diff(dls.vocab['user'].ids) == 1).all()
        assert (np.diff(dls.vocab['item'].ids) == 1).all()
        assert dls.vocab['user'].ids[0] == dls.vocab['item'].ids[0] == 0
        return make(dls, **options), lr

    return build


def baseline(make):
    return lambda dls, **options: make(**options).fit(dls)


# name -> (ours: function; a peer: its name in peers_curves.py), settings
RATINGS = {
    'fastrec collab_learner': (
        ratings_side(ours(collab_learner)),
        [dict(bs=1024, lr=1e-2, epochs=[2, 5, 10]), dict(bs=256, lr=3e-3, epochs=[5, 10])],
    ),
    'fastrec svdpp_learner': (
        ratings_side(ours(svdpp_learner)),
        [dict(bs=4096, lr=1e-2, epochs=[2, 3, 6, 12]), dict(bs=2048, lr=5e-3, epochs=[15])],
    ),
    'fastrec BiasOnly': (ratings_side(ours(baseline(BiasOnly))), [{}]),
    'fastai.collab': (
        ratings_side(fastai_side),
        [
            dict(n_factors=50, bs=512, lr=1e-2, wd=0.1, epochs=[2, 5]),
            dict(n_factors=50, bs=64, lr=5e-3, wd=0.1, epochs=[1, 2, 5]),
        ],
    ),
    'Surprise SVD': (
        'surprise',
        [
            dict(model='SVD', epochs=[5, 10, 20]),
            dict(model='SVD', n_factors=50, reg_all=0.1, lr_all=0.01, epochs=[10, 20, 40]),
        ],
    ),
    'Surprise SVD++': ('surprise', [dict(model='SVDpp', epochs=[5, 10, 20], cache_ratings=True)]),
    'Surprise KNNBaseline': ('surprise', [dict(model='KNNBaseline', epochs=None)]),
    'Cornac MF': (
        'cornac_mf',
        [
            dict(epochs=[10, 20]),
            dict(k=10, lambda_reg=0.05, epochs=[20, 40]),
            dict(k=20, lambda_reg=0.1, learning_rate=0.02, epochs=[20, 40, 80]),
            dict(k=50, lambda_reg=0.1, epochs=[40, 80]),
        ],
    ),
    'myFM Bayesian MF': ('myfm', [dict(model='MF', epochs=[5, 10, 20, 40, 80, 160])]),
    'myFM Bayesian SVD++ flipped': ('myfm', [dict(model='SVD++ flipped', epochs=[5, 10, 20, 40, 80, 160])]),
}
CLICKS = {
    'fastrec EASE': (ranking_side(clicks(baseline(EASE), 4)), [dict(l2=1000.0)]),
    'fastrec svdpp_learner, softmax': (
        ranking_side(clicks(svdpp_learner, None)),
        [dict(n_factors=64, lr=1e-2, epochs=[3, 5, 10]), dict(n_factors=192, lr=5e-3, epochs=[10, 30])],
    ),
    'fastrec collab_learner, softmax': (
        ranking_side(clicks(collab_learner, None)),
        [dict(n_factors=64, lr=2e-2, epochs=[5, 10])],
    ),
    'fastrec collab_learner, BCE': (
        ranking_side(clicks(collab_learner, 4)),
        [dict(n_factors=64, lr=2e-2, epochs=[3, 10])],
    ),
    'fastrec ItemKNN': (ranking_side(clicks(baseline(ItemKNN), 4)), [dict(k=200, shrink=50.0)]),
    'fastrec Popularity': (ranking_side(clicks(baseline(Popularity), 4)), [{}]),
    'implicit ALS': (
        'implicit',
        [
            dict(model='ALS', factors=64, regularization=30.0, alpha=3.0, epochs=[2, 3, 5, 8]),
            dict(model='ALS', factors=64, epochs=[2, 3, 5, 8]),
            dict(model='ALS', factors=192, regularization=30.0, alpha=3.0, epochs=[3, 5, 8, 12]),
        ],
    ),
    'implicit BPR': ('implicit', [dict(model='BPR', factors=64, epochs=[5, 10, 20, 40, 80])]),
    'Cornac EASE': ('cornac_rank', [dict(model='EASE', lamb=1000.0, verbose=False)]),
    'Cornac BPR': (
        'cornac_rank',
        [dict(model='BPR', k=64, learning_rate=0.05, lambda_reg=0.001, epochs=[5, 10, 25, 50])],
    ),
    'LightFM WARP': ('lightfm', [dict(loss='warp', no_components=64, epochs=[2, 5, 10])]),
    'RecBole BPR': (
        'recbole',
        [dict(model='BPR', embedding_size=64, train_batch_size=4096, learning_rate=5e-3, epochs=[1, 2, 4, 8])],
    ),
    'RecBole NeuMF': (
        'recbole',
        [
            dict(
                model='NeuMF',
                mf_embedding_size=64,
                mlp_embedding_size=64,
                mlp_hidden_size=[128, 64],
                train_batch_size=4096,
                learning_rate=1e-3,
                epochs=[1, 3],
            )
        ],
    ),
}


def run(side, train, held, seed, pythons, versions):
    """Runs of a side: a list of [[CPU seconds, value], ...]; None if its environment is not there."""
    peer, settings = side
    if callable(peer):
        return list(peer(train, held, seed, settings))
    python = pythons['recbole' if peer == 'recbole' else 'peers']
    if not python:
        return None
    with tempfile.TemporaryDirectory() as folder:
        for name, df in (('train', train), ('held', held)):
            df.to_csv(f'{folder}/{name}.csv', index=False)
        env = {
            **os.environ,
            **dict.fromkeys(('OMP_NUM_THREADS', 'OPENBLAS_NUM_THREADS', 'MKL_NUM_THREADS'), '1'),
            'PYTHONPATH': '',
        }
        script = Path(__file__).with_name('peers_curves.py').resolve()
        command = [python, '-W', 'ignore', script, folder, peer, str(seed), *map(json.dumps, settings)]
        res = subprocess.run(command, env=env, capture_output=True, text=True)
        if res.returncode:
            raise RuntimeError(res.stderr[-1000:])
        res = json.loads(Path(folder, 'curve.json').read_text())
    versions.add(res['version'])
    return res['runs']


def measure(name, sides, data, seeds, pythons, only, cache):
    """-> side -> seed -> runs, and versions.

    `data(seed)` -> (train, held). Sides take turns; one that fails is named and left out. `cache`: a file of finished
    runs to go on from, or None.
    """
    res = {}
    versions = set()
    done = json.loads(cache.read_text()) if cache and cache.exists() else {}
    for seed in seeds:
        train, held = data(seed)
        for side, spec in sides.items():
            if only and not any(o in side for o in only):
                continue
            key = json.dumps([name, side, seed, spec[1]])
            if key not in done:
                used = set()
                try:
                    runs = run(spec, train, held, seed, pythons, used)
                except Exception as e:
                    print(f'{name}, {side}, seed {seed} failed: {e}', file=sys.stderr, flush=True)
                    continue
                if runs is None:
                    continue
                done[key] = dict(runs=runs, versions=list(used))
                if cache:
                    cache.write_text(json.dumps(done))
            runs = done[key]['runs']
            versions.update(done[key]['versions'])
            res.setdefault(side, {})[seed] = runs
            points = '; '.join(' '.join(f'{t:.1f}s {v:.4f}' for t, v in r) for r in runs)
            print(f'{name} seed {seed} {side}: {points}', file=sys.stderr, flush=True)
    return res, versions


def reached(runs, threshold, lower):
    """CPU seconds until one of the runs is there, or inf."""
    points = [point for run in runs for point in run]
    if lower:
        return min((t for t, v in points if v <= threshold), default=np.inf)
    return min((t for t, v in points if v >= threshold), default=np.inf)


def time_cell(of_seeds, median, fastest):
    """Median seconds, bold if the fastest; where not all seeds got there, how many did."""
    if np.isfinite(median):
        return f'**{median:.2f}**' if median == fastest else f'{median:.2f}'
    n_there = np.isfinite(of_seeds).sum()
    return f'{n_there} of {len(of_seeds)}' if n_there else '-'


def winner(ranked):
    """Who is first of `ranked` (seconds, side), a peer in bold, and who is the first of the other side."""
    if not ranked:
        return 'no side on all seeds'
    seconds, first = ranked[0]
    ours = first.startswith('fastrec')
    text = f'{first if ours else f"**{first}**"} {seconds:.2f} s, '
    others = [(s, side) for s, side in ranked if side.startswith('fastrec') != ours]
    if not others:
        return text + f'{"no peer" if ours else "nothing of fastrec"} on all seeds'
    return text + f'{others[0][1]} {others[0][0]:.2f} s ({others[0][0] / seconds:.1f} times)'


def times_table(results, thresholds, lower):
    """Seconds to each threshold (median of the seeds, which all have to get there), the fastest in bold; who wins."""
    better = min if lower else max
    times = {}
    medians = {}
    best = {}
    for side, seeds in results.items():
        of_seeds = np.array([[reached(runs, t, lower) for t in thresholds] for runs in seeds.values()])
        times[side] = of_seeds
        medians[side] = np.where(np.isinf(of_seeds).any(0), np.inf, np.median(of_seeds, axis=0))
        best[side] = np.mean([better(v for r in runs for _, v in r) for runs in seeds.values()])
    fastest = np.min(list(medians.values()), axis=0)
    rows = []
    for side in sorted(results, key=lambda o: best[o] if lower else -best[o]):
        cells = [time_cell(of_seeds, m, f) for of_seeds, m, f in zip(times[side].T, medians[side], fastest)]
        rows.append([side, *cells, f'{best[side]:.4f}'])
    wins = []
    for i, t in enumerate(thresholds):
        ranked = sorted((m[i], side) for side, m in medians.items() if np.isfinite(m[i]))
        wins.append(f'{t}: {winner(ranked)}')
    return (
        table(['side', *map(str, thresholds), 'best'], rows)
        + '\n\nFastest (a peer in bold), and the fastest of the other side:\n\n'
        + '\n'.join(f'- {o}' for o in wins)
    )


def plot(panels, path):
    """Each side's best value so far against CPU seconds, of the first seed."""
    fig, axes = plt.subplots(len(panels), 1, figsize=(9.5, 5.2 * len(panels)), squeeze=False)
    for ax, (title, label, results, thresholds, lower) in zip(axes[:, 0], panels):
        peers = [o for o in results if not o.startswith('fastrec')]
        for i, (side, seeds) in enumerate(results.items()):
            points = np.array(sorted(p for r in next(iter(seeds.values())) for p in r))
            best = (np.minimum if lower else np.maximum).accumulate(points[:, 1])
            keep = np.r_[True, np.diff(best) != 0]
            if side.startswith('fastrec'):
                look = dict(color=plt.cm.tab10(i % 10), lw=1.8)
                line, point = 'o-', '*'
            else:
                look = dict(color=plt.cm.tab10(peers.index(side) % 10), lw=1.2)
                line, point = 's--', 'X'
            if keep.sum() > 1:
                ax.plot(points[keep, 0], best[keep], line, ms=4, label=side, **look)
            else:
                ax.plot(points[keep, 0], best[keep], point, ms=10, label=side, **look)
        for t in thresholds:
            ax.axhline(t, color='.9', lw=0.8, zorder=0)
        ax.set(xscale='log', xlabel='CPU seconds', ylabel=label, title=title)
        values = [v for seeds in results.values() for runs in seeds.values() for r in runs for _, v in r]
        if lower:
            ax.set_ylim(min(values) - 0.005, max(thresholds) + 0.03)
        ax.legend(fontsize=8, loc='center left', bbox_to_anchor=(1.01, 0.5))
    fig.tight_layout()
    fig.savefig(path, dpi=110)


def split_ratings(ratings):
    """-> function of a seed that gives the rows for training and those held out, 80/20, of codes.

    Held-out rows whose user or item has no training row are left out, for all sides.
    """

    def data(seed):
        at = np.random.default_rng(seed).permutation(len(ratings))
        train = ratings.iloc[at[len(ratings) // 5 :]]
        held = ratings.iloc[at[: len(ratings) // 5]]
        held = held[held.user.isin(train.user) & held.item.isin(train.item)]
        users = pd.Index(np.sort(train.user.unique()))
        items = pd.Index(np.sort(train.item.unique()))

        def coded(df):
            ratings = df.rating.to_numpy(np.float32)
            return pd.DataFrame(dict(user=users.get_indexer(df.user), item=items.get_indexer(df.item), rating=ratings))

        return coded(train), coded(held)

    return data


def split_clicks(path, select):
    """-> function of a seed (which it does not need) that gives the rows for training and those held out, of codes.

    Held out is the last item of each user, or (`select`) one of the training items.
    """
    dls, *_ = ncf_1m(path, select)
    inter = dls.catalog.interactions
    split = dls.catalog.split
    whole = pd.DataFrame(dict(user=inter.users, item=inter.items)).astype(np.int64)
    train = whole.iloc[split.train]
    held = whole.iloc[split.valid]
    held = held[held.item.isin(train.item)]
    items = pd.Index(np.sort(train.item.unique()))

    def coded(df):
        return df.assign(item=items.get_indexer(df.item)).reset_index(drop=True)

    return lambda seed: (coded(train), coded(held))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--ml100k', help="folder of GroupLens' ml-100k; without it no ratings")
    parser.add_argument(
        '--ml1m', help='folder with train_pairs.csv, ml-1m.test.rating and ml-1m.test.negative; without it no clicks'
    )
    parser.add_argument(
        '--peers-python',
        help='python of the environment made from peers-requirements.txt; without it Surprise, Cornac, myFM, implicit '
        'and LightFM are left out',
    )
    parser.add_argument(
        '--recbole-python',
        help='python of the environment made from peers-recbole-requirements.txt; without it RecBole is left out',
    )
    parser.add_argument('--seeds', type=int, nargs='+', default=SEEDS, help='of ratings: split and training')
    parser.add_argument('--click-seeds', type=int, nargs='+', default=CLICK_SEEDS, help='of training')
    parser.add_argument('--only', nargs='+', help='parts of names of the sides to run')
    parser.add_argument(
        '--select',
        metavar='LS',
        help='figures to choose settings by: on ml-latest-small, whose folder this is, and on training items of ML-1M',
    )
    parser.add_argument(
        '--settings', type=json.loads, help='with --only: JSON list of settings to try in the place of those here'
    )
    parser.add_argument(
        '--cache', help='file that finished runs go to, and from which a run that was broken off goes on'
    )
    parser.add_argument('--out', help='Markdown file to write; the plot goes beside it')
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings('ignore')
    pythons = dict(peers=args.peers_python, recbole=args.recbole_python)
    for name, python in pythons.items():
        if python:
            pythons[name] = str(need(python, f'--{name}-python', 'the python of that environment').absolute())
    cache = args.cache and Path(args.cache)
    stars = (np.arange(400) % 5 + 1).astype(np.float32)
    small = pd.DataFrame(dict(user=np.repeat(np.arange(40), 10), item=np.tile(np.arange(20), 20), rating=stars))
    short = dict(bs=64, lr=1e-3, epochs=[1])
    first_fits = {
        'fastrec collab_learner': short,
        'fastrec svdpp_learner': short,
        'fastai.collab': dict(**short, wd=0.1),
    }
    for side, setting in first_fits.items():
        # what is imported and made ready at the first fit is nobody's time
        list(RATINGS[side][0](small[:320], small[320:], 0, [setting]))

    def changed(sides):
        return {k: (v[0], args.settings or v[1]) for k, v in sides.items()}

    parts = []
    panels = []
    versions = set()
    if args.select or args.ml100k:
        folder = need(args.select or args.ml100k, '--ml100k', "the folder of GroupLens' ml-100k")
        ratings, _ = movielens('latest-small' if args.select else '100k', folder)
        seeds = [7] if args.select else args.seeds
        data = split_ratings(ratings)
        results, used = measure('ratings', changed(RATINGS), data, seeds, pythons, args.only, cache)
        versions |= used
        if results:
            name = 'ml-latest-small' if args.select else 'ML-100K'
            title = f'## Ratings: CPU seconds to an RMSE on {name}, random 80/20\n\n'
            parts.append(title + times_table(results, RMSE, True))
            panels.append(('ML-100K ratings, 80/20: best RMSE so far', 'RMSE', results, RMSE, True))
    if args.ml1m:
        data = split_clicks(need(args.ml1m, '--ml1m', 'the folder of the NCF files'), bool(args.select))
        results, used = measure('clicks', changed(CLICKS), data, args.click_seeds, pythons, args.only, cache)
        versions |= used
        if results:
            held = 'one further training item' if args.select else 'the last item'
            title = f'## Clicks: CPU seconds to an NDCG@10 over the whole catalogue of ML-1M, {held} of each user\n\n'
            parts.append(title + times_table(results, NDCG, False))
            title = 'ML-1M clicks, last item of each user: best NDCG@10 so far'
            panels.append((title, 'NDCG@10, whole catalogue', results, NDCG, False))
    if args.out and panels:
        path = Path(args.out).with_suffix('.png')
        plot(panels, path)
        parts.append(f'![Error against CPU seconds]({path.name})')
    missing = ', '.join(f'what needs --{name}-python' for name, python in pythons.items() if not python)
    left_out = f' Left out: {missing}.' if missing else ''
    emit(
        f'# Time to accuracy\n\n{about()}; peers: {", ".join(sorted(versions)) or "none"}.{left_out}\n\n'
        'Seconds of CPU, one thread each, from the tables in memory to a model that is as good: median of seeds '
        f'(ratings {", ".join(map(str, args.seeds))}; clicks {", ".join(map(str, args.click_seeds))}); "k of n": only '
        "so many seeds got there; -: none. *best*: the best value of a side's runs, mean over seeds, picked on the "
        'held-out rows themselves, as the seconds are: on all sides alike.\n\n' + '\n\n'.join(parts),
        args.out,
    )


if __name__ == '__main__':
    main()
