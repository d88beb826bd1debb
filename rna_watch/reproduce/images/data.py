"""Labelled images as a training takes them: three parts, batches of the first augmented, the others as they are."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch.nn import functional

from rna_watch.reproduce.images import formats

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from rna_watch.reproduce.images.formats import Labelled
    from rna_watch.reproduce.images.spec import RunSpec

# images of a batch that is only evaluated
_EVALUATED = {"cpu": 500, "cuda": 2000}
_PADDING = 4
# one split for all seeds, so that models are chosen and compared on the same images
_SPLIT_SEED = 0
_READERS = {"cifar10": formats.cifar10, "mnist": formats.mnist}


class Data(Protocol):
    """The data of a network: batches of images (B, C, H, W), normalized, with labels (B,), on a device."""

    classes: int
    channels: int

    def train(self, epoch: int, seed: int, batch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of one epoch; their order and augmentation depend on epoch and seed alone.

        Args:
            epoch: from 1.
            seed: of the run.
            batch: images of a batch.
        """

    def held_out(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The images that models are chosen on: training images that no network is trained on."""

    def test(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The images that results are reported on."""


def form_of(spec: RunSpec) -> formats.Form:
    """The form of a run's data; all of them are read, except a folder's images.

    The digest covers all images and labels, however their files are packed. That of a folder covers the images' paths, and
    the sizes of those in `val`, because reading ImageNet takes long.

    Raises:
        UsageError: the files do not exist, or have another format.
    """
    if spec.dataset not in _READERS:
        from rna_watch.reproduce.images import folder

        return folder.form_of(spec)
    train, test = _READERS[spec.dataset](spec.data)
    digest = hashlib.sha256()
    for part in (train, test):
        digest.update(f"{part.images.shape}".encode())
        digest.update(np.ascontiguousarray(part.images).data)
        digest.update(np.ascontiguousarray(part.labels).data)
    count, height, width, channels = train.images.shape
    return formats.Form(
        channels=channels,
        height=height,
        width=width,
        classes=formats.CLASSES,
        count=count,
        digest=digest.hexdigest(),
    )


def load(spec: RunSpec, device: torch.device) -> Data:
    """The data of a run, on a device.

    Raises:
        UsageError: the files do not exist, or have another format.
    """
    if spec.dataset in _READERS:
        return InMemory(*_READERS[spec.dataset](spec.data), spec, device)
    from rna_watch.reproduce.images.folder import FolderData

    return FolderData(spec, device)


class InMemory:
    """CIFAR-10 or MNIST: all images are on the device as bytes, where they are cropped and flipped.

    The augmentation is the paper's: 4 pixels of zeros around, a random crop, and for CIFAR-10 a flip.

    Args:
        train: the training part; `spec.held_out` images of it are split off.
        test: the test part.
        spec: of the run.
        device: of the images.
    """

    def __init__(self, train: Labelled, test: Labelled, spec: RunSpec, device: torch.device) -> None:
        self.classes, self.channels = formats.CLASSES, train.images.shape[-1]
        order = np.random.default_rng(_SPLIT_SEED).permutation(len(train.labels))
        chosen = order[: spec.held_out]
        trained = order[spec.held_out :][: spec.train_images or None]
        self._flip = spec.dataset == "cifar10"
        spec.check_held_out(len(order))
        self._mean, self._std = (value.to(device) for value in _moments(train.images[trained]))
        self._parts = {
            "train": _on(train, trained, device),
            "held out": _on(train, chosen, device),
            "test": _on(test, np.arange(len(test.labels))[: spec.test_images or None], device),
        }

    def train(self, epoch: int, seed: int, batch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """See `Data.train`; the last incomplete batch is used too."""
        images, labels = self._parts["train"]
        generator = torch.Generator().manual_seed(1_000_003 * seed + epoch)
        order = torch.randperm(len(labels), generator=generator).to(images.device)
        side = images.shape[1]
        tops, lefts = torch.randint(0, 2 * _PADDING + 1, (2, len(labels)), generator=generator)
        flips = torch.rand(len(labels), generator=generator) < (0.5 if self._flip else 0.0)
        across = torch.arange(side)
        rows = (tops[:, None] + across).to(images.device)
        columns = (lefts[:, None] + torch.where(flips[:, None], across.flip(0), across)).to(images.device)
        for at in torch.split(order, batch):
            padded = functional.pad(images[at], (0, 0, _PADDING, _PADDING, _PADDING, _PADDING))
            each = torch.arange(len(at), device=images.device)[:, None, None]
            yield self._normalized(padded[each, rows[at][:, :, None], columns[at][:, None, :]]), labels[at]

    def held_out(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The images that models are chosen on."""
        return self._plain("held out")

    def test(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The test images."""
        return self._plain("test")

    def _plain(self, part: str) -> Iterator[tuple[Tensor, Tensor]]:
        images, labels = self._parts[part]
        size = _EVALUATED.get(images.device.type, _EVALUATED["cpu"])
        for x, y in zip(torch.split(images, size), torch.split(labels, size), strict=True):
            yield self._normalized(x), y

    def _normalized(self, images: Tensor) -> Tensor:
        """Images of bytes (B, H, W, C) as normalized floats (B, C, H, W), channels last in memory."""
        return ((images / 255.0 - self._mean) / self._std).permute(0, 3, 1, 2)


def _moments(images: formats.UInt8) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel, in units of 255, exactly: from counts of the 256 values."""
    values = np.arange(256) / 255.0
    shares = np.stack([np.bincount(channel.ravel(), minlength=256) for channel in np.moveaxis(images, -1, 0)])
    shares = shares / shares.sum(axis=1, keepdims=True)
    mean = shares @ values
    std = np.sqrt(np.maximum(shares @ values**2 - mean**2, 0.0))
    return torch.tensor(mean, dtype=torch.float32), torch.tensor(std, dtype=torch.float32)


def _on(
    part: Labelled, chosen: np.ndarray[tuple[int], np.dtype[np.int64]], device: torch.device
) -> tuple[Tensor, Tensor]:
    images = torch.from_numpy(part.images[chosen]).to(device)
    return images, torch.from_numpy(part.labels[chosen].astype(np.int64)).to(device)
