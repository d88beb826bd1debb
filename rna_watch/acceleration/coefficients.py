"""The coefficients of RNA for any regularization, from one spectrum of the Gram matrix.

Source: Scieur, Oyallon, d'Aspremont, Bach 2018 (arXiv 1805.09639), Algorithm 1:
    solve (R'R / ||R'R||_2 + lambda I) z = 1,  c = z / sum(z).
Names: `gram` is R'R (N x N), `factor` a triangular T with T'T = R'R, `regularization` is lambda, relative to the
spectral norm; c_i belongs to residual i, oldest first.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]

OK = ""
_SMALLEST_SUM = 1e-300
_PRIOR_SUM_TOLERANCE = 1e-9
_EPS = float(np.finfo(np.float64).eps)
_NOT_FINITE = "The residuals hold infinite or NaN values, so there is nothing to solve."
_ALL_EQUAL = "All checkpoints of the window are equal, so there is no direction to extrapolate."


@dataclass(frozen=True, slots=True, kw_only=True)
class Spectrum:
    """Eigenvalues (ascending, relative to the largest, `(N,)`) and eigenvectors `(N, N)` of R'R; `scale` is ||R'R||_2.

    `resolution`: relative eigenvalues up to it are rounding noise. `status` is empty, or a sentence that says why
    nothing can be solved.
    """

    values: Float64
    vectors: Float64
    scale: float
    resolution: float = 0.0
    status: str = OK

    @property
    def condition(self) -> float:
        """Largest over smallest eigenvalue of R'R (infinite if it is singular to rounding)."""
        smallest = float(self.values[0])
        return 1.0 / smallest if smallest > 0 else float("inf")


def spectrum(gram_nn: Float64) -> Spectrum:
    """The eigendecomposition that serves every lambda: R'R = ||R'R||_2 V diag(values) V'.

    Args:
        gram_nn: R'R, (N, N), symmetric.
    """
    largest = float(np.abs(gram_nn).max(initial=0.0))
    status = _unsolvable(largest)
    if status:
        return _no_spectrum(len(gram_nn), status)
    values, vectors = np.linalg.eigh(gram_nn / largest)
    top = float(values[-1])
    resolution = len(gram_nn) * _EPS
    return Spectrum(values=values / top, vectors=vectors, scale=top * largest, resolution=resolution)


def spectrum_of_factor(factor_nn: Float64) -> Spectrum:
    """The same spectrum from T with T'T = R'R: values = (s / s_max)^2, of T = U diag(s) V'.

    Forming R'R rounds at eps ||R'R||_2 and so hides eigenvalues below 1e-16; the factor's singular values reach down
    to eps s_max, their squares to 1e-32. This is the route for float64 checkpoints.

    Args:
        factor_nn: T, (M, N), of `factor.stacked_factor`, or any other matrix with T'T = R'R.
    """
    n = factor_nn.shape[1]
    largest = float(np.abs(factor_nn).max(initial=0.0))
    status = _unsolvable(largest)
    if status:
        return _no_spectrum(n, status)
    _, lengths, vectors = np.linalg.svd(factor_nn / largest)
    values = np.zeros(n)
    values[: len(lengths)] = (lengths / lengths[0]) ** 2
    return Spectrum(
        values=values[::-1].copy(),
        vectors=vectors[::-1].T.copy(),
        scale=(float(lengths[0]) * largest) ** 2,
        resolution=(n * _EPS) ** 2,
    )


def _unsolvable(largest: float) -> str:
    """Why a matrix whose largest entry is this has no spectrum, or ""."""
    if not np.isfinite(largest):
        return _NOT_FINITE
    return _ALL_EQUAL if largest == 0.0 else OK


def _no_spectrum(n: int, status: str) -> Spectrum:
    return Spectrum(values=np.zeros(n), vectors=np.eye(n), scale=0.0, status=status)


@dataclass(frozen=True, slots=True, kw_only=True)
class Solution:
    """Coefficients `(N,)` that sum to one, or a `status` sentence that says why there are none (then the prior)."""

    coefficients: Float64
    regularization: float
    status: str = OK


def solve(spectrum_: Spectrum, regularization: float, prior: Float64 | None = None) -> Solution:
    """Algorithm 1, steps 2 and 3, centred on a prior p: argmin c'Gc / ||G||_2 + lambda ||c - p||^2, sum c = 1.

    c = lambda (G^ + lambda I)^-1 p + mu (G^ + lambda I)^-1 1 with G^ = G / ||G||_2 and the mu that makes the sum one.
    For the uniform prior the first term is a multiple of the second: this is Algorithm 1 itself.

    Args:
        spectrum_: of R'R.
        regularization: lambda >= 0; infinity gives the prior.
        prior: p, (N,), sum 1; None is uniform.

    Raises:
        ValueError: lambda is negative or NaN, or the prior has another length or sum.
    """
    if not regularization >= 0.0:
        raise ValueError(f"lambda must be at least 0, not {regularization}")
    n = len(spectrum_.values)
    centre = np.full(n, 1.0 / n) if prior is None else _checked(prior, n)
    if spectrum_.status:
        return Solution(coefficients=centre, regularization=regularization, status=spectrum_.status)
    if np.isinf(regularization):
        return Solution(coefficients=centre, regularization=regularization)
    values, vectors = np.maximum(spectrum_.values, 0.0), spectrum_.vectors
    # multiplied through by 1 + lambda, so that a large lambda neither overflows nor loses the sum
    denominator = (values + regularization) / (1.0 + regularization)
    if denominator.min() <= (spectrum_.resolution if regularization == 0.0 else 0.0):
        return Solution(
            coefficients=centre,
            regularization=regularization,
            status="The residuals are linearly dependent and lambda is 0: take lambda > 0 or a shorter window.",
        )
    z = vectors @ ((vectors.T @ np.ones(n)) / denominator)
    total = float(z.sum())
    if not np.isfinite(total) or abs(total) < _SMALLEST_SUM:
        return Solution(
            coefficients=centre,
            regularization=regularization,
            status="The solution's sum vanished in rounding: take a larger lambda.",
        )
    c = z / total
    if prior is not None:
        # lambda (G^ + lambda I)^-1 p = p - G^ (G^ + lambda I)^-1 p: what is removed from p returns along Algorithm 1's c.
        # Neither end of the path cancels: a large lambda removes nothing, lambda = 0 removes all.
        taken = vectors @ ((vectors.T @ centre) * (values / (values + regularization)))
        c = centre - taken + taken.sum() * (c / c.sum())
    return Solution(coefficients=c / c.sum(), regularization=regularization)


def _checked(prior: Float64, n: int) -> Float64:
    """A float64 copy of the prior."""
    centre = np.array(prior, dtype=np.float64)
    if centre.shape != (n,):
        raise ValueError(f"the prior needs one weight for each of the {n} residuals, not the shape {centre.shape}")
    if not abs(float(centre.sum()) - 1.0) <= _PRIOR_SUM_TOLERANCE:
        raise ValueError(f"the prior's weights must sum to 1, not {float(centre.sum())}: divide them by their sum")
    return centre


def input_weights(c: Float64, mixing: float = 1.0) -> Float64:
    """Algorithm 1, step 4: the weights beta [0, c] + (1 - beta) [c, 0] of the inputs y_0..y_N, (N + 1,), sum 1.

    Args:
        c: coefficients, (N,), oldest first.
        mixing: beta; 1 combines the newer end of each interval, 0 the older one.

    Raises:
        ValueError: the mixing is not a number.
    """
    if not np.isfinite(mixing):
        raise ValueError(f"the mixing must be a finite number, not {mixing}")
    newer, older = np.append(0.0, c), np.append(c, 0.0)
    return mixing * newer + (1.0 - mixing) * older


def smallest_stable(spectrum_: Spectrum, floor: float = 1e-8, norm_limit: float = 3.0) -> Solution:
    """The solution of the smallest lambda >= `floor` whose ||c||_2 is at most `norm_limit`.

    Lambdas are tried on a grid of 1/8 decades; ||c||_2 falls with lambda, towards 1 / sqrt(N), so the search ends.

    Args:
        spectrum_: of R'R.
        floor: the smallest lambda to try.
        norm_limit: the largest ||c||_2.
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
