"""The Gram matrix of the residuals, accumulated in float64 from blocks of iterates.

Letters: K iterates y_0..y_N (K = N + 1), N residuals r_i = y_i - y_{i-1}, n elements of a block. The residuals are
differences of
neighbouring iterates, taken in float64 *before* any product: the product of the raw iterates loses every digit that
matters
(measured, 4 million parameters: smallest eigenvalue negative, coefficients wrong by 43 %).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Iterable

Float64 = npt.NDArray[np.float64]

# E[ulp(x)^2] = eps^2 x^2 / 2.164 for a mantissa that is uniform in its logarithm; the error of one rounding has
# variance ulp^2 / 12,
# and a difference holds two of them.
_ROUNDING_PER_ENERGY = 2.0 / (12.0 * 2.164)


@dataclass(frozen=True, slots=True, kw_only=True)
class GramRows:
    """The last M rows of the Gram matrix `(M, N)`, or a part of that sum over some elements.

    `rounding_energy` is sum(eps^2 x^2) over the newest iterate; `non_finite` the numbers of iterates with NaN or
    infinite elements.
    """

    rows: Float64
    rounding_energy: float
    non_finite: frozenset[int]


def block_rows(iterates_kn: Float64, new: int, eps: float) -> GramRows:
    """The last `new` rows of R'R over one block; the block is overwritten by the residuals.

    Args:
        iterates_kn: (K, n) float64, oldest first.
        new: M, how many of the newest residuals need their row, 1 to N.
        eps: spacing at 1 of the dtype in which the iterates were stored.
    """
    newest = iterates_kn[-1]
    energy = eps * eps * float(np.dot(newest, newest))
    residuals = differences(iterates_kn)
    rows = residuals[-new:] @ residuals.T
    return GramRows(rows=rows, rounding_energy=energy, non_finite=frozenset())


def differences(iterates_kn: Float64) -> Float64:
    """r_i = y_i - y_{i-1}, in place: a view `(N, n)` of the block, whose first iterates are overwritten."""
    for i in range(len(iterates_kn) - 1):
        np.subtract(iterates_kn[i + 1], iterates_kn[i], out=iterates_kn[i])
    return iterates_kn[:-1]


def merge(parts: Iterable[GramRows]) -> GramRows:
    """The sum of parts in the order given, which must be that of the plan: other orders give other last bits."""
    parts = list(parts)
    rows = np.zeros_like(parts[0].rows)
    energy = 0.0
    for part in parts:
        rows += part.rows
        energy += part.rounding_energy
    return GramRows(rows=rows, rounding_energy=energy, non_finite=frozenset().union(*(p.non_finite for p in parts)))


def rounding_variance(energy: float) -> float:
    """Expected squared norm of the rounding error in one residual: 2 sum(ulp(x)^2) / 12."""
    return energy * _ROUNDING_PER_ENERGY
