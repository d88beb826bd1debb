import itertools

import numpy as np
import pytest
from hypothesis import given, reject
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from rna_watch.acceleration.quadratic import minimize


@st.composite
def programmes(draw, largest=6):
    """Q = FF', often singular, with a vertex of a feasible A x = b of one or two constraints."""
    m = draw(st.integers(2, largest))
    rank = draw(st.integers(0, m))
    factor = draw(arrays(np.float64, (m, rank), elements=st.integers(-3, 3).map(float)))
    rows = np.ones((1, m)) if m < 3 or draw(st.booleans()) else np.vstack([np.ones(m), np.arange(m)])
    feasible = draw(arrays(np.float64, m, elements=st.integers(1, 4).map(float)))
    return factor @ factor.T, rows, vertex(rows, rows @ feasible)


def vertex(a_km, b_k):
    """The first point of A x = b, x >= 0 with no more than K positive entries."""
    k, m = a_km.shape
    for support in map(list, itertools.combinations(range(m), k)):
        x = np.linalg.solve(a_km[:, support], b_k)
        if x.min() > 0:
            return np.bincount(support, x, m)
    return reject()


def best_value(q_mm, a_km, b_k):
    """The smallest x'Qx over the solutions of every active set's system, as a twin of the minimum."""
    m, values = len(q_mm), []
    for size in range(1, m + 1):
        for free in map(list, itertools.combinations(range(m), size)):
            a = a_km[:, free]
            kkt = np.block([[q_mm[np.ix_(free, free)], a.T], [a, np.zeros((len(b_k), len(b_k)))]])
            x = np.linalg.lstsq(kkt, np.append(np.zeros(size), b_k), rcond=None)[0][:size]
            if x.min() >= -1e-9 and np.abs(a @ x - b_k).max() < 1e-9:
                values.append(x @ q_mm[np.ix_(free, free)] @ x)
    return min(values)


@given(programmes())
def test_the_conditions_of_optimality_hold(programme):
    """Feasible, stationary, complementary, with multipliers of the right sign: that is the minimum of a convex programme."""
    q_mm, a_km, start_m = programme
    b_k = a_km @ start_m
    found = minimize(q_mm, a_km, start_m)
    size = max(np.abs(q_mm).max(), 1.0) * np.abs(b_k).max()
    assert found.status == ""
    assert found.x.min() >= 0.0
    np.testing.assert_allclose(a_km @ found.x, b_k, rtol=1e-12)
    bound_multipliers = q_mm @ found.x - a_km.T @ found.multipliers
    assert bound_multipliers.min() >= -1e-12 * size
    assert np.abs(bound_multipliers[found.x > 0.0]).max() <= 1e-12 * size


@given(programmes(largest=5))
def test_no_active_set_does_better(programme):
    """The value is the smallest that trying all active sets finds."""
    q_mm, a_km, start_m = programme
    b_k = a_km @ start_m
    x = minimize(q_mm, a_km, start_m).x
    assert x @ q_mm @ x <= best_value(q_mm, a_km, b_k) + 1e-10 * np.abs(b_k).max() ** 2 * max(np.abs(q_mm).max(), 1)


def test_active_bounds_are_exact_zeros():
    """A variable that hurts is 0 to the last bit, and the others have the digits of a linear solve."""
    q_mm = np.array([[2.0, 1.0, 3.0], [1.0, 4.0, 1.0], [3.0, 1.0, 9.0]])
    for start_m in np.eye(3):
        found = minimize(q_mm, np.ones((1, 3)), start_m)
        np.testing.assert_allclose(found.x, [0.75, 0.25, 0.0], rtol=1e-15)
        assert found.x[2] == 0.0
        np.testing.assert_allclose(found.multipliers, [1.75], rtol=1e-15)


@pytest.mark.parametrize("factor", [1e-300, 1e-16, 1e-8, 1e8, 1e16, 1e300])
def test_the_scale_of_the_objective_does_not_matter(factor):
    """The same x comes out for a Q of any size; the multipliers follow its size."""
    rng = np.random.default_rng(3)
    f = rng.standard_normal((8, 8))
    expected, scaled = (minimize(q, np.ones((1, 8)), np.eye(8)[0]) for q in (f @ f.T, f @ f.T * factor))
    assert 0 < (expected.x == 0).sum() < 7
    np.testing.assert_allclose(scaled.x, expected.x, rtol=1e-12)
    np.testing.assert_allclose(scaled.multipliers, expected.multipliers * factor, rtol=1e-12)


@pytest.mark.parametrize("factor", [1e-12, 1e12])
def test_the_scale_of_the_constraints_only_scales_x(factor):
    """A b of any size gives x of that size."""
    q_mm, a_km, start_m = np.diag([1.0, 2.0, 3.0]), np.ones((1, 3)), np.eye(3)[2]
    expected = minimize(q_mm, a_km, start_m).x * factor
    np.testing.assert_allclose(minimize(q_mm, a_km, start_m * factor).x, expected, rtol=1e-13)


@pytest.mark.parametrize("m", [10, 50])
def test_every_vertex_leads_to_the_same_minimum(m):
    """Wherever it starts, the free variables are the same in the end, and what they are is theirs alone."""
    f = np.random.default_rng(m).standard_normal((m, m))
    q_mm = f @ f.T
    first, *others = (minimize(q_mm, np.ones((1, m)), start_m) for start_m in np.eye(m))
    assert 1 < (first.x > 0).sum() < m
    for each in others:
        assert each.status == ""
        np.testing.assert_array_equal(each.x, first.x)


def test_a_minimizer_that_is_not_unique_is_one_of_them():
    """A zero objective is solved by any feasible point, and a singular one by any on its flat."""
    zero = minimize(np.zeros((3, 3)), np.ones((1, 3)), np.eye(3)[0])
    assert (zero.status, zero.x.sum()) == ("", 1.0)
    rows = np.array([[1.0, 2.0, 3.0]])
    for start_m in np.diag([6.0, 3.0, 2.0]):
        flat = minimize(np.ones((3, 3)), rows, start_m)
        assert flat.status == ""
        np.testing.assert_allclose(flat.x, [0.0, 0.0, 2.0], atol=1e-14)


def test_what_cannot_be_solved_says_so():
    """NaN gives a sentence, and so does a start whose system is singular."""
    assert minimize(np.full((2, 2), np.nan), np.ones((1, 2)), np.eye(2)[0]).status.endswith("infinite or NaN values.")
    singular = minimize(np.zeros((2, 2)), np.ones((1, 2)), np.array([0.5, 0.5]))
    assert singular.status.startswith("The quadratic programme was not solved")


def test_shapes_that_do_not_fit_are_misuse():
    """A constraint over another number of variables raises, and the shapes are named."""
    with pytest.raises(ValueError, match=r"A \(1, 3\)"):
        minimize(np.eye(2), np.ones((1, 3)), np.ones(2))
