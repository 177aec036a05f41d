"""What leaves the notebook, and what comes in later: a saved recommender beside fastai's export (size, and seconds from the start of a process to the first recommendations), the
command line's pace, the price of a checkpoint, and a model that takes in new users and items beside one that is trained anew."""

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

from fastrec.all import *

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
    return sum(o.stat().st_size for o in (path.rglob('*') if path.is_dir() else [path])) / 2**20


def large(n_users, n_items, n_factors, n_rows=2_000_000):
    """A learner (not trained) of text ids with titles, for sizes and times."""
    rng = np.random.default_rng(0)
    pairs = np.unique(
        np.concatenate(
            [
                rng.integers(n_users, size=n_rows) * n_items + (n_items * rng.random(n_rows) ** 3).astype(np.int64),
                np.arange(n_users) * n_items + rng.integers(n_items, size=n_users),
                np.arange(n_items) + n_items * rng.integers(n_users, size=n_items),
            ]
        )
    )
    users = pairs // n_items
    items = pairs % n_items
    df = pd.DataFrame(
        dict(
            user=('u' + pd.Series(np.arange(n_users)).astype(str).str.zfill(7)).to_numpy()[users],
            item=('i' + pd.Series(np.arange(n_items)).astype(str).str.zfill(8)).to_numpy()[items],
            rating=rng.integers(1, 6, len(pairs)).astype(np.float32),
        )
    )
    movies = pd.DataFrame(
        dict(
            item='i' + pd.Series(np.arange(n_items)).astype(str).str.zfill(8),
            title='The title of ' + pd.Series(np.arange(n_items)).astype(str),
            year=1950 + np.arange(n_items) % 70,
        )
    )
    return collab_learner(
        RecDataLoaders.from_df(df, item_df=movies, valid_pct=0.01, seed=0), n_factors=n_factors, y_range=(0.5, 5.5)
    ), df


def leaving(turns):
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
            for _ in range(turns):
                for name, path in paths.items():
                    seconds[name].append(
                        process(
                            f"import sys\n{FIRST[name]}\nload(sys.argv[1]).recommend('u0000005', 10, exclude_seen=False)",
                            path,
                        )
                    )
            size = f'{n_users:,} x {n_items:,}, {n_factors} factors'
            for name, path in paths.items():
                rows.append(
                    (
                        size,
                        name,
                        f'{folder_size(path):.1f}',
                        f'{np.median(seconds[name]):.1f}',
                        f'{np.median(seconds[name]) / np.median(seconds["saved recommender"]):.1f}',
                    )
                )
            notes.append(f'{saving:.1f} s to save {size}')
            if n_users == 138_000:
                users = folder / 'users.csv'
                pd.DataFrame(dict(user=learn.vocab['user'].ids[:20_000])).to_csv(users, index=False)
                few = folder / 'few.csv'
                pd.DataFrame(dict(user=learn.vocab['user'].ids[:10])).to_csv(few, index=False)
                df.to_parquet(folder / 'seen.parquet')
                cli = 'import sys; from fastrec.cli import main; sys.exit(main(sys.argv[1:]))'

                def run(file):
                    return process(
                        cli,
                        'recommend',
                        folder / 'saved',
                        file,
                        '-o',
                        folder / 'out.parquet',
                        '--seen',
                        folder / 'seen.parquet',
                    )

                some = run(few)
                many = run(users)
                commands.append((size, f'{some:.1f}', f'{many:.1f}', f'{19_990 / (many - some):,.0f}'))
                learn.dls.train.bs = 8192
                plain = []
                kept = []
                for _ in range(turns):
                    for times, cbs in ((plain, None), (kept, ResumeCallback(folder / 'run', restart=True))):
                        began = time.process_time()
                        with quiet(learn):
                            learn.fit(1, 1e-3, cbs=cbs)
                        times.append(time.process_time() - began)
                notes.append(
                    f'{np.median(kept) - np.median(plain):.1f} s of CPU for the three checkpoints (start, epoch, end) of a fit of one epoch that takes {np.median(plain):.1f} s, of {(folder / "run.ckpt").stat().st_size / 2**20:.0f} MiB each, {size}'
                )
    return (
        table(
            [
                'users x items',
                'what',
                'MiB on disk',
                'CPU s from process start to the first 10 recommendations',
                'ratio',
            ],
            rows,
        ),
        table(
            ['users x items', 'CPU s of `fastrec recommend` for 10 users', '20,000 users', 'users/s between'], commands
        ),
        '; '.join(notes),
    )


def error(learn, test):
    codes = [torch.from_numpy(learn.vocab[side].encode(test[side])) for side in ('user', 'item')]
    return (
        (learn.score(*codes) - torch.tensor(test.rating.to_numpy(), dtype=torch.float32)).square().mean().sqrt().item()
    )


def growing(ratings, seeds=(0, 1, 2)):
    """RMSE of new users' and items' held-out rows: 20% of users and 10% of items come later; 20% of their rows are test rows."""
    rows = []
    for seed in seeds:
        rng = np.random.default_rng(seed)
        users = ratings.user.unique()
        items = ratings.item.unique()
        late = ratings.user.isin(rng.choice(users, len(users) // 5, replace=False)) | ratings.item.isin(
            rng.choice(items, len(items) // 10, replace=False)
        )
        old = ratings[~late]
        new = ratings[late].sample(frac=1, random_state=seed)
        test = new.iloc[: len(new) // 5]
        more = new.iloc[len(new) // 5 :]
        test = test[test.item.isin(pd.concat([old, more]).item) & test.user.isin(pd.concat([old, more]).user)]

        def make(df):
            return collab_learner(
                RecDataLoaders.from_df(df, valid_pct=0.02, seed=0),
                n_factors=50,
                y_range=(ratings.rating.min() - 0.5, ratings.rating.max() + 0.5),
            )

        def timed(f, *args, **kwargs):
            began = time.process_time()
            f(*args, **kwargs)
            return time.process_time() - began

        set_seed(seed)
        base = make(old)
        with quiet(base):
            base.fit_one_cycle(10, 3e-3)
        for name, options in {
            'extend alone': None,
            'extend, fine_tune(3, 5e-3)': dict(epochs=3, base_lr=5e-3),
            'the same without the first phase': dict(epochs=3, base_lr=5e-3, freeze_epochs=0),
        }.items():
            learn = make(old)
            learn.model.load_state_dict(base.model.state_dict())
            learn.extend(more)
            with quiet(learn):
                rows.append((name, seed, error_after(learn, test, options, timed)))
        anew = make(pd.concat([old, more]))
        with quiet(anew):
            seconds = timed(anew.fit_one_cycle, 10, 3e-3)
        rows.append(('trained anew on all rows, 10 epochs', seed, (error(anew, test), seconds)))
    names = dict.fromkeys(name for name, *_ in rows)
    return table(
        ['model', *(f'RMSE, seed {s}' for s in seeds), 'CPU s'],
        [
            (n, *(f'{r[0]:.4f}' for m, _, r in rows if m == n), f'{np.mean([r[1] for m, _, r in rows if m == n]):.1f}')
            for n in names
        ],
    )


def error_after(learn, test, options, timed):
    seconds = 0.0 if options is None else timed(learn.fine_tune, **options)
    return error(learn, test), seconds


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
        f'# Leaving the notebook, and growing\n\n{about()}\n\n## To the first recommendations, in a fresh process\n\nGenerated tables, text ids and titles; sides take turns, medians of {args.turns}.\n\n{first}\n\n{notes}.\n\n## The command line\n\nParquet out, what was seen given by a parquet file.\n\n{cli}\n\n'
        f'## New users and items\n\n20% of the users and 10% of the items come later, with 80% of their rows; RMSE on the other 20%. The old model is given, its training is not counted.\n\n{grown}',
        args.out,
    )
