"""Madelon as UCI distributes it: `madelon_{train,valid}.data` and `.labels`, integers separated by spaces."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from rna_watch.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Labelled:
    """Features (n, d) as stored, labels (n,) of -1 and +1, and the SHA-256 of both files."""

    features_nd: Float64
    labels_n: Float64
    digest: str


def load(folder: Path, part: str = "train") -> Labelled:
    """One part of the data.

    Args:
        folder: with the files, or with a folder `madelon` that has them.
        part: train or valid.

    Raises:
        UsageError: the files are not there, or are not of this format.
    """
    places = [place for place in (folder, folder / "madelon") if (place / f"madelon_{part}.data").is_file()]
    if not places:
        raise UsageError(f"no madelon_{part}.data in {folder} or in {folder / 'madelon'}: name its folder with --data")
    data, labels = (places[0] / f"madelon_{part}.{ending}" for ending in ("data", "labels"))
    if not labels.is_file():
        raise UsageError(f"{labels} is missing beside {data}")
    features_nd, labels_n = _rows(data), _rows(labels).ravel()
    if len(features_nd) != len(labels_n):
        raise UsageError(f"{data} has {len(features_nd)} rows, {labels.name} has {len(labels_n)}")
    if not set(np.unique(labels_n)) <= {-1.0, 1.0}:
        raise UsageError(f"{labels} must hold -1 and +1 only")
    digest = hashlib.sha256(data.read_bytes() + labels.read_bytes()).hexdigest()
    return Labelled(features_nd=features_nd, labels_n=labels_n, digest=digest)


def standardized(features_nd: Float64) -> Float64:
    """Each feature with mean 0 and standard deviation 1; a constant one becomes 0."""
    deviation = features_nd.std(axis=0)
    centred = features_nd - features_nd.mean(axis=0)
    return np.asarray(centred / np.where(deviation > 0.0, deviation, 1.0), dtype=np.float64)


def _rows(path: Path) -> Float64:
    try:
        return np.loadtxt(path, dtype=np.float64, ndmin=2)
    except ValueError as error:
        raise UsageError(f"{path} is not rows of numbers separated by spaces: {error}") from error
