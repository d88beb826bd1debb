import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from rna_watch.acceleration.coefficients import solve, spectrum
from rna_watch.acceleration.constrained import l1_capped, simplex

from . import twins

REGULARIZATIONS = st.sampled_from([1e-10, 1e-8, 1e-4, 1e-2, 1.0])
CAPS = st.sampled_from([1.0, 1.0001, 1.5, 3.0, 10.0])


@st.composite
def grams(draw, largest=8):
    """R'R of residuals, about half of them nearly dependent and so with large coefficients of both signs."""
    n = draw(st.integers(1, largest))
    d = draw(st.integers(1, 12))
    residuals_nd = draw(arrays(np.float64, (n, d), elements=st.floats(-1, 1, width=16)))
    if draw(st.booleans()):
        residuals_nd = np.cumsum(residuals_nd, axis=0) + 3.0
    return residuals_nd @ residuals_nd.T


def extrapolating(seed, n=5):
    """A window whose RNA has coefficients of both signs."""
    gram_nn = twins.gram(twins.linear_iterates(n + 1, 40, seed=seed, noise=1e-3))
    assert np.abs(twins.coefficients(gram_nn, 1e-8)).sum() > 3
    return gram_nn


@given(grams(), REGULARIZATIONS)
def test_simplex_weights_are_those_of_an_average(gram_nn, regularization):
    """No coefficient is negative, and they sum to one."""
    c = simplex(gram_nn, regularization).coefficients
    assert c.min() >= 0.0
    assert c.sum() == pytest.approx(1.0, abs=1e-12)


@given(grams(), REGULARIZATIONS)
def test_simplex_satisfies_its_conditions(gram_nn, regularization):
    """Every gradient is at least mu, with equality where the coefficient is positive."""
    solution = simplex(gram_nn, regularization)
    if solution.status:
        return
    c = solution.coefficients
    gradient = 2 * twins.objective(gram_nn, regularization) @ c
    mu = gradient @ c
    assert (gradient >= mu - 1e-12).all()
    np.testing.assert_allclose(gradient[c > 0], mu, atol=1e-12)


@given(grams(), REGULARIZATIONS, CAPS)
def test_the_cap_holds(gram_nn, regularization, cap):
    """||c||_1 is at most the cap, and the coefficients sum to one."""
    c = l1_capped(gram_nn, regularization, cap).coefficients
    assert np.abs(c).sum() <= cap + 1e-12
    assert c.sum() == pytest.approx(1.0, abs=1e-12)


@given(grams(), REGULARIZATIONS, CAPS.filter(lambda cap: cap > 1))
def test_the_capped_solution_satisfies_its_conditions(gram_nn, regularization, cap):
    """With mu and nu >= 0: the gradient is mu - nu sign(c), within nu of mu where c is 0, and nu is 0 below the cap."""
    solution = l1_capped(gram_nn, regularization, cap)
    if solution.status:
        return
    c = solution.coefficients
    gradient = 2 * twins.objective(gram_nn, regularization) @ c
    below = np.abs(c).sum() < cap - 1e-9
    signs = np.zeros_like(c) if below else -np.sign(c)
    held = c != 0
    mu, nu = np.linalg.lstsq(np.stack([np.ones(held.sum()), signs[held]], axis=1), gradient[held], rcond=None)[0]
    assert nu >= -1e-10
    np.testing.assert_allclose((mu + nu * signs)[held], gradient[held], atol=1e-10)
    assert (np.abs(gradient - mu)[~held] <= nu + 1e-10).all()


def large_grams():
    """R'R of up to 50 residuals: noise, windows of a run, steps that shrink by six decades, pairs that are equal, low rank."""
    rng = np.random.default_rng(12)
    for n in (10, 20, 35, 50):
        decades = 10.0 ** -np.linspace(0, 6, n)[:, None]
        for residuals_nd in (
            rng.standard_normal((n, 2 * n)),
            np.diff(twins.linear_iterates(n + 1, 4 * n, seed=n, noise=1e-3), axis=0),
            decades * rng.standard_normal((n, 2 * n)),
            np.repeat(rng.standard_normal((n // 2, n)), 2, axis=0),
            rng.standard_normal((n, 4)) @ rng.standard_normal((4, n)),
            rng.integers(-2, 3, (n, n // 3)).astype(float),
        ):
            yield residuals_nd @ residuals_nd.T


@pytest.mark.parametrize("regularization", [0.0, 1e-12, 1e-8, 1e-2])
@pytest.mark.parametrize("cap", [1.0, 1.0 + 1e-9, 1.5, 3.0])
def test_large_windows_satisfy_their_conditions(regularization, cap):
    """No feasible direction descends, up to 50 residuals and where R'R is singular: c is best among the cap's vertices.

    c'Hc is minimal where no vertex v of the set, (cap + 1) / 2 of one residual less (cap - 1) / 2 of another, has
    (Hc)'v < (Hc)'c.
    """
    for gram_nn in large_grams():
        solution = l1_capped(gram_nn, regularization, cap)
        assert solution.status == ""
        c = solution.coefficients
        gradient = twins.objective(gram_nn, regularization) @ c
        assert c.sum() == pytest.approx(1.0, abs=1e-13)
        assert np.abs(c).sum() <= cap + 1e-12
        steepest = (cap + 1) / 2 * gradient.min() - (cap - 1) / 2 * gradient.max()
        assert gradient @ c - steepest <= 1e-13


@given(grams(largest=5), REGULARIZATIONS)
def test_simplex_equals_trying_every_set(gram_nn, regularization):
    """No set of positive entries gives a smaller objective, and c is the best one's."""
    solution = simplex(gram_nn, regularization)
    if solution.status:
        return
    expected, h = twins.simplex(gram_nn, regularization), twins.objective(gram_nn, regularization)
    c = solution.coefficients
    assert c @ h @ c <= expected @ h @ expected + 1e-14
    np.testing.assert_allclose(c, expected, atol=1e-13 / regularization)


@given(grams(largest=5), REGULARIZATIONS, CAPS.filter(lambda cap: cap > 1))
def test_the_capped_solution_equals_trying_every_sign(gram_nn, regularization, cap):
    """No pattern of signs gives a smaller objective, and c is the best one's."""
    solution = l1_capped(gram_nn, regularization, cap)
    if solution.status:
        return
    expected, h = twins.l1_capped(gram_nn, regularization, cap), twins.objective(gram_nn, regularization)
    c = solution.coefficients
    assert c @ h @ c <= expected @ h @ expected + 1e-12
    np.testing.assert_allclose(c, expected, atol=1e-12 / regularization)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("cap", [1.5, 2.5])
def test_the_twins_agree_on_windows_that_extrapolate(seed, cap):
    """Both constraints bind if RNA goes far outside, and brute force finds the same coefficients."""
    gram_nn = extrapolating(seed)
    nonnegative, capped = simplex(gram_nn, 1e-8).coefficients, l1_capped(gram_nn, 1e-8, cap).coefficients
    assert (nonnegative == 0).any()
    assert np.abs(capped).sum() == pytest.approx(cap, abs=1e-12)
    np.testing.assert_allclose(nonnegative, twins.simplex(gram_nn, 1e-8), atol=1e-9)
    np.testing.assert_allclose(capped, twins.l1_capped(gram_nn, 1e-8, cap), atol=1e-9)


def test_a_constraint_that_does_not_bind_changes_no_bit():
    """The constrained solution is RNA's if that is an average already, or within its cap."""
    average = twins.gram(np.cumsum(np.random.default_rng(4).standard_normal((7, 50)), axis=0))
    expected = solve(spectrum(average), 1e-2).coefficients
    assert expected.min() > 0
    np.testing.assert_array_equal(simplex(average, 1e-2).coefficients, expected)
    gram_nn = extrapolating(1)
    expected = solve(spectrum(gram_nn), 1e-8).coefficients
    np.testing.assert_array_equal(l1_capped(gram_nn, 1e-8, np.abs(expected).sum()).coefficients, expected)
    np.testing.assert_array_equal(l1_capped(gram_nn, 1e-8, float("inf")).coefficients, expected)


def test_the_cap_joins_simplex_and_rna():
    """A cap of 1 is the simplex, and a cap just above it is next to it."""
    gram_nn = extrapolating(2)
    expected = simplex(gram_nn, 1e-6).coefficients
    np.testing.assert_array_equal(l1_capped(gram_nn, 1e-6, 1.0).coefficients, expected)
    np.testing.assert_allclose(l1_capped(gram_nn, 1e-6, 1 + 1e-9).coefficients, expected, atol=1e-6)


@pytest.mark.parametrize("exponent", [-27, -9, 9, 27])
def test_the_scale_of_the_residuals_does_not_matter(exponent):
    """Residuals 16 orders of magnitude apart in length have the same coefficients under either constraint."""
    gram_nn = extrapolating(3)
    for constrained in (simplex, lambda g, lam: l1_capped(g, lam, 2.0)):
        expected = constrained(gram_nn, 1e-8).coefficients
        np.testing.assert_array_equal(constrained(gram_nn * 4.0**exponent, 1e-8).coefficients, expected)


@pytest.mark.parametrize("factor", [1e-16, 1e-5, 1e5, 1e16, 1e-300, 1e290])
def test_scales_that_round_do_not_matter_either(factor):
    """A Gram matrix of any size is solved as any other, up to the rounding of that size."""
    gram_nn = extrapolating(3)
    for constrained in (simplex, lambda g, lam: l1_capped(g, lam, 2.0)):
        expected = constrained(gram_nn, 1e-6).coefficients
        np.testing.assert_allclose(constrained(gram_nn * factor, 1e-6).coefficients, expected, atol=1e-8)


@pytest.mark.parametrize("n", [5, 12, 20])
def test_the_order_of_the_residuals_only_permutes_the_coefficients(n):
    """Each residual's coefficient goes with it, wherever it stands."""
    gram_nn, order = extrapolating(5, n), np.random.default_rng(n).permutation(n)
    permuted = gram_nn[np.ix_(order, order)]
    for constrained in (simplex, lambda g, lam: l1_capped(g, lam, 2.0)):
        expected = constrained(gram_nn, 1e-6).coefficients[order]
        np.testing.assert_allclose(constrained(permuted, 1e-6).coefficients, expected, atol=1e-8)


@pytest.mark.parametrize("regularization", [0.0, 1e-8, 1e8, float("inf")])
def test_one_residual_gives_itself(regularization):
    """A window of one has nothing to weigh."""
    for solution in (simplex(np.array([[0.04]]), regularization), l1_capped(np.array([[0.04]]), regularization, 2.0)):
        assert solution.status == ""
        np.testing.assert_array_equal(solution.coefficients, [1.0])


def test_a_huge_lambda_is_the_uniform_average():
    """The paths end at the plain average, which satisfies every constraint."""
    gram_nn = extrapolating(6)
    for regularization in (1e16, 1e300, float("inf")):
        for solution in (simplex(gram_nn, regularization), l1_capped(gram_nn, regularization, 2.0)):
            np.testing.assert_allclose(solution.coefficients, np.full(5, 0.2), atol=1e-14)


def test_dependent_residuals_need_no_lambda_here():
    """A bounded set has a best point even where R'R is singular: lambda = 0 is solved, and as well as it can be."""
    residuals_nd = np.array([[1.0, 0.0], [2.0, 0.0], [1.5, 1.0], [3.0, 1.0]])
    gram_nn = residuals_nd @ residuals_nd.T
    assert solve(spectrum(gram_nn), 0.0).status != ""
    for solution, twin, value in (
        (simplex(gram_nn, 0.0), twins.simplex(gram_nn, 1e-9), 1.0),
        (l1_capped(gram_nn, 0.0, 2.0), twins.l1_capped(gram_nn, 1e-9, 2.0), 0.05),
    ):
        assert solution.status == ""
        c = solution.coefficients
        assert c.sum() == pytest.approx(1.0, abs=1e-12)
        assert c @ gram_nn @ c == pytest.approx(value, abs=1e-12)
        assert twin @ gram_nn @ twin == pytest.approx(value, abs=1e-7)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 0.0])
def test_a_window_without_a_solution_says_so(bad):
    """Residuals that are not finite, or all zero, give RNA's sentences and the uniform average."""
    gram_nn = np.full((3, 3), bad)
    for solution in (simplex(gram_nn, 1e-8), l1_capped(gram_nn, 1e-8, 2.0)):
        assert solution.status == spectrum(gram_nn).status != ""
        np.testing.assert_array_equal(solution.coefficients, np.full(3, 1 / 3))


def test_a_programme_that_fails_says_so(monkeypatch):
    """Should the inner solver fail, its sentence is in the result, never a silent average."""
    gram_nn = extrapolating(7)
    monkeypatch.setattr("rna_watch.acceleration.quadratic._ACCEPTABLE", -1.0)
    for solution in (simplex(gram_nn, 1e-8), l1_capped(gram_nn, 1e-8, 2.0)):
        assert solution.status.startswith("The quadratic programme was not solved")
        np.testing.assert_array_equal(solution.coefficients, np.full(5, 0.2))


@pytest.mark.parametrize("regularization", [-1e-8, float("nan")])
def test_a_lambda_that_is_none_is_misuse(regularization):
    """A negative or NaN lambda raises and is named."""
    for constrained in (simplex, lambda g, lam: l1_capped(g, lam, 2.0)):
        with pytest.raises(ValueError, match=f"not {regularization}"):
            constrained(np.eye(2), regularization)


@pytest.mark.parametrize("cap", [0.99, -1.0, float("nan")])
def test_a_cap_that_is_none_is_misuse(cap):
    """No coefficients that sum to 1 have an l1 norm below 1."""
    with pytest.raises(ValueError, match=f"not {cap}"):
        l1_capped(np.eye(2), 1e-8, cap)
