import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rna_watch.acceleration.family import Search, family
from rna_watch.acceleration.methods import AVERAGE, LAST, LINE, RNA, TRAINED
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


FITS = tuple(
    replace(CANDIDATES[-1], name=name, method=method) for name, method in (("trained-4", TRAINED), ("line-2", LINE))
)
RANKED = (*CANDIDATES, *FITS)


def ranked_by_loss(errors, losses, minimum_gain=None, mode="min"):
    """A choice by these 0/1 errors and losses of each example."""
    errors, losses = ({name: np.asarray(each, dtype=float) for name, each in of.items()} for of in (errors, losses))
    evidence = Evidence(
        values={name: float(each.mean()) for name, each in errors.items()},
        mode=mode,
        examples=errors,
        minimum_gain=minimum_gain,
        metric="error",
        losses=losses,
        loss="loss",
    )
    return choose_by(RANKED, evidence)


def wrong(count, of=400):
    """So many wrong answers, the first ones."""
    return (np.arange(of) < count).astype(float)


def losses_about(mean, seed):
    """400 losses whose mean is this, a part of them shared by all models."""
    shared, own = np.random.default_rng(7).random(400), np.random.default_rng(seed).random(400)
    values = shared + 0.1 * own
    return values - values.mean() + mean


def test_a_loss_of_each_example_finds_what_errors_hardly_tell():
    """Two errors of 400 fewer are no evidence; the losses of the same examples are, and the choice says which it tested."""
    errors = {LAST: wrong(20), "average-4": wrong(18), "rna-4-1e-08": wrong(17)}
    losses = {LAST: losses_about(0.9, 1), "average-4": losses_about(0.8, 2), "rna-4-1e-08": losses_about(0.7, 3)}
    by_error = choose_by(
        CANDIDATES, Evidence(values={n: v.mean() for n, v in errors.items()}, mode="min", examples=errors)
    )
    assert by_error.significant is False
    choice = ranked_by_loss(errors, losses)
    assert (choice.candidate.name, choice.better_than_original, choice.significant) == ("rna-4-1e-08", True, True)
    assert choice.tested_on == "loss"
    assert choice.reason == "extrapolation is better than the original, beyond noise (ranked and tested on loss)"
    paired = losses["average-4"] - losses[LAST]
    assert choice.comparisons[0].gain == pytest.approx(0.1)
    assert choice.comparisons[0].threshold == pytest.approx(beyond(0.05, paired) * paired.std(ddof=1) / 20, rel=1e-2)
    assert [step.accepted for step in choice.comparisons] == [True, True]


def test_the_first_in_the_ranking_that_is_no_worse_by_the_metric_is_taken():
    """What has a better loss and a worse error than the original or the best average is passed over, which is said."""
    errors = {LAST: wrong(20), "average-4": wrong(16), "rna-4-1e-08": wrong(17), "rna-2-1e-08": wrong(16)}
    losses = {
        LAST: losses_about(0.9, 1),
        "average-4": losses_about(0.8, 2),
        "rna-4-1e-08": losses_about(0.6, 3),
        "rna-2-1e-08": losses_about(0.7, 4),
    }
    choice = ranked_by_loss(errors, losses)
    assert choice.candidate.name == "rna-2-1e-08"
    assert choice.reason.endswith("; rna-4-1e-08 has a better loss, but a worse error")
    assert ranked_by_loss(errors | {"rna-2-1e-08": wrong(18)}, losses).candidate.name == "average-4"
    averages = {"average-4": wrong(21), "average-2": wrong(20)}
    first = {"average-4": losses_about(0.5, 5), "average-2": losses_about(0.6, 6)}
    choice = ranked_by_loss({LAST: wrong(20)} | averages, {LAST: losses_about(0.9, 1)} | first)
    assert (choice.candidate.name, choice.better_than_original, choice.significant) == ("average-2", False, True)
    assert choice.reason.startswith("the plain average is as good as the original, and better by loss, beyond noise")
    worse = {"average-4": wrong(21), "average-2": wrong(22)}
    choice = ranked_by_loss({LAST: wrong(20)} | worse, {LAST: losses_about(0.9, 1)} | first)
    assert (choice.candidate.name, choice.better_than_original) == ("average-4", False)
    assert choice.reason.startswith(
        "the plain average is worse than the original by error, and better by loss, beyond noise"
    )


def test_a_metric_that_is_infinite_for_all_leaves_the_ranking_to_the_loss():
    """Equal metrics are no worse than each other, infinite ones too."""
    endless = dict.fromkeys((LAST, "average-4", "rna-4-1e-08"), wrong(1) + math.inf)
    losses = {LAST: losses_about(0.9, 1), "average-4": losses_about(0.8, 2), "rna-4-1e-08": losses_about(0.7, 3)}
    choice = ranked_by_loss(endless, losses)
    assert (choice.candidate.name, choice.better_than_original) == ("rna-4-1e-08", False)


def test_a_gain_that_was_stated_is_one_of_the_metric():
    """With `minimum_gain` a gain of the loss beyond noise is not enough."""
    errors = {LAST: wrong(20), "average-4": wrong(16)}
    losses = {LAST: losses_about(0.9, 1), "average-4": losses_about(0.8, 2)}
    assert ranked_by_loss(errors, losses, minimum_gain=0.009).significant is True
    assert ranked_by_loss(errors, losses, minimum_gain=0.011).significant is False


@pytest.mark.parametrize("without", [(LAST,), ("average-4",)])
def test_a_loss_that_some_lack_ranks_nothing(without):
    """The metric decides if the original or a plain candidate has no loss on the same examples."""
    errors = {LAST: wrong(20), "average-4": wrong(16), "rna-4-1e-08": wrong(10)}
    losses = {LAST: losses_about(0.9, 1), "average-4": losses_about(0.8, 2), "rna-4-1e-08": losses_about(1.0, 3)}
    assert ranked_by_loss(errors, losses).candidate.name == "average-4"
    choice = ranked_by_loss(errors, {name: each for name, each in losses.items() if name not in without})
    assert (choice.candidate.name, choice.tested_on) == ("rna-4-1e-08", "error")


EXAMPLES = 12
WILD = st.floats(-3, 3, width=16) | st.sampled_from([math.nan, math.inf, -math.inf, 0.0, 1e300, -1e300])
COLUMN = st.lists(st.integers(0, 3).map(float), min_size=EXAMPLES, max_size=EXAMPLES)
HOSTILE = st.one_of(
    st.lists(WILD, min_size=EXAMPLES, max_size=EXAMPLES),
    WILD.map(lambda value: [value] * EXAMPLES),
    st.lists(WILD, min_size=2, max_size=2),  # of other examples
)
PLAIN = ["last", "average-4", "average-2", "rna-4-1e-08", "rna-2-1e-08"]


@given(
    st.fixed_dictionaries({name: st.tuples(COLUMN, COLUMN) for name in PLAIN}),
    st.dictionaries(st.sampled_from([each.name for each in FITS]), st.tuples(HOSTILE, st.none() | HOSTILE)),
    MODES,
    st.booleans(),
    st.none() | st.floats(0, 1),
)
def test_no_fit_makes_the_choice_worse(plain, fits, mode, by_loss, minimum_gain):
    """Whatever a fit's evaluation gives, the choice is no worse than without it, by the metric and by what ranks."""

    def choice_of(models):
        def evidence():
            metric = {name: np.array(values) for name, (values, _) in models.items()}
            loss = {name: np.array(values) for name, (_, values) in models.items() if values is not None and by_loss}
            with np.errstate(all="ignore"):
                values = {name: float(each.mean()) for name, each in metric.items()}
                means = {name: float(each.mean()) for name, each in loss.items()}
            given = Evidence(
                values=values,
                mode=mode,
                examples=metric,
                minimum_gain=minimum_gain,
                metric="score",
                losses=loss,
                loss="loss" if by_loss else "",
            )
            return given, values, means

        found, values, means = evidence()
        return choose_by(RANKED, found), values, means

    before, values, means = choice_of(plain)
    after, all_values, all_means = choice_of(plain | fits)
    name = after.candidate.name
    assert gain(all_values[name], values[before.candidate.name], mode) >= 0.0
    if by_loss:
        assert all_means[name] <= means[before.candidate.name]
    if name == before.candidate.name:
        assert after.better_than_original == before.better_than_original
    else:
        assert name in fits
