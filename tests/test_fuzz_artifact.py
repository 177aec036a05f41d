"""Saved recommenders that were changed at random or on purpose, checksums made right again: refused, or harmless.

A change of a JSON value, of a tensor, of raw bytes or of the manifest must end in a `ValueError` or `FileNotFoundError`
on loading, or in a recommender whose verbs answer or raise. All of it runs in a process of its own, so that a crash of
the interpreter, memory without end and loops without end are seen. Large form:

    python tests/test_fuzz_artifact.py --n 5000 --seed 1
"""

import argparse
import copy
import faulthandler
import hashlib
import json
import random
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import torch
from trained import as_trained

from fastrec.scorers.artifact import load_recommender, save_recommender

SAVED = Path(__file__).parent / 'saved'
MEMORY = 6 * 2**30  # bytes of addresses
SECONDS = 30  # for one case
REFUSALS = (ValueError, FileNotFoundError)


# --- what is changed


def sources(folder):
    """Folders to change: those of version 0.1, and some with matrices of every kind."""
    from fastrec.all import (
        EASE,
        Blend,
        ItemKNN,
        RecDataLoaders,
        correct_and_smooth,
        item_graph,
        svdpp_learner,
        synthetic_ratings,
    )

    ratings, items, _ = synthetic_ratings(n_users=30, n_items=20, density=0.4, seed=2)
    dls = RecDataLoaders.from_df(ratings, item_df=items, valid_pct=0.2, seed=0)
    idls = RecDataLoaders.from_df(ratings, item_df=items, target='implicit', threshold=3.0, valid_pct=0.2, seed=0)
    knn = ItemKNN(k=5).fit(idls)
    made = dict(
        knn=Blend([knn, EASE(20.0).fit(idls)]),
        refined=correct_and_smooth(as_trained(svdpp_learner(dls, n_factors=2)), item_graph(dls, k=5)),
    )
    for name, scorer in made.items():
        save_recommender(scorer, folder / name, history=True)
    for path in SAVED.iterdir():
        shutil.copytree(path, folder / path.name)
    return sorted(made) + sorted(path.name for path in SAVED.iterdir())


class Parts:
    """The parts of a saved recommender, to be changed and written."""

    def __init__(self, folder):
        self.manifest = json.loads((folder / 'recommender.json').read_text())
        files = {key: folder / file['name'] for key, file in self.manifest['files'].items()}
        self.content = json.loads(files['content'].read_text())
        self.tensors = artifact_tensors(files['tensors'])
        self.raw = {}  # in the place of the above
        self.change_manifest = None

    def write(self, folder):
        raw = dict(content=json.dumps(self.content).encode(), tensors=to_bytes(self.tensors))
        raw.update(self.raw)
        folder.mkdir()
        for key, suffix in dict(content='json', tensors='safetensors').items():
            checksum = hashlib.sha256(raw[key]).hexdigest()
            name = f'{key}-{checksum[:12]}.{suffix}'
            (folder / name).write_bytes(raw[key])
            self.manifest['files'][key] = dict(name=name, bytes=len(raw[key]), sha256=checksum)
        if self.change_manifest is not None:
            self.change_manifest(self.manifest)
        text = self.raw.get('manifest')
        (folder / 'recommender.json').write_text(json.dumps(self.manifest) if text is None else text)
        return folder


def artifact_tensors(path):
    from safetensors.numpy import load_file

    return {name: array.copy() for name, array in load_file(path).items()}


def to_bytes(tensors):
    from safetensors.numpy import save

    return save({name: np.ascontiguousarray(array) for name, array in tensors.items()})


# --- how


def places(node, path=()):
    """Paths of all values in a tree of lists and dicts."""
    if path:
        yield path
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        yield from places(value, (*path, key))


def at(node, path):
    for key in path:
        node = node[key]
    return node


EMPTY = {'dtype': '<i4', 'shape': [0], 'values': []}
ODD = [
    None, True, False, -1, 0, 1, 3, 10**6, 10**9, 10**12, 2**63, 2**70, -(2**63), 0.5, 1e308, '', 'x', '..',
    '/etc/passwd', [], {}, [0], [-1], [[]], {'x': 1}, {'float': 'nan'}, {'float': 'inf'}, {'same': 0}, {'same': 99},
    {'same': []}, {'tensor': 'none'}, {'missing': 'NA'}, {'set': [[]]}, {'tuple': [1, 1]}, {'tuple': [2.0, 1.0]},
    {'bytes': 'a'}, {'decimal': '1e999999'}, {'timestamp': 'never'},
    {'scalar': {'dtype': '<f8', 'shape': [], 'values': [1]}}, {'index': {'values': [1, 1], 'dtype': 'object'}},
    {'index': {'values': [1, 1], 'dtype': 'object'}, 'name': None}, {'dict': [[[], 1]]}, {'dict': [[1, 2], [1, 3]]},
    {'object': 'Vocab', 'state': {}, 'number': 77}, {'object': 'make_split', 'state': {}, 'number': 78},
    {'object': 'ImageEncoder', 'state': {'backbone': 'hf-hub:x/y'}, 'number': 79},
    {'model': 'ImageEncoder', 'config': {}, 'state': {}, 'number': 80},
    {'model': 'DotBias', 'config': {'n_users': 10**10, 'n_items': 2}, 'state': {}, 'number': 81},
    {'csr': {'data': EMPTY, 'indices': EMPTY, 'indptr': EMPTY}, 'shape': [3, 10**12]},
]  # fmt: skip
DTYPES = [
    '<i8', '<i4', '<u2', '<f4', '<f8', '|b1', 'object', '|O', '<U9', '<U99999999', '<M8[ns]', 'i4,O', 'Int64', 'V8',
]  # fmt: skip
SHAPES = [[-1], [0], [1], [10**12], [2, 2], [2**31, 2**31, 4], 5, 'x', [1.5], [20, 20], [30, 20], [20]]


def change_value(parts, rng):
    path = rng.choice(list(places(parts.content)))
    node = at(parts.content, path[:-1])
    key = path[-1]
    special = dict(dtype=DTYPES, shape=SHAPES).get(key)
    node[key] = copy.deepcopy(rng.choice(special if special and rng.random() < 0.8 else ODD))


def swap_values(parts, rng):
    paths = list(places(parts.content))
    one, other = rng.choice(paths), rng.choice(paths)
    value = copy.deepcopy(at(parts.content, other))
    at(parts.content, one[:-1])[one[-1]] = value


def delete_value(parts, rng):
    path = rng.choice(list(places(parts.content)))
    del at(parts.content, path[:-1])[path[-1]]


def rename_key(parts, rng):
    paths = [path for path in places(parts.content) if isinstance(path[-1], str)]
    path = rng.choice(paths)
    node = at(parts.content, path[:-1])
    new = rng.choice([*{p[-1] for p in paths}, 'recommend', 'score', '__class__', '_item_index', 'seen', 'x'])
    node[new] = node.pop(path[-1])


def change_number(parts, rng):
    """A number in a tensor, or many."""
    name = rng.choice(sorted(parts.tensors))
    array = parts.tensors[name]
    if not array.size:
        return
    odd = [0, 1, -1]
    if array.dtype.kind == 'f':
        odd += [np.nan, np.inf, -np.inf, np.finfo(array.dtype).max]
    elif array.dtype.kind == 'i':
        odd += [np.iinfo(array.dtype).max, np.iinfo(array.dtype).min, 10**6, 100, array.flat[0]]
    else:
        odd = [True, False]
    flat = array.reshape(-1)
    n = rng.choice([1, 1, 2, len(flat)])
    for i in rng.sample(range(len(flat)), min(n, len(flat))):
        flat[i] = rng.choice(odd)


def change_array(parts, rng):
    """The shape or type of a tensor, or which it is."""
    name = rng.choice(sorted(parts.tensors))
    array = parts.tensors[name]
    how = rng.randrange(7)
    if how == 0:
        del parts.tensors[name]
    elif how == 1:
        parts.tensors[name] = array[:-1] if array.ndim else array.reshape(1)
    elif how == 2:
        parts.tensors[name] = np.concatenate([array, array]) if array.ndim else array
    elif how == 3:
        parts.tensors[name] = array.T
    elif how == 4:
        parts.tensors[name] = array.astype(rng.choice(['int64', 'int32', 'float32', 'float64', 'bool', 'int8']))
    elif how == 5:
        parts.tensors[name] = parts.tensors[rng.choice(sorted(parts.tensors))]
    else:
        parts.tensors[name] = np.sort(array, axis=-1)[..., ::-1] if array.ndim else array


def change_bytes(parts, rng):
    """Bytes of the tensors' file, those of its header more often than others."""
    raw = bytearray(to_bytes(parts.tensors))
    header = struct.unpack('<Q', raw[:8])[0]
    for _ in range(rng.choice([1, 2, 8])):
        raw[rng.randrange(8 + header if rng.random() < 0.5 else len(raw))] = rng.randrange(256)
    if rng.random() < 0.2:
        del raw[rng.randrange(len(raw)) :]
    parts.raw['tensors'] = bytes(raw)


def odd_truths(parts, rng):
    """Truths that are neither 0 nor 1."""
    name = next((name for name, array in parts.tensors.items() if array.dtype == bool), None)
    if name is None:
        return
    raw = bytearray(to_bytes(parts.tensors))
    header = struct.unpack('<Q', raw[:8])[0]
    start, _ = json.loads(raw[8 : 8 + header])[name]['data_offsets']
    raw[8 + header + start] = rng.choice([2, 7, 255])
    parts.raw['tensors'] = bytes(raw)


def change_text(parts, rng):
    text = json.dumps(parts.content)
    deep = 100_000
    parts.raw['content'] = rng.choice(
        [
            '[' * deep + ']' * deep,
            '{"a":' * deep + '1' + '}' * deep,
            '[' * 3000 + ']' * 3000,
            text[: rng.randrange(len(text))],
            text.replace('.', ',', 1),
            text.replace('[', '[NaN,', 1),
            text.replace('[', '[1e999,', 1),
            text.replace('[', '[' + '9' * 5000 + ',', 1),
            'null',
            '',
            '\x00',
        ]
    ).encode()


def change_manifest(parts, rng):
    def change(manifest):
        path = rng.choice(list(places(manifest)))
        node = at(manifest, path[:-1])
        if rng.random() < 0.3:
            del node[path[-1]]
        else:
            odd = [*ODD, 'recommender.json', '../x.json', 'content-0123456789ab.json', '.', 'a' * 5000]
            node[path[-1]] = copy.deepcopy(rng.choice(odd))

    parts.change_manifest = change
    if rng.random() < 0.1:
        parts.raw['manifest'] = rng.choice(
            ['[' * 100_000, '{}', '1', '"x"', '{"format": 1}', '{"format": true}', 'x' * 2**21]
        )


CHANGES = [
    change_value, change_value, change_value, swap_values, delete_value, rename_key, change_number, change_number,
    change_array, change_bytes, odd_truths, change_text, change_manifest,
]  # fmt: skip


# --- what comes of it


def use(folder):
    """'refused', or 'loaded' where the verbs of what was loaded answered or raised; anything else is raised."""
    try:
        scorer = load_recommender(folder)
    except REFUSALS as e:
        assert str(e), 'an error without words'
        return 'refused'
    users = scorer.vocab['user'].ids
    items = scorer.vocab['item'].ids
    verbs = [
        lambda: scorer.recommend(list(users[:3]), 3, exclude_seen=False),
        lambda: scorer.recommend(list(users[-3:]), 3),
        lambda: scorer.recommend(basket=list(items[:2]), k=3),
        lambda: scorer.recommend(users[0], 3, exclude_seen=False, candidates='year > 1990'),
        lambda: scorer.recommend_users(items[0], 3, exclude_seen=False),
        lambda: scorer.similar_items(items[0], 3),
        lambda: scorer.predict(users[0], items[-1]),
        lambda: scorer.history(users[0]),
        lambda: scorer.score_items(torch.arange(min(3, len(users)))),
    ]
    for verb in verbs:
        try:
            verb()
        except (MemoryError, RecursionError, SystemError):
            raise
        except Exception:
            pass
    return 'loaded'


def changed(source, target, seed):
    """A folder with one to three changes."""
    rng = random.Random(seed)
    parts = Parts(source)
    names = []
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        change = rng.choice(CHANGES)
        names.append(change.__name__)
        change(parts, rng)
    parts.write(target)
    return names


def run_cases(folder, names, first, n):
    """Cases `first` to `first + n`, a line of each on standard output before and after."""
    import resource

    faulthandler.enable()
    warnings.simplefilter('ignore')
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    signal.signal(signal.SIGALRM, too_long)
    for seed in range(first, first + n):
        name = names[seed % len(names)]
        target = folder / f'changed-{seed}'
        print('case', seed, name, flush=True)
        changes = changed(folder / name, target, seed)
        signal.alarm(SECONDS)
        try:
            print('done', use(target), flush=True)
        except BaseException as e:
            print('fault', seed, name, changes, f'{type(e).__name__}: {e}'.replace('\n', ' ')[:500], flush=True)
        signal.alarm(0)
        shutil.rmtree(target)


def too_long(*_):
    raise BaseException(f'more than {SECONDS} s')


def fuzz(folder, n, seed):
    """-> counts of outcomes, and a line for each fault; runs in other processes."""
    names = sources(folder)
    counts = dict(refused=0, loaded=0)
    faults = []
    end, first = seed + n, seed
    while first < end:
        command = [sys.executable, __file__, '--cases', str(folder), ','.join(names), str(first), str(end - first)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        case = first - 1
        for line in done.stdout.splitlines():
            if line.startswith('case'):
                case = int(line.split()[1])
            elif line.startswith('done'):
                counts[line.split()[1]] += 1
            elif line.startswith('fault'):
                faults.append(line)
        if done.returncode:
            faults.append(f'crash {case}: exit status {done.returncode}: {done.stderr[-1500:]}')
        first = case + 1 if done.returncode else end
    return counts, faults


def test_changed_ones_are_refused_or_harmless(tmp_path):
    counts, faults = fuzz(tmp_path, 300, 0)
    assert not faults, '\n'.join(faults[:20])
    assert counts['refused'] + counts['loaded'] == 300
    assert counts['refused'] > 150


if __name__ == '__main__':
    if sys.argv[1:2] == ['--cases']:
        run_cases(Path(sys.argv[2]), sys.argv[3].split(','), int(sys.argv[4]), int(sys.argv[5]))
        sys.exit()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--n', type=int, default=1000, help='cases')
    parser.add_argument('--seed', type=int, default=0, help='number of the first case')
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        counts, faults = fuzz(Path(name), args.n, args.seed)
    print(*faults, counts, sep='\n')
    sys.exit(bool(faults))
