"""The triangular factor T of the residuals, T'T = R'R, accumulated from blocks without ever forming R'R.

Letters: N residuals, n elements of a block, M rows of a factor (at most N). Forming R'R squares the condition of R:
beyond cond(R) = 1e8 its small eigenvalues are rounding noise. float64 checkpoints late in training go there, and
their windows need this route; float32 ones hold no more digits than R'R keeps. Source: Demmel, Grigori, Hoemmen,
Langou 2012 (TSQR), the sequential form.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Iterable

Float64 = npt.NDArray[np.float64]


def block_factor(residuals_nd: Float64) -> Float64:
    """T of one block by QR: residuals' = Q T, with a diagonal that is not negative, so that T is unique.

    Args:
        residuals_nd: (N, n) float64, as `gram.differences` leaves them.

    Returns:
        T, (min(n, N), N).
    """
    factor_mn = np.linalg.qr(residuals_nd.T, mode="r")
    signs = np.where(np.diagonal(factor_mn) < 0.0, -1.0, 1.0)
    return np.asarray(factor_mn * signs[:, None], dtype=np.float64)


def stacked_factor(parts: Iterable[Float64]) -> Float64:
    """T of all blocks from theirs: T_k = qr([T_{k-1}; part_k]), in the order given, which must be that of the plan.

    Args:
        parts: factors (M, N) of the blocks; taken one at a time.

    Returns:
        T, (N, N); its last rows are zero if there were fewer elements than residuals.

    Raises:
        ValueError: there is no part, or the parts belong to windows of different lengths.
    """
    stacked: Float64 | None = None
    for part in parts:
        if stacked is None:
            stacked = np.zeros((0, part.shape[1]))
        if part.shape[1] != stacked.shape[1]:
            raise ValueError(f"a factor of {part.shape[1]} residuals cannot join one of {stacked.shape[1]}")
        stacked = block_factor(np.vstack([stacked, part]).T)
    if stacked is None:
        raise ValueError("the factor of no blocks is not defined: pass at least one part")
    n = stacked.shape[1]
    return np.vstack([stacked, np.zeros((n - len(stacked), n))])
