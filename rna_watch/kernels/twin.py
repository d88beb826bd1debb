"""The loops of `_loops.c` in numpy: the same sums in the same order, to the bit; slow, as numpy has no sums of eight lanes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Iterator

Stored = npt.NDArray[Any]
Float64 = npt.NDArray[np.float64]

_TILE = 256
_GROUP = 16 * _TILE
_LANES = 8


def add_gram(stored_kn: Stored, dtype: str, rows_mn: Float64, /) -> float:
    """Add the last M rows of the products of steps d_i = y_i - y_{i-1} `(M, N)`; returns the newest iterate's squared norm.

    Where a value is not finite, nor are the sums that hold it.
    """
    if len(stored_kn) < 2:
        return 0.0
    values = _widened(stored_kn, dtype)
    add_products(np.diff(values, axis=0), rows_mn)
    energy = 0.0
    for group in _groups(values[-1:]):
        energy += float(_sums(group, group[0])[0])
    return energy


def add_products(residuals_nn: Float64, rows_mn: Float64, /) -> None:
    """Add the last M rows of R'R `(M, N)` of residuals `(N, n)`."""
    first = len(residuals_nn) - len(rows_mn)
    for group in _groups(residuals_nn):
        for number in range(len(rows_mn)):
            rows_mn[number] += _sums(group, group[first + number])


def add_squares(stored_kn: Stored, dtype: str, out: Float64, /) -> None:
    """Add the squared norms of the K iterates and, behind them, of the N steps, `(K + N,)`."""
    values = _widened(stored_kn, dtype)
    for group in _groups(np.concatenate([values, np.diff(values, axis=0)])):
        out += [_sums(each[None], each)[0] for each in group]


def combine(stored_kn: Stored, dtype: str, weights: Float64, out: Stored, /) -> bool:
    """Write y_K + sum_k w_k (y_k - y_K) in its stored dtype `(n,)`, where that moves from y_K; whether it is finite.

    What is written is right only if it is.
    """
    values = _widened(stored_kn, dtype)
    total = np.zeros(values.shape[1])
    for number, (weight, each) in enumerate(zip(weights[:-1], values[:-1], strict=True)):
        step = (each - values[-1]) * weight
        total = step if number == 0 else total + step
    total = np.where(total == 0.0, values[-1], total + values[-1])
    if dtype == "bfloat16":
        bits = total.astype(np.float32).view(np.uint32)
        out[...] = (bits + (0x7FFF + (bits >> 16 & 1))) >> 16
    else:
        out[...] = total
    return bool(np.isfinite(total).all())


def vector_bytes(most: int = 0, /) -> int:
    """The bytes of a vector: there is none."""
    return 0


def _widened(stored_kn: Stored, dtype: str) -> Float64:
    if dtype != "bfloat16":
        return stored_kn.astype(np.float64)
    return (stored_kn.astype(np.uint32) << 16).view(np.float32).astype(np.float64)


def _groups(values_mn: Float64) -> Iterator[Float64]:
    return (values_mn[:, start : start + _GROUP] for start in range(0, values_mn.shape[1], _GROUP))


def _sums(rows_mn: Float64, by_n: Float64) -> Float64:
    """The sums of the products of rows `(M, n)` with one `(n,)`."""
    found = np.zeros(len(rows_mn))
    for start in range(0, rows_mn.shape[1], _TILE):
        products = rows_mn[:, start : start + _TILE] * by_n[start : start + _TILE]
        whole = np.zeros((len(products), -(-products.shape[1] // _LANES) * _LANES))
        whole[:, : products.shape[1]] = products
        s = np.add.reduce(whole.reshape(len(products), -1, _LANES), axis=1)
        found += ((s[:, 0] + s[:, 4]) + (s[:, 2] + s[:, 6])) + ((s[:, 1] + s[:, 5]) + (s[:, 3] + s[:, 7]))
    return found
