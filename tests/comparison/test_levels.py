import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rna_watch.comparison.levels import Speedup, default_tolerances, first_step, levels

VALUES = st.one_of(st.none(), st.sampled_from([0.5, 1.0, 2.0, 3.5, 7.0, 20.0, math.nan, math.inf]))
CURVES = st.lists(st.tuples(VALUES, VALUES), min_size=1, max_size=8)


def twin(original, model, level, mode):
    """Step of the original, step of the model, speed-up and whether it is a bound: every case written by hand."""

    def first(values):
        for step in range(1, len(values) + 1):
            value = values[step - 1]
            if value is None or math.isnan(value) or math.isinf(value):
                continue
            if mode == "min" and value <= level:
                return step
            if mode == "max" and value >= level:
                return step
        return None

    one, other = first(original), first(model)
    if other is None:
        return one, other, None
    if one is not None:
        return one, other, (one / other, False)
    known = [step for step in range(1, len(original) + 1) if original[step - 1] in {0.5, 1.0, 2.0, 3.5, 7.0, 20.0}]
    if not known or known[-1] < other:
        return one, other, None
    return one, other, (known[-1] / other, True)


@given(CURVES, st.sampled_from([0.5, 1.0, 3.0, 7.0, 30.0]), st.sampled_from(["min", "max"]))
def test_steps_and_speedups_equal_those_of_the_twin(pairs, level, mode):
    """For any curves, with gaps and values that are no numbers, every case agrees with the one written by hand."""
    original, model = [list(values) for values in zip(*pairs, strict=True)]
    curves = {
        "original": list(enumerate(original, 1)),
        "model": list(enumerate(model, 1)),
    }
    (found,) = levels(curves, "original", "error", mode, [level])
    one, other, speedup = twin(original, model, level, mode)
    assert found.reached == {"original": one, "model": other}
    assert found.speedups == ({"model": Speedup(factor=speedup[0], at_least=speedup[1])} if speedup else {})


@given(CURVES, st.sampled_from(["error", "loss", "accuracy"]), st.sampled_from(["min", "max"]))
def test_default_levels_are_reached_by_the_original_but_not_at_its_first_value(pairs, metric, mode):
    """Whatever the curve: a default level lies between the original's first value and its best, and is within tolerance."""
    curve = [(step, value) for step, (value, _) in enumerate(pairs, 1)]
    finite = [value for _, value in curve if value is not None and math.isfinite(value)]
    for level in levels({"original": curve}, "original", metric, mode):
        best = min(finite) if mode == "min" else max(finite)
        assert level.reached["original"] is not None
        assert abs(level.value - best) == pytest.approx(level.tolerance)
        assert level.value < finite[0] if mode == "min" else level.value > finite[0]


def test_levels_of_an_error_rate_are_the_papers_points():
    """Percentages: best + 5, 2, 1, 0.5, 0.2; the level that the first checkpoint meets is dropped."""
    curve = [(1, 40.0), (2, 12.0), (3, 10.0), (4, 10.8)]
    assert [level.value for level in levels({"o": curve}, "o", "test_error", "min")] == [15.0, 12.0, 11.0, 10.5, 10.2]
    assert [level.value for level in levels({"o": curve[1:]}, "o", "test_error", "min")] == [11.0, 10.5, 10.2]


def test_levels_of_a_fraction_and_of_a_loss():
    """A rate below one takes the points as hundredths; a loss takes shares of what the original gained."""
    assert default_tolerances("val_accuracy", [0.2, 0.9], "max") == pytest.approx([0.05, 0.02, 0.01, 0.005, 0.002])
    assert default_tolerances("loss", [3.0, 1.0, 2.0], "min") == pytest.approx([1.0, 0.4, 0.2, 0.1, 0.04])
    assert default_tolerances("mean_absolute_error", [3.0, 1.0], "min") == pytest.approx([1.0, 0.4, 0.2, 0.1, 0.04])
    assert default_tolerances("error", [300.0, 100.0], "min") == pytest.approx([100.0, 40.0, 20.0, 10.0, 4.0])
    assert default_tolerances("loss", [1.0, 2.0], "min") == []
    assert default_tolerances("loss", [], "min") == []
    for rate in ("val/Acc@1", "top5", "top-1", "ErrorRate", "test_acc5"):
        assert default_tolerances(rate, [20.0, 90.0], "max") == [5.0, 2.0, 1.0, 0.5, 0.2]
    for no_rate in ("accumulated_reward", "stopped", "interruptions", "acceptance"):
        assert default_tolerances(no_rate, [20.0, 90.0], "max") == pytest.approx([35.0, 14.0, 7.0, 3.5, 1.4])


def test_a_level_is_met_beyond_the_rounding_of_a_mean():
    """An error of 3.5000000000000004 is as good as one of 3.5."""
    assert first_step([(1, 4.0), (2, 3.5000000000000004)], 3.5, "min") == 2


def test_a_model_of_step_zero_has_no_speedup():
    """Nothing is divided by step 0."""
    (level,) = levels({"o": [(0, 9.0), (1, 1.0)], "m": [(0, 1.0), (1, 1.0)]}, "o", "loss", "min", [2.0])
    assert level.reached == {"o": 1, "m": 0}
    assert level.speedups == {}
