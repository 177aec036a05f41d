"""What the benchmarks share: where they ran, fastai's side, and the way out."""

import os
import platform
import sys
from contextlib import contextmanager
from datetime import date
from importlib.metadata import version
from pathlib import Path

import fastai.collab as fc
from fastai.data.block import TransformBlock
from fastai.tabular.core import Categorify

import fastrec


def need(path, option, what):
    """The path given with `option`, or exit with what to give."""
    if not path or not Path(path).exists():
        sys.exit(f'{option} {path or "is missing"}: give {what}')
    return Path(path)


def about():
    """A line: date, versions, processor; nothing that names the machine."""
    others = ', '.join(f'{o} {version(o)}' for o in ('fastai', 'torch', 'numpy', 'pandas'))
    return (
        f'{date.today()}; fastrec {fastrec.__version__}, {others}; Python {platform.python_version()}; {processor()}, '
        f'{os.cpu_count()} cores, one thread used, no GPU'
    )


def processor():
    """The processor's name where Linux tells it, else its kind."""
    info = Path('/proc/cpuinfo')
    for line in info.read_text().splitlines() if info.exists() else []:
        if line.startswith('model name'):
            return line.split(':')[1].strip()
    return platform.machine()


def fastai_dls(df, split, bs):
    """`fastai.collab.CollabDataLoaders` as its `from_df` makes them, but with the split given.

    `df` has columns user, item and rating.
    """
    splits = [[int(i) for i in part] for part in split[:2]]
    df = df[['user', 'item', 'rating']]
    to = fc.TabularCollab(
        df, [Categorify], ['user', 'item'], y_names=['rating'], y_block=TransformBlock(), splits=splits
    )
    return to.dataloaders(path='.', bs=bs)


@contextmanager
def quiet(learn):
    """No bar and no table."""
    with learn.no_bar(), learn.no_logging():
        yield learn


def table(header, rows):
    """Markdown."""

    def line(cells):
        return '| ' + ' | '.join(str(o) for o in cells) + ' |'

    return '\n'.join([line(header), '|' + '---|' * len(header), *(line(o) for o in rows)])


def emit(text, out):
    """Print, and write to the file `out` if one is given."""
    print(text)
    if out:
        Path(out).write_text(text + '\n')
