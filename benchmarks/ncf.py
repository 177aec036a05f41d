"""Ranking of implicit feedback, by two protocols.

They are the NCF paper's on MovieLens 1M (99 given negatives), and the whole catalogue of MovieLens 100K.

    python benchmarks/ncf.py --ml1m PATH/TO/ml-1m-ncf --ml100k PATH/TO/ml-100k --out FILE.md

ml-1m-ncf: train_pairs.csv (user, item), ml-1m.test.rating and ml-1m.test.negative as He et al. published them.
`--select` prints, in place of test figures, those on one further training item per user (see `ncf_1m`: the training
pairs have no times), which the settings below were chosen on; the test items are used for the table alone. Seeds 0 to 4
for the learners marked so, else 0; intervals are percentile bootstraps over users, of the first seed.
"""

import argparse
import io
import time
import warnings
from contextlib import redirect_stdout

import numpy as np
import pandas as pd
import torch
from common import about, emit, need, quiet, table
from fastai.torch_core import set_seed

from fastrec.all import (
    EASE,
    IALS,
    Blend,
    BPRLoss,
    Ensemble,
    ItemKNN,
    LeaveLastSplitter,
    Popularity,
    RecDataLoaders,
    collab_learner,
    evaluate_users,
    gmf_learner,
    hr,
    mlp_learner,
    movielens,
    ndcg,
    neumf_learner,
    svdpp_learner,
)

METRICS = [hr(10), ndcg(10)]
LAYERS = [128, 64, 32]


def learner(make, epochs, lr, whole=False, n_neg=None, **kwargs):
    """-> function of the two kinds of loaders that trains a learner.

    `whole`: on those of users (the softmax is over the catalogue); `n_neg`: on pairs with other negatives.
    """

    def fit(dls, users, seed):
        set_seed(seed)
        if n_neg is not None:
            dls = RecDataLoaders.from_interactions(dls.catalog.interactions, dls.catalog.split, n_neg=n_neg)
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            learn = make(users if whole else dls, **kwargs)
        with quiet(learn):
            learn.fit_one_cycle(epochs, lr)
        return learn

    return fit


def pretrained(epochs, lr, pretrain, **kwargs):
    """As `learner`, of NeuMF that starts from parts trained for `pretrain` epochs."""

    def fit(dls, users, seed):
        set_seed(seed)
        with redirect_stdout(io.StringIO()):
            learn = neumf_learner(dls, pretrain=pretrain, pretrain_lr=lr, **kwargs)
        with quiet(learn):
            learn.fit_one_cycle(epochs, lr)
        return learn

    return fit


def timed(fit):
    """-> function that returns what `fit` does and its CPU seconds."""

    def run(*args):
        start = time.process_time()
        return fit(*args), time.process_time() - start

    return run


def combined(combine, fits, n=1):
    """-> fit of `combine(the learners of n of five seeds, loaders)`, where `fits` keeps what it trained.

    Rows of the table that combine the same learners share them. Its CPU seconds count them all.
    """

    def fit(dls, users, seed):
        parts = [fits(dls, users, (seed + i) % 5) for i in range(n)]
        res, seconds = timed(combine)([learn for learn, _ in parts], dls)
        return res, seconds + sum(s for _, s in parts)

    return fit


def baseline(make):
    return lambda dls, users, seed: make().fit(dls)


def models_1m():
    """name -> (fit, seeds)."""
    five = range(5)
    one = range(1)
    trained = {}
    train = timed(learner(svdpp_learner, 30, 5e-3, whole=True, n_factors=192))

    def svdpp(dls, users, seed):
        if seed not in trained:
            trained[seed] = train(dls, users, seed)
        return trained[seed]

    def first(parts, dls):
        return parts[0]

    def ensemble(parts, dls):
        return Ensemble(parts)

    def blend_with_ease(parts, dls):
        return Blend([*parts, EASE(1000.0).fit(dls)], [0.7, 0.3])

    def neumf(layers=LAYERS, **kwargs):
        return learner(neumf_learner, 10, 5e-3, n_factors=32, layers=layers, **kwargs)

    softmax = learner(collab_learner, 30, 5e-3, whole=True, n_factors=256)
    res = {
        'Popularity': (baseline(Popularity), one),
        'ItemKNN, 200 neighbors, shrink 50': (baseline(lambda: ItemKNN(200, 50.0)), one),
        'EASE, l2 1000': (baseline(lambda: EASE(1000.0)), one),
        'svdpp_learner, softmax over the catalogue, 192 factors': (combined(first, svdpp), five),
        'three of these averaged (Ensemble)': (combined(ensemble, svdpp, 3), five),
        'one of these and EASE blended, 0.7 : 0.3': (combined(blend_with_ease, svdpp), five),
        'collab_learner, softmax over the catalogue, 256 factors': (softmax, one),
        'collab_learner, BCE, 4 negatives, 64 factors': (learner(collab_learner, 20, 2e-2, n_factors=64), one),
        'gmf_learner, 32 factors': (learner(gmf_learner, 20, 1e-2, n_factors=32), one),
        'mlp_learner, 32 factors, [128, 64, 32]': (learner(mlp_learner, 10, 5e-3, n_factors=32, layers=LAYERS), one),
        'neumf_learner, 32 factors, [128, 64, 32]': (neumf(), one),
        'neumf_learner, pre-trained 8 epochs, then 4': (pretrained(4, 5e-3, 8, n_factors=32, layers=LAYERS), one),
        'neumf_learner, n_neg=1': (neumf(n_neg=1), one),
        'neumf_learner, n_neg=8': (neumf(n_neg=8), one),
        'neumf_learner, layers [64]': (neumf([64]), one),
        'neumf_learner, layers [256, 128, 64, 32]': (neumf([256, 128, 64, 32]), one),
    }
    try:
        import implicit  # noqa: F401
    except ImportError:
        return res
    ials = baseline(lambda: IALS(192, l2=30.0, alpha=3.0, n_iter=12))
    return {**res, 'IALS (the library implicit), 192 factors': (ials, one)}


def models_100k():
    """name -> (fit, seeds)."""
    five = range(5)
    two = range(2)
    one = range(1)
    return {
        'Popularity': (baseline(Popularity), one),
        'ItemKNN, 100 neighbors, shrink 100': (baseline(ItemKNN), one),
        'EASE, l2 500': (baseline(EASE), one),
        'svdpp_learner, softmax, 128 factors': (learner(svdpp_learner, 20, 5e-3, whole=True, n_factors=128), five),
        'collab_learner, BCE, 64 factors': (learner(collab_learner, 10, 5e-3, n_factors=64), five),
        'collab_learner, BPR, 64 factors': (learner(collab_learner, 10, 5e-3, n_factors=64, loss_func=BPRLoss()), five),
        'gmf_learner, 32 factors': (learner(gmf_learner, 10, 5e-3), five),
        'mlp_learner, 32 factors, [128, 64, 32]': (learner(mlp_learner, 6, 5e-3, n_factors=32, layers=LAYERS), five),
        'neumf_learner, 32 factors, [128, 64, 32]': (learner(neumf_learner, 5, 5e-3), five),
        'neumf_learner, pre-trained 6 epochs, then 2': (pretrained(2, 5e-3, 6), five),
        'neumf_learner, n_neg=1': (learner(neumf_learner, 5, 5e-3, n_neg=1), two),
        'neumf_learner, n_neg=8': (learner(neumf_learner, 5, 5e-3, n_neg=8), two),
        'neumf_learner, layers [64]': (learner(neumf_learner, 5, 5e-3, layers=[64]), two),
        'neumf_learner, layers [256, 128, 64, 32]': (
            learner(neumf_learner, 5, 5e-3, layers=[256, 128, 64, 32]),
            two,
        ),
    }


def ncf_1m(path, select):
    """-> (loaders of pairs, loaders of users, table of candidates or None, part to evaluate)."""
    train = pd.read_csv(path / 'train_pairs.csv')
    if select:
        # A user's last item, which the test takes, is a less popular one than a random one of theirs: drawn in
        # proportion to popularity^-0.3, of which Popularity has here the HR@10 of 0.453 that is published for the test
        # items.
        popularity = train.item.map(train.item.value_counts())
        key = np.random.default_rng(0).gumbel(size=len(train)) - 0.3 * np.log(popularity)
        held = np.sort(key.groupby(train.user).idxmax())
        split = (np.setdiff1d(np.arange(len(train)), held), held)
        df = train
        candidates = None
    else:
        test = pd.read_csv(path / 'ml-1m.test.rating', sep='\t', header=None)
        test = test.iloc[:, :2].set_axis(['user', 'item'], axis=1)
        df = pd.concat([train, test], ignore_index=True)
        split = np.arange(len(train)), np.arange(len(train), len(df))
        # a line: (user,item), and tab by tab the negatives
        users = []
        negatives = []
        for line in (path / 'ml-1m.test.negative').read_text().splitlines():
            pair, *items = line.split('\t')
            users += [int(pair.strip('()').split(',')[0])] * len(items)
            negatives += map(int, items)
        candidates = pd.DataFrame(dict(user=users, item=negatives))

    def make(n_neg):
        return RecDataLoaders.from_df(df, target='implicit', splitter=split, n_neg=n_neg)

    return make(4), make(None), candidates, 'valid'


def rows_of(models, dls, users, protocols, part, only):
    """Table rows: means over seeds (standard deviation), the interval of the first seed, CPU seconds of a fit."""
    rows = []
    for name, (fit, seeds) in models.items():
        if only and not any(o in name for o in only):
            continue
        means = []
        seconds = []
        first = None
        for seed in seeds:
            scorer, spent = timed(fit)(dls, users, seed)
            if isinstance(scorer, tuple):
                scorer, spent = scorer  # shares what another row trained
            seconds.append(spent)
            per_user = pd.concat([evaluate_users(scorer, dls, METRICS, split=part, **p) for p in protocols], axis=1)
            means.append(per_user.mean())
            first = per_user if first is None else first
        draws = np.random.default_rng(0).integers(len(first), size=(1000, len(first)))
        low, high = np.quantile(first.to_numpy()[draws].mean(1), [0.025, 0.975], axis=0)
        mean = pd.DataFrame(means).mean()
        spread = pd.DataFrame(means).std()
        cells = []
        for m, s, a, b in zip(mean, spread, low, high):
            plus_minus = f' ± {s:.4f}' if len(means) > 1 else ''
            cells.append(f'{m:.4f}{plus_minus} [{a:.3f}, {b:.3f}]')
        rows.append([name, *cells, f'{np.median(seconds):.0f}', len(means)])
        print(*rows[-1], flush=True)
    return table(['model', *first.columns, 'CPU s per fit', 'seeds'], rows)


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--ml1m', help='folder with train_pairs.csv, ml-1m.test.rating and ml-1m.test.negative')
    parser.add_argument('--ml100k', help="folder of GroupLens' ml-100k")
    parser.add_argument('--select', action='store_true', help='validation figures, to choose settings by')
    parser.add_argument('--only', nargs='+', help='parts of names of the models to run')
    parser.add_argument('--out', help='Markdown file to write')
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings('ignore', 'LeaveLastSplitter')
    text = [
        '# Ranking implicit feedback\n\n'
        f'{about()}.\n\n'
        'Mean over users; ± is the standard deviation over seeds, the brackets are the 95% bootstrap interval over '
        'users of the first seed.'
    ]
    if args.ml1m:
        dls, users, candidates, part = ncf_1m(need(args.ml1m, '--ml1m', 'the folder of the NCF files'), args.select)
        protocols = [dict(n_candidates=99)] if args.select else [dict(candidates=candidates), {}]
        text.append(
            '## MovieLens 1M, leave one out'
            + (', validation item' if args.select else ", the NCF paper's 99 negatives, and the whole catalogue")
        )
        text.append(rows_of(models_1m(), dls, users, protocols, part, args.only))
    if args.ml100k:
        ratings, _ = movielens('100k', need(args.ml100k, '--ml100k', "the folder of GroupLens' ml-100k"))

        def make(n_neg):
            splitter = LeaveLastSplitter(1, n_test=1)
            return RecDataLoaders.from_df(ratings, target='implicit', splitter=splitter, n_neg=n_neg)

        text.append(
            '## MovieLens 100K, leave the last one out'
            + (', validation item' if args.select else '')
            + ': the whole catalogue, and among 99 unseen items drawn at random'
        )
        protocols = [{}, dict(n_candidates=99)]
        part = 'valid' if args.select else 'test'
        text.append(rows_of(models_100k(), make(4), make(None), protocols, part, args.only))
    emit('\n\n'.join(text), args.out)
