"""Theorem 3.1 of the paper, on quadratics: x_i = g(y_{i-1}) with g(y) = G (y - x*) + x*, R = X - Y, lambda = 0."""

import numpy as np
import pytest

from rna_watch.acceleration.coefficients import solve, spectrum, spectrum_of_factor
from rna_watch.acceleration.qr_factor import block_factor

N = 5
KAPPAS = [0.3, 0.1, 0.01, 1e-3]


def gradient_descent(g, start):
    """y_i = x_i."""
    xs, ys = [], [start]
    for _ in range(N):
        xs.append(g(ys[-1]))
        ys.append(xs[-1])
    return np.array(xs), np.array(ys[:-1])


def nesterov(g, start, momentum=0.6):
    """y_i = (1 + b) x_i - b x_{i-1}."""
    xs, ys = [start], [start]
    for _ in range(N):
        xs.append(g(ys[-1]))
        ys.append((1 + momentum) * xs[-1] - momentum * xs[-2])
    return np.array(xs[1:]), np.array(ys[:-1])


def heavy_ball(g, start, momentum=0.6):
    """y_i = x_i + b (y_{i-1} - y_{i-2})."""
    xs, ys = [], [start, start]
    for _ in range(N):
        xs.append(g(ys[-1]))
        ys.append(xs[-1] + momentum * (ys[-1] - ys[-2]))
    return np.array(xs), np.array(ys[1:-1])


ALGORITHMS = [gradient_descent, nesterov, heavy_ball]


def extrapolated(algorithm, eigenvalues, offset):
    """The residual's norm after extrapolation over that of the start; G is diag(eigenvalues), x* is 1, x* - y_0 given."""
    limit = np.ones(len(eigenvalues))
    xs, ys = algorithm(lambda y: eigenvalues * (y - limit) + limit, limit - offset)
    residuals_nd = xs - ys
    solution = solve(spectrum_of_factor(block_factor(residuals_nd)), 0.0)
    assert solution.status == ""
    combined = solution.coefficients @ ys
    residual = eigenvalues * (combined - limit) + limit - combined
    np.testing.assert_allclose(
        residual, solution.coefficients @ residuals_nd, atol=1e-11 * np.linalg.norm(residuals_nd)
    )
    return np.linalg.norm(residual) / np.linalg.norm(residuals_nd[0])


def bound(kappa):
    """2 rho^(N-1) / (1 + rho^(2(N-1))), rho = (1 - sqrt kappa) / (1 + sqrt kappa)."""
    rho = (1 - np.sqrt(kappa)) / (1 + np.sqrt(kappa))
    return 2 * rho ** (N - 1) / (1 + rho ** (2 * (N - 1)))


def hardest(low, high):
    """Eigenvalues in [low, high] and an offset on which no polynomial of degree N - 1 with p(1) = 1 beats Chebyshev's.

    At Chebyshev's N extreme points t_k, with squared weights |l_k(1)| (Lagrange's polynomials) on the residual, the
    least squares solution has equal size everywhere, which is 1 / sum |l_k(1)|.
    """
    points = low + (high - low) * (1 + np.cos(np.pi * np.arange(N) / (N - 1))) / 2
    at_one = [np.prod([(1 - t) / (s - t) for t in points if t != s]) for s in points]
    return points, np.sqrt(np.abs(at_one)) / (1 - points)


@pytest.mark.parametrize("kappa", KAPPAS)
@pytest.mark.parametrize("seed", range(3))
def test_three_algorithms_are_extrapolated_to_one_residual(kappa, seed):
    """Gradient descent, Nesterov and heavy ball span one space: their extrapolated residuals agree to 1e-9."""
    rng = np.random.default_rng(seed)
    eigenvalues, offset = rng.uniform(0, 1 - kappa, 30), rng.standard_normal(30)
    first, *others = [extrapolated(algorithm, eigenvalues, offset) for algorithm in ALGORITHMS]
    assert others == pytest.approx([first] * 2, rel=1e-9)


@pytest.mark.parametrize("kappa", KAPPAS)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_residual_stays_under_the_bound(kappa, algorithm):
    """For 0 <= G <= (1 - kappa) I no start leaves more of its residual than Theorem 3.1 allows."""
    for seed in range(5):
        rng = np.random.default_rng(seed)
        eigenvalues, offset = rng.uniform(0, 1 - kappa, 30), rng.standard_normal(30)
        assert extrapolated(algorithm, eigenvalues, offset) <= bound(kappa)


@pytest.mark.parametrize("kappa", KAPPAS)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_bound_is_attained(kappa, algorithm):
    """The extrapolated residual is the bound itself on the hardest quadratic: no smaller bound would hold."""
    assert extrapolated(algorithm, *hardest(0.0, 1 - kappa)) == pytest.approx(bound(kappa), rel=1e-8)


@pytest.mark.parametrize("kappa", [0.3, 0.1])
def test_negative_eigenvalues_break_the_bound(kappa):
    """There are starts beyond the bound with -(1 - kappa) I <= G (steps of up to 2/L): the tests above can fail."""
    found = extrapolated(gradient_descent, *hardest(-(1 - kappa), 1 - kappa))
    assert found > 1.9 * bound(kappa)
    rng = np.random.default_rng(0)
    eigenvalues = rng.uniform(-(1 - kappa), 1 - kappa, 300)
    assert found > extrapolated(gradient_descent, eigenvalues, rng.standard_normal(300))


def test_regularization_parts_the_algorithms():
    """Already at lambda = 1e-8 the three are no longer the same, so that agreement is no accident of the test."""
    rng = np.random.default_rng(1)
    eigenvalues, offset = rng.uniform(0, 0.9, 30), rng.standard_normal(30)
    norms = []
    for algorithm in ALGORITHMS:
        xs, ys = algorithm(lambda y: eigenvalues * y, offset)
        residuals_nd = xs - ys
        c = solve(spectrum(residuals_nd @ residuals_nd.T), 1e-8).coefficients
        norms.append(np.linalg.norm(c @ residuals_nd))
    assert max(norms) / min(norms) > 1 + 1e-7
