"""A recommender that leaves the notebook: a folder of safetensors and JSON, without pickle, that loads without fastai.

What is inside, and how it is written, stands in `packing`, how files come into the folder in `folder`."""

from __future__ import annotations

import datetime
import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
import torch

from fastrec import __version__

from ..keywords import check_arguments
from ..notices import warn_user
from .folder import FORMAT, SUFFIXES, aside, checked_path, read_manifest, switch
from .model_scorer import ModelScorer
from .packing import Packer, UnknownClass, Unpacker
from .scorer import Scorer

__all__ = ['load_recommender', 'save_recommender']

TRIES = 3  # to find a file that a manifest names, before it is missing


@check_arguments
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
    leaves either the old recommender or the new one; so do several who save at once, and who loads meanwhile has one or
    the other. User ids travel, and features of users where the model reads them. `TypeError` for what cannot be saved
    without pickle, `ValueError` for a model whose weights are not finite. `NotADirectoryError` where `folder` is a
    file.
    """
    if not isinstance(scorer, Scorer):
        raise TypeError(f'expected a fitted learner or baseline (a Scorer), got {type(scorer).__name__}')
    save_file = safetensors_module().save_file
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f'{folder} is a file: a recommender is a folder')
    catalog = scorer.require_trained()
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
    with aside(folder) as path:
        (path / 'content').write_bytes(_to_bytes(content))
        save_file(packer.tensors, path / 'tensors')
        # readable as any file here; safetensors writes for the owner alone
        os.chmod(path / 'tensors', (path / 'content').stat().st_mode)
        switch(folder, path, _manifest(scorer, content['object'], history))
    return folder


@check_arguments
def load_recommender(
    folder: str | Path,  # written by `save_recommender`
    classes: Sequence[type] = (),  # models or scorers of your own, if one of them was saved
    device: str | torch.device | None = None,  # where a model goes; None: the CPU
) -> Scorer:
    """The recommender in `folder`: a `Scorer` with `recommend`, `recommend_users`, `predict`, `similar_items`, baskets.

    Neither fastai nor a plotting library is imported. Checksums are compared first. Errors: `FileNotFoundError` where a
    file is missing, `ValueError` for one that is damaged, of another format, or made to do harm: no code is run from
    the files, and nothing in them is used before it was checked. `TypeError` for what is not a path.
    """
    if not isinstance(folder, (str, os.PathLike)):
        raise TypeError(
            f'load_recommender takes the folder that save_recommender wrote, got {type(folder).__name__}: '
            "load_recommender('folder')"
        )
    load_file = safetensors_module().load_file
    folder = Path(folder)
    manifest = read_manifest(folder)
    n_tries = 0
    while True:
        _check_format(folder, manifest)
        try:
            scorer = _read(folder, manifest, classes, load_file)
            break
        except FileNotFoundError:  # deleted by a save that was faster?
            before, manifest = manifest, read_manifest(folder)
            n_tries = n_tries + 1 if manifest == before else 0
            if n_tries == TRIES:
                raise
    for part in _parts(scorer):
        if isinstance(part, ModelScorer):
            part.model.to('cpu' if device is None else device).eval()
    return scorer


def _check_format(folder: Path, manifest: dict[str, Any]) -> None:
    """`ValueError` for files that this version does not read."""
    if manifest['format'] != FORMAT:
        is_newer = manifest['format'] > FORMAT
        raise ValueError(
            f'{folder} was written in format {manifest["format"]} by fastrec {manifest.get("fastrec")}; '
            f'this is fastrec {__version__}, which reads format {FORMAT}. '
            + ('Install that version or a newer one' if is_newer else 'Save it again with this one')
        )


def _read(folder: Path, manifest: dict[str, Any], classes: Sequence[type], load_file: Callable) -> Scorer:
    """The recommender that the manifest speaks of; `FileNotFoundError` where a file is missing."""
    files = manifest['files']
    paths = {key: checked_path(folder, files[key]) for key in SUFFIXES}
    try:
        content = _from_bytes(paths['content'].read_bytes())
        tensors = _tensors(load_file, paths['tensors'])
        return Unpacker(tensors, classes, sum(files[key]['bytes'] for key in SUFFIXES)).read(content)
    except UnknownClass:
        raise
    except ValueError as e:
        raise ValueError(
            f'{folder} is damaged, or was not written by save_recommender: {e}. Copy it again, or save again'
        ) from e


def _tensors(load_file: Callable, path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a file; `ValueError` where it is not a file of tensors."""
    try:
        return load_file(path)
    except FileNotFoundError:
        raise
    except Exception as e:  # SafetensorError, and what torch says to sizes and dtypes
        raise ValueError(f'{path.name} is not a file of tensors ({type(e).__name__}: {e})') from e


def _parts(scorer: Scorer) -> Iterator[Scorer]:
    """A scorer and those that it is made of."""
    yield scorer
    for part in scorer.parts():
        yield from _parts(part)


def safetensors_module() -> ModuleType:
    """The module `safetensors.torch`, or an `ImportError` that says how to get it."""
    try:
        import safetensors.torch
    except ImportError as e:
        raise ImportError(
            'a saved recommender is a safetensors file, and the package that reads and writes them is missing: '
            'pip install safetensors'
        ) from e
    return safetensors.torch


def _manifest(scorer: Scorer, name: str, history: bool) -> dict[str, Any]:
    """What recommender.json says but for the files; `name` is the class that the scorer loads as."""
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
    )


def _to_bytes(content: Any) -> bytes:
    """JSON in UTF-8; titles may hold anything, halves of surrogate pairs included."""
    text = json.dumps(content, allow_nan=False, ensure_ascii=False, separators=(',', ':'))
    return text.encode('utf-8', 'surrogatepass')


def _from_bytes(raw: bytes) -> Any:
    """The inverse; `ValueError` for what is not JSON, or has numbers that JSON does not have."""
    try:
        return json.loads(raw.decode('utf-8', 'surrogatepass'), parse_constant=_no_number, parse_float=_finite)
    except RecursionError as e:
        raise ValueError('its parts stand too deep inside one another') from e


def _no_number(text: str) -> None:
    raise ValueError(f'{text} is not a number of JSON')


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f'{text} is too large a number')
    return number
