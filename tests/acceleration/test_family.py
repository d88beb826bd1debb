import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from rna_watch.acceleration.coefficients import solve, spectrum
from rna_watch.acceleration.family import (
    AVERAGE,
    LAST,
    RNA,
    average_of,
    family,
    rna_of,
    rounding_note,
    unevaluated,
)
from rna_watch.acceleration.gram import block_rows

from . import twins

SINGULAR_AT_ZERO = "The residuals are linearly dependent and lambda is 0: take lambda > 0 or a shorter window."
EQUAL = "All checkpoints of the window are equal, so there is no direction to extrapolate."


def family_of(gram_nn, *, rounding_energy=0.0, windows=(2, 3, 5), regularizations=(1e-8, 1e-2), limit=50):
    """A family with small defaults."""
    return family(
        gram_nn, rounding_energy=rounding_energy, windows=windows, regularizations=regularizations, limit=limit
    )


@pytest.fixture
def gram_nn():
    """A window of five residuals in which every member of the family is another model."""
    return twins.gram(twins.linear_iterates(6, 40, seed=31, noise=0.05))


def test_the_family_holds_every_kind(gram_nn):
    """The last iterate first, then averages, then RNA for each lambda, the longest window first."""
    found = family_of(gram_nn)
    assert [c.name for c in found.candidates] == [
        "last",
        "average-5",
        "average-3",
        "average-2",
        "rna-5-1e-08",
        "rna-3-1e-08",
        "rna-2-1e-08",
        "rna-5-1e-02",
        "rna-3-1e-02",
        "rna-2-1e-02",
    ]
    assert [c.method for c in found.candidates] == [LAST] + [AVERAGE] * 3 + [RNA] * 6
    assert found.notes == ()


def test_a_shorter_window_is_the_trailing_block(gram_nn):
    """RNA of the last three residuals inside a window of five is RNA of a window that holds only those."""
    inside = {c.name: c for c in family_of(gram_nn).candidates}["rna-3-1e-02"]
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
    assert names == ["last", "average-5", "rna-5-6e-02", "rna-5-5.50e-02", "rna-5-6.49e-02", "rna-5-6.45e-02"]


def test_equal_checkpoints_leave_only_the_last():
    """Where nothing moved every average is the last iterate, and a note says so."""
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
    """Where the stored dtype's rounding outweighs the steps, RNA is refused with a note and averages stand."""
    gram_nn, energy = bfloat16_window()
    found = family_of(gram_nn, rounding_energy=energy)
    assert {c.method for c in found.candidates} == {LAST, AVERAGE}
    assert len(found.notes) == 1
    assert found.notes[0].startswith("The steps between checkpoints drown in the rounding of the stored dtype")
    candidate, note = rna_of(gram_nn, 5, 1e-8, energy)
    assert candidate is None
    assert note == found.notes[0]


def test_a_signal_above_the_rounding_is_not_refused(gram_nn):
    """The same energy against steps that are large leaves RNA in."""
    assert rounding_note(gram_nn, 1e-6) == ""
    assert RNA in {c.method for c in family_of(gram_nn, rounding_energy=1e-6).candidates}


def test_unevaluated_takes_the_smallest_stable_lambda():
    """Without an evaluator the paper's method is chosen, with as much lambda as keeps ||c||_2 at 3 or below."""
    gram_nn = twins.gram(twins.linear_iterates(6, 40, seed=33, noise=1e-4))
    assert np.linalg.norm(twins.coefficients(gram_nn, 1e-8)) > 3
    last, chosen = unevaluated(gram_nn, rounding_energy=0.0).candidates
    assert last.method == LAST
    assert chosen.method == RNA
    assert chosen.window == 5
    assert chosen.regularization > 1e-8
    assert 2.0 < np.linalg.norm(chosen.coefficients) <= 3.0
    np.testing.assert_allclose(chosen.coefficients, twins.coefficients(gram_nn, chosen.regularization), rtol=1e-6)


def test_unevaluated_falls_back_to_the_average_and_says_why():
    """Equal checkpoints and windows of rounding noise give the plain average, never a silent one."""
    equal = unevaluated(np.zeros((3, 3)), rounding_energy=0.0)
    assert [c.method for c in equal.candidates] == [LAST, AVERAGE]
    assert equal.notes == (f"{EQUAL} The plain average is used.",)
    gram_nn, energy = bfloat16_window()
    noisy = unevaluated(gram_nn, rounding_energy=energy)
    assert noisy.candidates[-1].name == "average-5"
    assert noisy.notes[0].endswith("so RNA would fit noise. The plain average is used.")


def test_single_members_are_cut_to_the_window(gram_nn):
    """One average or one RNA can be asked for by itself, of at most the whole window."""
    assert average_of(gram_nn, 99).coefficients == (0.2,) * 5
    assert average_of(gram_nn, 2).coefficients == (0.0, 0.0, 0.0, 0.5, 0.5)
    candidate, note = rna_of(gram_nn, 99, 1e-2, 0.0)
    assert note == ""
    np.testing.assert_allclose(candidate.coefficients, twins.coefficients(gram_nn, 1e-2), rtol=1e-9)
