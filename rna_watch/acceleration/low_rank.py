"""Low rank: the best approximation of a weighted sum of products of two small matrices, as such a product.

Letters: n products B_i A_i with B_i `(o, r)` and A_i `(r, i)`; m = n r. No matrix of o x i elements is made.
Source: Eckart and Young 1936, "The approximation of one matrix by another of lower rank".
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]

_NOISE = 4.0 * 2.0**-52  # singular values below so much of the largest, times m, are rounding


@dataclass(frozen=True, slots=True, kw_only=True)
class LowRank:
    """Factors `up` `(o, r)` and `down` `(r, i)` of the best approximation of S = sum_i w_i B_i A_i of rank r.

    Both carry the square roots of the singular values; in each row of `down`, the first of the largest elements is positive.
    Frobenius norms: `norm` of S, `cross` of (sum_i w_i B_i)(sum_i w_i A_i) - S, `truncation` of up down - S. They are NaN, and so
    are the factors, where an element is not finite.
    """

    up: Float64
    down: Float64
    norm: float
    cross: float
    truncation: float


def best_product(ups_nor: Float64, downs_nri: Float64, weights_n: Float64) -> LowRank:
    """The best approximation of sum_i w_i B_i A_i of rank r: QR of [B_1 .. B_n] and [A_1; ..; A_n]', SVD of the m x m core.

    Args:
        ups_nor: B_i.
        downs_nri: A_i.
        weights_n: w_i.
    """
    n, outputs, rank = ups_nor.shape
    inputs = downs_nri.shape[2]
    with np.errstate(invalid="ignore", over="ignore"):
        q_left, r_left = np.linalg.qr(ups_nor.transpose(1, 0, 2).reshape(outputs, n * rank))
        q_right, r_right = np.linalg.qr(downs_nri.reshape(n * rank, inputs).T)
        core = (r_left * np.repeat(weights_n, rank)) @ r_right.T
        plain = _weighted(r_left, weights_n) @ _weighted(r_right, weights_n).T
    if not (np.isfinite(core).all() and np.isfinite(plain).all()):
        nan = math.nan
        return LowRank(
            up=np.full((outputs, rank), nan), down=np.full((rank, inputs), nan), norm=nan, cross=nan, truncation=nan
        )
    left, values, right = np.linalg.svd(core, full_matrices=False)
    values = np.where(values > _NOISE * n * rank * values[0], values, 0.0)
    kept = min(rank, len(values))
    roots = np.sqrt(values[:kept])
    up, down = np.zeros((outputs, rank)), np.zeros((rank, inputs))
    up[:, :kept] = q_left @ (left[:, :kept] * roots)
    down[:kept] = (roots[:, None] * right[:kept]) @ q_right.T
    largest = down[np.arange(rank), np.abs(down).argmax(axis=1)]
    signs = np.where(largest < 0.0, -1.0, 1.0)
    if not values.any():  # a training that has not moved yet: its A is kept, and B is zero
        down = _weighted(downs_nri.transpose(2, 0, 1).reshape(inputs, n * rank), weights_n).T
        signs = np.ones(rank)
    return LowRank(
        up=up * signs,
        down=down * signs[:, None],
        norm=float(np.linalg.norm(values)),
        cross=float(np.linalg.norm(plain - core)),
        truncation=float(np.linalg.norm(values[kept:])),
    )


def _weighted(stacked: Float64, weights_n: Float64) -> Float64:
    """sum_i w_i X_i `(x, r)` of [X_1 .. X_n] `(x, m)`."""
    n = len(weights_n)
    found: Float64 = (stacked.reshape(len(stacked), n, -1) * weights_n[:, None]).sum(axis=1)
    return found


def distance(up: Float64, down: Float64, other_up: Float64, other_down: Float64) -> float:
    """The Frobenius norm of the difference of two products of factors `(o, r)` and `(r, i)`."""
    with np.errstate(invalid="ignore", over="ignore"):
        r_left = np.linalg.qr(np.hstack([up, -other_up])).R
        r_right = np.linalg.qr(np.vstack([down, other_down]).T).R
        return float(np.linalg.norm(r_left @ r_right.T))
