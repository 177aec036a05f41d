"""The command line, for those without a notebook.

`fastrec train ratings.csv -o model` and `fastrec recommend model users.csv -o out.parquet`.

Exit codes: 0 done, 1 it could not be done (the message says why, and nothing half-written stays), 2 wrong usage,
130 interrupted. Libraries are imported when a command needs them: `recommend` runs without fastai."""

from __future__ import annotations

import argparse
import codecs
import math
import os
import shutil
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from fastrec import __version__

from .flags import in_flags

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from .data.catalog import Catalog

__all__ = ['main']


class Model(NamedTuple):
    """What `train` can make of a table."""

    targets: tuple[str, ...]  # that it goes with
    is_trained: bool  # by epochs; the others are fitted in closed form


MODELS = dict(
    collab=Model(('rating', 'implicit'), is_trained=True),
    svdpp=Model(('rating', 'implicit'), is_trained=True),
    mlp=Model(('rating',), is_trained=True),
    gmf=Model(('implicit',), is_trained=True),
    neumf=Model(('implicit',), is_trained=True),
    biases=Model(('rating',), is_trained=False),
    popularity=Model(('implicit',), is_trained=False),
    itemknn=Model(('implicit',), is_trained=False),
    ease=Model(('implicit',), is_trained=False),
)
TEXTS = ('.csv', '.tsv', '.txt', '.dat', '.data')  # what files of text end in
SAMPLED = ('gmf', 'neumf')  # learn from negatives that are drawn; the others from the whole catalogue
# what bad input or a missing library raises
EXPECTED = (ValueError, KeyError, TypeError, OSError, ImportError, MemoryError)


def main(
    argv: Sequence[str] | None = None,  # arguments; None: those of the process
) -> int:
    """Run a command; returns the exit code."""
    args = _parser().parse_args(argv)
    try:
        args.run(args)
    except KeyboardInterrupt:
        print('fastrec: interrupted', file=sys.stderr)
        return 130
    except BrokenPipeError:  # who reads our output has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except EXPECTED as e:
        if os.environ.get('FASTREC_TRACEBACK'):
            raise
        message = e.args[0] if isinstance(e, KeyError) and e.args else e  # the text of a KeyError has quotes around it
        print(f'fastrec: {in_flags(str(message))}', file=sys.stderr)
        return 1
    return 0


# --- usage


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='fastrec',
        description='Recommenders from a table of ratings or clicks.',
        epilog='FASTREC_TRACEBACK=1 shows where an error comes from.',
    )
    parser.add_argument('--version', action='version', version=f'fastrec {__version__}')
    commands = parser.add_subparsers(required=True, metavar='command')
    _add_train(commands)
    _add_recommend(commands)
    return parser


def _add_train(commands: Any) -> None:
    """The command `train` and its arguments."""
    p = commands.add_parser(
        'train',
        help='train and evaluate a recommender, and save it',
        description='Train a recommender on a table of ratings or clicks, evaluate it on held-out rows beside '
        'baselines, and save it into a folder, with a card that says what was done.',
    )
    p.set_defaults(run=_train)
    p.add_argument('ratings', help='CSV (also .tsv, .txt, .dat, .data) or parquet: a row per rating or click')
    _add_how_to_read(p)
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
    p.add_argument('--epochs', type=int, help='default: by model and what it learns from')
    p.add_argument('--lr', type=float, help='highest learning rate of the one-cycle schedule (default: by model, too)')
    p.add_argument('--wd', type=float, help="weight decay (default: the model's own)")
    p.add_argument('--items', metavar='FILE', help='metadata of items: a column of ids, and e.g. title, year, genres')
    p.add_argument(
        '--split',
        choices=['random', 'time', 'user-time', 'last'],
        default='random',
        help="held-out rows: random, those after one moment, the last share of each user's, or the last of each user "
        '(default: random)',
    )
    p.add_argument(
        '--split-date', metavar='DATE', help='hold out the rows from this date on, e.g. 1998-03-01 (UTC), for all users'
    )
    p.add_argument(
        '--valid-pct',
        type=float,
        default=0.1,
        help='share of rows held out, random, by time or user-time (default: 0.1); '
        '0 trains on every row, once the settings are chosen',
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


def _add_how_to_read(p: Any) -> None:
    """Arguments that say how text files are written."""
    p.add_argument('--sep', help='what stands between columns of text files (default: what their first lines tell)')
    p.add_argument(
        '--columns',
        metavar='A,B,...',
        help='names of the columns of the ratings, in their order: of a text file without a header',
    )
    p.add_argument(
        '--missing-rating',
        type=float,
        action='append',
        metavar='VALUE',
        help='in the place of a rating it says that there is none (-1, 0, 99): such rows are dropped; '
        'implicit: seen, but not positives',
    )
    p.add_argument('--decimal', default='.', help='decimal sign of text files (default: .)')
    p.add_argument('--encoding', help='of text files (default: UTF-8)')


def _add_recommend(commands: Any) -> None:
    """The command `recommend` and its arguments."""
    p = commands.add_parser(
        'recommend',
        help='recommendations for users, to parquet or CSV',
        description='Recommend to the users of a file, in chunks: user, item (called as in the ratings), title, score, '
        'rank, cold.',
    )
    p.set_defaults(run=_recommend)
    p.add_argument('folder', help='a saved recommender')
    p.add_argument(
        'users',
        nargs='?',
        help='CSV, TSV or parquet with a column of user ids (- is standard input, as CSV); '
        'without it all users of the training table',
    )
    p.add_argument('-o', '--out', required=True, help='.parquet or .csv, or - for CSV on standard output')
    p.add_argument('-k', type=int, default=10, help='items per user (default: 10)')
    p.add_argument('--seen', metavar='FILE', help='table of user and item: what to leave out')
    p.add_argument('--include-seen', action='store_true', help='recommend also what users have')
    p.add_argument(
        '--candidates',
        metavar='CONDITION',
        help="only items for which it is true, of their columns: 'year > 1990', \"genres.str.contains('Comedy')\"",
    )
    p.add_argument('--show', metavar='A,B,...', help='columns of the metadata of items to write beside them')
    p.add_argument(
        '--cold',
        choices=['popular', 'mean', 'raise'],
        default='popular',
        help='users without training rows get what is popular, what the average user would get, '
        'or are an error (default: popular)',
    )
    p.add_argument(
        '--unknown',
        choices=['raise', 'skip'],
        default='raise',
        help='users that the recommender does not know are an error, or left out (default: raise)',
    )
    p.add_argument('--user-name', metavar='COLUMN', help='column of the users, if it is not found by itself')
    p.add_argument('--chunk', type=int, default=10_000, help='users at a time (default: 10000)')


# --- files


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _suffix(path: str) -> str:
    """What a file is by its name: the suffix in lower case, without .gz."""
    return Path(str(path).lower().removesuffix('.gz')).suffix


def _check_file(path: str) -> None:
    """`OSError`, `ValueError` or `ImportError` for what cannot be read."""
    if not Path(path).is_file():
        raise FileNotFoundError(f'no such file: {path}')
    if not Path(path).stat().st_size:
        raise ValueError(f'{path} is empty')
    suffix = _suffix(path)
    if suffix not in (*TEXTS, '.parquet'):
        raise ValueError(
            f'{path}: a file that ends in {suffix or "nothing"}; {", ".join(TEXTS)} (also .gz) and .parquet can be read'
        )
    if suffix == '.parquet' and find_spec('pyarrow') is None:
        raise _missing_pyarrow()


def _missing_pyarrow() -> ImportError:
    return ImportError("reading parquet needs pyarrow: pip install 'fastrec-learn[parquet]'")


def _read(path: str, **how: Any) -> pd.DataFrame:
    """A whole table; `how` text files are written: arguments of `FileTable`."""
    import pandas as pd

    from .data.files import FileTable

    _check_file(path)
    if _suffix(path) != '.parquet':
        return FileTable(path, 'csv', **_separated(path, how)).whole()
    try:
        return pd.read_parquet(path)
    except ImportError as e:
        raise _missing_pyarrow() from e


def _separated(path: str, how: dict[str, Any]) -> dict[str, Any]:
    """`how` a text file is written, with the separator that its name tells."""
    is_tsv = _suffix(path) == '.tsv' and how.get('sep') is None
    return {**how, 'sep': '\t'} if is_tsv else how


# --- train


def _train(args: argparse.Namespace) -> None:
    """`fastrec train`."""
    name = args.model or ('collab' if args.target == 'rating' else 'svdpp')
    _check_train(args, name)
    how = dict(sep=args.sep, decimal=args.decimal, encoding=args.encoding)
    names = None if args.columns is None else [name.strip() for name in args.columns.split(',')]
    ratings = _read(args.ratings, names=names, **how)
    items = None if args.items is None else _read(args.items)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # those of libraries that are loading
        import fastrec.all as fr
    with warnings.catch_warnings():
        warnings.showwarning = _show_note  # `catch_warnings` undoes it
        _train_on(fr, args, name, ratings, items)


def _check_train(args: argparse.Namespace, name: str) -> None:
    """`ValueError` for arguments that do not go together; nothing has been read yet."""
    model = MODELS[name]
    if args.target not in model.targets:
        raise ValueError(f'--model {name} is for --target {" ".join(model.targets)}')
    if not model.is_trained:
        given = [o for o in ('epochs', 'lr', 'wd', 'factors', 'resume') if vars(args)[o]]
        if given:
            raise ValueError(f'--model {name} is fitted in closed form and takes no --{", --".join(given)}')
    if args.epochs is not None and args.epochs < 1:
        raise ValueError(f'--epochs {args.epochs}: at least one')
    _check_numbers(args)
    if args.target == 'rating' and args.threshold is not None:
        raise ValueError('--threshold says what is a positive: it goes with --target implicit')
    if Path(args.out).exists() and not Path(args.out).is_dir():
        raise NotADirectoryError(f'{args.out} is a file: -o takes a folder')
    for path in (args.ratings, args.items):
        if path is not None:
            _check_file(path)
    _check_can_save(Path(args.out).resolve())


def _check_numbers(args: argparse.Namespace) -> None:
    """`ValueError` for numbers that mean nothing, and for an encoding and a decimal sign that there are not."""
    if not 0 <= args.valid_pct < 1:
        raise ValueError(f'--valid-pct {args.valid_pct:g}: a share from 0, all rows are for training, to below 1')
    if args.seed < 0:
        raise ValueError(f'--seed {args.seed}: a whole number from 0 on')
    if args.factors is not None and args.factors < 1:
        raise ValueError(f'--factors {args.factors}: the length of the vectors, from 1 on')
    if args.lr is not None and not 0 < args.lr < math.inf:
        raise ValueError(f'--lr {args.lr:g}: a learning rate above 0')
    if args.wd is not None and not 0 <= args.wd < math.inf:
        raise ValueError(f'--wd {args.wd:g}: a weight decay from 0 on')
    if len(args.decimal) != 1 or args.decimal.isalnum():
        raise ValueError(f'--decimal {args.decimal}: one sign, such as , or .')
    try:
        codecs.lookup(args.encoding or 'utf-8')
    except LookupError:
        raise ValueError(f'--encoding {args.encoding}: not known; utf-8, latin-1 and cp1252 are common ones') from None


def _check_can_save(out: Path) -> None:
    """What saving will need, before there is anything to save: `ImportError` or `OSError` that names it."""
    from .data.files import check_writable
    from .scorers.artifact import safetensors_module

    safetensors_module()
    check_writable(_nearest_folder(out))


def _nearest_folder(path: Path) -> Path:
    """The path itself, or the nearest folder above it that is there."""
    return next(folder for folder in (path, *path.parents) if folder.exists())


def _check_disk(args: argparse.Namespace, scorer: Any, name: str, dls: Any, out: Path) -> None:
    """`OSError` if what will be saved has no room on the disk."""
    copies = 4 if args.resume else 1  # a checkpoint holds the weights and what Adam knows of them
    needed = copies * _bytes_to_save(scorer, name, dls)
    free = shutil.disk_usage(_nearest_folder(out)).free
    if needed > free:
        raise OSError(
            f'{out} takes some {needed / 2**20:,.0f} MiB, and there are {free / 2**20:,.0f} MiB left on its disk: make '
            'room, or save elsewhere with -o'
        )


def _bytes_to_save(scorer: Any, name: str, dls: Any) -> int:
    """About how much a recommender will take: its weights, or, for one to be fitted, a row per user and item."""
    if scorer.model is not None:
        return sum(tensor.nbytes for tensor in scorer.model.state_dict().values())
    n_values = dls.n_items**2 if name == 'ease' else dls.n_users + dls.n_items
    return 4 * n_values


def _show_note(message: Any, *_: Any, **__: Any) -> None:
    """A warning as a line without where it comes from."""
    _say(f'note: {in_flags(str(message))}')


def _train_on(
    fr: Any,  # fastrec.all
    args: argparse.Namespace,
    name: str,  # of the model
    ratings: pd.DataFrame,
    items: pd.DataFrame | None,
) -> None:
    """Train, evaluate and save."""
    fr.set_seed(args.seed)
    out = Path(args.out).resolve()
    dls = _loaders(fr, args, name, ratings, items, out)
    print(dls.summary(), flush=True)
    is_trained = MODELS[name].is_trained
    scorer = _learner(fr, args, name, dls) if is_trained else _closed_form(fr, name)
    _check_disk(args, scorer, name, dls, out)
    if is_trained:
        _fit(fr, args, scorer, out)
    else:
        scorer.fit(dls)
    card = fr.model_card(scorer, dls)
    metrics = card.to_markdown().split('## Metrics')[1].split('##')[0]
    print('\n' + metrics.strip(), flush=True)
    fr.save_recommender(scorer, out, history=args.history)
    card.save(out)
    (out / 'training.ckpt').unlink(missing_ok=True)
    _say(f'saved in {args.out}: the recommender, card.md and card.json')


def _loaders(
    fr: Any, args: argparse.Namespace, name: str, ratings: pd.DataFrame, items: pd.DataFrame | None, out: Path
) -> Any:
    """`RecDataLoaders` as the arguments have it."""
    if not args.valid_pct and args.split != 'random':
        raise ValueError(
            f'--valid-pct 0 holds nothing out, and --split {args.split} says what to hold out: leave one of them out'
        )
    if args.split_date is not None and args.split not in ('random', 'time'):
        raise ValueError(f'--split-date says what to hold out, and --split {args.split}, too: leave one of them out')
    splitter = None  # random
    if args.split_date is not None:
        splitter = fr.TimeSplitter(args.split_date)
    elif args.split == 'time':
        splitter = fr.TimeSplitter(args.valid_pct)
    elif args.split == 'user-time':
        splitter = fr.TimeSplitter(args.valid_pct, by='user', seed=args.seed)
    elif args.split == 'last':
        splitter = fr.LeaveLastSplitter(1, seed=args.seed)
    options: dict[str, Any]
    if args.target == 'implicit':
        options = dict(target='implicit', threshold=args.threshold, n_neg=4 if name in SAMPLED else None)
    else:
        options = dict(duplicates=args.duplicates)
    return fr.RecDataLoaders.from_df(
        ratings,
        valid_pct=args.valid_pct,
        seed=args.seed,
        splitter=splitter,
        item_df=items,
        path=out,
        user_name=args.user_name,
        item_name=args.item_name,
        rating_name=args.rating_name,
        time_name=args.time_name,
        missing_rating=args.missing_rating,
        **options,
    )


def _closed_form(fr: Any, name: str) -> Any:
    """The scorer of that name, to be fitted."""
    scorers = dict(biases=fr.BiasOnly, popularity=fr.Popularity, itemknn=fr.ItemKNN, ease=fr.EASE)
    return scorers[name]()


def _learner(fr: Any, args: argparse.Namespace, name: str, dls: Any) -> Any:
    """The learner of that name, with its metrics."""
    builders = dict(
        collab=fr.collab_learner,
        svdpp=fr.svdpp_learner,
        mlp=fr.mlp_learner,
        gmf=fr.gmf_learner,
        neumf=fr.neumf_learner,
    )
    options: dict[str, Any] = {}
    if args.factors is not None:
        options['n_factors'] = args.factors
    if args.wd is not None:
        options['wd'] = args.wd
    if args.target == 'rating':
        metrics = [fr.rmse, fr.mae]
    else:
        metrics = [fr.hr(10), fr.ndcg(10)]
    return builders[name](dls, metrics=metrics, **options)


def _fit(fr: Any, args: argparse.Namespace, learn: Any, out: Path) -> None:
    """Train by the one-cycle schedule, a printed line per epoch; what is not given has the builder's recipe."""
    n_epoch = args.epochs or fr.recipe_of(learn.builder, learn.dls).n_epoch
    checkpoints = fr.ResumeCallback(out / 'training') if args.resume else None
    with learn.no_bar():
        learn.logger = _print_row
        learn.logger(['epoch', 'train_loss', 'valid_loss', *(m.name for m in learn.metrics), 'time'])
        learn.fit_one_cycle(n_epoch, args.lr, cbs=checkpoints)


def _print_row(values: Sequence[Any]) -> None:
    """A row of what fastai logs, in columns."""
    cells = []
    for value in values:
        if isinstance(value, float):
            cells.append(f'{value:10.4f}')
        else:
            cells.append(f'{"" if value is None else value:>10}')
    print('  '.join(cells), flush=True)


# --- recommend


def _recommend(args: argparse.Namespace) -> None:
    """`fastrec recommend`."""
    _check_recommend(args)
    began = time.time()
    from .scorers.artifact import load_recommender
    from .scorers.recommend import seen_matrix

    scorer = load_recommender(args.folder)
    catalog = scorer.catalog
    if catalog.interactions is None and not args.seen and not args.include_seen:
        raise ValueError(
            'what users have did not travel with this recommender. Give it with --seen ratings.csv, recommend it, too, '
            'with --include-seen, or save with history (`fastrec train --history`)'
        )
    seen = None
    if args.seen:
        seen = seen_matrix(catalog, _read(args.seen, dtype=_text_columns(catalog, args.seen)))
    n_rows, n_users, n_unknown = _write_recommendations(args, scorer, seen)
    unknown = f', {n_unknown:,} unknown ones left out' if n_unknown else ''
    where = '' if args.out == '-' else f': {args.out}'
    _say(f'{n_rows:,} rows for {n_users:,} users{unknown}{where} ({time.time() - began:.1f} s)')


def _check_recommend(args: argparse.Namespace) -> None:
    """`ValueError` for arguments that do not go together; nothing has been read yet."""
    if args.k < 1 or args.chunk < 1:
        raise ValueError('-k and --chunk have to be at least 1')
    if args.seen and args.include_seen:
        raise ValueError('--seen says what to leave out, --include-seen to leave nothing out: give one of them')
    if args.out != '-' and _suffix(args.out) not in ('.csv', '.parquet'):
        raise ValueError(f'-o {args.out}: a name that ends in .parquet or .csv')
    for path in (args.users, args.seen):
        if path not in (None, '-'):
            _check_file(path)
    from .data.files import TableWriter

    TableWriter(args.out)  # says what is in the way of writing


def _write_recommendations(args: argparse.Namespace, scorer: Any, seen: Any) -> tuple[int, int, int]:
    """Recommend to all users, a chunk at a time; returns the numbers of rows, of users and of unknown users."""
    import numpy as np
    import pandas as pd

    from .data.files import TableWriter
    from .progress import Progress, show_progress
    from .scorers.recommend import recommend

    catalog = scorer.catalog
    is_done = np.zeros(catalog.n_users, dtype=bool)
    n_rows = 0
    n_unknown = 0
    n_total = catalog.n_users if args.users is None else None  # of a file it is not known
    with (
        TableWriter(args.out) as writer,
        Progress(n_total, 'recommending', 'users') as bar,
        show_progress(False),
    ):
        for ids in _chunks_of_users(args, catalog):
            codes = catalog.vocab['user'].encode(ids, unknown='mark')
            unknown = codes < 0
            if unknown.any() and args.unknown == 'raise':
                raise KeyError(_unknown_users(catalog, np.asarray(ids), unknown))
            n_unknown += int(unknown.sum())
            codes = np.array(list(dict.fromkeys(codes[~unknown].tolist())), np.int64)
            codes = codes[~is_done[codes]]  # each user once, in the file as in the chunk
            is_done[codes] = True
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
                columns=None if args.show is None else [name.strip() for name in args.show.split(',')],
            )
            assert isinstance(df, pd.DataFrame)  # not a path: it is written here
            if 'cold' not in df:
                df['cold'] = False
            n_rows += len(df)
            writer.write(df)
            bar.update(len(codes))
        n_users = int(is_done.sum())
        if not n_users and n_unknown:
            raise ValueError(f'no user of {args.users} is in the recommender')
        if not n_users:
            raise ValueError(f'there are no users in {args.users}')
    return n_rows, n_users, n_unknown


def _unknown_users(catalog: Catalog, ids: np.ndarray, unknown: np.ndarray) -> str:
    """What to say of users that the recommender does not know: the mask `unknown` of `ids`."""
    distinct = list(dict.fromkeys(ids[unknown].tolist()))
    named = ', '.join(map(repr, distinct[:5]))
    known = ', '.join(map(repr, catalog.vocab['user'].ids[:3].tolist()))
    return (
        f'{int(unknown.sum()):,} of {len(ids):,} users are not in the recommender: {named}. '
        f'Its users look like {known}. To leave them out: --unknown skip'
    )


# --- users of a file


def _has_texts(catalog: Catalog, side: str) -> bool:
    """Are the ids of a side texts?"""
    from .data.columns import kind_of

    return kind_of(catalog.vocab[side].ids) == 'string'


def _text_columns(catalog: Catalog, path: str) -> dict | None:
    """Types of id columns: texts stay texts ('007') where the recommender has texts."""
    _check_file(path)
    if _suffix(path) == '.parquet':
        return None
    import pandas as pd

    from .data.columns import column_of
    from .data.files import FileTable

    head = pd.DataFrame(columns=FileTable(path, 'csv', **_separated(path, {})).names())
    sides = [side for side in ('user', 'item') if _has_texts(catalog, side)]
    return {column_of(head, side, catalog.names): str for side in sides}


def _chunks_of_users(args: argparse.Namespace, catalog: Catalog) -> Iterator[Any]:
    """Ids of users, `args.chunk` at a time: of a file, or all that have training rows."""
    if args.users is None:
        ids = catalog.vocab['user'].ids[catalog.known('user')]
        for start in range(0, len(ids), args.chunk):
            yield ids[start : start + args.chunk]
        return
    tables = _parquet_chunks if _suffix(args.users) == '.parquet' else _text_chunks
    for name, table in tables(args, catalog):
        n_missing = int(table[name].isna().sum())
        if n_missing:
            raise ValueError(f'{n_missing:,} rows of {args.users} have no user (column {name!r})')
        yield table[name]


def _parquet_chunks(args: argparse.Namespace, catalog: Catalog) -> Iterator[tuple[str, pd.DataFrame]]:
    """The column of users of a parquet file, and tables that have it."""
    try:
        from pyarrow.parquet import ParquetFile
    except ImportError as e:
        raise _missing_pyarrow() from e
    file = ParquetFile(args.users)
    name = _user_column(args, catalog, list(file.schema_arrow.names))
    for batch in file.iter_batches(args.chunk, columns=[name]):
        yield name, batch.to_pandas()


def _text_chunks(args: argparse.Namespace, catalog: Catalog) -> Iterator[tuple[str, pd.DataFrame]]:
    """The column of users of a CSV or TSV file, or of standard input, and tables that have it."""
    import pandas as pd

    from .data.files import FileTable

    source = sys.stdin if args.users == '-' else args.users
    sep = ',' if args.users == '-' else FileTable(args.users, 'csv', **_separated(args.users, {})).sep
    dtype = str if _has_texts(catalog, 'user') else None
    name = None
    for table in pd.read_csv(source, sep=sep, chunksize=args.chunk, dtype=dtype):
        if name is None:
            name = _user_column(args, catalog, list(table.columns))
        yield name, table


def _user_column(args: argparse.Namespace, catalog: Catalog, columns: list[str]) -> str:
    """Which of the columns holds the users: the one named, the only one, or by its name."""
    import pandas as pd

    from .data.columns import column_of, is_value

    if args.user_name is not None:
        if args.user_name not in columns:
            raise ValueError(f'no column {args.user_name!r} in {args.users}: its columns are {columns}')
        return args.user_name
    if len(columns) == 1:
        if is_value(columns[0]):
            raise ValueError(
                f'{args.users}: its column is called {columns[0]!r}. Has it no header? Its first user would be lost: '
                'put a line `user` before it'
            )
        return columns[0]
    name = column_of(pd.DataFrame(columns=columns), 'user', catalog.names)
    if name != catalog.names['user']:
        _say(f'note: the users of {args.users} are in its column {name!r} (--user-name takes another)')
    return name


if __name__ == '__main__':
    sys.exit(main())
