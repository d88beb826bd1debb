"""The coefficients of RNA for any regularization, from one eigendecomposition of the Gram matrix.

Source: Scieur, Oyallon, d'Aspremont, Bach 2018 (arXiv 1805.09639), Algorithm 1:
    solve (R'R / ||R'R||_2 + lambda I) z = 1,  c = z / sum(z).
Names: `gram` is R'R (N x N), `regularization` is lambda, relative to the spectral norm; c_i belongs to residual i,
oldest first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Sequence

Float64 = npt.NDArray[np.float64]

OK = ""
_SMALLEST_SUM = 1e-300


@dataclass(frozen=True, slots=True, kw_only=True)
class Spectrum:
    """Eigenvalues (ascending, relative to the largest, `(N,)`) and eigenvectors `(N, N)` of R'R; `scale` is ||R'R||_2.

    `status` is empty, or a sentence that says why nothing can be solved.
    """

    values: Float64
    vectors: Float64
    scale: float
    status: str = OK

    @property
    def condition(self) -> float:
        """Largest over smallest eigenvalue of R'R (infinite if it is singular to rounding)."""
        smallest = float(self.values[0])
        return 1.0 / smallest if smallest > 0 else float("inf")


def spectrum(gram_nn: Float64) -> Spectrum:
    """The eigendecomposition that serves every lambda.

    Args:
        gram_nn: R'R, (N, N), symmetric.
    """
    n = len(gram_nn)
    nothing = Spectrum(values=np.zeros(n), vectors=np.eye(n), scale=0.0)
    if not np.isfinite(gram_nn).all():
        return _with_status(nothing, "The residuals hold infinite or NaN values, so there is nothing to solve.")
    largest = float(np.abs(gram_nn).max(initial=0.0))
    if largest == 0.0:
        return _with_status(
            nothing, "All checkpoints of the window are equal, so there is no direction to extrapolate."
        )
    values, vectors = np.linalg.eigh(gram_nn / largest)
    top = float(values[-1])
    return Spectrum(values=values / top, vectors=vectors, scale=top * largest)


def _with_status(spectrum_: Spectrum, status: str) -> Spectrum:
    return Spectrum(values=spectrum_.values, vectors=spectrum_.vectors, scale=spectrum_.scale, status=status)


@dataclass(frozen=True, slots=True, kw_only=True)
class Solution:
    """Coefficients `(N,)` that sum to one, or a `status` sentence that says why there are none (then uniform)."""

    coefficients: Float64
    regularization: float
    status: str = OK


def solve(spectrum_: Spectrum, regularization: float) -> Solution:
    """Algorithm 1, steps 2 and 3: c(lambda).

    Args:
        spectrum_: of R'R.
        regularization: lambda >= 0; infinity gives the uniform average.

    Raises:
        ValueError: lambda is negative or NaN.
    """
    if not regularization >= 0.0:
        raise ValueError(f"lambda must be at least 0, not {regularization}")
    n = len(spectrum_.values)
    uniform = np.full(n, 1.0 / n)
    if spectrum_.status:
        return Solution(coefficients=uniform, regularization=regularization, status=spectrum_.status)
    if np.isinf(regularization):
        return Solution(coefficients=uniform, regularization=regularization)
    # multiplied through by 1 + lambda, so that a large lambda neither overflows nor loses the sum
    denominator = (np.maximum(spectrum_.values, 0.0) + regularization) / (1.0 + regularization)
    noise = n * np.finfo(np.float64).eps
    if denominator.min() <= (noise if regularization == 0.0 else 0.0):
        return Solution(
            coefficients=uniform,
            regularization=regularization,
            status="The residuals are linearly dependent and lambda is 0: take lambda > 0 or a shorter window.",
        )
    z = spectrum_.vectors @ ((spectrum_.vectors.T @ np.ones(n)) / denominator)
    total = float(z.sum())
    if not np.isfinite(total) or abs(total) < _SMALLEST_SUM:
        return Solution(
            coefficients=uniform,
            regularization=regularization,
            status="The solution's sum vanished in rounding: take a larger lambda.",
        )
    c = z / total
    return Solution(coefficients=c / c.sum(), regularization=regularization)


def solve_path(spectrum_: Spectrum, regularizations: Sequence[float]) -> list[Solution]:
    """c(lambda) for each lambda."""
    return [solve(spectrum_, value) for value in regularizations]


def smallest_stable(spectrum_: Spectrum, floor: float = 1e-8, norm_limit: float = 3.0) -> Solution:
    """The solution of the smallest lambda >= `floor` whose ||c||_2 is at most `norm_limit`.

    Lambdas are tried on a grid of 1/8 decades; ||c||_2 falls with lambda, towards 1 / sqrt(N), so the search ends.
    """
    grid = floor * 10.0 ** (np.arange(8 * 16 + 1) / 8.0)
    for value in grid:
        solution = solve(spectrum_, float(value))
        if solution.status or float(np.linalg.norm(solution.coefficients)) <= norm_limit:
            return solution
    return solve(spectrum_, float("inf"))


def norm_bound(n: int, regularization: float) -> float:
    """Sharp (Kantorovich) bound on ||c||_2: sqrt((1 + 2 lambda)^2 / (4 N lambda (1 + lambda)))."""
    if regularization <= 0.0:
        return float("inf")
    if np.isinf(regularization):
        return float(1.0 / np.sqrt(n))
    return float((1.0 + 2.0 * regularization) / np.sqrt(4.0 * n * regularization * (1.0 + regularization)))
