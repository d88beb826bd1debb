import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rna_watch.acceleration.family import Search, family
from rna_watch.acceleration.methods import AVERAGE, LAST, RNA
from rna_watch.acceleration.residuals import Residuals
from rna_watch.acceleration.selection import Evidence
from rna_watch.acceleration.selection import choose as choose_by
from rna_watch.acceleration.significance import gain, student_quantile

from . import twins

CANDIDATES = family(
    Residuals.of_differences(twins.gram(twins.linear_iterates(5, 30, seed=41, noise=0.05))),
    Search(windows=(2, 4), regularizations=(1e-8, 1e-2), methods=(AVERAGE, RNA), limit=20),
).candidates
NAMES = [candidate.name for candidate in CANDIDATES]
METHOD = {candidate.name: candidate.method for candidate in CANDIDATES}

NUMBERS = st.floats(allow_nan=True, allow_infinity=True) | st.integers(-2, 2).map(float)
VALUES = st.dictionaries(st.sampled_from(NAMES), NUMBERS)
MODES = st.sampled_from(["min", "max"])


def choose(candidates, values, mode, minimum_gain=None, examples=None):
    """A choice by these values."""
    return choose_by(candidates, Evidence(values=values, mode=mode, minimum_gain=minimum_gain, examples=examples or {}))


def better(value, reference, mode):
    """Whether a value is strictly better."""
    return value < reference if mode == "min" else value > reference


@given(VALUES, MODES, st.none() | st.floats(0, 10))
def test_no_gain_is_claimed_that_is_not_there(values, mode, minimum_gain):
    """`better_than_original` is true exactly where the chosen model is strictly better, and unknown without numbers."""
    choice = choose(CANDIDATES, values, mode, minimum_gain)
    assert choice.candidate.method != LAST
    own, original = values.get(choice.candidate.name, math.nan), values.get(LAST, math.nan)
    if math.isnan(own) or math.isnan(original):
        assert choice.better_than_original is None
        assert choice.significant is None
    else:
        assert choice.better_than_original is better(own, original, mode)
        if minimum_gain is None:
            assert choice.significant is None
        elif choice.significant:
            assert choice.better_than_original
            assert gain(own, original, mode) > minimum_gain
            assert all(step.accepted == (step.gain > minimum_gain) for step in choice.comparisons)


@given(VALUES, MODES)
def test_the_chosen_is_the_best_of_those_evaluated(values, mode):
    """No other evaluated candidate is strictly better, and the best of either kind are the best of their kind."""
    choice = choose(CANDIDATES, values, mode)
    known = {name: value for name, value in values.items() if name != LAST and not math.isnan(value)}
    for best, method in ((choice.candidate.name, None), (choice.best_average, AVERAGE), (choice.best_rna, RNA)):
        group = {name: value for name, value in known.items() if method in (None, METHOD[name])}
        if group:
            assert best in group
            assert not any(better(value, group[best], mode) for value in group.values())
        elif method is not None:
            assert best is None


@given(st.integers(-2, 2).map(float), MODES)
def test_an_average_wins_a_tie(value, mode):
    """The simpler model is taken if an extrapolation is no better than an average."""
    assert choose(CANDIDATES, dict.fromkeys(NAMES, value), mode).candidate.method == AVERAGE


@pytest.mark.parametrize(
    ("values", "what"),
    [
        ({}, "nothing was evaluated"),
        ({LAST: 0.5}, "nothing was evaluated"),
        (dict.fromkeys(NAMES, math.nan), "what was evaluated gave NaN"),
        ({LAST: 0.5, "average-4": math.nan}, "what was evaluated gave NaN"),
    ],
)
def test_without_an_evaluation_nothing_is_claimed(values, what):
    """The extrapolation is taken if no candidate has a metric, and the reason says that nothing is known."""
    choice = choose(CANDIDATES, values, "min")
    assert choice.candidate.method == RNA
    assert (choice.better_than_original, choice.best_average, choice.best_rna) == (None, None, None)
    assert choice.reason == f"{what}, so it is not known whether it is better"


def test_an_original_that_was_not_evaluated_is_said():
    """The best candidate stands, but no comparison is invented."""
    choice = choose(CANDIDATES, {"average-4": 0.3, LAST: math.nan}, "min")
    assert choice.candidate.name == "average-4"
    assert choice.better_than_original is None
    assert choice.reason == "the original could not be evaluated, so it is not known whether it is better"


@pytest.mark.parametrize(
    ("values", "minimum_gain", "significant", "reason"),
    [
        ({LAST: 0.5, "average-4": 0.4}, None, None, "the plain average is better than the original"),
        ({LAST: 0.5, "rna-4-1e-08": 0.4}, 0.05, True, "extrapolation is better than the original, beyond noise"),
        (
            {LAST: 0.5, "rna-4-1e-08": 0.4},
            0.2,
            False,
            "extrapolation is better than the original, but not beyond noise",
        ),
        (
            {LAST: 0.5, "average-4": 0.5},
            None,
            None,
            "the plain average is the best of the family, but not better than the original",
        ),
        (
            {LAST: 0.5, "rna-4-1e-08": 0.6},
            0.0,
            False,
            "extrapolation is the best of the family, but not better than the original",
        ),
    ],
)
def test_the_reason_says_what_was_found(values, minimum_gain, significant, reason):
    """The sentence and the verdict on significance agree with the numbers."""
    choice = choose(CANDIDATES, values, "min", minimum_gain)
    assert choice.reason == reason
    assert choice.significant is significant


def test_infinite_metrics_are_numbers():
    """A diverged original is worse than anything finite, and a diverged candidate is never better."""
    assert choose(CANDIDATES, {LAST: math.inf, "average-4": 1.0}, "min").better_than_original is True
    assert choose(CANDIDATES, {LAST: 1.0, "average-4": math.inf}, "min").better_than_original is False
    assert choose(CANDIDATES, {LAST: math.inf, "average-4": math.inf}, "min").better_than_original is False


def test_a_choice_needs_something_to_choose():
    """A family of the last iterate alone is misuse, and raises."""
    alone = family(Residuals.of_differences(np.eye(1)), Search(windows=(), methods=())).candidates
    with pytest.raises(ValueError, match="besides the last iterate"):
        choose(alone, {}, "min")


def per_example(rate, seed, count=400):
    """Errors (0 or 1) of a model on the same examples: a part is hard for every model, a part is its own."""
    rng, own = np.random.default_rng(42), np.random.default_rng(seed)
    return ((rng.random(count) < 0.1) | (own.random(count) < rate)).astype(float)


def evidence_of(rates):
    """Values and per-example values of models with these error rates of their own."""
    examples = {name: per_example(rate, seed) for seed, (name, rate) in enumerate(rates.items())}
    return {name: float(each.mean()) for name, each in examples.items()}, examples


def beyond(level, paired):
    """Student's quantile with as many degrees of freedom as there are differences, less one."""
    return student_quantile(level, np.count_nonzero(paired) - 1)


def test_a_gain_must_exceed_the_paired_standard_errors_of_the_best_of_those_tried():
    """The step from the original to the best of m averages needs Student's quantile for m times the paired standard error."""
    values, examples = evidence_of({LAST: 0.30, "average-4": 0.05, "average-2": 0.10})
    choice = choose(CANDIDATES, values, "min", examples=examples)
    (step,) = choice.comparisons
    paired = examples["average-4"] - examples[LAST]
    assert step.standard_error == pytest.approx(paired.std(ddof=1) / 20.0)
    assert step.threshold == pytest.approx(beyond(0.05 / 2, paired) * step.standard_error + 1 / 400, rel=1e-4)
    assert (choice.candidate.name, choice.significant, step.accepted) == ("average-4", True, True)


def test_an_extrapolation_that_is_better_by_noise_alone_loses_to_the_average():
    """The simpler model stays where the extrapolation's gain over it is within noise, though its metric is the best."""
    values, examples = evidence_of({LAST: 0.30, "average-4": 0.050, "rna-4-1e-08": 0.049})
    assert values["rna-4-1e-08"] < values["average-4"]
    choice = choose(CANDIDATES, values, "min", examples=examples)
    assert choice.candidate.name == "average-4"
    assert [step.accepted for step in choice.comparisons] == [True, False]
    assert choice.significant is True


def test_nothing_beyond_noise_gives_the_best_and_says_that_it_is_not_significant():
    """The best by the metric is chosen if no step is beyond noise, and `significant` is false."""
    values, examples = evidence_of({LAST: 0.20, "average-4": 0.21, "rna-4-1e-08": 0.19})
    choice = choose(CANDIDATES, values, "min", examples=examples)
    best = min(("average-4", "rna-4-1e-08"), key=values.__getitem__)
    assert choice.candidate.name == best
    assert choice.significant is False
    assert choice.better_than_original is (values[best] < values[LAST])


def test_after_an_average_that_failed_the_extrapolation_is_one_of_all_that_were_tried():
    """An extrapolation that is compared with the original needs Student's quantile for every candidate evaluated."""
    values, examples = evidence_of({LAST: 0.20, "average-4": 0.19, "average-2": 0.2, "rna-4-1e-08": 0.05})
    first, second = choose(CANDIDATES, values, "min", examples=examples).comparisons
    assert (first.accepted, second.reference) == (False, LAST)
    paired = examples["rna-4-1e-08"] - examples[LAST]
    assert second.threshold == pytest.approx(beyond(0.05 / 3, paired) * second.standard_error + 1 / 400, rel=1e-4)


def test_an_extrapolation_that_equals_a_failed_average_does_not_pass_in_its_place():
    """An extrapolation with the metric of an average that is not beyond noise is not taken instead."""
    base, noise = np.random.default_rng(44).standard_normal((2, 400))
    noise -= noise.mean()
    examples = {LAST: base, "average-4": base - 0.1 + 1.5 * noise, "rna-4-1e-08": base - 0.1 + 0.01 * noise}
    values = {LAST: 0.1, "average-4": 0.0, "rna-4-1e-08": 0.0}
    choice = choose(CANDIDATES, values, "min", examples=examples)
    assert [step.accepted for step in choice.comparisons] == [False, True]
    assert choice.candidate.method == AVERAGE
    assert choice.significant is False


def test_false_wins_are_rare_after_the_correction():
    """Equal models are told apart in about one choice of twenty, where the best of eight at one standard error is in most."""
    rng = np.random.default_rng(43)
    count, trials, wins, naive = 500, 300, 0, 0
    names = NAMES[1:]
    for _ in range(trials):
        examples = {name: rng.standard_normal(count) for name in NAMES}
        values = {name: float(each.mean()) for name, each in examples.items()}
        wins += bool(choose(CANDIDATES, values, "min", examples=examples).significant)
        best = min(names, key=values.__getitem__)
        naive += values[LAST] - values[best] > np.std(examples[LAST] - examples[best]) / np.sqrt(count)
    assert naive > trials / 4
    assert wins < trials / 8  # two steps, one-sided 5 % each


@given(st.dictionaries(st.sampled_from(NAMES), st.floats(-2, 2)), MODES, st.integers(0, 10_000))
def test_never_worse_than_the_original_on_the_choosing_metric(values, mode, seed):
    """What a user takes, the chosen model where it is better and else the original, is never worse than the original."""
    rng = np.random.default_rng(seed)
    examples = {name: value + rng.standard_normal(30) for name, value in values.items()}
    values = {name: float(each.mean()) for name, each in examples.items()}
    choice = choose(CANDIDATES, values, mode, examples=examples)
    if choice.better_than_original is None:
        return
    taken = values[choice.candidate.name] if choice.better_than_original else values[LAST]
    assert gain(taken, values[LAST], mode) >= 0
    if choice.significant:
        assert choice.better_than_original
        assert all(step.gain > step.threshold >= 0 for step in choice.comparisons if step.accepted)
