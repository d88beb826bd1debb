"""Products: pairs of factors of K checkpoints, combined as the weighted sum of their products and split into factors again.

A pair of a window is in memory at a time, in float64. Letters as in `acceleration/low_rank.py`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.lib.stride_tricks import as_strided
from threadpoolctl import threadpool_limits

from rna_watch.acceleration.low_rank import best_product, distance
from rna_watch.layout.disk import patching, write_all
from rna_watch.layout.dtypes import DTYPES, Array, Float64, narrow, widen
from rna_watch.window.reader import WindowReader

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rna_watch.acceleration.low_rank import LowRank
    from rna_watch.window.tasks_plan import Factor, ProductTask


@dataclass(frozen=True, slots=True, kw_only=True)
class Norms:
    """Squares of Frobenius norms, summed over pairs: of the sums of products, and of what others differ from them by.

    `cross`: the products of the combined factors; `truncation`: the best of their rank. `rounding` is the largest relative
    difference of the factors in their stored dtype from that best, of one pair.
    """

    norm: float = 0.0
    cross: float = 0.0
    truncation: float = 0.0
    rounding: float = 0.0

    def __add__(self, other: Norms) -> Norms:
        """Of the pairs of both."""
        return Norms(
            norm=self.norm + other.norm,
            cross=self.cross + other.cross,
            truncation=self.truncation + other.truncation,
            rounding=float(np.maximum(self.rounding, other.rounding)),  # NaN stays
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class MadePair:
    """A pair of factors that was made: exact, and in the bits of the stored dtypes as they lie in their storages."""

    exact: LowRank
    up_bits: Array
    down_bits: Array
    rounding: float


def write_products(task: ProductTask) -> Norms:
    """Combine some pairs, and write their factors.

    Raises:
        InputChanged: a checkpoint changed meanwhile.
        OSError: the output cannot be written.
    """
    total = Norms()
    with patching(task.output) as file:
        for (up, down), made in zip(task.pairs, made_pairs(task), strict=True):
            for factor, bits in ((up, made.up_bits), (down, made.down_bits)):
                write_all(file.fileno(), bits.data.cast("B"), factor.offset_bytes)
            exact = made.exact
            total += Norms(
                norm=exact.norm**2, cross=exact.cross**2, truncation=exact.truncation**2, rounding=made.rounding
            )
    return total


def made_pairs(task: ProductTask) -> Iterator[MadePair]:
    """The pairs of a task, one after the other.

    Raises:
        InputChanged: a checkpoint changed meanwhile.
    """
    used = [k for k, weight in enumerate(task.weights) if weight]
    weights = np.asarray(task.weights, dtype=np.float64)[used]
    with threadpool_limits(limits=1, user_api="blas"), WindowReader(task.files) as reader:
        for up, down in task.pairs:
            exact = best_product(_read(reader, up, used), _read(reader, down, used), weights)
            up_bits, down_bits = _stored(exact.up, up), _stored(exact.down, down)
            error = distance(_matrix(up_bits, up), _matrix(down_bits, down), exact.up, exact.down)
            rounding = error / exact.norm if exact.norm else error
            yield MadePair(exact=exact, up_bits=up_bits, down_bits=down_bits, rounding=rounding)


def read_pairs(task: ProductTask) -> Iterator[tuple[Float64, Float64]]:
    """The factors (B, A) of a task's newest checkpoint, as matrices, pair by pair.

    Raises:
        InputChanged: the checkpoint changed meanwhile.
    """
    newest = (len(task.weights) - 1,)
    with WindowReader(task.files) as reader:
        for up, down in task.pairs:
            yield _read(reader, up, newest)[0], _read(reader, down, newest)[0]


def _read(reader: WindowReader, factor: Factor, used: Sequence[int]) -> Float64:
    """A factor of the checkpoints that have a weight `(n, rows, columns)`."""
    parts = [block.values.copy() for block in reader.steps(factor.segments)]
    whole = np.concatenate(parts, axis=1)
    return np.stack([_of_storage(whole[k], factor) for k in used])


def _matrix(bits: Array, factor: Factor) -> Float64:
    """A factor as a matrix, from its storage's bits."""
    values = np.empty(len(bits), dtype=np.float64)
    widen(bits, factor.dtype, values)
    return _of_storage(values, factor)


def _of_storage(values: Float64, factor: Factor) -> Float64:
    return _view(values, factor).reshape(factor.shape[0], -1)


def _view(values: Float64, factor: Factor) -> Float64:
    return as_strided(values, factor.shape, [step * values.itemsize for step in factor.stride])


def _stored(values: Float64, factor: Factor) -> Array:
    """The bits of a factor `(rows, columns)` in its dtype, in the order of its storage."""
    flat = np.empty(math.prod(factor.shape), dtype=np.float64)
    _view(flat, factor)[...] = values.reshape(factor.shape)
    bits = np.empty(flat.shape, dtype=DTYPES[factor.dtype].bits)
    narrow(flat, factor.dtype, bits)
    return bits
