"""Image files to vectors, by a backbone without its head; vectors are cached on disk."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import torch

__all__ = ['ImageEncoder']

_MEAN, _STD = np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32)  # of ImageNet


class ImageEncoder:
    """Paths -> vectors (n, d) float32: images resized to `size`, normalised as ImageNet's, through a backbone whose last feature map is averaged.

    `backbone` is a torchvision architecture (a name such as 'resnet18', or the function; fastai's `create_body` takes its head off), a timm model by name if timm is
    installed (the extra 'timm'), or any `nn.Module` that maps (B, 3, H, W) to (B, d) or (B, d, h, w). Without pre-trained weights (`pretrained=False`) the weights are random but the same each time
    (`seed`): vectors of colour and texture, no meaning. Vectors are cached in `cache`, a folder, by path, time of change and encoder; files that are no images raise a `ValueError` that names them.
    """

    def __init__(
        self,
        backbone='resnet18',  # name or function of an architecture, or a module
        pretrained: bool = True,  # with ImageNet's weights (downloaded once by torchvision or timm)
        size: tuple = (224, 224),  # height, width
        cache='~/.fastrec/images',  # folder; None: no cache
        bs: int = 64,  # images per batch
        progress: bool = True,  # a bar over the batches
        seed: int = 0,  # of random weights
    ):
        self.backbone, self.pretrained, self.size, self.bs, self.progress, self.seed = (
            backbone,
            pretrained,
            (size, size) if np.isscalar(size) else tuple(size),
            bs,
            progress,
            seed,
        )
        self.cache = None if cache is None else Path(cache).expanduser()

    @property
    def name(self) -> str:
        """What the cache knows the encoder by."""
        if isinstance(self.backbone, torch.nn.Module):
            digest = hashlib.sha256(
                b''.join(p.detach().cpu().contiguous().numpy().tobytes() for p in self.backbone.state_dict().values())
            ).hexdigest()[:12]
            base = f'{type(self.backbone).__name__}-{digest}'
        else:
            base = f'{getattr(self.backbone, "__name__", self.backbone)}-{"pretrained" if self.pretrained else f"random{self.seed}"}'
        return f'{base}-{self.size[0]}x{self.size[1]}'.replace('/', '_')

    def saved_state(self):
        """What a saved recommender holds of it, but not the folder of its cache; None for a backbone that is no name."""
        return {**vars(self), 'cache': None} if isinstance(self.backbone, str) else None

    def body(self) -> torch.nn.Module:
        """The backbone without a head, in eval mode."""
        if isinstance(self.backbone, torch.nn.Module):
            return self.backbone.eval()
        import torchvision

        name = self.backbone
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            try:
                if callable(name) or hasattr(torchvision.models, name):
                    from fastai.vision.learner import create_body

                    arch = name if callable(name) else getattr(torchvision.models, name)
                    try:
                        model = arch(weights='DEFAULT' if self.pretrained else None)
                    except TypeError:
                        model = arch(pretrained=self.pretrained)  # an architecture of the user's own
                    body = create_body(model, pretrained=False)
                else:
                    try:
                        import timm
                    except ImportError as e:
                        raise ImportError(
                            f"{name!r} is no torchvision model, and others need timm: pip install 'fastrec-learn[timm]'"
                        ) from e
                    body = timm.create_model(name, pretrained=self.pretrained, num_classes=0)
            except OSError as e:  # no network
                raise RuntimeError(
                    f'the weights of {getattr(name, "__name__", name)!r} could not be downloaded ({e}). Put them where torch looks for them, pass a module of your own as backbone=, or take random weights: ImageEncoder(pretrained=False)'
                ) from e
        return body.eval()

    def __call__(self, paths) -> np.ndarray:
        """Vectors (n, d) of image files, in the order given."""
        paths = [Path(o) for o in paths]
        if not paths:
            return np.zeros((0, 0), np.float32)
        keys = [self._key(o) for o in paths]
        known = self._load()
        if todo := {key: path for key, path in zip(keys, paths) if key not in known}:
            try:
                for chunk, vectors in self._encode(list(todo.items())):
                    known.update(zip(chunk, vectors))
            finally:
                self._save(known)  # what is done is not lost when the rest is interrupted
        return np.stack([known[o] for o in keys])

    @staticmethod
    def _key(path):
        stat = path.stat()
        return hashlib.sha256(f'{path.resolve()}|{stat.st_mtime_ns}|{stat.st_size}'.encode()).hexdigest()[:32]

    @property
    def file(self):
        """Where the vectors lie; None without a cache."""
        return None if self.cache is None else self.cache / f'{self.name}.npz'

    def _load(self):
        if self.file is None or not self.file.exists():
            return {}
        try:
            with np.load(self.file, allow_pickle=False) as f:
                return dict(zip(f['keys'].tolist(), f['vectors']))
        except Exception as e:
            raise ValueError(
                f'the cache of image vectors {self.file} cannot be read ({e}): delete it, they are computed again'
            ) from e

    def _save(self, known):
        if self.file is None or not known:
            return
        self.file.parent.mkdir(parents=True, exist_ok=True)
        part = self.file.with_suffix(f'.{os.getpid()}.npz')  # beside it, then moved: a reader never sees half a file
        np.savez(part, keys=np.array(list(known)), vectors=np.stack(list(known.values())))
        os.replace(part, self.file)

    def _encode(self, todo):
        """(key, path) pairs -> batches of keys and vectors (b, d)."""
        from fastai.torch_core import default_device
        from fastprogress.fastprogress import progress_bar

        device, body = default_device(), self.body()
        body = body.to(device)
        batches = [todo[i : i + self.bs] for i in range(0, len(todo), self.bs)]
        for batch in progress_bar(batches) if self.progress else batches:
            x = torch.from_numpy(np.stack([self._image(path) for _, path in batch])).to(device)
            with torch.no_grad():
                y = body(x)
            if y.ndim == 4:
                y = y.mean((2, 3))
            if y.ndim != 2 or len(y) != len(batch):
                raise ValueError(
                    f'the backbone gave shape {tuple(y.shape)} for {len(batch)} images: expected (images, d) or (images, d, h, w)'
                )
            yield [key for key, _ in batch], y.float().cpu().numpy()

    def _image(self, path):
        """float32 (3, H, W), normalised."""
        from PIL import Image

        try:
            with Image.open(path) as f:
                image = f.convert('RGB').resize(self.size[::-1], Image.Resampling.BILINEAR)
        except Exception as e:
            raise ValueError(f'{path} is no image that can be read: {e}') from e
        return ((np.asarray(image, dtype=np.float32) / 255 - _MEAN) / _STD).transpose(2, 0, 1)
