"""A recommender that leaves the notebook: a folder of safetensors and JSON, without pickle, that loads without fastai.

What is inside, and how it is written, stands in `packing`."""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
import torch

from fastrec import __version__

from ..notices import warn_user
from .model_scorer import ModelScorer
from .packing import Packer, Unpacker
from .scorer import Scorer

__all__ = ['load_recommender', 'save_recommender']

FORMAT = 1  # of the files; raised when an older fastrec could not read them any more
MANIFEST = 'recommender.json'
SUFFIXES = dict(content='json', tensors='safetensors')  # of the two other files


def save_recommender(
    scorer: Scorer,  # a learner, a baseline, a `Blend`: any fitted `Scorer`
    folder: str | Path,  # where to; made if it is not there, an older recommender in it is replaced
    # who has what travels, too: rows, split and user metadata. Personal data, without which `recommend` wants `seen=`
    # after loading
    history: bool = False,
) -> Path:
    """Write what it takes to recommend: ids, item metadata, weights, and how to put them together again.

    Returned is the folder. Files: recommender.json (read it: format, versions, what is inside, checksums),
    content-*.json and tensors-*.safetensors. They are written aside and put in place by one rename, so that a crash
    leaves either the old recommender or the new one. User ids travel, and features of users where the model reads them.
    `TypeError` for what cannot be saved without pickle.
    """
    if not isinstance(scorer, Scorer):
        raise TypeError(f'expected a fitted learner or baseline (a Scorer), got {type(scorer).__name__}')
    save_file = _safetensors().save_file
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f'{folder} is a file: a recommender is a folder')
    catalog = scorer.require_fitted()
    if history:
        catalog.require_history('Or leave out history=True')
    elif any(part.reads_history for part in _parts(scorer)):
        warn_user(
            f'{type(scorer).__name__} scores users from what they have, which does not travel: loaded, it answers '
            'baskets and similar items only. With save_recommender(..., history=True) it recommends to users'
        )
    packer = Packer(history)
    content = packer.pack(scorer, 'scorer')
    folder.mkdir(parents=True, exist_ok=True)
    older_files = _manifest_files(folder)
    with tempfile.TemporaryDirectory(dir=folder, prefix='.saving-') as name:
        aside = Path(name)
        (aside / 'content').write_bytes(_to_bytes(content))
        save_file(packer.tensors, aside / 'tensors')
        # readable as any file here; safetensors writes for the owner alone
        os.chmod(aside / 'tensors', (aside / 'content').stat().st_mode)
        files = {key: _put_under_checksum(aside / key, folder, suffix) for key, suffix in SUFFIXES.items()}
        manifest = _manifest(scorer, content['object'], history, files)
        (aside / MANIFEST).write_text(json.dumps(manifest, indent=1) + '\n', encoding='utf-8')
        _put(aside / MANIFEST, folder / MANIFEST)
    for old in older_files - {file['name'] for file in files.values()}:
        (folder / old).unlink(missing_ok=True)
    return folder


def load_recommender(
    folder: str | Path,  # written by `save_recommender`
    classes: Sequence[type] = (),  # models or scorers of your own, if one of them was saved
    device: str | torch.device | None = None,  # where a model goes; None: the CPU
) -> Scorer:
    """The recommender in `folder`: a `Scorer` with `recommend`, `recommend_users`, `predict`, `similar_items`, baskets.

    Neither fastai nor a plotting library is imported. Checksums are compared first. Errors: `FileNotFoundError` where a
    file is missing, `ValueError` for one that is damaged or of another format.
    """
    load_file = _safetensors().load_file
    folder = Path(folder)
    manifest = _read_manifest(folder)
    if manifest['format'] != FORMAT:
        is_newer = manifest['format'] > FORMAT
        raise ValueError(
            f'{folder} was written in format {manifest["format"]} by fastrec {manifest.get("fastrec")}; '
            f'this is fastrec {__version__}, which reads format {FORMAT}. '
            + ('Install that version or a newer one' if is_newer else 'Save it again with this one')
        )
    paths = {key: _checked_path(folder, file) for key, file in manifest['files'].items()}
    content = json.loads(paths['content'].read_bytes().decode('utf-8', 'surrogatepass'))
    scorer = Unpacker(load_file(paths['tensors']), classes).unpack(content)
    for part in _parts(scorer):
        if isinstance(part, ModelScorer):
            part.model.to('cpu' if device is None else device).eval()
    return scorer


def _parts(scorer: Scorer) -> Iterator[Scorer]:
    """A scorer and those that it is made of."""
    yield scorer
    for part in scorer.parts():
        yield from _parts(part)


def _safetensors() -> ModuleType:
    """The module `safetensors.torch`, or an `ImportError` that says how to get it."""
    try:
        import safetensors.torch
    except ImportError as e:
        raise ImportError("a saved recommender is a safetensors file: pip install 'fastrec-learn[safetensors]'") from e
    return safetensors.torch


# --- the manifest


def _manifest(scorer: Scorer, name: str, history: bool, files: dict) -> dict[str, Any]:
    """What recommender.json says; `name` is the class that the scorer loads as."""
    catalog = scorer.require_fitted()
    return dict(
        format=FORMAT,
        fastrec=__version__,
        torch=torch.__version__,
        pandas=pd.__version__,
        saved=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec='seconds'),
        scorer=name,
        model=None if scorer.model is None else type(scorer.model).__name__,
        scale=scorer.scale,
        n_users=catalog.n_users,
        n_items=catalog.n_items,
        history=history,
        files=files,
    )


def _read_manifest(folder: Path) -> dict[str, Any]:
    """What recommender.json says; `FileNotFoundError` where it is missing, `ValueError` where it is damaged."""
    path = folder / MANIFEST
    if not path.is_file():
        raise FileNotFoundError(
            f'no recommender in {folder}: there is no {MANIFEST}. save_recommender(learn, folder) writes one'
        )
    try:
        manifest = json.loads(path.read_text(encoding='utf-8'))
        if not isinstance(manifest['format'], int):
            raise ValueError('format is not a number')
        if manifest['format'] == FORMAT:
            for key in SUFFIXES:
                if not {'name', 'bytes', 'sha256'} <= manifest['files'][key].keys():
                    raise ValueError('files are incomplete')
    except (ValueError, KeyError, TypeError, AttributeError) as e:
        raise ValueError(f'{path} is damaged ({type(e).__name__}: {e}). Copy it again, or save again') from e
    return manifest


def _manifest_files(folder: Path) -> set[str]:
    """Names of the files of the recommender that is in `folder`; empty if there is none."""
    try:
        return {Path(file['name']).name for file in _read_manifest(folder)['files'].values()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return set()


# --- files


def _to_bytes(content: Any) -> bytes:
    """JSON in UTF-8; titles may hold anything, halves of surrogate pairs included."""
    text = json.dumps(content, allow_nan=False, ensure_ascii=False, separators=(',', ':'))
    return text.encode('utf-8', 'surrogatepass')


def _put_under_checksum(source: Path, folder: Path, suffix: str) -> dict[str, Any]:
    """Move a finished file into the folder, named after its checksum; what the manifest says of it."""
    checksum = _sha256(source)
    name = f'{source.name}-{checksum[:12]}.{suffix}'
    size = source.stat().st_size
    _put(source, folder / name)
    return dict(name=name, bytes=size, sha256=checksum)


def _put(source: Path, target: Path) -> None:
    """Move a finished file into place: on the disk before it has its name."""
    with open(source, 'rb+') as f:
        os.fsync(f.fileno())
    os.replace(source, target)


def _checked_path(folder: Path, file: dict) -> Path:
    """The path of a file of the manifest, once its size and checksum are found to be right."""
    path = folder / Path(file['name']).name
    if not path.is_file():
        raise FileNotFoundError(
            f'{path.name} is missing in {folder}: a recommender is the whole folder, copy all its files'
        )
    size = path.stat().st_size
    if size != file['bytes']:
        raise ValueError(
            f'{path} has {size:,} bytes instead of {file["bytes"]:,}: it was cut short or changed. '
            'Copy it again, or save again'
        )
    if _sha256(path) != file['sha256']:
        raise ValueError(f'{path} is damaged: its checksum is not the one in {MANIFEST}. Copy it again, or save again')
    return path


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, 'rb') as f:
        while chunk := f.read(2**20):
            digest.update(chunk)
    return digest.hexdigest()
