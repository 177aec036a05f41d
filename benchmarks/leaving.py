"""What leaves the notebook, and what comes in later.

Figures are of a saved recommender beside fastai's export (size, and seconds from the start of a process to the first
recommendations), the command line's pace, the price of a checkpoint, and a model that takes in new users and items
beside one that is trained anew.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from common import about, emit, need, quiet, table
from fastai.torch_core import set_seed

from fastrec.all import (
    RecDataLoaders,
    ResumeCallback,
    collab_learner,
    movielens,
    rec_learner,
    save_recommender,
)

FIRST = {
    'saved recommender': 'from fastrec.scorers.artifact import load_recommender as load',
    'export, load_learner': 'from fastai.learner import load_learner as load',
}


def process(code, *args):
    """Seconds of CPU of a fresh Python process that runs `code`."""
    import resource

    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, '-W', 'ignore', '-c', code, *map(str, args)], check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def folder_size(path):
    """MiB of a file, or of all in a folder."""
    files = path.rglob('*') if path.is_dir() else [path]
    return sum(o.stat().st_size for o in files) / 2**20


def large(n_users, n_items, n_factors, n_rows=2_000_000):
    """A learner (not trained) of text ids with titles, for sizes and times."""
    rng = np.random.default_rng(0)
    skewed = rng.integers(n_users, size=n_rows) * n_items + (n_items * rng.random(n_rows) ** 3).astype(np.int64)
    of_each_user = np.arange(n_users) * n_items + rng.integers(n_items, size=n_users)
    of_each_item = np.arange(n_items) + n_items * rng.integers(n_users, size=n_items)
    pairs = np.unique(np.concatenate([skewed, of_each_user, of_each_item]))
    users = pairs // n_items
    items = pairs % n_items
    user_ids = 'u' + pd.Series(np.arange(n_users)).astype(str).str.zfill(7)
    item_ids = 'i' + pd.Series(np.arange(n_items)).astype(str).str.zfill(8)
    df = pd.DataFrame(
        dict(
            user=user_ids.to_numpy()[users],
            item=item_ids.to_numpy()[items],
            rating=rng.integers(1, 6, len(pairs)).astype(np.float32),
        )
    )
    titles = 'The title of ' + pd.Series(np.arange(n_items)).astype(str)
    movies = pd.DataFrame(dict(item=item_ids, title=titles, year=1950 + np.arange(n_items) % 70))
    dls = RecDataLoaders.from_df(df, item_df=movies, valid_pct=0.01, seed=0)
    model = collab_learner(dls, n_factors=n_factors, y_range=(0.5, 5.5)).model
    return rec_learner(dls, model), df  # a model that is given counts as trained: only the time matters here


def leaving(turns):
    """-> tables of first recommendations and of the command line, and notes on saving and checkpoints."""
    rows = []
    commands = []
    notes = []
    for n_users, n_items, n_factors in ((943, 1682, 50), (138_000, 27_000, 50), (200_000, 1_000_000, 64)):
        learn, df = large(n_users, n_items, n_factors, min(2_000_000, 100 * n_users))
        with tempfile.TemporaryDirectory() as folder:
            folder = Path(folder)
            learn.path = folder
            began = time.process_time()
            save_recommender(learn, folder / 'saved')
            saving = time.process_time() - began
            learn.export('learn.pkl')
            paths = {'saved recommender': folder / 'saved', 'export, load_learner': folder / 'learn.pkl'}
            seconds = {name: [] for name in paths}
            first = "load(sys.argv[1]).recommend('u0000005', 10, exclude_seen=False)"
            for _ in range(turns):
                for name, path in paths.items():
                    seconds[name].append(process(f'import sys\n{FIRST[name]}\n{first}', path))
            size = f'{n_users:,} x {n_items:,}, {n_factors} factors'
            medians = {name: np.median(s) for name, s in seconds.items()}
            for name, path in paths.items():
                to_saved = medians[name] / medians['saved recommender']
                rows.append((size, name, f'{folder_size(path):.1f}', f'{medians[name]:.1f}', f'{to_saved:.1f}'))
            notes.append(f'{saving:.1f} s to save {size}')
            if n_users == 138_000:
                df.to_parquet(folder / 'seen.parquet')
                some = command_line(folder, learn.vocab['user'].ids[:10])
                many = command_line(folder, learn.vocab['user'].ids[:20_000])
                commands.append((size, f'{some:.1f}', f'{many:.1f}', f'{19_990 / (many - some):,.0f}'))
                learn.dls.train.bs = 8192
                plain = []
                kept = []
                for _ in range(turns):
                    checkpoints = ResumeCallback(folder / 'run', restart=True)
                    for times, cbs in ((plain, None), (kept, checkpoints)):
                        began = time.process_time()
                        with quiet(learn):
                            learn.fit(1, 1e-3, cbs=cbs)
                        times.append(time.process_time() - began)
                price = np.median(kept) - np.median(plain)
                notes.append(
                    f'{price:.1f} s of CPU for the three checkpoints (start, epoch, end) of a fit of one epoch that '
                    f'takes {np.median(plain):.1f} s, of {folder_size(folder / "run.ckpt"):.0f} MiB each, {size}'
                )
    start = 'CPU s from process start to the first 10 recommendations'
    few = 'CPU s of `fastrec recommend` for 10 users'
    return (
        table(['users x items', 'what', 'MiB on disk', start, 'ratio'], rows),
        table(['users x items', few, '20,000 users', 'users/s between'], commands),
        '; '.join(notes),
    )


def command_line(folder, users):
    """CPU seconds of `fastrec recommend` for `users`, with the recommender and the seen rows that `folder` holds."""
    file = folder / 'users.csv'
    pd.DataFrame(dict(user=users)).to_csv(file, index=False)
    code = 'import sys; from fastrec.cli import main; sys.exit(main(sys.argv[1:]))'
    files = ['-o', folder / 'out.parquet', '--seen', folder / 'seen.parquet']
    return process(code, 'recommend', folder / 'saved', file, *files)


def error(learn, test):
    """RMSE of the rows of `test`."""
    codes = [torch.from_numpy(learn.vocab[side].encode(test[side])) for side in ('user', 'item')]
    target = torch.tensor(test.rating.to_numpy(), dtype=torch.float32)
    return (learn.score(*codes) - target).square().mean().sqrt().item()


def timed(f, *args, **kwargs):
    """CPU seconds of a call."""
    began = time.process_time()
    f(*args, **kwargs)
    return time.process_time() - began


def growing(ratings, seeds=(0, 1, 2)):
    """Table: RMSE of new users' and items' held-out rows.

    20% of users and 10% of items come later; 20% of their rows are test rows.
    """

    def make(df):
        dls = RecDataLoaders.from_df(df, valid_pct=0.02, seed=0)
        y_range = (ratings.rating.min() - 0.5, ratings.rating.max() + 0.5)
        return collab_learner(dls, n_factors=50, y_range=y_range)

    ways = {
        'extend alone': None,
        'extend, fine_tune(3, 5e-3)': dict(epochs=3, base_lr=5e-3),
        'the same without the first phase': dict(epochs=3, base_lr=5e-3, freeze_epochs=0),
    }
    rows = []
    for seed in seeds:
        rng = np.random.default_rng(seed)
        users = ratings.user.unique()
        items = ratings.item.unique()
        late_user = ratings.user.isin(rng.choice(users, len(users) // 5, replace=False))
        late_item = ratings.item.isin(rng.choice(items, len(items) // 10, replace=False))
        late = late_user | late_item
        old = ratings[~late]
        new = ratings[late].sample(frac=1, random_state=seed)
        test = new.iloc[: len(new) // 5]
        more = new.iloc[len(new) // 5 :]
        known = pd.concat([old, more])
        test = test[test.item.isin(known.item) & test.user.isin(known.user)]
        set_seed(seed)
        base = make(old)
        with quiet(base):
            base.fit_one_cycle(10, 3e-3)
        for name, options in ways.items():
            learn = make(old)
            learn.model.load_state_dict(base.model.state_dict())
            learn.extend(more)
            with quiet(learn):
                seconds = 0.0 if options is None else timed(learn.fine_tune, **options)
                rows.append((name, error(learn, test), seconds))
        anew = make(known)
        with quiet(anew):
            seconds = timed(anew.fit_one_cycle, 10, 3e-3)
        rows.append(('trained anew on all rows, 10 epochs', error(anew, test), seconds))
    lines = []
    for name in [*ways, 'trained anew on all rows, 10 epochs']:
        errors = [f'{e:.4f}' for model, e, _ in rows if model == name]
        seconds = np.mean([s for model, _, s in rows if model == name])
        lines.append((name, *errors, f'{seconds:.1f}'))
    return table(['model', *(f'RMSE, seed {s}' for s in seeds), 'CPU s'], lines)


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--ml100k', help='folder with u.data')
    parser.add_argument('--ls', help='folder of ml-latest-small')
    parser.add_argument('--turns', type=int, default=3)
    parser.add_argument('--out', help='Markdown file to write')
    args = parser.parse_args()
    torch.set_num_threads(1)
    data = {
        'ML-100K': ('100k', need(args.ml100k, '--ml100k', 'the folder of ML-100K')),
        'ml-latest-small': ('latest-small', need(args.ls, '--ls', 'the folder of ml-latest-small')),
    }
    grown = '\n\n'.join(f'{label}:\n\n{growing(movielens(*where)[0])}' for label, where in data.items())
    first, cli, notes = leaving(args.turns)
    emit(
        '# Leaving the notebook, and growing\n\n'
        f'{about()}\n\n## To the first recommendations, in a fresh process\n\n'
        f'Generated tables, text ids and titles; sides take turns, medians of {args.turns}.\n\n'
        f'{first}\n\n{notes}.\n\n## The command line\n\n'
        'Parquet out, what was seen given by a parquet file.\n\n'
        f'{cli}\n\n'
        '## New users and items\n\n'
        '20% of the users and 10% of the items come later, with 80% of their rows; RMSE on the other 20%. The old '
        'model is given, its training is not counted.\n\n'
        f'{grown}',
        args.out,
    )
