"""CIFAR-10 in its six files, which may arrive one after another: each is unpacked once into a cached array."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rna_watch.errors import UsageError
from rna_watch.layout import disk
from rna_watch.reproduce.images.formats import CIFAR10_PARTS, cifar10_of, cifar10_records

if TYPE_CHECKING:
    from rna_watch.reproduce.images.formats import Labelled, UInt8


def take(data: Path | None, cache: Path) -> str:
    """Unpack the files that are there and are not in the cache yet; returns the digest of all images and labels.

    Args:
        data: the folder of CIFAR-10 in one of its forms, whole or in part; None: all files are in the cache.
        cache: the folder of the arrays.

    Raises:
        UsageError: a file is missing or damaged. Those that are there are in the cache then.
        StoreError: the cache cannot be written.
    """
    with disk.writing(cache, "--work"):
        cache.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(len(CIFAR10_PARTS)) as pool:  # unpacking holds no lock of the interpreter
        missing = [said for said in pool.map(lambda name: _taken(data, cache, name), CIFAR10_PARTS) if said]
    if missing:
        raise UsageError(
            f"{len(missing)} of the {len(CIFAR10_PARTS)} files of CIFAR-10 cannot be used yet, so nothing is trained: "
            f"{'; '.join(missing)}. The others are kept in {cache}: bring the missing ones, in any order, and call again"
        )
    digest = hashlib.sha256()
    for name in CIFAR10_PARTS:
        digest.update(_cached(cache, name).data)
    return digest.hexdigest()


def load(cache: Path) -> tuple[Labelled, Labelled]:
    """The training part and the test part from the cache.

    Raises:
        UsageError: a cached array is missing or damaged.
    """
    return cifar10_of({name: _cached(cache, name) for name in CIFAR10_PARTS})


def _taken(data: Path | None, cache: Path, name: str) -> str:
    """Why a file cannot be used, or nothing once it is in the cache."""
    path = _path(cache, name)
    if path.exists():
        return ""
    try:
        if data is None:
            return f"{name} is missing: name its folder with --data"
        rows = cifar10_records(data, name)
    except UsageError as error:
        return str(error)
    with (
        disk.writing(path, "--work"),
        disk.replacing(path, durable=False) as temporary,
        Path(temporary).open("wb") as file,
    ):
        np.save(file, rows)
    return ""


def _path(cache: Path, name: str) -> Path:
    return cache / f"{name}.npy"


def _cached(cache: Path, name: str) -> UInt8:
    path = _path(cache, name)
    try:
        rows: UInt8 = np.load(path)
    except (OSError, ValueError, EOFError) as error:
        raise UsageError(f"{path} cannot be read ({error}): remove it, and call again with --data") from error
    return rows
