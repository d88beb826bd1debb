"""Images in the files that their makers distribute: CIFAR-10's binary records and MNIST's IDX, plain, gzip or xz."""

from __future__ import annotations

import gzip
import lzma
import struct
import tarfile
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from rna_watch.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

UInt8 = npt.NDArray[np.uint8]

_CIFAR_FOLDER, _CIFAR_ARCHIVE = "cifar-10-batches-bin", "cifar-10-binary.tar.gz"
_CIFAR_TEST = "test_batch.bin"
CIFAR10_PARTS = (*(f"data_batch_{i}.bin" for i in range(1, 6)), _CIFAR_TEST)
_CIFAR_SHAPE = (3, 32, 32)
_CIFAR_RECORD = 1 + 3 * 32 * 32
CLASSES = 10
_MNIST_FOLDER = "mnist"
_MNIST_FILES = (
    ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
)
_UNSIGNED_BYTES = 0x08
_OPENERS: dict[str, Callable[[Path], Any]] = {"": lambda path: path.open("rb"), ".gz": gzip.open, ".xz": lzma.open}


@dataclass(frozen=True, slots=True, kw_only=True)
class Labelled:
    """Images (n, height, width, channels) and labels (n,) from 0."""

    images: UInt8
    labels: UInt8


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """What a network must fit: channels, height and width of the images, and the number of classes.

    `count` is the number of images to train on and to hold out. `digest` identifies the data.
    """

    channels: int
    height: int
    width: int
    classes: int
    count: int
    digest: str


def cifar10(folder: Path) -> tuple[Labelled, Labelled]:
    """CIFAR-10, training and test part: records of one label byte and three planes of 32 x 32 bytes.

    Args:
        folder: a folder with the `.bin` files (plain, .gz or .xz), with a folder `cifar-10-batches-bin` of them, or with
            `cifar-10-binary.tar.gz` as it is distributed.

    Raises:
        UsageError: the files do not exist, or have another format.

    Source: https://www.cs.toronto.edu/~kriz/cifar.html, "binary version".
    """
    return cifar10_of({name: cifar10_records(folder, name) for name in CIFAR10_PARTS})


def cifar10_records(folder: Path, name: str) -> UInt8:
    """The records of one file, `(n, 3073)`: the label, then the planes; whether the other files are there or not.

    Args:
        folder: as for `cifar10`.
        name: one of `CIFAR10_PARTS`.

    Raises:
        UsageError: the file does not exist, or has another format.
    """
    archive = folder / _CIFAR_ARCHIVE
    if archive.is_file():
        content = _member(archive, f"{_CIFAR_FOLDER}/{name}")
    else:
        content = _read(_place(folder, _CIFAR_FOLDER, name), name)
    if not content or len(content) % _CIFAR_RECORD:
        raise UsageError(
            f"{name} in {folder} holds {len(content)} bytes, no whole number of records of {_CIFAR_RECORD}"
        )
    rows = np.frombuffer(content, np.uint8).reshape(-1, _CIFAR_RECORD)
    _check_labels(f"{name} in {folder}", rows[:, 0], "CIFAR-10")
    return rows


def cifar10_of(records: Mapping[str, UInt8]) -> tuple[Labelled, Labelled]:
    """CIFAR-10, training and test part, from the records of all its files."""
    found = []
    for names in (CIFAR10_PARTS[:-1], CIFAR10_PARTS[-1:]):
        rows = np.concatenate([records[name] for name in names])
        images = np.ascontiguousarray(rows[:, 1:].reshape(-1, *_CIFAR_SHAPE).transpose(0, 2, 3, 1))
        found.append(Labelled(images=images, labels=rows[:, 0].copy()))
    return found[0], found[1]


def mnist(folder: Path) -> tuple[Labelled, Labelled]:
    """MNIST, training and test part, from its four IDX files.

    Args:
        folder: a folder with the files (plain, .gz or .xz), or with a folder `mnist` of them.

    Raises:
        UsageError: the files do not exist, or have another format.

    Source: LeCun, Cortes, Burges, "The MNIST database", file formats.
    """
    place = _place(folder, _MNIST_FOLDER, _MNIST_FILES[0][0])
    found = []
    for names in _MNIST_FILES:
        contents = [_read(place, name) for name in names]
        images, labels = (_idx(content, name) for content, name in zip(contents, names, strict=True))
        if images.ndim != 3 or labels.ndim != 1 or len(images) != len(labels):
            raise UsageError(
                f"{names[0]} has shape {images.shape}, {names[1]} has {labels.shape}: they do not belong together"
            )
        if not images.size:
            raise UsageError(f"{names[0]} in {place} has shape {images.shape}: there is no image in it")
        _check_labels(f"{names[1]} in {place}", labels, "MNIST")
        found.append(Labelled(images=images[..., None].copy(), labels=labels.copy()))
    train, test = (part.images.shape[1:3] for part in found)
    if train != test:
        raise UsageError(
            f"in {place} training images have the shape {train}, test images {test}: they do not belong together"
        )
    return found[0], found[1]


def _check_labels(file: str, labels: UInt8, dataset: str) -> None:
    if labels.max() >= CLASSES:
        raise UsageError(f"{file} holds the label {labels.max()}; {dataset} has labels 0 to {CLASSES - 1}")


def _place(folder: Path, inner: str, name: str) -> Path:
    for place in (folder, folder / inner):
        if any((place / f"{name}{ending}").is_file() for ending in _OPENERS):
            return place
    raise UsageError(
        f"no {name} (or .gz, .xz) in {folder} or in {folder / inner}: it is missing, or its folder must be named with --data"
    )


def _read(place: Path, name: str) -> bytes:
    path, opener = _file(place, name)
    try:
        with opener(path) as file:
            content: bytes = file.read()
    except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
        raise UsageError(f"{path} cannot be read: {error}") from error
    return content


def _file(place: Path, name: str) -> tuple[Path, Callable[[Path], Any]]:
    for ending, opener in _OPENERS.items():
        path = place / f"{name}{ending}"
        if path.is_file():
            return path, opener
    raise UsageError(f"{place / name} (or .gz, .xz) is missing")


def _member(archive: Path, name: str) -> bytes:
    try:
        with tarfile.open(archive) as tar:
            file = tar.extractfile(name)
            return file.read() if file else b""
    except (OSError, EOFError, KeyError, tarfile.TarError, zlib.error) as error:
        raise UsageError(f"{name} cannot be read from {archive}: {error}") from error


def _idx(content: bytes, name: str) -> UInt8:
    """IDX: two zero bytes, the type, the number of dimensions, their sizes (big-endian), the elements."""
    dimensions = content[3] if len(content) > 3 else 0
    start = 4 + 4 * dimensions
    if content[:3] != bytes((0, 0, _UNSIGNED_BYTES)) or len(content) < start:
        raise UsageError(f"{name} is no IDX file of bytes: it begins with {content[:4].hex(' ')}")
    shape = struct.unpack(f">{dimensions}I", content[4:start])
    if len(content) - start != int(np.prod(shape)):
        raise UsageError(f"{name} announces the shape {shape}, but holds {len(content) - start} elements")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)
