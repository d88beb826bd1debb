"""Quadratics, and gradient descent, Nesterov's method and heavy ball on them.

    x_i = g(y_{i-1}),  g(y) = G (y - x*) + x*,  G = diag(eigenvalues)
Letters: d dimensions, N steps. Every method takes g, the start y_0 (d,) and N, and returns the x_i and the y_{i-1}, row i - 1
of two arrays `(N, d)`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from rna_watch.acceleration.coefficients import solve, spectrum_of_factor
from rna_watch.acceleration.qr_factor import block_factor

if TYPE_CHECKING:
    from collections.abc import Callable

    Map = Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]]

Float64 = npt.NDArray[np.float64]
_MOMENTUM = 0.6


def gradient_descent(g: Map, start: Float64, n: int) -> tuple[Float64, Float64]:
    """y_i = x_i."""
    return _run(g, start, n, lambda xs, _: xs[-1])


def nesterov(g: Map, start: Float64, n: int) -> tuple[Float64, Float64]:
    """y_i = (1 + b) x_i - b x_{i-1}, b = 0.6."""
    return _run(g, start, n, lambda xs, _: (1 + _MOMENTUM) * xs[-1] - _MOMENTUM * xs[-2])


def heavy_ball(g: Map, start: Float64, n: int) -> tuple[Float64, Float64]:
    """y_i = x_i + b (y_{i-1} - y_{i-2}), b = 0.6."""
    return _run(g, start, n, lambda xs, ys: xs[-1] + _MOMENTUM * (ys[-1] - ys[-2]))


METHODS = {"gradient": gradient_descent, "Nesterov": nesterov, "heavy ball": heavy_ball}


def _run(
    g: Map, start: Float64, n: int, following: Callable[[list[Float64], list[Float64]], Float64]
) -> tuple[Float64, Float64]:
    xs, ys = [start], [start, start]  # the values before the first step
    for _ in range(n):
        xs.append(g(ys[-1]))
        ys.append(following(xs, ys))
    return np.array(xs[1:]), np.array(ys[1:-1])


def linear(eigenvalues_d: Float64, limit_d: Float64) -> Map:
    """g(y) = G (y - x*) + x*."""
    return lambda y_d: eigenvalues_d * (y_d - limit_d) + limit_d


def rounded(value: float, digits: int) -> float:
    """A number, rounded to so many significant digits."""
    return float(f"{value:.{digits}g}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Left:
    """||R c|| / ||r_1|| with Algorithm 1's c at lambda = 0, and how far rounding alone can move it.

    The rounding is N eps (||X||_F + ||R||_F) ||c||_2 / ||r_1||, the error of R = X - Y and of the factor of R.
    """

    value: float
    rounding: float


def residual_left(xs_nd: Float64, ys_nd: Float64) -> Left | None:
    """The residual left by extrapolation; None if float64 cannot distinguish the residuals."""
    residuals_nd = xs_nd - ys_nd
    solution = solve(spectrum_of_factor(block_factor(residuals_nd)), 0.0)
    if solution.status:
        return None
    c, first = solution.coefficients, float(np.linalg.norm(residuals_nd[0]))
    entries = float(np.linalg.norm(xs_nd) + np.linalg.norm(residuals_nd))
    rounding = len(c) * float(np.finfo(np.float64).eps) * entries * float(np.linalg.norm(c))
    return Left(value=float(np.linalg.norm(c @ residuals_nd)) / first, rounding=rounding / first)


def bound(kappa: float, n: int) -> float:
    """Theorem 3.1: 2 rho^(N-1) / (1 + rho^(2(N-1))), rho = (1 - sqrt kappa) / (1 + sqrt kappa)."""
    rho = (1.0 - np.sqrt(kappa)) / (1.0 + np.sqrt(kappa))
    return float(2.0 * rho ** (n - 1) / (1.0 + rho ** (2 * (n - 1))))


def hardest(kappa: float, n: int) -> tuple[Float64, Float64]:
    """Eigenvalues in [0, 1 - kappa] and x* - y_0, (N,) each, for which the bound is attained.

    The residual has Chebyshev's N extreme points t_k as eigenvalues, with squared weights |l_k(1)| (Lagrange's polynomials).
    The least squares solution then has the same size everywhere, which is 1 / sum |l_k(1)|.
    """
    points = (1.0 - kappa) * (1.0 + np.cos(np.pi * np.arange(n) / (n - 1))) / 2.0
    at_one = [np.prod([(1.0 - t) / (s - t) for t in points if t != s]) for s in points]
    return points, np.sqrt(np.abs(at_one)) / (1.0 - points)
