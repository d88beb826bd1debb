"""RNA under a constraint on c: no negative weights, or a cap on how far it may extrapolate.

    argmin c'Gc / ||G||_2 + lambda ||c||^2,  sum c = 1,  and  c >= 0  or  ||c||_1 <= cap.
Names: `gram` is R'R (N x N), `regularization` is lambda, relative to the spectral norm; c_i belongs to residual i,
oldest first. Sources: Barre, Taylor, d'Aspremont 2020 (arXiv 2010.15482, constrained Anderson acceleration) for the
cap.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from rna_watch.acceleration.coefficients import Solution, Spectrum, solve, spectrum
from rna_watch.acceleration.quadratic import minimize

Float64 = npt.NDArray[np.float64]


def simplex(gram_nn: Float64, regularization: float) -> Solution:
    """Non-negative RNA: argmin c'Gc / ||G||_2 + lambda ||c||^2, c >= 0, sum c = 1.

    Where RNA's own c has no negative entry, it is exactly that.

    Args:
        gram_nn: R'R, (N, N), symmetric.
        regularization: lambda >= 0; infinity gives the uniform average.

    Raises:
        ValueError: lambda is negative or NaN.
    """
    spectrum_ = spectrum(gram_nn)
    free = solve(spectrum_, regularization)
    if spectrum_.status or (not free.status and free.coefficients.min() >= 0.0):
        return free
    n = len(gram_nn)
    found = minimize(_objective(gram_nn, spectrum_, regularization), np.ones((1, n)), np.ones(1))
    if found.status:
        return _unsolved(n, regularization, found.status)
    return Solution(coefficients=found.x / found.x.sum(), regularization=regularization)


def l1_capped(gram_nn: Float64, regularization: float, cap: float) -> Solution:
    """RNA that extrapolates no further than a cap: argmin c'Gc / ||G||_2 + lambda ||c||^2, sum c = 1, ||c||_1 <= cap.

    Where RNA's own c satisfies the cap, it is exactly that; a cap of 1 is `simplex`.

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
    if cap == 1.0:
        return simplex(gram_nn, regularization)
    spectrum_ = spectrum(gram_nn)
    free = solve(spectrum_, regularization)
    within = not free.status and float(np.abs(free.coefficients).sum()) <= cap
    if spectrum_.status or within or np.isinf(cap):
        return free
    # c = u - v with u, v >= 0 and fixed sums: what u and v share brings ||c||_1 below the cap, so no slack is needed
    n = len(gram_nn)
    objective = _objective(gram_nn, spectrum_, regularization)
    sums = np.array([(cap + 1.0) / 2.0, (cap - 1.0) / 2.0])
    rows = np.repeat(np.eye(2), n, axis=1)
    found = minimize(np.block([[objective, -objective], [-objective, objective]]), rows, sums)
    if found.status:
        return _unsolved(n, regularization, found.status)
    u, v = found.x[:n], found.x[n:]
    c = u * (sums[0] / u.sum()) - v * (sums[1] / v.sum())
    return Solution(coefficients=c, regularization=regularization)


def _objective(gram_nn: Float64, spectrum_: Spectrum, regularization: float) -> Float64:
    """G / ||G||_2 + lambda I, divided by 1 + lambda, which changes no minimizer and keeps a large lambda in range."""
    scaled = (gram_nn + gram_nn.T) / 2.0 / spectrum_.scale
    return np.asarray((scaled + regularization * np.eye(len(scaled))) / (1.0 + regularization), dtype=np.float64)


def _unsolved(n: int, regularization: float, status: str) -> Solution:
    return Solution(coefficients=np.full(n, 1.0 / n), regularization=regularization, status=status)
