"""Madelon as UCI distributes it: `madelon_{train,valid}.data` and `.labels`, integers separated by spaces."""

from __future__ import annotations

import hashlib
import warnings
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
        folder: the folder of the files, or of a folder `madelon` that has them.
        part: train or valid.

    Raises:
        UsageError: the files do not exist, have another format, or nothing varies in them.
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
    if set(np.unique(labels_n)) != {-1.0, 1.0}:
        raise UsageError(f"{labels} must hold -1 and +1 only, and both")
    if not (features_nd != features_nd[0]).any():
        raise UsageError(f"{data}: no column varies, all rows are the same: nothing can be told from them")
    digest = hashlib.sha256(data.read_bytes() + labels.read_bytes()).hexdigest()
    return Labelled(features_nd=features_nd, labels_n=labels_n, digest=digest)


def standardized(features_nd: Float64) -> Float64:
    """Each feature with mean 0 and standard deviation 1; a constant one becomes 0."""
    varies_d = (features_nd != features_nd[0]).any(axis=0)  # a constant may have a deviation of rounding
    centred = features_nd - features_nd.mean(axis=0)
    deviation = np.where(varies_d, features_nd.std(axis=0), 1.0)
    return np.where(varies_d, centred / deviation, 0.0)


def _rows(path: Path) -> Float64:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of an empty file, which is refused below
            rows_nd = np.loadtxt(path, dtype=np.float64, ndmin=2)
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} is not rows of numbers separated by spaces: {error}") from error
    if not rows_nd.size:
        raise UsageError(f"{path} is empty: fetch it again")
    wrong = np.argwhere(~np.isfinite(rows_nd))
    if len(wrong):
        row, column = wrong[0]
        raise UsageError(
            f"{path}: row {row + 1}, column {column + 1} is {rows_nd[row, column]}: it must be a finite number"
        )
    return rows_nd
