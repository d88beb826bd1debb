"""RNA under a constraint on c: no negative weights, or a cap on how far it may extrapolate.

    argmin c'Gc / ||G||_2 + lambda ||c||^2,  sum c = 1,  and  c >= 0  or  ||c||_1 <= cap.
Names: `gram` is R'R (N x N), `regularization` is lambda, relative to the spectral norm; c_i belongs to residual i,
oldest first. Sources: Barre, Taylor, d'Aspremont 2020 (arXiv 2010.15482, constrained Anderson acceleration) for the
cap.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from rna_watch.acceleration.coefficients import Solution, solve, spectrum
from rna_watch.acceleration.quadratic import minimize

Float64 = npt.NDArray[np.float64]


def simplex(gram_nn: Float64, regularization: float) -> Solution:
    """Non-negative RNA: argmin c'Gc / ||G||_2 + lambda ||c||^2, c >= 0, sum c = 1.

    The result is exactly RNA's c if that has no negative entry.

    Args:
        gram_nn: R'R, (N, N), symmetric.
        regularization: lambda >= 0; infinity gives the uniform average.

    Raises:
        ValueError: lambda is negative or NaN.
    """
    return l1_capped(gram_nn, regularization, cap=1.0)


def l1_capped(gram_nn: Float64, regularization: float, cap: float) -> Solution:
    """RNA that extrapolates no further than a cap: argmin c'Gc / ||G||_2 + lambda ||c||^2, sum c = 1, ||c||_1 <= cap.

    The result is exactly RNA's c if that satisfies the cap; a cap of 1 is `simplex`.

    Args:
        gram_nn: R'R, (N, N), symmetric.
        regularization: lambda >= 0; infinity gives the uniform average.
        cap: at least 1; infinity gives `solve`.

    Raises:
        ValueError: lambda is negative or NaN, or the cap is below 1 or NaN.

    Source: Barre, Taylor, d'Aspremont 2020, arXiv 2010.15482 (constrained Anderson acceleration).
    """
    if not cap >= 1.0:
        raise ValueError(f"the cap on ||c||_1 must be at least 1, which is the sum of c, not {cap}")
    spectrum_ = spectrum(gram_nn)
    free = solve(spectrum_, regularization)
    within = not free.status and (free.coefficients.min() >= 0.0 or float(np.abs(free.coefficients).sum()) <= cap)
    if spectrum_.status or within or np.isinf(cap):
        return free
    n = len(gram_nn)
    # divided by 1 + lambda, which changes no minimizer and keeps a large lambda in range
    scaled = (gram_nn + gram_nn.T) / 2.0 / spectrum_.scale
    objective = (scaled + regularization * np.eye(n)) / (1.0 + regularization)
    # c = u - v with u, v >= 0 and fixed sums: what u and v share brings ||c||_1 below the cap, so no slack is needed
    signs, sums = np.array([1.0, -1.0]), np.array([(cap + 1.0) / 2.0, (cap - 1.0) / 2.0])
    if cap == 1.0:
        signs, sums = signs[:1], sums[:1]
    shortest = np.arange(n) == np.diagonal(objective).argmin()
    q = np.block([[one * other * objective for other in signs] for one in signs])
    found = minimize(q, np.repeat(np.eye(len(sums)), n, axis=1), np.kron(sums, shortest))
    if found.status:
        return Solution(coefficients=np.full(n, 1.0 / n), regularization=regularization, status=found.status)
    parts = found.x.reshape(len(sums), n)
    return Solution(coefficients=(signs * sums / parts.sum(axis=1)) @ parts, regularization=regularization)
