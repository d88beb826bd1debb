import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from rna_watch.acceleration import fixed_weights
from rna_watch.acceleration.coefficients import (
    input_weights,
    norm_bound,
    smallest_stable,
    solve,
    spectrum,
    spectrum_of_factor,
)
from rna_watch.acceleration.gram import block_rows, merge
from rna_watch.acceleration.qr_factor import block_factor, stacked_factor

from . import twins

PRIORS = [
    fixed_weights.uniform(5),
    fixed_weights.exponential(5, 0.6),
    fixed_weights.last(5),
    fixed_weights.decay_profile(5, "sqrt"),
]
PATH = [10.0**exponent for exponent in range(-10, 3)]


@st.composite
def grams(draw, smallest=1, largest=8):
    """R'R of residuals with entries in [-1, 1], some windows singular."""
    n = draw(st.integers(smallest, largest))
    d = draw(st.integers(1, 12))
    residuals_nd = draw(arrays(np.float64, (n, d), elements=st.floats(-1, 1, width=16)))
    return residuals_nd @ residuals_nd.T


def stored_window(dimension=300_000):
    """K = 6 float32 iterates on the conditioning that was measured on networks: ||x|| = 100, ||dx|| = 0.03."""
    rng = np.random.default_rng(11)
    start = rng.standard_normal(dimension)
    steps = twins.residuals(twins.linear_iterates(6, dimension, seed=12, modes=2, noise=2e-3))
    start *= 100.0 / np.linalg.norm(start)
    steps *= 0.03 / np.linalg.norm(steps[0])
    return (start + np.vstack([np.zeros(dimension), np.cumsum(steps, axis=0)])).astype(np.float32)


@pytest.fixture(scope="module")
def window():
    """A window as stored."""
    return stored_window()


def test_coefficients_equal_a_linear_solver_on_real_conditioning(window):
    """The coefficients agree with the whole-matrix solve to 1e-6 at 1e-8, on float32 iterates of norm 100 and steps of 0.03."""
    blocks = [block_rows(window[:, at : at + 16_384].astype(np.float64), 5, 0.0) for at in range(0, 300_000, 16_384)]
    c = solve(spectrum(merge(blocks).rows), 1e-8).coefficients
    expected = twins.coefficients(twins.gram(window), 1e-8)
    assert np.linalg.norm(expected) > 3, "the window must be one where c is hard"
    np.testing.assert_allclose(c, expected, rtol=1e-6)


def test_one_decomposition_serves_every_lambda(window):
    """The whole path from one spectrum agrees with a linear solve at each lambda."""
    gram_nn = twins.gram(window)
    found = spectrum(gram_nn)
    for regularization in PATH:
        solution = solve(found, regularization)
        assert solution.regularization == regularization
        expected = twins.coefficients(gram_nn, regularization)
        np.testing.assert_allclose(solution.coefficients, expected, rtol=1e-5 if regularization < 1e-8 else 1e-6)


def test_the_spectrum_describes_the_gram_matrix():
    """Scale, relative eigenvalues and vectors rebuild R'R, and the condition number is numpy's."""
    gram_nn = twins.gram(twins.linear_iterates(6, 50, seed=13, noise=0.1))
    found = spectrum(gram_nn)
    rebuilt = found.vectors @ np.diag(found.values * found.scale) @ found.vectors.T
    np.testing.assert_allclose(rebuilt, gram_nn, rtol=1e-12)
    assert found.scale == pytest.approx(np.linalg.norm(gram_nn, 2))
    assert found.condition == pytest.approx(np.linalg.cond(gram_nn), rel=1e-6)


@given(grams(), st.floats(1e-8, 1e6) | st.just(float("inf")))
def test_coefficients_sum_to_one(gram_nn, regularization):
    """Whatever the window, singular or not, the coefficients sum to one to 1e-12."""
    assert solve(spectrum(gram_nn), regularization).coefficients.sum() == pytest.approx(1.0, abs=1e-12)


@given(grams(), st.floats(1e-8, 1e3))
def test_the_norm_stays_within_the_bound(gram_nn, regularization):
    """No window's c is longer than Kantorovich's inequality allows for its lambda."""
    c = solve(spectrum(gram_nn), regularization).coefficients
    assert np.linalg.norm(c) <= norm_bound(len(gram_nn), regularization) * (1 + 1e-6)


@pytest.mark.parametrize("regularization", [1e-8, 1e-3, 0.5])
def test_the_bound_is_sharp(regularization):
    """There is a window whose c is as long as the bound: none smaller would hold."""
    share = regularization / (1 + 2 * regularization)  # of the null direction in (1, 1) / sqrt(2)
    angle = np.pi / 4 + np.arccos(np.sqrt(share)) - np.pi / 2
    direction = np.array([np.cos(angle), np.sin(angle)])
    c = solve(spectrum(np.outer(direction, direction)), regularization).coefficients
    assert np.linalg.norm(c) == pytest.approx(norm_bound(2, regularization), rel=1e-6)


def test_the_bound_at_both_ends():
    """There is no bound without lambda; an infinite one gives the uniform average's norm; 0.006 guarantees 3 at N = 5."""
    assert norm_bound(5, 0.0) == float("inf")
    assert norm_bound(4, float("inf")) == 0.5
    assert norm_bound(5, 1e12) == pytest.approx(1 / np.sqrt(5))
    assert norm_bound(5, 0.0063) < 3 < norm_bound(5, 0.0050)
    assert norm_bound(5, 1e-8) == pytest.approx(2236, rel=1e-3)


@pytest.mark.parametrize("exponent", [-27, -10, 1, 27])
def test_the_scale_of_the_residuals_does_not_matter(exponent):
    """Residuals 2^27 times as long or as short (16 orders of magnitude apart) give the same bits of c."""
    gram_nn = twins.gram(twins.linear_iterates(6, 50, seed=14))
    expected = solve(spectrum(gram_nn), 1e-8).coefficients
    scaled = solve(spectrum(gram_nn * 4.0**exponent), 1e-8).coefficients
    np.testing.assert_array_equal(scaled, expected)


@pytest.mark.parametrize("factor", [1e-300, 1e-30, 1e30, 1e300])
def test_extreme_scales_neither_overflow_nor_vanish(factor):
    """Even a Gram matrix near the ends of float64 is solved as any other."""
    gram_nn = twins.gram(twins.linear_iterates(4, 50, seed=15))
    scaled = solve(spectrum(gram_nn * factor), 1e-3)
    assert scaled.status == ""
    np.testing.assert_allclose(scaled.coefficients, solve(spectrum(gram_nn), 1e-3).coefficients, rtol=1e-9)


def test_the_order_of_the_residuals_only_permutes_the_coefficients():
    """Each residual's coefficient goes with it, wherever it stands."""
    gram_nn = twins.gram(twins.linear_iterates(6, 50, seed=16))
    order = np.array([3, 0, 4, 1, 2])
    expected = solve(spectrum(gram_nn), 1e-6).coefficients[order]
    permuted = solve(spectrum(gram_nn[np.ix_(order, order)]), 1e-6).coefficients
    np.testing.assert_allclose(permuted, expected, rtol=1e-8)


@pytest.mark.parametrize("regularization", [1e12, 1e300, float("inf")])
def test_a_huge_lambda_is_the_uniform_average(regularization):
    """The path ends at the plain average, without overflow on the way."""
    gram_nn = twins.gram(twins.linear_iterates(6, 50, seed=17))
    np.testing.assert_allclose(solve(spectrum(gram_nn), regularization).coefficients, np.full(5, 0.2), atol=1e-11)


@pytest.mark.parametrize("regularization", [0.0, 1e-8, 1.0, float("inf")])
def test_one_residual_gives_itself(regularization):
    """A window of one has nothing to weigh."""
    solution = solve(spectrum(np.array([[0.04]])), regularization)
    assert solution.status == ""
    np.testing.assert_array_equal(solution.coefficients, [1.0])


def test_lambda_zero_is_reduced_rank_extrapolation():
    """The solution is G^-1 1, normalized, without regularization: Anderson's and reduced-rank extrapolation's solution."""
    gram_nn = twins.gram(twins.linear_iterates(4, 50, seed=18, noise=0.3))
    solution = solve(spectrum(gram_nn), 0.0)
    assert solution.status == ""
    np.testing.assert_allclose(solution.coefficients, twins.coefficients(gram_nn, 0.0), rtol=1e-9)


def test_linear_iterates_are_extrapolated_to_their_limit():
    """Two modes and three residuals: the combination is the fixed point that the iterates only approach."""
    limit, modes = np.array([3.0, -2.0, 5.0]), np.array([[1.0, 0.5, 0.0], [0.0, 1.0, 2.0]])
    iterates = np.array([limit + 0.9**k * modes[0] + 0.5**k * modes[1] for k in range(4)])
    c = solve(spectrum(twins.gram(iterates)), 1e-12).coefficients
    assert np.abs(iterates[-1] - limit).max() > 0.3
    np.testing.assert_allclose(c @ iterates[1:], limit, atol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_window_that_is_not_finite_says_so(bad):
    """NaN or infinite residuals give no coefficients but a sentence, at every lambda."""
    gram_nn = np.eye(3)
    gram_nn[1, 1] = bad
    solution = solve(spectrum(gram_nn), 1e-8)
    assert solution.status == "The residuals hold infinite or NaN values, so there is nothing to solve."
    np.testing.assert_array_equal(solution.coefficients, np.full(3, 1 / 3))


def test_equal_checkpoints_say_so():
    """There is no direction if nothing moved, and the sentence says so."""
    found = spectrum(np.zeros((3, 3)))
    assert found.status == "All checkpoints of the window are equal, so there is no direction to extrapolate."
    assert solve(found, 1e-8).status == found.status
    assert found.condition == float("inf")


def test_dependent_residuals_without_lambda_say_what_to_do():
    """A singular window at lambda = 0 is refused with the remedy, and solved with any lambda > 0."""
    gram_nn = np.ones((3, 3))
    assert solve(spectrum(gram_nn), 0.0).status == (
        "The residuals are linearly dependent and lambda is 0: take lambda > 0 or a shorter window."
    )
    positive = solve(spectrum(gram_nn), 1e-8)
    assert positive.status == ""
    np.testing.assert_allclose(positive.coefficients, np.full(3, 1 / 3), rtol=1e-7)


@pytest.mark.parametrize("regularization", [-1e-8, float("nan"), -float("inf")])
def test_a_lambda_that_is_none_is_misuse(regularization):
    """A negative or NaN lambda raises and is named."""
    with pytest.raises(ValueError, match=f"not {regularization}"):
        solve(spectrum(np.eye(2)), regularization)


@given(grams(smallest=2))
def test_the_smallest_stable_lambda_is_stable_and_smallest(gram_nn):
    """||c||_2 is at most 3, and one step less of lambda, where there is one, would be longer."""
    found = spectrum(gram_nn)
    solution = smallest_stable(found)
    assert np.linalg.norm(solution.coefficients) <= 3.0
    assert solution.regularization >= 1e-8
    if solution.regularization > 1e-8:
        smaller = solve(found, solution.regularization / 10 ** (1 / 8))
        assert np.linalg.norm(smaller.coefficients) > 3.0


def test_the_smallest_stable_lambda_heeds_its_limits():
    """Another floor and another norm limit are kept; a limit that only the average meets gives the average."""
    found = spectrum(twins.gram(twins.linear_iterates(6, 50, seed=19)))
    assert smallest_stable(found, floor=1e-2).regularization >= 1e-2
    assert np.linalg.norm(smallest_stable(found, norm_limit=0.6).coefficients) <= 0.6
    impossible = smallest_stable(found, norm_limit=0.1)
    assert impossible.regularization == float("inf")
    np.testing.assert_array_equal(impossible.coefficients, np.full(5, 0.2))


@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("regularization", [1e-8, 1e-4, 1.0, 1e4])
def test_a_prior_centres_the_regularization(prior, regularization):
    """The c minimizes the residual plus lambda times the distance to the prior, as the bordered linear system has it."""
    gram_nn = twins.gram(twins.linear_iterates(6, 50, seed=51, noise=1e-2))
    c = solve(spectrum(gram_nn), regularization, prior).coefficients
    np.testing.assert_allclose(c, twins.prior_coefficients(gram_nn, regularization, prior), rtol=1e-7, atol=1e-9)


@given(grams(), st.floats(-16, 16), st.integers(0, 2))
def test_a_centred_solution_sums_to_one_and_is_optimal(gram_nn, exponent, kind):
    """The sum is one from lambda = 1e-16 to 1e16, and c beats the prior and Algorithm 1 on the centred objective."""
    n, regularization = len(gram_nn), 10.0**exponent
    prior = (fixed_weights.uniform(n), fixed_weights.exponential(n, 0.5), fixed_weights.last(n))[kind]
    found = spectrum(gram_nn)
    c = solve(found, regularization, prior).coefficients
    assert c.sum() == pytest.approx(1.0, abs=1e-12)
    if not found.status:
        scaled = gram_nn / found.scale

        def objective(x):
            return (x @ scaled @ x + regularization * (x - prior) @ (x - prior)) / (1 + regularization)

        for other in (prior, solve(found, regularization).coefficients):
            assert objective(c) <= objective(other) + 1e-12


@given(grams(), st.floats(-16, 16))
def test_the_uniform_prior_is_algorithm_1(gram_nn, exponent):
    """Said or unsaid, the uniform prior gives the paper's c, up to the rounding that the condition allows."""
    found, n = spectrum(gram_nn), len(gram_nn)
    unsaid = solve(found, 10.0**exponent).coefficients
    said = solve(found, 10.0**exponent, fixed_weights.uniform(n)).coefficients
    np.testing.assert_allclose(said, unsaid, atol=1e-12 * max(1.0, np.abs(unsaid).max() ** 2))


@pytest.mark.parametrize("prior", PRIORS)
def test_a_huge_lambda_is_the_prior(prior):
    """The path ends at the prior: at infinity exactly, before it as closely as lambda says."""
    found = spectrum(twins.gram(twins.linear_iterates(6, 50, seed=52)))
    np.testing.assert_array_equal(solve(found, float("inf"), prior).coefficients, prior)
    for regularization in (1e4, 1e8, 1e16, 1e300):
        c = solve(found, regularization, prior).coefficients
        np.testing.assert_allclose(c, prior, atol=4 / regularization + 1e-15)


def test_a_small_lambda_forgets_the_prior():
    """The prior does not matter at lambda = 0: c is the same for all."""
    gram_nn = twins.gram(twins.linear_iterates(5, 50, seed=53, noise=0.3))
    expected = solve(spectrum(gram_nn), 0.0).coefficients
    np.testing.assert_allclose(solve(spectrum(gram_nn), 0.0, fixed_weights.last(4)).coefficients, expected, rtol=1e-12)


def test_the_prior_decides_where_the_residuals_are_equal():
    """Equal residuals leave c free: a small lambda, above R'R's rounding, then gives the prior, not the uniform average."""
    prior = fixed_weights.exponential(4, 0.5)
    for regularization in (1e-12, 1e-8, 1e-4, 1.0):
        c = solve(spectrum(np.ones((4, 4))), regularization, prior).coefficients
        np.testing.assert_allclose(c, prior, atol=1e-15 / regularization + 1e-14)


def test_without_a_solution_the_prior_stands_in():
    """A window that cannot be solved says so, and its coefficients are the prior's."""
    prior = fixed_weights.last(3)
    solution = solve(spectrum(np.zeros((3, 3))), 1e-8, prior)
    assert solution.status.startswith("All checkpoints of the window are equal")
    np.testing.assert_array_equal(solution.coefficients, prior)


@pytest.mark.parametrize(
    ("prior", "message"),
    [
        (np.full(3, 1 / 3), "each of the 2 residuals"),
        (np.eye(2), "each of the 2 residuals"),
        (np.array([0.5, 0.6]), "sum to 1"),
        (np.array([np.nan, 1.0]), "sum to 1"),
    ],
)
def test_a_prior_that_is_none_is_misuse(prior, message):
    """A prior of another length or sum raises, whatever lambda is."""
    for regularization in (0.0, 1e-8, float("inf")):
        with pytest.raises(ValueError, match=message):
            solve(spectrum(np.eye(2)), regularization, prior)


def test_the_path_takes_a_prior():
    """Every lambda of a path is solved with the prior."""
    found, prior = spectrum(twins.gram(twins.linear_iterates(6, 50, seed=54))), fixed_weights.last(5)
    for regularization in PATH:
        solution = solve(found, regularization, prior)
        np.testing.assert_array_equal(solution.coefficients, solve(found, regularization, prior).coefficients)


def conditioned(exponent, *, seed, dimension=60):
    """Five residuals (5, dimension) with cond(R) = 10^exponent."""
    rng = np.random.default_rng(seed)
    left = np.linalg.qr(rng.standard_normal((5, 5)))[0]
    right = np.linalg.qr(rng.standard_normal((dimension, 5)))[0]
    return (left * 10.0 ** np.linspace(0, -exponent, 5)) @ right.T


def factor_in_blocks(residuals_nd, size=16):
    """The factor as an engine gets it: a block at a time, stacked in order."""
    starts = range(0, residuals_nd.shape[1], size)
    return stacked_factor(block_factor(residuals_nd[:, at : at + size]) for at in starts)


@pytest.mark.parametrize("seed", range(4))
def test_the_factor_keeps_what_the_gram_matrix_loses(seed):
    """The factor's c agrees with rational arithmetic to six digits at cond(R) = 1e11; R'R is refused, or far worse."""
    residuals_nd = conditioned(11, seed=seed)
    expected = twins.exact_coefficients(residuals_nd)

    def error(solution):
        return np.abs(solution.coefficients - expected).max() / np.abs(expected).max()

    solution = solve(spectrum_of_factor(factor_in_blocks(residuals_nd)), 0.0)
    assert solution.status == ""
    assert error(solution) <= 1e-6
    gram_nn = residuals_nd @ residuals_nd.T
    assert solve(spectrum(gram_nn), 0.0).status != ""
    # how wrong it is depends on how a BLAS kernel rounds: by a factor of 6e6 or more on all four that were tried
    assert error(solve(spectrum(gram_nn), 1e-30)) > 1e3 * error(solution)


def test_both_routes_agree_where_both_can():
    """Factor and Gram matrix give one spectrum and one path on a window of moderate condition."""
    residuals_nd = conditioned(3, seed=9)
    by_factor, by_gram = spectrum_of_factor(factor_in_blocks(residuals_nd)), spectrum(residuals_nd @ residuals_nd.T)
    np.testing.assert_allclose(by_factor.values, by_gram.values, rtol=1e-8)
    assert by_factor.scale == pytest.approx(by_gram.scale)
    assert by_factor.resolution < by_gram.resolution
    for regularization in (0.0, 1e-8, 1e-2, float("inf")):
        expected = solve(by_gram, regularization).coefficients
        np.testing.assert_allclose(solve(by_factor, regularization).coefficients, expected, rtol=1e-7)


def test_dependent_residuals_are_seen_in_the_factor_too():
    """A repeated residual is refused at lambda = 0 by either route, also where there are fewer elements than residuals."""
    residuals_nd = conditioned(2, seed=10)
    residuals_nd[3] = residuals_nd[1]
    for dependent in (residuals_nd, conditioned(2, seed=10)[:, :3]):
        found = spectrum_of_factor(factor_in_blocks(dependent, size=2))
        assert solve(found, 0.0).status.startswith("The residuals are linearly dependent")
        expected = twins.coefficients(dependent @ dependent.T, 1e-4)
        np.testing.assert_allclose(solve(found, 1e-4).coefficients, expected, rtol=1e-9)


def test_a_factor_without_a_spectrum_says_so():
    """NaN and equal checkpoints give the same sentences by either route."""
    for value in (np.nan, np.inf, 0.0):
        matrix = np.full((3, 3), value)
        assert spectrum_of_factor(matrix).status == spectrum(matrix).status != ""


def test_the_factor_does_not_depend_on_the_blocks():
    """Blocks of any size, even shorter than the window, give the triangular factor of the whole, T'T = R'R."""
    residuals_nd = conditioned(2, seed=11)
    whole = block_factor(residuals_nd)
    np.testing.assert_allclose(whole.T @ whole, residuals_nd @ residuals_nd.T, atol=1e-14)
    np.testing.assert_array_equal(whole, np.triu(whole))
    assert (np.diagonal(whole) >= 0).all()
    for size in (1, 3, 16, 60):
        factor_nn = factor_in_blocks(residuals_nd, size)
        assert factor_nn.shape == (5, 5)
        np.testing.assert_allclose(factor_nn, whole, atol=1e-13)


def test_factors_that_do_not_fit_are_misuse():
    """No part at all, or parts of windows of different lengths, raise."""
    with pytest.raises(ValueError, match="at least one part"):
        stacked_factor([])
    with pytest.raises(ValueError, match="2 residuals cannot join one of 3"):
        stacked_factor([np.eye(3), np.eye(2)])


@given(grams(), st.floats(-1, 2))
def test_input_weights_mix_both_ends_of_each_interval(gram_nn, mixing):
    """Over y_0..y_N the weights combine newer and older ends, and sum to one."""
    c = solve(spectrum(gram_nn), 1e-2).coefficients
    weights = input_weights(c, mixing)
    assert weights.sum() == pytest.approx(1.0, abs=1e-12)
    points = np.random.default_rng(0).standard_normal((len(c) + 1, 3))
    expected = mixing * (c @ points[1:]) + (1 - mixing) * (c @ points[:-1])
    np.testing.assert_allclose(weights @ points, expected, atol=1e-12)


def test_input_weights_at_both_ends():
    """Mixing 1 leaves y_0 out, mixing 0 leaves y_N out; a mixing that is no number is misuse."""
    c = np.array([-0.5, 1.5])
    np.testing.assert_array_equal(input_weights(c), [0.0, -0.5, 1.5])
    np.testing.assert_array_equal(input_weights(c, 0.0), [-0.5, 1.5, 0.0])
    with pytest.raises(ValueError, match="not nan"):
        input_weights(c, float("nan"))
