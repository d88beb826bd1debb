"""The best product of low rank, against the obvious way: the whole matrices and their singular values."""

from __future__ import annotations

import numpy as np
import pytest

from rna_watch.acceleration.low_rank import best_product, distance


def _window(seed, n=4, outputs=23, rank=3, inputs=17):
    generator = np.random.default_rng(seed)
    ups = generator.normal(size=(1, outputs, rank)) + 0.3 * generator.normal(size=(n, outputs, rank))
    downs = generator.normal(size=(1, rank, inputs)) + 0.3 * generator.normal(size=(n, rank, inputs))
    return ups, downs, generator.dirichlet(np.ones(n)) * 2.0 - 1.0 / n


def _twin(ups, downs, weights):
    """The sum of the whole products, its best approximation, and the product of the sums."""
    whole = sum(w * up @ down for w, up, down in zip(weights, ups, downs, strict=True))
    left, values, right = np.linalg.svd(whole, full_matrices=False)
    rank = ups.shape[2]
    plain = np.tensordot(weights, ups, 1) @ np.tensordot(weights, downs, 1)
    return whole, (left[:, :rank] * values[:rank]) @ right[:rank], plain


@pytest.mark.parametrize(
    "shape", [{}, {"outputs": 2}, {"inputs": 2}, {"outputs": 2, "inputs": 2}, {"rank": 1}, {"n": 1}]
)
def test_it_is_the_best_of_its_rank(shape):
    """The factors' product is the truncated sum of the whole ones, and the norms are theirs; also of ranks above the shape's."""
    ups, downs, weights = _window(1, **shape)
    found = best_product(ups, downs, weights)
    whole, best, plain = _twin(ups, downs, weights)
    size = np.linalg.norm(whole)
    assert np.abs(found.up @ found.down - best).max() < 1e-13 * size
    assert found.norm == pytest.approx(size, rel=1e-12)
    assert found.cross == pytest.approx(np.linalg.norm(plain - whole), rel=1e-9, abs=1e-13 * size)
    assert found.truncation == pytest.approx(np.linalg.norm(best - whole), rel=1e-9, abs=1e-13 * size)


def test_the_factors_share_the_size_and_have_one_sign():
    """Both carry the roots of the singular values, and the largest element of each row of A is positive, for -A and -B too."""
    ups, downs, weights = _window(2)
    found = best_product(ups, downs, weights)
    values = np.linalg.svd(found.up @ found.down, compute_uv=False)[:3]
    assert np.allclose(found.up.T @ found.up, np.diag(values), atol=1e-12)
    assert np.allclose(found.down @ found.down.T, np.diag(values), atol=1e-12)
    assert (found.down[np.arange(3), np.abs(found.down).argmax(axis=1)] > 0).all()
    turned = best_product(-ups, -downs, weights)
    assert np.abs(turned.up - found.up).max() < 1e-13
    assert np.abs(turned.down - found.down).max() < 1e-13


def test_equal_products_in_other_factors_have_no_truncation_but_a_cross_term():
    """Checkpoints that turned inside their factors are one model, which the plain combination loses."""
    ups, downs, _ = _window(3, n=1)
    turn = np.linalg.qr(np.random.default_rng(4).normal(size=(3, 3)))[0]
    pair = np.stack([ups[0], ups[0] @ turn]), np.stack([downs[0], turn.T @ downs[0]])
    found = best_product(*pair, np.array([0.5, 0.5]))
    assert np.abs(found.up @ found.down - ups[0] @ downs[0]).max() < 1e-13
    assert found.truncation < 1e-13 * found.norm
    assert found.cross > 0.1 * found.norm


def test_a_training_that_has_not_moved_stays():
    """Where every B is zero, B is zero and A the plain combination; nothing is divided by zero."""
    _, downs, weights = _window(5)
    found = best_product(np.zeros((4, 23, 3)), downs, weights)
    assert not found.up.any()
    assert np.abs(found.down - np.tensordot(weights, downs, 1)).max() < 1e-14
    assert (found.norm, found.cross, found.truncation) == (0.0, 0.0, 0.0)


def test_what_is_not_finite_is_nan():
    """No singular values are asked of such a matrix."""
    ups, downs, weights = _window(6)
    ups[0, 0, 0] = np.inf
    found = best_product(ups, downs, weights)
    assert np.isnan([found.norm, found.cross, found.truncation]).all()
    assert np.isnan(found.up).all()


def test_the_distance_of_products_needs_no_whole_matrix():
    """It is that of the whole products, to rounding."""
    (ups, downs, _), (others, further, _) = _window(7), _window(8)
    whole = np.linalg.norm(ups[0] @ downs[0] - others[0] @ further[0])
    assert distance(ups[0], downs[0], others[0], further[0]) == pytest.approx(whole, rel=1e-12)
    assert distance(ups[0], downs[0], ups[0], downs[0]) < 1e-13 * np.linalg.norm(ups[0] @ downs[0])
