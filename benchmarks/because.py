"""Do explanations say what matters? Of each model, how far scores move without the items that `because` names.

The three that are named are taken out of what a user has, and three drawn at random, and the user is folded in again.
"""

import argparse
import time

import torch
from common import about, emit, need, quiet, table

from fastrec.all import (
    ALS,
    EASE,
    ItemFeatures,
    ItemKNN,
    LeaveLastSplitter,
    RecDataLoaders,
    UserKNN,
    because_fidelity,
    collab_learner,
    content_learner,
    gated_learner,
    gmf_learner,
    mlp_learner,
    movielens,
    neumf_learner,
    svdpp_learner,
    two_tower_learner,
)

torch.set_num_threads(1)
GOAL = 3.0
BATCH = 512
LOADERS = {
    'ratings': dict(valid_pct=0.1, bs=BATCH),
    'liked': dict(target='liked', valid_pct=0.1, bs=BATCH),
    'negatives': dict(target='implicit', splitter=LeaveLastSplitter(1), bs=BATCH),
    'catalogue': dict(target='implicit', splitter=LeaveLastSplitter(1), n_neg=None),
    'in batch': dict(target='implicit', splitter=LeaveLastSplitter(1), n_neg=0, bs=BATCH),
}
# name -> what the loaders are made for, what makes a scorer of loaders and features
MODELS = {
    'collab': ('ratings', lambda dls, features: collab_learner(dls)),
    'collab, no y_range': ('ratings', lambda dls, features: collab_learner(dls, y_range=False)),
    'svdpp': ('ratings', lambda dls, features: svdpp_learner(dls)),
    'mlp': ('ratings', lambda dls, features: mlp_learner(dls)),
    'content': ('ratings', content_learner),
    'gated': ('ratings', gated_learner),
    'ItemKNN, ratings': ('ratings', lambda dls, features: ItemKNN(target='rating').fit(dls)),
    'UserKNN, ratings': ('ratings', lambda dls, features: UserKNN(target='rating').fit(dls)),
    'ALS': ('ratings', lambda dls, features: ALS().fit(dls)),
    'collab, liked': ('liked', lambda dls, features: collab_learner(dls)),
    'gmf': ('negatives', lambda dls, features: gmf_learner(dls)),
    'neumf': ('negatives', lambda dls, features: neumf_learner(dls)),
    'two_tower': ('in batch', lambda dls, features: two_tower_learner(dls)),
    'svdpp, catalogue': ('catalogue', lambda dls, features: svdpp_learner(dls)),
    'EASE': ('catalogue', lambda dls, features: EASE().fit(dls)),
    'ItemKNN': ('catalogue', lambda dls, features: ItemKNN().fit(dls)),
    'UserKNN': ('catalogue', lambda dls, features: UserKNN().fit(dls)),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--ml100k', help='folder of ml-100k')
    parser.add_argument('--ls', help='folder of ml-latest-small')
    parser.add_argument('--only', nargs='+', choices=list(MODELS), default=list(MODELS))
    parser.add_argument('--users', type=int, default=100)
    parser.add_argument('--epochs', type=int, default=5)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--out')
    args = parser.parse_args()
    data = {}
    if args.ml100k or not args.ls:
        data['ML-100K'] = movielens('100k', need(args.ml100k, '--ml100k', 'the folder ml-100k'))
    if args.ls:
        data['ml-latest-small'] = movielens('latest-small', need(args.ls, '--ls', 'the folder ml-latest-small'))
    rows = []
    for name, (ratings, movies) in data.items():
        features = ItemFeatures.from_df(movies, multilabel='genres', text='title')
        loaders = {}
        for model in args.only:
            kind, make = MODELS[model]
            if kind not in loaders:
                loaders[kind] = RecDataLoaders.from_df(ratings, item_df=movies, seed=args.seed, **LOADERS[kind])
            rows.append([name, model, *measured(make, loaders[kind], features, args)])
            report(rows, args)  # so far: what is done is not lost


def measured(make, dls, features, args):
    """Cells of a row: how it was found out, distances without what is named and without others, ratio, seconds."""
    torch.manual_seed(args.seed)
    scorer = make(dls, features)
    if scorer.loss_func is not None:
        with quiet(scorer):
            scorer.fit_one_cycle(args.epochs)
    start = time.process_time()
    found = because_fidelity(scorer, n_users=args.users, seed=args.seed)
    seconds = time.process_time() - start
    ratio = f'{found["ratio"]:.1f}' + ('' if found['ratio'] >= GOAL else f' (below {GOAL:g})')
    return [found['method'], f'{found["named"]:.3f}', f'{found["random"]:.3f}', ratio, f'{seconds:.0f}']


def report(rows, args):
    header = ['data', 'model', 'method', 'without the 3 named', 'without 3 others', 'ratio', 'seconds']
    text = (
        f'How far the score of what is recommended first moves, when items are taken out of what a user has and the '
        f'user is folded in again: mean |difference| over {args.users} users with ten items or more, three draws of '
        f'others each, seed {args.seed}. Learners are trained for {args.epochs} epochs at their default learning '
        f'rate; `content` and `gated` read genres and titles. The goal is a ratio of {GOAL:g}. Seconds are CPU time of '
        'the whole measurement.'
    )
    emit('\n\n'.join(['# Explanations that say what matters', about(), text, table(header, rows)]), args.out)


if __name__ == '__main__':
    main()
