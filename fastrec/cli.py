"""The command line, for those without a notebook: `fastrec train ratings.csv -o model` and `fastrec recommend model users.csv -o out.parquet`.

Exit codes: 0 done, 1 it could not be done (the message says why, and nothing half-written stays), 2 wrong usage, 130 interrupted. Libraries are imported when a command needs them: `recommend` runs without fastai."""

from __future__ import annotations

import argparse
import os
import sys
import time
import warnings
from pathlib import Path

from fastrec import __version__

__all__ = ['main']

# model -> (targets, epochs, learning rate) by default; no epochs: fitted in closed form
MODELS = dict(
    collab=('rating implicit', 10, 3e-3),
    svdpp=('rating implicit', 10, 3e-3),
    mlp=('rating', 5, 5e-3),
    gmf=('implicit', 10, 5e-3),
    neumf=('implicit', 5, 5e-3),
    biases=('rating', None, None),
    popularity=('implicit', None, None),
    itemknn=('implicit', None, None),
    ease=('implicit', None, None),
)
CLASSES = dict(biases='BiasOnly', popularity='Popularity', itemknn='ItemKNN', ease='EASE')
EXPECTED = (
    ValueError,
    KeyError,
    TypeError,
    OSError,
    ImportError,
    MemoryError,
)  # what bad input or a missing library raises


def main(argv=None) -> int:
    """Run a command; returns the exit code."""
    args = _parser().parse_args(argv)
    try:
        return args.run(args) or 0
    except KeyboardInterrupt:
        print('fastrec: interrupted', file=sys.stderr)
        return 130
    except BrokenPipeError:  # who reads our output has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except EXPECTED as e:
        if os.environ.get('FASTREC_TRACEBACK'):
            raise
        print(f'fastrec: {e.args[0] if isinstance(e, KeyError) and e.args else e}', file=sys.stderr)
        return 1


def _parser():
    parser = argparse.ArgumentParser(
        prog='fastrec',
        description='Recommenders from a table of ratings or clicks.',
        epilog='FASTREC_TRACEBACK=1 shows where an error comes from.',
    )
    parser.add_argument('--version', action='version', version=f'fastrec {__version__}')
    commands = parser.add_subparsers(required=True, metavar='command')

    p = commands.add_parser(
        'train',
        help='train and evaluate a recommender, and save it',
        description='Train a recommender on a table of ratings or clicks, evaluate it on held-out rows beside baselines, and save it into a folder, with a card that says what was done.',
    )
    p.set_defaults(run=_train)
    p.add_argument('ratings', help='CSV, TSV or parquet: a row per rating or click')
    p.add_argument('-o', '--out', default='recommender', help='folder to save into (default: recommender)')
    p.add_argument(
        '--target',
        choices=['rating', 'implicit'],
        default='rating',
        help='predict ratings, or rank what users choose (default: rating)',
    )
    p.add_argument('--threshold', type=float, help='implicit: ratings from it on are positives')
    p.add_argument(
        '--model',
        choices=list(MODELS),
        help='default: collab for ratings, svdpp (softmax over the whole catalogue) for implicit',
    )
    p.add_argument('--factors', type=int, help="length of the vectors (default: the model's own)")
    p.add_argument('--epochs', type=int, help='default: by model')
    p.add_argument('--lr', type=float, help='highest learning rate of the one-cycle schedule (default: by model)')
    p.add_argument('--wd', type=float, help="weight decay (default: the model's own)")
    p.add_argument('--items', metavar='FILE', help='metadata of items: a column of ids, and e.g. title, year, genres')
    p.add_argument(
        '--split',
        choices=['random', 'time', 'last'],
        default='random',
        help='held-out rows: random, those after one moment, or the last of each user (default: random)',
    )
    p.add_argument(
        '--valid-pct',
        type=float,
        default=0.1,
        help='share of rows held out, random or by time (default: 0.1); 0 trains on every row, once the settings are chosen',
    )
    p.add_argument(
        '--duplicates',
        choices=['error', 'first', 'last', 'mean'],
        default='error',
        help='ratings: what to do with repeated pairs of user and item (default: error)',
    )
    p.add_argument('--seed', type=int, default=42, help='of the split and of training (default: 42)')
    p.add_argument(
        '--history',
        action='store_true',
        help='save who has what, too (personal data), so that `recommend` can leave it out without --seen',
    )
    p.add_argument(
        '--resume', action='store_true', help='write checkpoints, and go on from the last one if the run was cut off'
    )
    for role in ('user', 'item', 'rating', 'time'):
        p.add_argument(f'--{role}-name', metavar='COLUMN', help=f'column of the {role}s, if it is not found by itself')

    p = commands.add_parser(
        'recommend',
        help='recommendations for users, to parquet or CSV',
        description='Recommend to the users of a file, in chunks: user, item, title, score, rank, cold.',
    )
    p.set_defaults(run=_recommend)
    p.add_argument('folder', help='a saved recommender')
    p.add_argument(
        'users',
        nargs='?',
        help='CSV, TSV or parquet with a column of user ids (- is standard input, as CSV); without it all users of the training table',
    )
    p.add_argument('-o', '--out', required=True, help='.parquet or .csv, or - for CSV on standard output')
    p.add_argument('-k', type=int, default=10, help='items per user (default: 10)')
    p.add_argument('--seen', metavar='FILE', help='table of user and item: what to leave out')
    p.add_argument('--include-seen', action='store_true', help='recommend also what users have')
    p.add_argument('--candidates', metavar='CONDITION', help="only items for which it is true, e.g. 'year > 1990'")
    p.add_argument(
        '--cold',
        choices=['popular', 'mean', 'raise'],
        default='popular',
        help='users without training rows get what is popular, what the average user would get, or are an error (default: popular)',
    )
    p.add_argument(
        '--unknown',
        choices=['raise', 'skip'],
        default='raise',
        help='users that the recommender does not know are an error, or left out (default: raise)',
    )
    p.add_argument('--user-name', metavar='COLUMN', help='column of the users, if it is not found by itself')
    p.add_argument('--chunk', type=int, default=10_000, help='users at a time (default: 10000)')
    return parser


def _say(text):
    print(text, file=sys.stderr, flush=True)


def _check_file(path):
    if not Path(path).is_file():
        raise FileNotFoundError(f'no such file: {path}')
    if (suffix := _suffix(path)) not in ('.csv', '.tsv', '.parquet'):
        raise ValueError(
            f'{path}: a file that ends in {suffix or "nothing"}; .csv, .tsv (also .gz) and .parquet can be read'
        )


def _suffix(path):
    return Path(str(path).lower().removesuffix('.gz')).suffix


def _read(path, **kwargs):
    """A whole table."""
    import pandas as pd

    _check_file(path)
    if _suffix(path) != '.parquet':
        return pd.read_csv(path, sep='\t' if _suffix(path) == '.tsv' else ',', **kwargs)
    try:
        return pd.read_parquet(path)
    except ImportError as e:
        raise ImportError("reading parquet needs pyarrow: pip install 'fastrec-learn[parquet]'") from e


# --- train


def _train(args):
    name = args.model or ('collab' if args.target == 'rating' else 'svdpp')
    targets, epochs, _ = MODELS[name]
    if args.target not in targets:
        raise ValueError(f'--model {name} is for --target {targets}')
    if epochs is None and (no := [o for o in ('epochs', 'lr', 'wd', 'factors', 'resume') if getattr(args, o)]):
        raise ValueError(f'--model {name} is fitted in closed form and takes no --{", --".join(no)}')
    if args.epochs is not None and args.epochs < 1:
        raise ValueError(f'--epochs {args.epochs}: at least one')
    if args.target == 'rating' and args.threshold is not None:
        raise ValueError('--threshold says what is a positive: it goes with --target implicit')
    if Path(args.out).exists() and not Path(args.out).is_dir():
        raise NotADirectoryError(f'{args.out} is a file: -o takes a folder')
    ratings, items = _read(args.ratings), None if args.items is None else _read(args.items)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # those of libraries that are loading
        import fastrec.all as fr
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: _say(f'note: {message}')
        _train_on(fr, args, name, ratings, items)


def _train_on(fr, args, name, ratings, items):
    _, epochs, lr = MODELS[name]
    fr.set_seed(args.seed)
    if not args.valid_pct and args.split != 'random':
        raise ValueError(
            f'--valid-pct 0 holds nothing out, and --split {args.split} says what to hold out: leave one of them out'
        )
    splitter = dict(
        random=None, time=lambda: fr.TimeSplitter(args.valid_pct), last=lambda: fr.LeaveLastSplitter(1, seed=args.seed)
    )[args.split]
    columns = {f'{role}_name': getattr(args, f'{role}_name') for role in ('user', 'item', 'rating', 'time')}
    options = (
        dict(target='implicit', threshold=args.threshold, n_neg=4 if name in ('gmf', 'neumf') else None)
        if args.target == 'implicit'
        else dict(duplicates=args.duplicates)
    )
    out = Path(args.out).resolve()
    dls = fr.RecDataLoaders.from_df(
        ratings,
        valid_pct=args.valid_pct,
        seed=args.seed,
        splitter=splitter and splitter(),
        item_df=items,
        path=out,
        **columns,
        **options,
    )
    print(dls.summary(), flush=True)
    if epochs is None:
        scorer = getattr(fr, CLASSES[name])().fit(dls)
    else:
        given = {k: v for k, v in dict(n_factors=args.factors, wd=args.wd).items() if v is not None}
        if args.target == 'rating':
            low, high = dls.y_bounds
            given['y_range'] = (low - (high - low) / 8, high + (high - low) / 8)
        scorer = getattr(fr, f'{name}_learner')(
            dls, metrics=[fr.rmse, fr.mae] if args.target == 'rating' else [fr.hr(10), fr.ndcg(10)], **given
        )
        with scorer.no_bar():
            scorer.logger = lambda row: print(
                '  '.join(f'{o:10.4f}' if isinstance(o, float) else f'{"" if o is None else o:>10}' for o in row),
                flush=True,
            )
            scorer.logger(['epoch', 'train_loss', 'valid_loss', *(m.name for m in scorer.metrics), 'time'])
            scorer.fit_one_cycle(
                args.epochs or epochs, args.lr or lr, cbs=fr.ResumeCallback(out / 'training') if args.resume else None
            )
    card = fr.model_card(scorer, dls)
    print('\n' + card.to_markdown().split('## Metrics')[1].split('##')[0].strip(), flush=True)
    fr.save_recommender(scorer, out, history=args.history)
    card.save(out)
    (out / 'training.ckpt').unlink(missing_ok=True)
    _say(f'saved in {args.out}: the recommender, card.md and card.json')


# --- recommend


def _recommend(args):
    if args.k < 1 or args.chunk < 1:
        raise ValueError('-k and --chunk have to be at least 1')
    if args.seen and args.include_seen:
        raise ValueError('--seen says what to leave out, --include-seen to leave nothing out: give one of them')
    if args.out != '-' and _suffix(args.out) not in ('.csv', '.parquet'):
        raise ValueError(f'-o {args.out}: a name that ends in .parquet or .csv')
    if args.users not in (None, '-'):
        _check_file(args.users)
    began = time.time()
    import numpy as np

    from .data.files import TableWriter
    from .progress import Progress, show_progress
    from .scorers.artifact import load_recommender
    from .scorers.recommend import recommend, seen_matrix

    scorer = load_recommender(args.folder)
    catalog = scorer.catalog
    if catalog.interactions is None and not args.seen and not args.include_seen:
        raise ValueError(
            'what users have did not travel with this recommender. Give it with --seen ratings.csv, recommend it, too, with --include-seen, or save with history (`fastrec train --history`)'
        )
    seen = None
    if args.seen:
        table = _read(args.seen, dtype=_texts(catalog, args.seen))
        seen = seen_matrix(catalog, table)
    done, n_rows, n_unknown = np.zeros(catalog.n_users, bool), 0, 0
    with (
        TableWriter(args.out) as writer,
        Progress(catalog.n_users if args.users is None else None, 'recommending', 'users') as bar,
        show_progress(False),
    ):
        for ids in _chunks_of_users(args, catalog):
            codes = catalog.vocab['user'].encode(ids, unknown='mark')
            if (codes < 0).any() and args.unknown == 'raise':
                some = ', '.join(map(repr, list(dict.fromkeys(np.asarray(ids)[codes < 0].tolist()))[:5]))
                raise KeyError(
                    f'{int((codes < 0).sum()):,} of {len(ids):,} users are not in the recommender: {some}. Its users look like {", ".join(map(repr, catalog.vocab["user"].ids[:3].tolist()))}. To leave them out: --unknown skip'
                )
            n_unknown += int((codes < 0).sum())
            codes = np.array(list(dict.fromkeys(codes[codes >= 0].tolist())), np.int64)
            codes = codes[~done[codes]]  # each user once
            done[codes] = True
            if not len(codes):
                continue
            df = recommend(
                scorer,
                catalog.vocab['user'].decode(codes),
                args.k,
                not args.include_seen,
                args.candidates,
                args.cold,
                seen,
            )
            if 'cold' not in df:
                df['cold'] = False
            n_rows += len(df)
            writer.write(df)
            bar.update(len(codes))
        if not done.any():
            raise ValueError(
                f'no user of {args.users} is in the recommender' if n_unknown else f'there are no users in {args.users}'
            )
    _say(
        f'{n_rows:,} rows for {int(done.sum()):,} users'
        + (f', {n_unknown:,} unknown ones left out' if n_unknown else '')
        + ('' if args.out == '-' else f': {args.out}')
        + f' ({time.time() - began:.1f} s)'
    )


def _texts(catalog, path):
    """dtype of id columns for `read_csv`: texts stay texts ('007') where the recommender has texts."""
    if _suffix(path) == '.parquet':
        return None
    import pandas as pd

    from .data.columns import column_of

    head = pd.read_csv(path, sep='\t' if _suffix(path) == '.tsv' else ',', nrows=0)
    return {column_of(head, side, catalog.names): str for side in ('user', 'item') if _has_texts(catalog, side)}


def _has_texts(catalog, side):
    from .data.columns import kind_of

    return kind_of(catalog.vocab[side].ids) == 'string'


def _chunks_of_users(args, catalog):
    """Ids of users, `args.chunk` at a time."""
    import pandas as pd

    from .data.columns import column_of

    if args.users is None:
        ids = catalog.vocab['user'].ids[catalog.known('user')]
        yield from (ids[i : i + args.chunk] for i in range(0, len(ids), args.chunk))
        return

    def column(columns):
        if args.user_name is not None:
            if args.user_name not in columns:
                raise ValueError(f'no column {args.user_name!r} in {args.users}: its columns are {list(columns)}')
            return args.user_name
        return columns[0] if len(columns) == 1 else column_of(pd.DataFrame(columns=columns), 'user', catalog.names)

    if args.users != '-' and _suffix(args.users) == '.parquet':
        try:
            from pyarrow.parquet import ParquetFile
        except ImportError as e:
            raise ImportError("reading parquet needs pyarrow: pip install 'fastrec-learn[parquet]'") from e
        file = ParquetFile(args.users)
        name = column(list(file.schema_arrow.names))
        parts = (b.to_pandas() for b in file.iter_batches(args.chunk, columns=[name]))
    else:
        dtype = str if _has_texts(catalog, 'user') else None
        parts = pd.read_csv(
            sys.stdin if args.users == '-' else args.users,
            sep='\t' if args.users.endswith('.tsv') else ',',
            chunksize=args.chunk,
            dtype=dtype,
        )
        name = None
    for part in parts:
        if name is None:
            name = column(list(part.columns))
        if part[name].isna().any():
            raise ValueError(f'{int(part[name].isna().sum()):,} rows of {args.users} have no user (column {name!r})')
        yield part[name]


if __name__ == '__main__':
    sys.exit(main())
