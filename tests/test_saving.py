"""Several who save and load one folder at once, and saves that are killed: there is always one whole recommender."""

import json
import os
import signal
import subprocess
import sys
import time

import pandas as pd
import pytest

import fastrec.scorers.folder as rooms
from fastrec.all import BiasOnly, Popularity, RecDataLoaders, load_recommender, save_recommender, synthetic_ratings

FILES = {'recommender.json', 'content', 'tensors'}

WRITER = """
import sys
from fastrec.scorers.artifact import load_recommender, save_recommender
name, folder, source, n = sys.argv[1:]
scorer = load_recommender(source)
for i in range(int(n)):
    scorer.damping = (float(i), float(name))
    save_recommender(scorer, folder)
"""
READER = """
import sys, time
from fastrec.scorers.artifact import load_recommender
folder, stop = sys.argv[1:]
import pathlib
n = 0
seen = set()
while n < 5 or not pathlib.Path(stop).exists():
    scorer = load_recommender(folder)
    user = scorer.vocab['user'].ids[0]
    assert len(scorer.recommend(user, 3, exclude_seen=False)) == 3
    seen.add(tuple(scorer.damping))
    n += 1
print(n, len(seen))
"""
KILLED = """
import os, signal, sys
import fastrec.scorers.folder as rooms
from fastrec.scorers.artifact import load_recommender, save_recommender
folder, source, at = sys.argv[1:]
scorer = load_recommender(source)
scorer.damping = (7.0, 7.0)
real, count = os.replace, 0
def replace(*args):
    global count
    if count == int(at):
        os.kill(os.getpid(), signal.SIGKILL)
    count += 1
    real(*args)
rooms.os.replace = replace
save_recommender(scorer, folder)
"""


@pytest.fixture(scope='module')
def scorer():
    ratings, items, _ = synthetic_ratings(n_users=40, n_items=30, density=0.3, seed=2)
    return BiasOnly().fit(RecDataLoaders.from_df(ratings, item_df=items, valid_pct=0.2, seed=0))


def started(code, *args):
    return subprocess.Popen(
        [sys.executable, '-W', 'ignore', '-c', code, *map(str, args)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=dict(os.environ, OMP_NUM_THREADS='1'),
    )


def kinds(folder):
    return [path.name.split('-')[0] for path in folder.iterdir()]


def test_two_writers_and_two_readers_always_have_a_whole_one(scorer, tmp_path):
    folder, source, stop = tmp_path / 'shared', tmp_path / 'source', tmp_path / 'stop'
    for path in (folder, source):
        save_recommender(scorer, path)
    readers = [started(READER, folder, stop) for _ in range(2)]
    writers = [started(WRITER, name, folder, source, 20) for name in (1, 2)]
    for process in writers:
        assert process.communicate(timeout=300) == ('', '')
        assert process.returncode == 0
    stop.touch()
    for process in readers:
        out, err = process.communicate(timeout=300)
        assert err == ''
        assert int(out.split()[0]) >= 5
    assert load_recommender(folder).damping[0] == 19.0
    assert sorted(kinds(folder)) == ['content', 'recommender.json', 'tensors']


@pytest.mark.parametrize('at', [0, 1, 2])
def test_a_killed_save_leaves_the_old_one_and_nothing_for_ever(scorer, tmp_path, at):
    """Killed before the first file, between both, and before the manifest."""
    folder = save_recommender(scorer, tmp_path / 'folder')
    (folder / 'notes.txt').write_text('mine')
    before = {path.name for path in folder.iterdir()}
    process = started(KILLED, folder, save_recommender(scorer, tmp_path / 'source'), at)
    process.communicate(timeout=300)
    assert process.returncode == -signal.SIGKILL
    assert any(o.startswith('.saving-') for o in os.listdir(folder))
    assert load_recommender(folder).damping == scorer.damping
    save_recommender(scorer, folder)
    assert {path.name for path in folder.iterdir()} == before


def test_one_who_is_saving_is_left_alone(scorer, tmp_path):
    folder = save_recommender(scorer, tmp_path)
    with rooms.aside(folder) as path:
        (path / 'content').write_text('in the making')
        save_recommender(scorer, folder)
        assert (path / 'content').read_text() == 'in the making'
    assert sorted(kinds(folder)) == ['content', 'recommender.json', 'tensors']


def test_what_no_save_wrote_stays(scorer, tmp_path):
    """Files of other names, whatever a manifest says, and folders that hold something else."""
    folder = save_recommender(scorer, tmp_path / 'folder')
    mine = ['notes.txt', 'content-mine.json', 'tensors-0123456789ab.bin', 'content-0123456789ab.json.bak']
    for name in mine:
        (folder / name).write_text('mine')
    outside = tmp_path / 'content-0123456789ab.json'
    outside.write_text('mine')
    manifest = json.loads((folder / 'recommender.json').read_text())
    for i, name in enumerate([*mine, '../content-0123456789ab.json', str(outside)]):
        manifest['files'][f'more{i}'] = dict(name=name, bytes=4, sha256='')
    (folder / 'recommender.json').write_text(json.dumps(manifest))
    left = folder / '.saving-mine'
    left.mkdir()
    (left / 'thesis.txt').write_text('mine')
    (left / 'put.json').write_text(json.dumps([*mine, '../content-0123456789ab.json', 3, str(outside)]))
    save_recommender(scorer, folder)
    assert all((folder / name).read_text() == 'mine' for name in mine)
    assert outside.read_text() == 'mine'
    assert (left / 'thesis.txt').read_text() == 'mine'


def test_an_error_while_saving_leaves_nothing(scorer, tmp_path, monkeypatch):
    folder = save_recommender(scorer, tmp_path)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    real = os.replace

    def full(source, target):
        if os.fspath(target).endswith('recommender.json'):
            raise OSError('disk full')
        real(source, target)

    monkeypatch.setattr(rooms.os, 'replace', full)
    with pytest.raises(OSError, match='disk full'):
        save_recommender(Popularity().fit(dls_of(scorer)), folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def dls_of(scorer):
    ratings = scorer.catalog.interactions.to_df()
    return RecDataLoaders.from_df(pd.DataFrame(ratings), valid_pct=0.2, seed=0)


def test_one_who_is_stopped_while_moving_files_is_named(scorer, tmp_path, monkeypatch):
    folder = save_recommender(scorer, tmp_path)
    monkeypatch.setattr(rooms, 'PATIENCE', 0.2)
    began = time.monotonic()
    with rooms._locked(folder), pytest.raises(TimeoutError, match='another process has been saving in'):
        save_recommender(scorer, folder)
    assert time.monotonic() - began < 30
    save_recommender(scorer, folder)


def test_a_file_that_is_missing_is_said_once_it_is_sure(scorer, tmp_path):
    folder = save_recommender(scorer, tmp_path)
    next(folder.glob('tensors-*')).unlink()
    with pytest.raises(FileNotFoundError, match=r'tensors-.* is missing'):
        load_recommender(folder)


def test_without_locks_of_the_file_system_it_saves_all_the_same(scorer, tmp_path, monkeypatch):
    def no_locks(*_):
        raise OSError(95, 'Operation not supported')

    monkeypatch.setattr(rooms.fcntl, 'flock', no_locks)
    folder = save_recommender(scorer, tmp_path)
    fresh, old = folder / '.saving-fresh', folder / '.saving-old'
    for path in (fresh, old):
        path.mkdir()
        (path / 'content').write_text('{}')
    os.utime(old, (0, 0))
    save_recommender(scorer, folder)
    assert fresh.exists()
    assert not old.exists()
    assert load_recommender(folder).damping == scorer.damping
