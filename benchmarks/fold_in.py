"""Users who come after training: what folding them in gives.

A fifth of the users is left out, folded in with their first n ratings, and judged by their last 10; beside them the
average user, biases alone, and the model trained again with those ratings.
"""

import argparse
import time

import numpy as np
import pandas as pd
import torch
from common import about, emit, need, quiet, table

from fastrec.all import (
    BiasOnly,
    RecDataLoaders,
    collab_learner,
    mlp_learner,
    movielens,
    rmse,
    svdpp_learner,
)

torch.set_num_threads(1)
GIVEN = (1, 5, 30)
HELD = 10
MODELS = {
    'collab, y_range': lambda dls: collab_learner(dls, y_range=(dls.y_bounds[0] - 0.5, dls.y_bounds[1] + 0.5)),
    'collab': collab_learner,
    'mlp': mlp_learner,
    'svdpp': svdpp_learner,
}


def fit(name, dls, seed):
    torch.manual_seed(seed)
    learn = MODELS[name](dls)
    with quiet(learn):
        learn.fit_one_cycle(15 if name == 'svdpp' else 5, 5e-3)
    return learn


def score(scorer, test):
    users, items = (torch.from_numpy(scorer.vocab[side].encode(test[side])) for side in ('user', 'item'))
    return rmse(scorer.score(users, items).cpu(), torch.tensor(test.rating.to_numpy(), dtype=torch.float32)).item()


def rows_of(name, ratings, seed):
    """-> model -> n -> figures."""
    rng = np.random.default_rng(seed)
    ids = np.sort(ratings.user.unique())
    late = ratings.user.isin(rng.choice(ids, len(ids) // 5, replace=False))
    old = ratings[~late]
    new = ratings[late & ratings.item.isin(ratings.item[~late])].sample(frac=1, random_state=seed)
    place = new.groupby('user').cumcount()
    size = new.groupby('user').user.transform('size')
    res = []
    for model in MODELS:
        bs = 2048 if model == 'svdpp' else 256
        dls = RecDataLoaders.from_df(old, valid_pct=0.02, seed=seed, bs=bs)
        learn = fit(model, dls, seed)
        for n in GIVEN:
            given = new[(place < n) & (size >= n + HELD)]
            test = new[(size - place <= HELD) & new.user.isin(given.user)]
            folded = learn.fold_in(given)
            one = given[given.user == given.user.iloc[0]].drop(columns='user')
            times = []
            for _ in range(5):
                start = time.process_time()
                learn.fold_in(one)
                times.append(1e3 * (time.process_time() - start))
            both = pd.concat([old, given, test], ignore_index=True)
            cut = len(old) + len(given)
            again_dls = RecDataLoaders.from_df(both, bs=bs, splitter=(np.arange(cut), np.arange(cut, len(both))))
            again = fit(model, again_dls, seed)
            res.append(
                dict(
                    data=name,
                    seed=seed,
                    model=model,
                    given=n,
                    users=given.user.nunique(),
                    average=score(learn.fold_in(given, noise=1e12), test),
                    biases=score(BiasOnly().fit(again_dls), test),
                    ridge=np.nan if model in ('mlp', 'svdpp') else score(plain_ridge(learn, given), test),
                    folded=score(folded, test),
                    again=score(again, test),
                    ms=min(times),
                )
            )
        print(name, seed, model, flush=True)
    return res


def plain_ridge(learn, given):
    """The fold-in that one would write, by a ridge.

    It has the training's own L2 towards 0 (wd per rating), ratings behind `y_range` taken back through the sigmoid
    at their place.
    """
    q = learn.vectors('item').double()
    bi = learn.biases('item').double()
    mean = float(learn.model.mean)
    y_range = learn.model.y_range
    res = learn.fold_in(given, noise=1e12)
    for code, user in enumerate(res.vocab['user'].ids):
        mine = given[given.user == user]
        at = torch.from_numpy(learn.vocab['item'].encode(mine.item))
        y = torch.tensor(mine.rating.to_numpy(), dtype=torch.float64)
        if y_range is not None:
            y = torch.logit((y - y_range[0]) / (y_range[1] - y_range[0]))
        z = torch.cat([torch.ones(len(at), 1, dtype=torch.float64), q[at]], 1)
        penalty = len(at) * learn.wd * torch.eye(z.shape[1], dtype=torch.float64)
        x = torch.linalg.solve(z.T @ z + penalty, z.T @ (y - mean - bi[at]))
        with torch.no_grad():
            res.model.user_biases.weight[code] = x[:1].float()
            res.model.user_factors.weight[code] = x[1:].float()
    return res


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--ml100k', help='folder of ml-100k')
    parser.add_argument('--ls', help='folder of ml-latest-small')
    parser.add_argument('--seeds', type=int, nargs='+', default=[1, 2, 3])
    parser.add_argument('--out')
    args = parser.parse_args()
    data = {
        'ML-100K': movielens('100k', need(args.ml100k, '--ml100k', 'the folder ml-100k'))[0],
        'ml-latest-small': movielens('latest-small', need(args.ls, '--ls', 'the folder ml-latest-small'))[0],
    }
    rows = []
    for seed in args.seeds:
        for name, ratings in data.items():
            rows += rows_of(name, ratings, seed)
        report(rows, args.out)  # of the seeds so far: what is done is not lost


def report(figures, out):
    """Markdown of a list of dicts."""
    df = pd.DataFrame(figures)
    mean = df.groupby(['data', 'model', 'given'], sort=False).mean(numeric_only=True)
    columns = ['average', 'biases', 'ridge', 'folded', 'again']
    rows = [
        [*key, f'{row.users:.0f}', *('' if np.isnan(row[c]) else f'{row[c]:.4f}' for c in columns), f'{row.ms:.0f}']
        for key, row in mean.iterrows()
    ]
    emit(
        '\n\n'.join(
            [
                '# Users who come after training',
                about(),
                f'RMSE of the last {HELD} ratings of users who were not in training, given their first n; means over '
                f'seeds {", ".join(map(str, df.seed.unique()))}. "biases": damped biases that know the n ratings; '
                '"plain ridge": ridge on the item vectors towards 0 with the L2 of training; "trained again": the '
                'model trained from the start with the n ratings of all new users. Settings of `fold_in` are its '
                'defaults (half the noise was chosen on ML-100K with another split). `svdpp` is trained for 15 epochs '
                'with batches of 2,048, the others for 5 with 256. Milliseconds of CPU time: to fold in one user, the '
                'best of five.',
                table(
                    [
                        'data',
                        'model',
                        'n',
                        'users',
                        'average user',
                        'biases',
                        'plain ridge',
                        'fold_in',
                        'trained again',
                        'ms',
                    ],
                    rows,
                ),
            ]
        ),
        out,
    )


if __name__ == '__main__':
    main()
