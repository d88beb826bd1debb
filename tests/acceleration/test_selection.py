import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rna_watch.acceleration.family import AVERAGE, LAST, RNA, family
from rna_watch.acceleration.selection import choose, gain, infer_mode

from . import twins

CANDIDATES = family(
    twins.gram(twins.linear_iterates(5, 30, seed=41, noise=0.05)),
    rounding_energy=0.0,
    windows=(2, 4),
    regularizations=(1e-8, 1e-2),
    limit=20,
).candidates
NAMES = [candidate.name for candidate in CANDIDATES]
METHOD = {candidate.name: candidate.method for candidate in CANDIDATES}

NUMBERS = st.floats(allow_nan=True, allow_infinity=True) | st.integers(-2, 2).map(float)
VALUES = st.dictionaries(st.sampled_from(NAMES), NUMBERS)
MODES = st.sampled_from(["min", "max"])


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
    """Where an extrapolation is no better than an average, the simpler model is taken."""
    assert choose(CANDIDATES, dict.fromkeys(NAMES, value), mode).candidate.method == AVERAGE


@pytest.mark.parametrize("values", [{}, dict.fromkeys(NAMES, math.nan), {LAST: 0.5}])
def test_without_an_evaluation_nothing_is_claimed(values):
    """With no metric of any candidate the extrapolation is taken, and it is said that nothing is known."""
    choice = choose(CANDIDATES, values, "min")
    assert choice.candidate.method == RNA
    assert (choice.better_than_original, choice.best_average, choice.best_rna) == (None, None, None)
    assert choice.reason == "nothing was evaluated, so it is not known whether it is better"


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
        ({LAST: 0.5, "rna-4-1e-08": 0.4}, 0.05, True, "extrapolation is better than the original"),
        (
            {LAST: 0.5, "rna-4-1e-08": 0.4},
            0.2,
            False,
            "extrapolation is better than the original, but not beyond the stated noise",
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
    alone = family(np.eye(1), rounding_energy=0.0, windows=(), regularizations=(), limit=0).candidates
    with pytest.raises(ValueError, match="besides the last iterate"):
        choose(alone, {}, "min")


@pytest.mark.parametrize(
    ("metric", "mode"),
    [
        ("accuracy", "max"),
        ("val/Acc@1", "max"),
        ("top1", "max"),
        ("top-5 accuracy", "max"),
        ("macro_f1", "max"),
        ("AUROC", "max"),
        ("mAP", "max"),
        ("map50", "max"),
        ("mIoU", "max"),
        ("BLEU", "max"),
        ("r2", "max"),
        ("psnr", "max"),
        ("episode_reward", "max"),
        ("loss", "min"),
        ("error", "min"),
        ("top1_err", "min"),
        ("err@5", "min"),
        ("1 - accuracy error", "min"),
        ("accuracy_loss", "min"),
        ("perplexity", "min"),
        ("nll", "min"),
        ("mae", "min"),
        ("mape", "min"),
        ("brier_score", "min"),
        ("heatmap_mse", "min"),
        ("fid", "min"),
        ("anything else", "min"),
    ],
)
def test_the_direction_follows_the_metric_s_name(metric, mode):
    """Accuracies and scores are maximized, errors and losses minimized, however they are spelt."""
    assert infer_mode(metric) == mode
