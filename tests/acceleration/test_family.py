import math
import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from rna_watch.acceleration import fixed_weights
from rna_watch.acceleration.candidate import distance, name_of, of_weights
from rna_watch.acceleration.coefficients import solve, spectrum
from rna_watch.acceleration.family import family, in_one_sentence, rounding_floor, single, unevaluated
from rna_watch.acceleration.gram import block_rows, rounding_variance
from rna_watch.acceleration.methods import AVERAGE, COMPUTED, LAST, RNA, Search
from rna_watch.acceleration.qr_factor import block_factor, stacked_factor
from rna_watch.acceleration.residuals import Residuals
from rna_watch.journal.recipe import read

from . import twins

SINGULAR_AT_ZERO = "The residuals are linearly dependent and lambda is 0: take lambda > 0 or a shorter window."
EQUAL = "All checkpoints of the window are equal, so there is no direction to extrapolate."
DROWNED = "The steps between checkpoints drown in the rounding of the stored dtype, so RNA would fit noise."


def differences(gram_nn, rounding=0.0):
    """Residuals that are plain differences."""
    return Residuals.of_differences(gram_nn, rounding)


def family_of(gram_nn, *, rounding=0.0, windows=(2, 3, 5), regularizations=(1e-8, 1e-2), limit=50, **options):
    """A family with small defaults: uniform averages and RNA."""
    options = {"methods": (AVERAGE, RNA)} | options
    search = Search(windows=tuple(windows), regularizations=tuple(regularizations), limit=limit, **options)
    return family(differences(gram_nn, rounding), search)


def by_name(found):
    """Candidates by their names."""
    return {candidate.name: candidate for candidate in found.candidates}


@pytest.fixture
def gram_nn():
    """A window of five residuals in which every member of the family is another model."""
    return twins.gram(twins.linear_iterates(6, 40, seed=31, noise=0.05))


def test_the_family_takes_turns_between_its_kinds(gram_nn):
    """The last iterate first, then one of each kind in turn, led by the largest window's average and its least lambda."""
    found = family_of(gram_nn)
    assert [c.name for c in found.candidates[:3]] == ["last", "average-5", "rna-5-1e-08"]
    assert [c.method for c in found.candidates] == [LAST] + [AVERAGE, RNA] * 3 + [RNA] * 3
    assert set(by_name(found)) == {
        "last",
        *(f"average-{w}" for w in (2, 3, 5)),
        *(f"rna-{w}-{lam}" for w in (2, 3, 5) for lam in ("1e-08", "1e-02")),
    }
    assert (found.notes, found.duplicates, found.left_out) == ((), {}, ())


def test_prospects_order_each_kind(gram_nn):
    """Behind its first member, each kind is ordered by its predicted residual with noise, as a twin computes it."""
    found = family_of(gram_nn, windows=(2, 3, 4, 5), rounding=1e-4)
    noise = 1e-4 + np.linalg.eigvalsh(gram_nn)[0]
    for method in (AVERAGE, RNA):
        members = [np.array(c.coefficients) for c in found.candidates if c.method == method][1:]
        prospects = [c @ gram_nn @ c + noise * c @ c for c in members]
        assert len(prospects) > 2
        assert prospects == sorted(prospects)


def test_every_kind_of_combination_joins(gram_nn):
    """Exponential averages, decay profiles and constrained RNA are members with the weights that their twins have."""
    found = by_name(family_of(gram_nn, windows=(5, 3), regularizations=(1e-8,), methods=COMPUTED))
    np.testing.assert_allclose(found["average-3"].coefficients, (0, 0, 1 / 3, 1 / 3, 1 / 3))
    for name, decay in (("ema-5-d0.5", 0.5), ("ema-5", 0.7), ("ema-5-d0.85", 0.85)):
        np.testing.assert_allclose(found[name].coefficients, fixed_weights.exponential(5, decay))
        assert found[name].parameters == {"ema_decay": decay}
    np.testing.assert_allclose(found["decay-sqrt-5"].coefficients, fixed_weights.decay_profile(5, "sqrt"))
    np.testing.assert_allclose(found["decay-cosine-5"].coefficients, fixed_weights.decay_profile(5, "cosine"))
    assert found["cumulative-6"].weights == (1 / 6,) * 6, "all checkpoints of the window, the oldest too"
    assert {c.method for c in found.values()} >= {AVERAGE, "ema", "decay", "cumulative", RNA}
    free = twins.coefficients(gram_nn, 1e-8)
    assert (free.min() < 0) == ("simplex" in {c.method for c in found.values()})
    assert (np.abs(free).sum() > 2) == ("capped" in {c.method for c in found.values()})


def test_without_lengths_the_window_its_half_and_usual_averages_are_tried():
    """`windows` left out is the window and half of it for every method; averages have lengths of their own besides."""
    gram_nn = twins.gram(twins.linear_iterates(13, 40, seed=31, noise=0.05))
    search = Search(window=12, methods=(AVERAGE, "ema", RNA), limit=50)
    names = set(by_name(family(differences(gram_nn), search)))
    averages = {f"average-{n}" for n in (12, 6, 3, 5, 10)}
    exponential = {f"ema-{n}{decay}" for n in (12, 6) for decay in ("-d0.5", "", "-d0.85")}
    assert names == {"last", *averages, *exponential, "rna-12-1e-08", "rna-6-1e-08"}
    assert set(by_name(family(differences(gram_nn), replace(search, windows=(4,))))) == {
        "last",
        "average-4",
        *("ema-4", "ema-4-d0.5", "ema-4-d0.85"),
        "rna-4-1e-08",
    }


def test_constrained_members_that_are_plain_rna_are_named_as_duplicates():
    """Simplex and capped RNA are RNA's model if that is an average already, and the family says so."""
    found = family_of(np.eye(4), windows=(4,), regularizations=(1e-2,), methods=(RNA, "simplex", "capped"))
    assert [c.name for c in found.candidates] == ["last", "rna-4-1e-02"]
    assert found.duplicates == {"simplex-4-1e-02": "rna-4-1e-02", "capped-4-1e-02": "rna-4-1e-02"}


def test_what_is_beyond_the_limit_is_named(gram_nn):
    """No more than the limit is evaluated, and the rest is listed in the order of its prospects."""
    everything = [c.name for c in family_of(gram_nn).candidates]
    few = family_of(gram_nn, limit=3)
    assert [c.name for c in few.candidates] == everything[:4]
    assert list(few.left_out) == everything[4:]


@pytest.mark.parametrize("limit", [4, 8])
def test_no_number_of_decays_pushes_another_method_out(gram_nn, limit):
    """Within the limit, RNA, the uniform averages and everything else have as many places with ten decays as with one."""
    ten = tuple(0.05 + 0.09 * k for k in range(10))
    places = [
        Counter(c.method for c in family_of(gram_nn, methods=COMPUTED, limit=limit, ema_decays=decays).candidates)
        for decays in ((0.5,), (0.5, 0.7, 0.85), ten)
    ]
    assert all(each[method] >= places[0][method] for each in places for method in (AVERAGE, RNA))
    assert all(each["ema"] <= 1 for each in places)


def test_priors_and_mixings_multiply_the_members(gram_nn):
    """RNA is tried around every prior and with every mixing; a lambda without end is the prior itself."""
    found = by_name(
        family_of(
            gram_nn,
            windows=(5,),
            regularizations=(1e-2, 1e12),
            methods=(RNA,),
            priors=("uniform", "ema", "last"),
            mixings=(1.0, 0.5),
        )
    )
    np.testing.assert_allclose(found["rna-5-1e+12-ema"].coefficients, fixed_weights.exponential(5, 0.7), atol=1e-9)
    assert found["rna-5-1e-02-last"].parameters == {"prior": "last", "mixing": 1.0}
    assert found["rna-5-1e-02-ema-m0.5"].parameters == {"prior": "ema", "mixing": 0.5, "ema_decay": 0.7}
    half = found["rna-5-1e-02-m0.5"]
    c = twins.coefficients(gram_nn, 1e-2)
    np.testing.assert_allclose(half.coefficients, c, rtol=1e-9)
    np.testing.assert_allclose(half.weights, 0.5 * np.append(0.0, c) + 0.5 * np.append(c, 0.0), rtol=1e-9)


def test_the_distance_of_two_candidates_is_that_of_their_models():
    """Distances from the Gram matrix of differences equal those between the combined iterates, whatever the weights."""
    iterates = twins.linear_iterates(5, 30, seed=34, noise=0.1)
    residuals = differences(twins.gram(iterates))
    rng = np.random.default_rng(35)
    weights = [w / w.sum() for w in rng.uniform(-1, 2, (4, 5))]
    made = [of_weights(residuals, str(k), "line", w) for k, w in enumerate(weights)]
    for one, w in zip(made, weights, strict=True):
        for other, v in zip(made, weights, strict=True):
            expected = np.linalg.norm((w - v) @ iterates)
            assert distance(residuals, one, other) == pytest.approx(expected, abs=1e-9)


def test_the_triangular_factor_is_used_where_there_is_one():
    """The coefficients are those of the factor, not of the rounded Gram matrix, if a window has one."""
    rng = np.random.default_rng(36)
    residuals_nd = rng.standard_normal((1, 50)) + 1e-10 * rng.standard_normal((4, 50))
    factor = np.linalg.qr(residuals_nd.T, mode="r")
    gram_nn = residuals_nd @ residuals_nd.T
    with_factor = replace(differences(gram_nn), factor_nn=factor)
    candidate, note = single(with_factor, RNA, 0.0, Search(windows=(4,)))
    assert note == ""
    c, *_ = np.linalg.lstsq((residuals_nd[1:] - residuals_nd[:1]).T, -residuals_nd[0], rcond=None)
    np.testing.assert_allclose(candidate.coefficients[1:], c, rtol=1e-4)
    assert single(differences(gram_nn), RNA, 0.0, Search(windows=(4,)))[0] is None


def test_a_shorter_window_is_the_trailing_block(gram_nn):
    """RNA of the last three residuals inside a window of five is RNA of a window that holds only those."""
    inside = by_name(family_of(gram_nn))["rna-3-1e-02"]
    alone = solve(spectrum(gram_nn[-3:, -3:]), 1e-2)
    assert inside.coefficients == (0.0, 0.0, *alone.coefficients)
    np.testing.assert_allclose(alone.coefficients, twins.coefficients(gram_nn[-3:, -3:], 1e-2), rtol=1e-9)


def test_weights_name_every_iterate_once(gram_nn):
    """There is a weight for each of y_0..y_N; y_0 has none, and they sum to one (Algorithm 1, step 4)."""
    for candidate in family_of(gram_nn).candidates:
        assert len(candidate.weights) == 6
        assert candidate.weights[0] == 0.0
        assert sum(candidate.weights) == pytest.approx(1.0, abs=1e-12)


def test_windows_are_cut_to_what_is_there(gram_nn):
    """Lengths beyond the window become the window, and lengths below one become one."""
    found = family_of(gram_nn, windows=(-3, 0, 9, 100), regularizations=())
    assert [c.name for c in found.candidates] == ["last", "average-5"], "average-1 is the last iterate"


@st.composite
def windows_of_iterates(draw):
    """A few iterates in a few dimensions, with steps that are often equal, parallel or zero."""
    k, d = draw(st.integers(2, 6)), draw(st.integers(1, 3))
    steps = draw(arrays(np.int8, (k - 1, d), elements=st.integers(-2, 2)))
    return np.vstack([np.zeros(d), np.cumsum(steps.astype(np.float64), axis=0)])


LAMBDAS = st.lists(st.sampled_from([0.0, 1e-8, 1e-4, 0.06, 1.0, 1.45, 1.451, 1e30]), max_size=4)


@given(windows_of_iterates(), st.lists(st.integers(1, 7), max_size=4), LAMBDAS, st.integers(0, 12))
def test_no_two_candidates_are_the_same_model(iterates, windows, regularizations, limit):
    """The last iterate always stands, the limit holds, names are unique, and the models themselves differ."""
    gram_nn = twins.gram(iterates)
    found = family_of(gram_nn, windows=windows, regularizations=regularizations, limit=limit).candidates
    assert found[0].method == LAST
    assert len(found) <= limit + 1
    assert len({c.name for c in found}) == len(found)
    models = [np.array(c.weights) @ iterates for c in found]
    smallest = 1e-3 * np.linalg.norm(iterates[-1] - iterates[-2])
    for number, model in enumerate(models):
        for other in models[:number]:
            distance = np.linalg.norm(model - other)
            assert distance > 0
            assert distance >= smallest * (1 - 1e-6)


def test_neighbouring_lambdas_have_names_of_their_own(gram_nn):
    """A name tells one model from every other, also where lambdas agree in their first digit; equal to three, one stays."""
    found = family_of(gram_nn, windows=(5,), regularizations=(0.06, 0.055, 0.0649, 0.0645, 0.06451))
    names = [c.name for c in found.candidates]
    assert set(names) == {"last", "average-5", "rna-5-6e-02", "rna-5-5.50e-02", "rna-5-6.49e-02", "rna-5-6.45e-02"}


def test_equal_checkpoints_leave_only_the_last():
    """Every average is the last iterate if nothing moved, and a note says so."""
    found = family_of(np.zeros((4, 4)))
    assert [c.name for c in found.candidates] == ["last"]
    assert found.notes == (EQUAL,)


def test_a_dependent_window_is_noted_once():
    """RNA without lambda is left out of a singular window, with one note for all its lengths; averages stay."""
    found = family_of(np.ones((4, 4)), regularizations=(0.0,))
    assert {c.method for c in found.candidates} == {LAST, AVERAGE}
    assert found.notes == (SINGULAR_AT_ZERO,)


def test_non_finite_residuals_leave_no_extrapolation():
    """A NaN in the Gram matrix gives a note instead of candidates made of NaN."""
    gram_nn = np.eye(3)
    gram_nn[0, 0] = np.nan
    found = family_of(gram_nn, windows=(3,))
    assert RNA not in {c.method for c in found.candidates}
    assert found.notes == ("The residuals hold infinite or NaN values, so there is nothing to solve.",)
    assert all(np.isfinite(c.weights).all() for c in found.candidates)


def bfloat16_window():
    """Steps far below the spacing of the stored numbers: the Gram matrix is that of rounding, and its energy."""
    rng = np.random.default_rng(32)
    iterates = rng.standard_normal(20_000) + 1e-5 * np.cumsum(rng.standard_normal((6, 20_000)), axis=0)
    stored = (iterates.astype(np.float32).view(np.uint32) + 0x8000 & 0xFFFF0000).view(np.float32).astype(np.float64)
    rows = block_rows(stored, 5, 2.0**-7)
    return rows.rows, rows.rounding_energy


def test_rounding_noise_refuses_rna_and_offers_averages():
    """RNA is refused with a note and averages are used if the stored dtype's rounding outweighs the steps."""
    gram_nn, energy = bfloat16_window()
    rounding = rounding_variance(energy)
    found = family_of(gram_nn, rounding=rounding)
    assert {c.method for c in found.candidates} == {LAST, AVERAGE}
    assert found.notes == (DROWNED,)
    assert single(differences(gram_nn, rounding), RNA, 1e-8, Search(windows=(5,))) == (None, DROWNED)


def test_lambdas_below_the_rounding_are_raised_and_that_is_said(gram_nn):
    """A lambda that would fit rounding is replaced by the next power of ten above the floor, once, with a note."""
    scale = spectrum(gram_nn).scale
    found = family_of(gram_nn, rounding=3e-6 * scale, windows=(5,), regularizations=(1e-8, 1e-7, 1e-2))
    assert {c.name for c in found.candidates if c.method == RNA} == {"rna-5-1e-05", "rna-5-1e-02"}
    assert found.notes == ("Lambdas below 1e-05 would fit the rounding of the stored dtype; 1e-05 is used instead.",)


def test_one_lambda_below_the_rounding_is_refused_with_the_least(gram_nn):
    """Who asks for one lambda gets that or a refusal that names the floor, never another in silence."""
    residuals = differences(gram_nn, 3e-6 * spectrum(gram_nn).scale)
    assert rounding_floor(residuals, spectrum(gram_nn)) == pytest.approx(3e-6)
    candidate, note = single(residuals, RNA, 1e-8, Search(windows=(5,)))
    assert candidate is None
    least = float(re.search(r"1e-08 lies below (\S+),", note)[1])
    assert 3e-6 <= least < 4e-6
    assert single(residuals, RNA, least, Search(windows=(5,)))[0] is not None
    assert single(residuals, RNA, 1e-2, Search(windows=(5,)))[0].name == "rna-5-1e-02"


def quadratic_iterates(n, d, dtype, seed=50):
    """Iterates y_0 .. y_n of gradient descent on a quadratic in d dimensions with 0 <= G <= 0.75, as stored."""
    rng = np.random.default_rng(seed)
    limit, y = rng.standard_normal(d), np.zeros(d)
    iterates = [y]
    for _ in range(n):
        y = limit + np.linspace(0.1, 0.75, d) * (y - limit)
        iterates.append(y)
    return np.array(iterates).astype(dtype)


def residuals_of(iterates_kd, rounding, *, by_qr=False):
    """Residuals of stored iterates, with the expected rounding of one."""
    differences_nd = twins.residuals(iterates_kd)
    gram_nn = differences_nd @ differences_nd.T
    factor_nn = stacked_factor([block_factor(differences_nd)]) if by_qr else None
    return Residuals(gram_nn=gram_nn, steps_nn=gram_nn, rounding=rounding, factor_nn=factor_nn)


def rounding_of(iterates_kd, eps):
    """The expected squared norm of the rounding of one difference: 2 sum(ulp^2 / 12)."""
    return float(2.0 * np.sum((eps * np.abs(iterates_kd[-1])) ** 2) / 12.0)


@pytest.mark.parametrize("n", [4, 6, 8])
def test_without_lambda_a_quadratic_leaves_what_theorem_3_1_says(n):
    """N residuals in N dimensions: lambda = 0 gives c to all digits, and leaves less of the residual than 1e-8 does."""
    iterates = quadratic_iterates(n, n, np.float64)
    residuals = residuals_of(iterates, rounding_of(iterates, 2.0**-52), by_qr=True)
    found = family(residuals, Search(windows=(n,), regularizations=(0.0, 1e-8), methods=(RNA,), limit=9))
    assert found.notes == ()
    zero, small = (single(residuals, RNA, each, Search())[0] for each in (0.0, 1e-8))
    assert (zero.name, zero.regularization) == (f"rna-{n}-0e+00", 0.0)
    assert zero.name in {each.name for each in found.candidates}
    differences_nd = twins.residuals(iterates)
    np.testing.assert_allclose(zero.coefficients, twins.exact_coefficients(differences_nd), rtol=1e-6)
    left = [np.linalg.norm(np.array(each.coefficients) @ differences_nd) for each in (zero, small)]
    kappa = 0.25
    rho = (1 - np.sqrt(kappa)) / (1 + np.sqrt(kappa))
    assert left[0] < left[1]
    assert left[0] / np.linalg.norm(differences_nd[0]) <= 2 * rho ** (n - 1) / (1 + rho ** (2 * (n - 1)))


def test_without_lambda_float32_is_taken_where_it_holds_the_digits():
    """A window whose smallest eigenvalue stands well above the rounding is solved without lambda, and is the twin's."""
    iterates = quadratic_iterates(3, 20, np.float32)
    residuals = residuals_of(iterates.astype(np.float64), rounding_of(iterates, 2.0**-23))
    spectrum_ = spectrum(residuals.gram_nn)
    assert spectrum_.values[0] > 10 * rounding_floor(residuals, spectrum_) > 0.0
    candidate, note = single(residuals, RNA, 0.0, Search())
    assert note == ""
    np.testing.assert_allclose(candidate.coefficients, twins.coefficients(residuals.gram_nn, 0.0), rtol=1e-6)


@pytest.mark.parametrize("regularizations", [(0.0,), (0.0, 1e-2), (0.0, 1e-20, 1e-2)])
def test_without_lambda_a_window_of_rounding_is_left_out_in_words(regularizations):
    """A system that is singular to the stored dtype is not solved with another lambda in silence."""
    iterates = quadratic_iterates(8, 4, np.float32)
    residuals = residuals_of(iterates.astype(np.float64), rounding_of(iterates, 2.0**-23))
    search = Search(windows=(8,), regularizations=regularizations, methods=(RNA,), limit=9)
    found = family(residuals, search)
    assert found.notes[0] == "Lambda 0 would fit the rounding of the stored dtype, so it is left out."
    least = 10.0 ** np.ceil(np.log10(rounding_floor(residuals, spectrum(residuals.gram_nn))))
    expected = {value for value in regularizations if value >= least} | ({least} if 1e-20 in regularizations else set())
    assert {each.regularization for each in found.candidates[1:]} == expected
    candidate, note = single(residuals, RNA, 0.0, Search())
    assert candidate is None
    assert note.startswith("Lambda 0 lies below ")


def test_without_lambda_dependent_residuals_are_refused_in_words():
    """More residuals than dimensions have no solution without lambda, however many digits there are."""
    iterates = quadratic_iterates(6, 4, np.float64)
    candidate, note = single(residuals_of(iterates, 0.0, by_qr=True), RNA, 0.0, Search())
    assert candidate is None
    assert note == "The residuals are linearly dependent and lambda is 0: take lambda > 0 or a shorter window."


@pytest.mark.parametrize("regularization", [0.0, 1e-8, 2.5e-3, 0.25, math.inf])
def test_the_name_of_a_solution_tells_its_lambda(regularization):
    """0 among them: what the journal of 0.1.0 has is read from names."""
    name = name_of(RNA, 5, regularization, {"prior": "ema", "mixing": 0.0})
    recipe = read(name, {})
    assert (recipe.method, recipe.window, recipe.regularization) == (RNA, 5, regularization)
    assert recipe.parameters == (("mixing", 0.0), ("prior", "ema"))


def test_a_signal_above_the_rounding_is_not_refused(gram_nn):
    """The same rounding against steps that are large leaves every lambda as it is."""
    found = family_of(gram_nn, rounding=1e-12)
    assert found.notes == ()
    assert RNA in {c.method for c in found.candidates}


def test_unevaluated_takes_the_smallest_stable_lambda():
    """The paper's method is chosen without an evaluator, with as much lambda as keeps ||c||_2 at 3 or below."""
    gram_nn = twins.gram(twins.linear_iterates(6, 40, seed=33, noise=1e-4))
    assert np.linalg.norm(twins.coefficients(gram_nn, 1e-8)) > 3
    last, chosen = unevaluated(differences(gram_nn)).candidates
    assert last.method == LAST
    assert chosen.method == RNA
    assert chosen.window == 5
    assert chosen.regularization > 1e-8
    assert 2.0 < np.linalg.norm(chosen.coefficients) <= 3.0
    np.testing.assert_allclose(chosen.coefficients, twins.coefficients(gram_nn, chosen.regularization), rtol=1e-6)


def test_unevaluated_falls_back_to_the_average_and_says_why():
    """Equal checkpoints and windows of rounding noise give the plain average, never a silent one."""
    equal = unevaluated(differences(np.zeros((3, 3))))
    assert [c.method for c in equal.candidates] == [LAST, AVERAGE]
    assert equal.notes == (f"{EQUAL} The plain average is used.",)
    gram_nn, energy = bfloat16_window()
    noisy = unevaluated(differences(gram_nn, rounding_variance(energy)))
    assert noisy.candidates[-1].name == "average-5"
    assert noisy.notes[0] == f"{DROWNED} The plain average is used."


def test_notes_and_a_reason_make_one_sentence():
    """What ends as a sentence of its own does not run on into the next, nor does what does not."""
    assert in_one_sentence([]) == ""
    assert in_one_sentence(["Drowned. The average is used."]) == "Drowned. The average is used."
    assert in_one_sentence(["no identity", "The average is used.", "so"]) == "no identity; The average is used; so"


@pytest.mark.parametrize("method", [LAST, *COMPUTED])
def test_single_members_can_be_asked_for(gram_nn, method):
    """Each method gives one candidate over the whole window by itself, the one that the family holds."""
    candidate, note = single(differences(gram_nn), method, 1e-2, Search(windows=()))
    assert note == ""
    assert candidate.method == method
    assert sum(candidate.weights) == pytest.approx(1.0, abs=1e-12)
    assert candidate.window == (1 if method == LAST else 5)


def test_notes_on_the_residuals_come_first():
    """Why a better form of the residuals does not hold is said with the family, and where nothing is evaluated."""
    residuals = replace(differences(np.eye(3)), notes=("said",))
    assert family(residuals, Search(windows=(3,))).notes == ("said",)
    assert unevaluated(residuals).notes == ("said",)
