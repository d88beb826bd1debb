"""The slow, obvious twin of the mathematics: whole matrices in float64, straight from Algorithm 1."""

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


def linear_iterates(count, dimension, *, seed, contraction=(0.2, 0.95), modes=3, noise=1e-3):
    """Iterates (count, dimension) of a noisy linear map with a few modes: ill-conditioned windows, as training gives."""
    rng = np.random.default_rng(seed)
    directions = rng.standard_normal((modes, dimension))
    rates = np.linspace(*contraction, modes)
    start = rng.standard_normal(dimension)
    powers = rates[None, :] ** np.arange(count)[:, None]
    return start + powers @ directions + noise * rng.standard_normal((count, dimension))
