"""The folder of a saved recommender: which files are whose, and how others take their place.

recommender.json, the manifest, names two files, content-*.json and tensors-*.safetensors, with sizes and checksums;
parts of the checksums are in their names, so that a name never stands for other content. A new recommender is written
aside, in a folder `.saving-*`; then its files and, last, its manifest are moved into place, and those of the old one
are deleted, all under a lock. Readers take no lock: when a file has gone, the manifest tells whether another
recommender has come in the meantime, which they then read."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

if sys.platform == 'win32':
    import msvcrt
else:
    import fcntl

__all__: list[str] = []

FORMAT = 1  # of the files; raised when an older fastrec could not read them any more
MANIFEST = 'recommender.json'
SUFFIXES = dict(content='json', tensors='safetensors')  # of the two other files
ASIDE = '.saving-'  # what folders are called in which something is written
PUT = 'put.json'  # in such a folder: names of the files that are moved out of it
LOCK = '.lock'  # a file in a folder, on systems on which folders cannot be locked
PATIENCE = 60.0  # seconds to wait for another who saves; moving files takes milliseconds
LARGEST_MANIFEST = 2**20  # bytes


# --- the manifest


def read_manifest(folder: Path) -> dict[str, Any]:
    """What recommender.json says; `FileNotFoundError` where it is missing, `ValueError` where it is damaged."""
    path = folder / MANIFEST
    if not path.is_file():
        raise FileNotFoundError(
            f'no recommender in {folder}: there is no {MANIFEST}. save_recommender(learn, folder) writes one'
        )
    check_inside(folder, path)
    try:
        manifest = json.loads(_text_of(path))
        if type(manifest['format']) is not int:
            raise ValueError('format is not a number')
        if manifest['format'] == FORMAT:
            for key in SUFFIXES:
                _check_entry(key, manifest['files'][key])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as e:
        raise ValueError(f'{path} is damaged ({type(e).__name__}: {e}). Copy it again, or save again') from e
    return manifest


def _text_of(path: Path) -> str:
    """A manifest as text."""
    with open(path, 'rb') as f:
        raw = f.read(LARGEST_MANIFEST + 1)
    if len(raw) > LARGEST_MANIFEST:
        raise ValueError('it is too long to be one')
    return raw.decode('utf-8')


def _check_entry(key: str, file: Any) -> None:
    """`ValueError` unless a file of the manifest is one that a save writes."""
    if not isinstance(file, dict) or not {'name', 'bytes', 'sha256'} <= file.keys():
        raise ValueError('files are incomplete')
    if not is_ours(file['name'], key):
        raise ValueError(f'{file["name"]!r} is not a name of a file with {key}')
    if type(file['bytes']) is not int or not isinstance(file['sha256'], str):
        raise ValueError('sizes or checksums are none')


def is_ours(
    name: Any,  # of a file
    key: str | None = None,  # what is in it, one of `SUFFIXES`; None: any
) -> bool:
    """Is it a name that a save gives: of a file in the folder itself?"""
    keys = SUFFIXES if key is None else (key,)
    patterns = [rf'{o}-[0-9a-f]{{12}}\.{SUFFIXES[o]}' for o in keys]
    return isinstance(name, str) and any(re.fullmatch(pattern, name) for pattern in patterns)


def _named_files(folder: Path) -> set[str]:
    """Names of the files that the manifest in `folder` names and that a save wrote; none where there is none."""
    try:
        files = read_manifest(folder)['files'].values()
        return {file['name'] for file in files if is_ours(file['name'])}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return set()


# --- reading


def checked_path(folder: Path, file: dict) -> Path:
    """The path of a file of the manifest, once its size and checksum are found to be right."""
    path = folder / file['name']
    if not path.is_file():
        raise FileNotFoundError(
            f'{path.name} is missing in {folder}: a recommender is the whole folder, copy all its files'
        )
    check_inside(folder, path)
    size = path.stat().st_size
    if size != file['bytes']:
        raise ValueError(
            f'{path} has {size:,} bytes instead of {file["bytes"]:,}: it was cut short or changed. '
            'Copy it again, or save again'
        )
    if sha256(path) != file['sha256']:
        raise ValueError(f'{path} is damaged: its checksum is not the one in {MANIFEST}. Copy it again, or save again')
    return path


def check_inside(folder: Path, path: Path) -> None:
    """`ValueError` for a link that leads out of the folder."""
    if path.is_symlink() and folder.resolve() not in path.resolve().parents:
        raise ValueError(
            f'{path} is a link to {path.resolve()}, out of the folder: a recommender is the whole folder. '
            'Copy it with what its links lead to (`cp -rL`)'
        )


def sha256(path: Path) -> str:
    """The checksum of a file."""
    digest = hashlib.sha256()
    with open(path, 'rb') as f:
        while chunk := f.read(2**20):
            digest.update(chunk)
    return digest.hexdigest()


# --- writing


@contextmanager
def aside(folder: Path) -> Iterator[Path]:
    """A new folder in `folder`, to write in; gone at the end, with what was moved out of it but never named.

    Those that were left behind by processes that are no more are deleted first.
    """
    with _locked(folder):
        for path in folder.glob(f'{ASIDE}*'):
            if _is_left_behind(path):
                _clean_up(folder, path)
        path = Path(tempfile.mkdtemp(dir=folder, prefix=ASIDE))
        lock = _lock(path)  # tells others that somebody is at it; the system frees it when the process ends
    try:
        yield path
    finally:
        if lock is not None:
            os.close(lock.handle)
        with suppress(OSError), _locked(folder):  # what cannot be deleted now the next save will
            _clean_up(folder, path)


def switch(
    folder: Path,
    path: Path,  # of `aside`, with files called content and tensors
    manifest: dict[str, Any],  # what it is to say, but for the files
) -> None:
    """Put what was written aside in the place of the recommender that is in `folder`."""
    files = {key: _described(path / key, suffix) for key, suffix in SUFFIXES.items()}
    names = {file['name'] for file in files.values()}
    (path / MANIFEST).write_text(json.dumps({**manifest, 'files': files}, indent=1) + '\n', encoding='utf-8')
    (path / PUT).write_text(json.dumps(sorted(names)), encoding='utf-8')
    for name in (*SUFFIXES, MANIFEST, PUT):
        _to_disk(path / name)
    with _locked(folder):
        older = _named_files(folder)
        for key, file in files.items():
            os.replace(path / key, folder / file['name'])
        _to_disk(folder)
        os.replace(path / MANIFEST, folder / MANIFEST)
        _to_disk(folder)
        _delete(folder, older - names)


def _described(path: Path, suffix: str) -> dict[str, Any]:
    """What the manifest says of a file; its name holds a part of its checksum."""
    checksum = sha256(path)
    return dict(name=f'{path.name}-{checksum[:12]}.{suffix}', bytes=path.stat().st_size, sha256=checksum)


def _to_disk(path: Path) -> None:
    """Wait until a file, or what a folder holds, is on the disk."""
    if path.is_dir():
        if sys.platform == 'win32':
            return
        handle = os.open(path, os.O_RDONLY)
    else:
        handle = os.open(path, os.O_RDWR)
    try:
        os.fsync(handle)
    except OSError:
        if not path.is_dir():  # some file systems have it of files alone
            raise
    finally:
        os.close(handle)


def _delete(folder: Path, names: set[str]) -> None:
    """Delete files of `folder` that a save wrote."""
    for name in names:
        if is_ours(name):
            with suppress(OSError):  # gone, or (on Windows) open somewhere
                (folder / name).unlink()


def _is_left_behind(path: Path) -> bool:
    """Is it a folder in which nobody writes any more? Where that cannot be told, after a day."""
    if path.is_symlink() or not path.is_dir():
        return False
    lock = _lock(path)
    if lock is None:
        return False
    os.close(lock.handle)
    return lock.is_real or time.time() - path.stat().st_mtime > 86400


def _clean_up(folder: Path, path: Path) -> None:
    """Delete a folder of `aside`, and the files out of it that no manifest names."""
    try:
        put = {name for name in json.loads(_text_of(path / PUT)) if isinstance(name, str)}
    except (OSError, ValueError, TypeError, RecursionError):
        put = set()
    _delete(folder, put - _named_files(folder))
    for name in (*SUFFIXES, MANIFEST, PUT, LOCK):
        (path / name).unlink(missing_ok=True)
    with suppress(OSError):  # it holds what no save wrote
        path.rmdir()


# --- locks


class Lock(NamedTuple):
    """What keeps others out of a folder until it is closed, at the latest when the process ends."""

    handle: int
    is_real: bool  # False: the file system has no locks, and nobody is kept out


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Nobody else is inside for the same folder; `TimeoutError` where somebody stays."""
    until = time.monotonic() + PATIENCE
    while (lock := _lock(folder)) is None:
        if time.monotonic() > until:
            raise TimeoutError(f'another process has been saving in {folder} for {PATIENCE:.0f} s: is it stopped?')
        time.sleep(0.01)
    try:
        yield
    finally:
        os.close(lock.handle)


def _lock(folder: Path) -> Lock | None:
    """A lock of a folder; None: another has it."""
    if sys.platform == 'win32':
        handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT)
    else:
        handle = os.open(folder, os.O_RDONLY)
    try:
        if sys.platform == 'win32':
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as e:
        if e.errno not in (errno.EWOULDBLOCK, errno.EACCES, errno.EDEADLK):
            return Lock(handle, False)
        os.close(handle)
        return None
    return Lock(handle, True)
