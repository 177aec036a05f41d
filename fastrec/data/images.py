"""Image files to vectors, by a backbone without its head; vectors are cached on disk."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..progress import Progress
from .transforms import Savable

__all__ = ['ImageEncoder']

# of ImageNet, by channel
_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
_STD = np.array([0.229, 0.224, 0.225], np.float32)


class ImageEncoder(Savable):
    """Paths -> vectors (n, d) float32: images through a backbone whose last feature map is averaged.

    Images are resized to `size` and normalized as ImageNet's. `backbone` is a torchvision architecture (a name such as
    'resnet18', or the function; fastai's `create_body` takes its head off), a timm model by name if timm is installed
    (the extra 'timm'), or any `nn.Module` that maps (B, 3, H, W) to (B, d) or (B, d, h, w). Without pre-trained weights
    (`pretrained=False`) the weights are random but the same each time (`seed`): vectors of color and texture, no
    meaning.

    Vectors are cached in `cache`, a folder, by path, time of change and encoder. `ValueError` for files that are not
    images, which it names, `RuntimeError` for weights that cannot be downloaded.
    """

    def __init__(
        self,
        backbone: str | Callable | torch.nn.Module = 'resnet18',  # name or function of an architecture, or a module
        pretrained: bool = True,  # with ImageNet's weights (downloaded once by torchvision or timm)
        size: int | tuple[int, int] = (224, 224),  # height, width
        cache: str | Path | None = '~/.fastrec/images',  # folder; None: no cache
        bs: int = 64,  # images per batch
        progress: bool = True,  # a bar over the images
        seed: int = 0,  # of random weights
    ) -> None:
        self.backbone = backbone
        self.pretrained = pretrained
        self.size = tuple(size) if isinstance(size, Iterable) else (size, size)
        self.cache = None if cache is None else Path(cache).expanduser()
        self.bs = bs
        self.progress = progress
        self.seed = seed

    @property
    def name(self) -> str:
        """What the cache knows the encoder by."""
        if isinstance(self.backbone, torch.nn.Module):
            base = f'{type(self.backbone).__name__}-{_digest(self.backbone)}'
        else:
            weights = 'pretrained' if self.pretrained else f'random{self.seed}'
            base = f'{_name_of(self.backbone)}-{weights}'
        return f'{base}-{self.size[0]}x{self.size[1]}'.replace('/', '_')

    def saved_state(self) -> dict[str, Any] | None:
        """All but the folder of its cache; None for a backbone that is not a name."""
        return {**vars(self), 'cache': None} if isinstance(self.backbone, str) else None

    # --- the backbone

    def body(self) -> torch.nn.Module:
        """The backbone without a head, in eval mode. `RuntimeError` where its weights cannot be downloaded."""
        if isinstance(self.backbone, torch.nn.Module):
            return self.backbone.eval()
        import torchvision

        if callable(self.backbone):
            architecture = self.backbone
        else:
            architecture = getattr(torchvision.models, self.backbone, None)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            try:
                body = self._timm_body() if architecture is None else self._torchvision_body(architecture)
            except OSError as e:  # no network
                raise RuntimeError(
                    f'the weights of {_name_of(self.backbone)!r} could not be downloaded ({e}). '
                    'Put them where torch looks for them, pass a module of your own as backbone=, '
                    'or take random weights: ImageEncoder(pretrained=False)'
                ) from e
        return body.eval()

    def _torchvision_body(self, architecture: Callable) -> torch.nn.Module:
        """The body of an architecture as torchvision writes them, or of a user's own with the older `pretrained=`."""
        from fastai.vision.learner import create_body

        try:
            model = architecture(weights='DEFAULT' if self.pretrained else None)
        except TypeError:
            model = architecture(pretrained=self.pretrained)
        return create_body(model, pretrained=False)

    def _timm_body(self) -> torch.nn.Module:
        """A model that timm knows by name; `ImportError` without timm."""
        try:
            import timm
        except ImportError as e:
            raise ImportError(
                f"{self.backbone!r} is not a torchvision model, and others need timm: pip install 'fastrec-learn[timm]'"
            ) from e
        return timm.create_model(self.backbone, pretrained=self.pretrained, num_classes=0)

    # --- files to vectors

    def __call__(self, paths: Iterable[str | Path]) -> np.ndarray:
        """Vectors (n, d) of image files, in the order given."""
        files = [Path(o) for o in paths]
        if not files:
            return np.zeros((0, 0), np.float32)
        keys = [self._key(o) for o in files]
        known = self._load()
        todo = {key: path for key, path in zip(keys, files) if key not in known}
        if todo:
            try:
                for batch, vectors in self._encode(todo):
                    known.update(zip(batch, vectors))
            finally:
                self._save(known)  # what is done is not lost when the rest is interrupted
        return np.stack([known[o] for o in keys])

    def _encode(self, todo: dict[str, Path]) -> Iterator[tuple[list[str], np.ndarray]]:
        """Paths by key -> batches of keys and their vectors (b, d)."""
        from fastai.torch_core import default_device

        device = default_device()
        body = self.body().to(device)
        keys = list(todo)
        with Progress(len(keys), 'encoding', 'images', self.progress) as progress:
            for i in range(0, len(keys), self.bs):
                batch = keys[i : i + self.bs]
                x = torch.from_numpy(np.stack([self._image(todo[key]) for key in batch])).to(device)
                with torch.no_grad():
                    y = body(x)
                if y.ndim == 4:
                    y = y.mean((2, 3))
                if y.ndim != 2 or len(y) != len(batch):
                    raise ValueError(
                        f'the backbone gave shape {tuple(y.shape)} for {len(batch)} images: '
                        'expected (images, d) or (images, d, h, w)'
                    )
                yield batch, y.float().cpu().numpy()
                progress.update(len(batch))

    def _image(self, path: Path) -> np.ndarray:
        """float32 (3, H, W), normalized."""
        from PIL import Image

        height, width = self.size
        try:
            with Image.open(path) as f:
                image = f.convert('RGB').resize((width, height), Image.Resampling.BILINEAR)
        except Exception as e:
            raise ValueError(f'{path} is not an image that can be read: {e}') from e
        pixels = np.asarray(image, dtype=np.float32) / 255
        return ((pixels - _MEAN) / _STD).transpose(2, 0, 1)

    # --- the cache

    @property
    def file(self) -> Path | None:
        """Where the vectors lie; None without a cache."""
        return None if self.cache is None else self.cache / f'{self.name}.npz'

    @staticmethod
    def _key(path: Path) -> str:
        """What changes with the path, the time of change and the size of a file."""
        stat = path.stat()
        return hashlib.sha256(f'{path.resolve()}|{stat.st_mtime_ns}|{stat.st_size}'.encode()).hexdigest()[:32]

    def _load(self) -> dict[str, np.ndarray]:
        """Vectors (d,) of the cache by key; none without one."""
        file = self.file
        if file is None or not file.exists():
            return {}
        try:
            with np.load(file, allow_pickle=False) as f:
                return dict(zip(f['keys'].tolist(), f['vectors']))
        except Exception as e:
            raise ValueError(
                f'the cache of image vectors {file} cannot be read ({e}): delete it, they are computed again'
            ) from e

    def _save(self, known: dict[str, np.ndarray]) -> None:
        """Write vectors by key to the cache, if there is one."""
        file = self.file
        if file is None or not known:
            return
        file.parent.mkdir(parents=True, exist_ok=True)
        aside = file.with_suffix(f'.{os.getpid()}.npz')  # beside it, then moved: a reader never sees half a file
        np.savez(aside, keys=np.array(list(known)), vectors=np.stack(list(known.values())))
        os.replace(aside, file)


def _digest(module: torch.nn.Module) -> str:
    """12 hex digits that change with any weight."""
    weights = [o.detach().cpu().contiguous().numpy().tobytes() for o in module.state_dict().values()]
    return hashlib.sha256(b''.join(weights)).hexdigest()[:12]


def _name_of(backbone: str | Callable) -> str:
    """The name of an architecture, given as such or as a function."""
    return backbone if isinstance(backbone, str) else getattr(backbone, '__name__', str(backbone))
