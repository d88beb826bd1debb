"""Which form a window's residuals have, why not a better one, and how intervals of unequal length are weighed."""

import math
from dataclasses import replace

import numpy as np
import pytest

from rna_watch.acceleration.coefficients import solve, spectrum
from rna_watch.acceleration.gram import block_residuals, block_rows
from rna_watch.acceleration.residuals import (
    DIFFERENCE,
    FORMS,
    GRADIENT,
    LEARNING_RATE,
    RECORDED,
    SGD,
    ParameterGroup,
    TrainingState,
    choose_form,
    scaled,
)

from . import twins


def states(steps=(1, 2, 3), **changes):
    """Checkpoints with SGD's state and recorded gradients at these steps."""
    common = {
        "optimizer": SGD,
        "groups": (ParameterGroup(learning_rate=0.1, momentum=0.9),),
        "recorded": True,
    } | changes
    return [TrainingState(steps=step, step_kind="step", **common) for step in steps]


BARE = {"optimizer": "", "groups": (), "recorded": False}


def group(rate=0.1, **settings):
    """One parameter group."""
    return {"groups": (ParameterGroup(learning_rate=rate, **settings),)}


def at_rates(*rates, **changes):
    """Checkpoints that hold these learning rates."""
    return [
        replace(state, **group(rate)) for state, rate in zip(states(range(len(rates)), **changes), rates, strict=True)
    ]


def test_the_best_form_that_holds_is_taken():
    """The order is exact gradients, recorded ones, steps over learning rates, plain differences."""
    window = states()
    found = []
    for change in ({}, {"problem": "no order"}, {"recorded": False}, BARE):
        window = [replace(state, **change) for state in window]
        found.append(choose_form(window).name)
    assert tuple(found) == FORMS == (GRADIENT, RECORDED, LEARNING_RATE, DIFFERENCE)


@pytest.mark.parametrize(
    ("changes", "form", "words"),
    [
        ({}, GRADIENT, None),
        (BARE, DIFFERENCE, None),
        (BARE | {"recorded": True}, RECORDED, None),
        (BARE | {"recording_problem": "of another shape"}, DIFFERENCE, "not of the form 'recorded': of another shape"),
        ({"problem": "no order"}, RECORDED, "not of the form 'gradient': no order"),
        ({"problem": "no order", "recorded": False}, LEARNING_RATE, "not of the form 'gradient': no order"),
        ({"optimizer": "Adam", "recorded": False}, DIFFERENCE, "Adam has no exact identity for its gradients"),
        ({"recorded": False} | group(math.nan), DIFFERENCE, "the learning rate is 0, or no plain number"),
        ({"recorded": False} | group(0.0), DIFFERENCE, "the learning rate is 0, or no plain number"),
        (
            {"recorded": False} | group(momentum=0.9, dampening=1.0),
            LEARNING_RATE,
            "dampening 1 takes the gradients out",
        ),
        (
            {"stepped": False} | group(momentum=0.9, dampening=0.1),
            RECORDED,
            "dampening out at a parameter's first step",
        ),
    ],
)
def test_one_note_says_why_the_best_form_that_might_have_held_does_not(changes, form, words):
    """The first form of an optimizer or a recording to fail is named with its reason; without either nothing is."""
    found = choose_form(states(**changes))
    assert found.name == form
    assert len(found.notes) == (words is not None)
    assert (words or "") in "".join(found.notes)


@pytest.mark.parametrize("wanted", FORMS)
def test_a_form_that_is_asked_for_is_taken_or_its_absence_noted(wanted):
    """An explicit form holds, or plain differences stand in for it and the note names it; no other form does."""
    assert choose_form(states(), wanted).name == wanted
    found = choose_form(states(**BARE), wanted)
    assert found.name == DIFFERENCE
    assert [f"'{wanted}'" in note for note in found.notes] == ([] if wanted == DIFFERENCE else [True])
    assert choose_form(states(problem="no order", recorded=False), GRADIENT).name == DIFFERENCE


def test_one_checkpoint_without_what_a_form_needs_ends_it():
    """Every interval must have the form: a recording or an optimizer that is missing once leaves the next form."""
    window = states(problem="no order")
    assert choose_form([replace(window[0], recorded=False), *window[1:]]).name == RECORDED, "the oldest needs none"
    assert choose_form([*window[:2], replace(window[2], recorded=False)]).name == LEARNING_RATE
    for number in range(3):
        window = states(recorded=False)
        window[number] = replace(window[number], **BARE)
        found = choose_form(window)
        assert found.name == DIFFERENCE
        assert "the checkpoints hold no optimizer state" in found.notes[0]


def test_a_change_of_rules_or_groups_is_no_exact_form():
    """Momentum, or the number of groups, that changes within an interval is refused in words."""
    window = states(recorded=False)
    for change, words, form in (
        (group(momentum=0.8), "the optimizer's settings changed", LEARNING_RATE),
        ({"groups": window[0].groups * 2}, "the number of parameter groups changed", DIFFERENCE),
    ):
        found = choose_form([*window[:2], replace(window[2], **change)])
        assert (found.name, words in found.notes[0]) == (form, True)


def test_the_learning_rate_of_an_interval_is_never_guessed():
    """Rates that differ need `lr_saved`: the older checkpoint's if saved after the scheduler's step, else the newer's."""
    window = at_rates(0.4, 0.2, 0.1, recorded=False)
    assert choose_form(window).name == DIFFERENCE
    assert "set lr_saved to 'after'" in choose_form(window).notes[0]
    for saved, rates in (("after", (0.4, 0.2)), ("before", (0.2, 0.1))):
        found = choose_form(window, GRADIENT, saved)
        assert [pair[0] for (pair,) in found.factors] == pytest.approx([-1 / rate for rate in rates])
        assert (found.saved, found.key) == (saved, f"gradient/{saved}")
        assert choose_form(window, LEARNING_RATE, saved).scales == pytest.approx([rates[1] / rate for rate in rates])


def test_rates_of_groups_may_differ_but_must_change_alike():
    """Steps over learning rates weigh intervals, not parameters: groups that change each in its own way are refused."""
    for last, form in ((0.02, LEARNING_RATE), (0.04, DIFFERENCE)):
        window = [
            replace(state, groups=(ParameterGroup(learning_rate=a), ParameterGroup(learning_rate=b)))
            for state, (a, b) in zip(states(recorded=False), ((0.4, 0.08), (0.2, 0.04), (0.1, last)), strict=True)
        ]
        found = choose_form([replace(state, problem="no order") for state in window], saved="before")
        assert found.name == form
    assert "change each in its own way" in choose_form(window, LEARNING_RATE, "before").notes[0]


def iterates(lengths, rates):
    """Iterates (K, d) of momentum-free steps with known mean gradients (N, d), over these intervals."""
    rng = np.random.default_rng(0)
    gradients = rng.standard_normal((len(lengths), 50)) + 3.0 * rng.standard_normal(50)
    moves = -np.array([length * rate for length, rate in zip(lengths, rates, strict=True)])[:, None] * gradients
    return np.vstack([np.ones(50), 1.0 + np.cumsum(moves, axis=0)]), gradients


def coefficients(gram_nn):
    """Those of lambda 1e-8."""
    return solve(spectrum(gram_nn), 1e-8).coefficients


def test_differences_are_taken_per_step():
    """Intervals of 1, 1 and 2 steps have the coefficients of the residuals divided by their steps, and not the raw ones."""
    values, gradients = iterates([1, 1, 2], [0.1] * 3)
    form = choose_form(states((5, 6, 7, 9), **BARE))
    assert (form.name, form.scales) == (DIFFERENCE, (2.0, 2.0, 1.0))
    raw = block_rows(values.copy(), 3, 0.0).rows
    found = coefficients(scaled(raw, form.scales))
    np.testing.assert_allclose(found, twins.coefficients(gradients @ gradients.T, 1e-8), rtol=1e-9)
    assert np.abs(coefficients(raw) - found).max() > 0.01


def test_steps_that_do_not_grow_are_not_divided_by():
    """Intervals count alike if a counter stands still or goes back."""
    assert choose_form(states((5, 5, 7), **BARE)).scales == (1.0, 1.0)


def test_steps_over_learning_rates_are_gradients_without_momentum():
    """The form has the coefficients of the gradients themselves if steps and rates differ."""
    lengths, rates = [3, 1, 2], [0.1, 0.08, 0.05]
    values, gradients = iterates(lengths, rates)
    window = [replace(state, steps=step) for state, step in zip(at_rates(0.1, *rates), (0, 3, 4, 6), strict=True)]
    form = choose_form(window, LEARNING_RATE, "before")
    assert form.name == LEARNING_RATE
    assert form.scales == pytest.approx([2 * 0.05 / (n * rate) for n, rate in zip(lengths, rates, strict=True)])
    found = coefficients(scaled(block_rows(values.copy(), 3, 0.0).rows, form.scales))
    np.testing.assert_allclose(found, coefficients(gradients @ gradients.T), rtol=1e-7)


def test_recorded_gradients_are_means_already():
    """They are not divided by the steps, and have no part of the differences."""
    form = choose_form(states((1, 2, 5), **BARE | {"recorded": True}))
    assert (form.scales, form.factors) == ((1.0, 1.0), (((0.0, 1.0),), ((0.0, 1.0),)))


def test_one_block_gives_both_matrices():
    """r_i = p_i d_i + q_i e_i, for buffers, for recorded gradients and for nothing next to the iterates."""
    rng = np.random.default_rng(1)
    values, beside = rng.standard_normal((4, 30)), rng.standard_normal((4, 30))
    factors = [(2.0, -1.0), (0.5, 3.0), (1.0, 0.25)]
    p, q = (np.array(column)[:, None] for column in zip(*factors, strict=True))
    steps = np.diff(values, axis=0)
    for others, e in ((beside, np.diff(beside, axis=0)), (beside[1:], beside[1:]), (beside[:0], 0.0)):
        expected = p * steps + q * e
        block = np.vstack([values, others])
        np.testing.assert_allclose(block_residuals(block.copy(), checkpoints=4, factors=factors), expected, rtol=1e-13)
        rows = block_rows(block.copy(), 3, 0.5, checkpoints=4, factors=factors, other_eps=0.25)
        np.testing.assert_allclose(rows.rows, steps @ steps.T, rtol=1e-13)
        np.testing.assert_allclose(rows.form_rows, expected @ expected.T, rtol=1e-12)
        assert rows.rounding_energy == pytest.approx(0.25 * values[-1] @ values[-1])
        other = 0.25**2 * 0.25**2 * (others[-1] @ others[-1]) if len(others) else 0.0
        assert rows.form_energy == pytest.approx(rows.rounding_energy + other)
        assert rows.outside == 0.0


def test_moves_of_parameters_outside_count_once_a_row():
    """`outside` is the squared length of the new residuals' moves where no form covers them."""
    values = np.random.default_rng(2).standard_normal((4, 30))
    steps = np.diff(values, axis=0)
    for new in (1, 3):
        rows = block_rows(values.copy(), new, 0.0, checkpoints=4, factors=[(0.0, 0.0)] * 3)
        assert rows.outside == pytest.approx((steps[-new:] ** 2).sum())
        assert not rows.form_rows.any()
