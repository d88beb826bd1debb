"""A folder of images as ImageNet's is laid out: `train/CLASS/*` and `val/CLASS/*`, decoded by worker processes."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from rna_watch.errors import UsageError
from rna_watch.reproduce.images.formats import Form

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy.typing as npt
    from torch import Tensor

    from rna_watch.reproduce.images.spec import RunSpec

_ENDINGS = {".jpeg", ".jpg", ".png", ".bmp", ".webp"}
# of ImageNet's training images, in units of 255
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_EVALUATED = 250
# the crop of an image that is only evaluated: 224 of 256
_SHORT = 256 / 224
_SCALE, _RATIO = (0.08, 1.0), (3 / 4, 4 / 3)
_TRIES = 10
_SPLIT_SEED = 0


def form_of(spec: RunSpec) -> Form:
    """The form of a folder's images; none is opened. The digest covers their paths, and the sizes of those in `val`.

    Raises:
        UsageError: the folder has another layout, or Pillow is missing.
    """
    classes = _checked_classes(spec)
    train, test = _listed(spec.data / "train", classes), _listed(spec.data / "val", classes)
    digest = hashlib.sha256()
    for part in (train, test):
        digest.update(b"\0".join([part.folder.name.encode(), *part.paths.tolist()]))
    sizes = [(test.folder / os.fsdecode(path)).stat().st_size for path in test.paths.tolist()]
    digest.update(np.array(sizes, "<i8").data)
    return Form(
        channels=3,
        height=spec.side,
        width=spec.side,
        classes=len(classes),
        count=len(train),
        digest=digest.hexdigest(),
    )


def _checked_classes(spec: RunSpec) -> list[str]:
    """The names of the classes, which must be the same in both parts; Pillow must be installed."""
    try:
        import PIL  # noqa: F401 - only its presence matters here
    except ImportError as error:
        raise UsageError("a folder of images needs Pillow: pip install 'rna-watch[reproduce]'") from error
    train, test = (_classes(spec.data / part) for part in ("train", "val"))
    if train != test:
        odd = sorted(set(train) ^ set(test))
        raise UsageError(f"train and val in {spec.data} have different classes: {odd[0]} is in one of them only")
    return train


def _classes(folder: Path) -> list[str]:
    if not folder.is_dir():
        raise UsageError(f"no folder {folder}: --data names one with train/CLASS/* and val/CLASS/*, as ImageNet's")
    return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())


@dataclass(frozen=True, slots=True, kw_only=True)
class _Listed:
    """Images of a folder: their paths below it (n,) as bytes, and the numbers of their classes (n,).

    They are arrays because they are sent to every worker process: a million path objects would take seconds and half a
    gigabyte each.
    """

    folder: Path
    paths: npt.NDArray[np.bytes_]
    labels: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    def part(self, chosen: npt.NDArray[np.int64]) -> _Listed:
        """Some of them."""
        return _Listed(folder=self.folder, paths=self.paths[chosen], labels=self.labels[chosen])


def _listed(folder: Path, classes: Sequence[str]) -> _Listed:
    paths: list[bytes] = []
    labels: list[int] = []
    for number, name in enumerate(classes):
        found = sorted(entry.name for entry in os.scandir(folder / name) if Path(entry.name).suffix.lower() in _ENDINGS)
        paths += [os.fsencode(f"{name}/{image}") for image in found]
        labels += [number] * len(found)
    if not labels:
        raise UsageError(f"no images in folders below {folder}: they end in {', '.join(sorted(_ENDINGS))}")
    return _Listed(folder=folder, paths=np.array(paths), labels=np.array(labels, np.int64))


class FolderData:
    """The images of a folder; `held_out` of the training images are split off.

    Training images are cropped at random (8 to 100 % of the area, 3:4 to 4:3), resized and flipped. The crop depends on
    seed, epoch and image alone, whatever the number of workers. Other images are resized and cropped in the middle.

    Args:
        spec: of the run.
        device: of the batches.

    Raises:
        UsageError: the folder does not exist, or has another layout.
    """

    channels = 3

    def __init__(self, spec: RunSpec, device: torch.device) -> None:
        classes = _checked_classes(spec)
        images, test = _listed(spec.data / "train", classes), _listed(spec.data / "val", classes)
        spec.check_held_out(len(images))
        self.classes = len(classes)
        order, shuffled = (np.random.default_rng(_SPLIT_SEED).permutation(len(part)) for part in (images, test))
        self._held_out = images.part(order[: spec.held_out])
        self._train = images.part(order[spec.held_out :][: spec.train_images or None])
        self._test = test.part(shuffled[: spec.test_images or None])
        self._spec, self._device = spec, device
        self._mean = torch.tensor(_MEAN, device=device)
        self._std = torch.tensor(_STD, device=device)

    def train(self, epoch: int, seed: int, batch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """See `Data.train`; the last incomplete batch is left out if there is a whole one."""
        order = np.random.default_rng((seed, epoch)).permutation(len(self._train))
        dataset = _Images(self._train.part(order), self._spec.side, _Seeds(seed=seed, epoch=epoch, order=order))
        return self._batches(dataset, batch, drop_last=len(order) >= batch)

    def held_out(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The images that models are chosen on."""
        return self._batches(_Images(self._held_out, self._spec.side), _EVALUATED)

    def test(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The images of `val`."""
        return self._batches(_Images(self._test, self._spec.side), _EVALUATED)

    def _batches(self, dataset: _Images, batch: int, *, drop_last: bool = False) -> Iterator[tuple[Tensor, Tensor]]:
        workers = self._spec.threads - 1
        options: dict[str, Any] = {"multiprocessing_context": "spawn", "prefetch_factor": 4} if workers else {}
        loader = DataLoader(
            dataset,
            batch,
            num_workers=workers,
            drop_last=drop_last,
            pin_memory=self._device.type == "cuda",
            **options,
        )
        for images, labels in loader:
            x = images.to(self._device, non_blocking=True) / 255.0
            normalized = ((x - self._mean) / self._std).permute(0, 3, 1, 2)
            yield normalized, labels.to(self._device, non_blocking=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seeds:
    """What the augmentation of the i-th image depends on: seed, epoch, and the number of the image."""

    seed: int
    epoch: int
    order: npt.NDArray[np.int64]


class _Images(Dataset[tuple["npt.NDArray[np.uint8]", int]]):
    """Images (side, side, 3) with their labels; cropped at random if there are seeds."""

    def __init__(self, images: _Listed, side: int, seeds: _Seeds | None = None) -> None:
        self._images, self._side, self._seeds = images, side, seeds

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, i: int) -> tuple[npt.NDArray[np.uint8], int]:
        from PIL import Image, UnidentifiedImageError

        path = self._images.folder / os.fsdecode(bytes(self._images.paths[i]))
        try:
            with Image.open(path) as opened:
                image = opened.convert("RGB")
        except (OSError, UnidentifiedImageError, ValueError) as error:
            raise UsageError(f"{path} cannot be read as an image: {error}") from error
        size = (self._side, self._side)
        if self._seeds is None:
            image = image.resize(size, Image.Resampling.BILINEAR, box=_middle(*image.size))
        else:
            random = np.random.default_rng((self._seeds.seed, self._seeds.epoch, int(self._seeds.order[i])))
            image = image.resize(size, Image.Resampling.BILINEAR, box=_crop(*image.size, random))
            if random.random() < 0.5:
                image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return np.asarray(image, np.uint8).copy(), int(self._images.labels[i])


def _middle(width: int, height: int) -> tuple[float, float, float, float]:
    """The middle square of 224 / 256 of the shorter side, as left, top, right, bottom."""
    side = min(width, height) / _SHORT
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side


def _crop(width: int, height: int, random: np.random.Generator) -> tuple[float, float, float, float]:
    """A random part of an image as left, top, right, bottom; the middle if none of ten tries fits.

    Source: Szegedy et al. 2014 (arXiv 1409.4842), section 6, as in torchvision's RandomResizedCrop.
    """
    for _ in range(_TRIES):
        area = width * height * random.uniform(*_SCALE)
        ratio = np.exp(random.uniform(*np.log(_RATIO)))
        across, down = np.sqrt(area * ratio), np.sqrt(area / ratio)
        if across <= width and down <= height:
            left, top = random.uniform(0, width - across), random.uniform(0, height - down)
            return left, top, left + across, top + down
    return _middle(width, height)
