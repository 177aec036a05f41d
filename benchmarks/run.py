"""Rerun benchmarks and put what they printed together as RESULTS.md.

    python benchmarks/run.py --data FOLDER            # everything: hours on one core
    python benchmarks/run.py --only speed growth      # some of them
    python benchmarks/run.py --quick --data FOLDER    # does each one run? Minutes; figures are not kept
    python benchmarks/run.py --assemble               # run nothing, only put RESULTS.md together

Each script here that takes `--out` is a benchmark. It is run alone, in a process of its own, with those of the options
below that it takes, and writes results/<name>.md (pictures beside it, results/<name>*.png); notes/<name>.md, written by
hand, follows it. A benchmark that fails keeps its old result and is named at the end.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
FOLDERS = {'--ml100k': 'ml-100k', '--ls': 'ml-latest-small', '--ml1m': 'ml-1m-ncf'}  # in --data
QUICK = {  # options that leave of a benchmark what shows that it runs
    'accuracy': '--splits u1',
    'baseline_defaults': '--sets ML-100K --only EASE ratings',
    'ann': '--items 20000 --hnsw 5000',
    'because': '--only collab EASE --users 20 --epochs 1',
    'choosing': '--only small-5000-rows --budget 1min',
    'cold_users': '--seeds 1',
    'defaults': '--only mlp2',
    'fbgemm': '--sizes 10000 --batch-sizes 256 --repeats 3',
    'fold_in': '--seeds 0',
    'gated': '--seeds 1 --rank-seeds 1',
    'growth': '--sizes 1000 10000 --batch-sizes 256 --rows 10000 --seeds 0 --repeats 2',
    'implicit_speed': '--repeats 1',
    'item_cold_start': '--seeds 1',
    'large': '--rows 300000 --users 1024 --repeats 1',
    'learning_rate': '--quick',
    'leaving': '--turns 1',
    'ncf': '--only Popularity EASE gmf',
    'novelty': '--seeds 1',
    'ratings': '--splits u1 --sides fastrec myfm',
    'refine': '--seeds 1',
    'sparse_features': '--steps 1 --turns 1',
    'speed': '--rows 10000 --repeats 1 --batch-sizes 1024',
    'time_to_accuracy': '--seeds 0 --only BiasOnly EASE Cornac',
    'two_tower': '--seeds 1 --only EASE tower',
}
PEERS = {'--peers-python': '.venv-peers', '--recbole-python': '.venv-recbole'}  # where `make peers` puts them


def benchmarks():
    """-> name -> the options that its script takes, in the order of README.md's table."""
    scripts = {}
    for path in sorted(HERE.glob('*.py')):
        options = set(re.findall(r"add_argument\(\s*'(--[\w-]+)'", path.read_text()))
        if path.name != Path(__file__).name and '--out' in options:
            scripts[path.stem] = options
    readme = (HERE / 'README.md').read_text()

    def place(name):
        at = readme.find(f'`{name}.py`')
        return at if at >= 0 else len(readme)

    return {name: scripts[name] for name in sorted(scripts, key=place)}


def command(name, options, data, out, quick=False):
    """The command line, or None and what is missing."""
    given = {o: HERE.parent / venv / 'bin/python' for o, venv in PEERS.items()}
    if data:
        given.update({'--data': Path(data), **{o: Path(data) / folder for o, folder in FOLDERS.items()}})
    missing = [o for o in FOLDERS if o in options and not (o in given and given[o].exists())]
    if missing:
        return None, f'{", ".join(missing)}: give --data, a folder with {", ".join(FOLDERS[o] for o in missing)}'
    res = [sys.executable, '-W', 'ignore', HERE / f'{name}.py', '--out', out / f'{name}.md']
    for option, path in given.items():
        if option in options and path.exists():
            res += [option, path]
    if quick:
        res += QUICK.get(name, '').split()
    return res, None


def assemble():
    """RESULTS.md from results/ and notes/: headings one level down, links to pictures from here."""
    parts = []
    titles = []
    for name in benchmarks():
        path = HERE / 'results' / f'{name}.md'
        notes = HERE / 'notes' / f'{name}.md'
        if not path.exists():
            continue
        text = path.read_text().strip()
        if notes.exists():
            text += '\n\n' + notes.read_text().strip()
        text = re.sub(r'(?m)^(#+ )', r'#\1', text)
        text = re.sub(r'\]\((?!https?:|/)([^)]+\.png)\)', r'](results/\1)', text)
        title = re.search(r'(?m)^## (.+)$', text).group(1)
        anchor = re.sub(r'[^a-z0-9_ -]', '', title.lower()).replace(' ', '-')
        titles.append(f'- [{title}](#{anchor}), `{name}.py`')
        parts.append(text)
    head = (
        '# Results\n\n'
        'What the commands of [README.md](README.md) printed, put together by `run.py` from `results/` and the '
        'hand-written `notes/`; each part names its date, versions and machine. '
        'Ratios and paired differences are what to trust: the machine was shared with other work. All of it is of a '
        'CPU, one thread a side: no GPU was at hand, so nothing here says how fast or how well any of this runs on '
        'one.'
    )
    (HERE / 'RESULTS.md').write_text('\n\n'.join([head, '\n'.join(titles), *parts]) + '\n')


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = benchmarks()
    parser.add_argument(
        '--data',
        default=os.environ.get('FASTREC_DATA'),
        help=f'folder that holds {", ".join(FOLDERS.values())} (default: $FASTREC_DATA)',
    )
    parser.add_argument('--only', nargs='+', choices=known, metavar='NAME', help=f'some of {", ".join(known)}')
    parser.add_argument(
        '--quick',
        action='store_true',
        help='only see whether each one runs, in a reduced form whose figures mean nothing and leave results/ alone',
    )
    parser.add_argument('--assemble', action='store_true', help='run nothing')
    args = parser.parse_args()
    failed = {}
    out = Path(tempfile.mkdtemp()) if args.quick else HERE / 'results'
    names = args.only or known
    for name in [] if args.assemble else names:
        cmd, why = command(name, known[name], args.data, out, args.quick)
        if cmd is None:
            failed[name] = why
            continue
        print(f'== {name}', flush=True)
        start = time.monotonic()
        python_path = os.pathsep.join(filter(None, [str(HERE.parent), os.environ.get('PYTHONPATH')]))
        env = {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': python_path}
        rc = subprocess.run(list(map(str, cmd)), env=env).returncode
        if rc:
            failed[name] = f'exit status {rc}'
        print(f'== {name}: {time.monotonic() - start:.0f} s', flush=True)
    if not args.quick:
        assemble()
    for name, why in failed.items():
        print(f'not rerun: {name} ({why})', file=sys.stderr)
    sys.exit(bool(failed))


if __name__ == '__main__':
    main()
