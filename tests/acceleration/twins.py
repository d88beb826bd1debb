"""The slow, obvious twins of the mathematics: whole matrices, straight from the equations."""

import itertools
from fractions import Fraction

import numpy as np


def residuals(iterates_kd):
    """R' (N, d): differences of neighbouring iterates, in float64."""
    return np.diff(np.asarray(iterates_kd, dtype=np.float64), axis=0)


def gram(iterates_kd):
    """R'R (N, N)."""
    residuals_nd = residuals(iterates_kd)
    return residuals_nd @ residuals_nd.T


def coefficients(gram_nn, regularization):
    """Algorithm 1, steps 2 and 3, by a linear solver: (R'R / ||R'R||_2 + lambda I) z = 1, c = z / sum(z)."""
    scaled = gram_nn / np.linalg.norm(gram_nn, 2)
    z = np.linalg.solve(scaled + regularization * np.eye(len(scaled)), np.ones(len(scaled)))
    return z / z.sum()


def prior_coefficients(gram_nn, regularization, prior):
    """The argmin of c'Gc / ||G||_2 + lambda ||c - p||^2, sum c = 1, by the bordered system of its two conditions."""
    n = len(gram_nn)
    bordered = np.zeros((n + 1, n + 1))
    bordered[:n, :n] = gram_nn / np.linalg.norm(gram_nn, 2) + regularization * np.eye(n)
    bordered[:n, n] = bordered[n, :n] = 1.0
    return np.linalg.solve(bordered, np.append(regularization * prior, 1.0))[:n]


def exact_coefficients(residuals_nd):
    """The c at lambda = 0 in rational arithmetic: Gauss and Jordan on R'R z = 1, c = z / sum(z), rounded once at the end."""
    rows = [[Fraction(float(value)) for value in row] for row in residuals_nd]
    table = [[sum(a * b for a, b in zip(x, y, strict=True)) for y in rows] + [Fraction(1)] for x in rows]
    for i in range(len(table)):
        table[i] = [value / table[i][i] for value in table[i]]
        for k in range(len(table)):
            if k != i:
                table[k] = [a - table[k][i] * b for a, b in zip(table[k], table[i], strict=True)]
    total = sum(row[-1] for row in table)
    return np.array([float(row[-1] / total) for row in table])


def objective(gram_nn, regularization):
    """H = R'R / ||R'R||_2 + lambda I, of the objective c'Hc."""
    return gram_nn / np.linalg.norm(gram_nn, 2) + regularization * np.eye(len(gram_nn))


def simplex(gram_nn, regularization):
    """The argmin of c'Hc, c >= 0, sum c = 1, by trying every set of positive entries."""
    return _best(gram_nn, regularization, signs=(0, 1), cap=1.0)


def l1_capped(gram_nn, regularization, cap):
    """The argmin of c'Hc, sum c = 1, ||c||_1 <= cap, by trying every pattern of signs, and the solution without the cap."""
    free = coefficients(gram_nn, regularization)
    return free if np.abs(free).sum() <= cap else _best(gram_nn, regularization, signs=(-1, 0, 1), cap=cap)


def _best(gram_nn, regularization, *, signs, cap):
    """The best c with signs @ c = cap and sum c = 1 whose signs are those of its pattern, over all patterns."""
    h, found = objective(gram_nn, regularization), []
    for pattern in itertools.product(signs, repeat=len(h)):
        sign = np.array(pattern, dtype=np.float64)
        free = sign != 0
        # without a negative entry both constraints are one
        rows, right = [np.ones(free.sum())], [1.0]
        if (sign < 0).any():
            rows, right = [*rows, sign[free]], [1.0, cap]
        count, k = int(free.sum()), len(rows)
        if count < k or (k == 2 and not (sign > 0).any()):
            continue
        kkt = np.zeros((count + k, count + k))
        kkt[:count, :count] = h[np.ix_(free, free)]
        kkt[count:, :count] = rows
        kkt[:count, count:] = np.transpose(rows)
        c = np.zeros(len(h))
        c[free] = np.linalg.solve(kkt, np.append(np.zeros(count), right))[:count]
        if (c * sign >= -1e-13).all():
            found.append(c)
    return min(found, key=lambda c: c @ h @ c)


def linear_iterates(count, dimension, *, seed, contraction=(0.2, 0.95), modes=3, noise=1e-3):
    """Iterates (count, dimension) of a noisy linear map with a few modes: ill-conditioned windows, as training gives."""
    rng = np.random.default_rng(seed)
    directions = rng.standard_normal((modes, dimension))
    rates = np.linspace(*contraction, modes)
    start = rng.standard_normal(dimension)
    powers = rates[None, :] ** np.arange(count)[:, None]
    return start + powers @ directions + noise * rng.standard_normal((count, dimension))
