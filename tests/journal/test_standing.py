"""The best model of a run next to its best original, over made journals."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

import pytest

from rna_watch.journal import events as e
from rna_watch.journal.metric import best_so_far
from rna_watch.journal.standing import Standing, standing
from rna_watch.journal.words import describe, stands
from tests.comparison.run_of import Run

if TYPE_CHECKING:
    from collections.abc import Callable


def _model(run: Run, step: int, original: float, model: float, *, significant: bool | None = None) -> None:
    """A checkpoint whose model was written, and named best if it is."""
    sign = -1 if run.events[1].mode == "max" else 1
    better = sign * model < sign * original
    run.checkpoint(
        step, {"last": original, "rna-5-1e-08": model}, chosen="rna-5-1e-08", better=better, significant=significant
    )
    run.publish(step)
    name = f"epoch_{step:03}.pt"
    value = best_so_far(run.state, name)
    if value is not None:
        run.add(e.BestMoved(checkpoint=name, output=name, value=value))


def _said(run: Run, there: Callable[[str], bool] = lambda _: True) -> tuple[Standing, str]:
    now = standing(run.state, there)
    assert now is not None
    return now, stands(now, run.state)


@pytest.mark.parametrize(
    ("significant", "noise"), [(True, "beyond noise"), (False, "within noise"), (None, "not compared with noise")]
)
def test_best_stands_next_to_its_original(significant: bool | None, noise: str) -> None:
    """The original's best value, the gain, and whether that is beyond noise, as the choice found it."""
    run = Run()
    _model(run, 3, 0.7, 0.6)
    _model(run, 4, 0.5, 0.4, significant=significant)
    now, line = _said(run)
    assert now.best is not None
    assert now.original is not None
    assert (now.best.output, now.best.value) == ("epoch_004.pt", 0.4)
    assert (now.original.checkpoint, now.original.value) == ("epoch_004.pt", 0.5)
    assert now.gain == pytest.approx(0.1)
    assert (now.significant, now.unbeaten) == (significant, False)
    assert line == (
        f"best: rna/epoch_004.pt, error 0.4000; the best original, epoch_004.pt, 0.5000; a gain of +20.0%, {noise}"
    )


@pytest.mark.parametrize(("tested_on", "said"), [("", ""), ("error", ""), ("loss", " (tested on loss)")])
def test_a_loss_that_a_gain_was_tested_on_is_named(tested_on: str, said: str) -> None:
    """Where it was the metric, as in journals that do not tell, nothing is added."""
    run = Run()
    _model(run, 4, 0.5, 0.4, significant=True)
    run.events[:] = [
        dataclasses.replace(event, tested_on=tested_on) if isinstance(event, e.Chosen) else event
        for event in run.events
    ]
    now, line = _said(run)
    assert now.tested_on == (tested_on or "error")
    assert line.endswith(f"a gain of +20.0%, beyond noise{said}")


@pytest.mark.parametrize(("minimum_gain", "significant"), [(None, None), (0.05, True), (0.2, False)])
def test_noise_between_checkpoints_is_known_by_the_minimum_gain_alone(
    minimum_gain: float | None, significant: bool | None
) -> None:
    """A paired test compares a model with its own original; of another one's it says nothing."""
    run = Run()
    run.events[0] = dataclasses.replace(run.events[0], settings={"minimum_gain": minimum_gain})
    run.checkpoint(1, {"last": 0.5})
    _model(run, 3, 0.7, 0.4, significant=True)
    now, _ = _said(run)
    assert now.original is not None
    assert now.original.checkpoint == "epoch_001.pt"
    assert now.significant is significant


@pytest.mark.parametrize(
    ("mode", "model", "later", "how"),
    [("min", 0.4, 0.3, "better than"), ("max", 0.8, 0.9, "better than"), ("min", 0.4, 0.4, "as good as")],
)
def test_an_original_that_no_model_beats_is_named_first(mode: str, model: float, later: float, how: str) -> None:
    """A later original may be better than what `best` names."""
    run = Run(mode=mode)
    _model(run, 3, 0.5, model)
    run.checkpoint(4, {"last": later})
    now, line = _said(run)
    assert now.unbeaten
    assert now.best is not None
    assert now.significant is None
    assert line.startswith(
        f"the original epoch_004.pt is {how} every model: error {later:.4f}; best: rna/epoch_003.pt, "
    )
    assert f"error {model:.4f} (" in line


def test_without_a_best_model_the_best_of_the_others_is_named_so() -> None:
    """Where no model beats every original, `best` names none, and that is said."""
    run = Run()
    _model(run, 3, 0.5, 0.6)
    now, line = _said(run)
    assert (now.best, now.unbeaten) == (None, True)
    assert line == (
        "the original epoch_003.pt is better than every model: error 0.5000; "
        "the best model that is there: rna/epoch_003.pt, error 0.6000 (-20.0%)"
    )


def test_a_model_that_is_gone_is_not_named() -> None:
    """Neither as best nor as one of the others, in any words."""
    run = Run()
    _model(run, 3, 0.7, 0.6)
    _model(run, 4, 0.65, 0.4)
    now, line = _said(run, lambda output: output != "epoch_004.pt")
    assert now.best is None
    assert line.startswith(
        "the best model that is there: rna/epoch_003.pt, error 0.6000; the best original, epoch_004.pt, 0.65"
    )
    now, line = _said(run, lambda _: False)
    assert (now.best, now.model, line) == (None, None, "")


def test_a_better_model_than_best_is_not_denied() -> None:
    """`best` moves only to what beats all originals; a model that beats an old best and not the newest original is another."""
    run = Run()
    _model(run, 3, 0.7, 0.6)
    _model(run, 4, 0.5, 0.55)
    run.events.pop() if isinstance(run.events[-1], e.BestMoved) else None
    now, line = _said(run)
    assert now.best is not None
    assert (now.best.value, now.unbeaten) == (0.6, True)
    assert line.startswith("the original epoch_004.pt is better than every model: error 0.5000; best: rna/epoch_003.pt")


def test_values_of_two_judges_are_not_set_against_each_other() -> None:
    """The original next to `best` is the best that the same evaluator judged."""
    run = Run()
    _model(run, 3, 0.7, 0.4)
    started = run.events[0]
    run.add(
        e.Started(**{name: getattr(started, name) for name in started.__slots__} | {"evaluator": "other.py:evaluate"})
    )
    run.checkpoint(4, {"last": 0.01})
    now, _ = _said(run)
    assert now.original is not None
    assert (now.original.checkpoint, now.unbeaten) == ("epoch_003.pt", False)


@pytest.mark.parametrize("metric", [None, "wobble"])
def test_without_a_direction_nothing_is_compared(metric: str | None) -> None:
    """`best` keeps its meaning where the metric changed to one whose direction is not known."""
    run = Run()
    _model(run, 3, 0.7, 0.4)
    if metric is None:
        run.events = [event for event in run.events if not isinstance(event, e.MetricChosen)]
        assert standing(run.state) is None
        return
    run.add(e.MetricChosen(metric=metric, mode=""))
    now, line = _said(run)
    assert now.best is not None
    assert (now.best.value, now.original, now.gain) == (0.4, None, None)
    assert line == "best: rna/epoch_003.pt, error 0.4000"


def test_what_is_no_number_never_stands() -> None:
    """NaN and infinite values are neither best originals nor best models."""
    run = Run()
    run.checkpoint(1, {"last": -math.inf}).checkpoint(2, {"last": math.nan})
    _model(run, 3, 0.7, 0.4)
    now, _ = _said(run)
    assert now.original is not None
    assert now.original.value == 0.7


def test_the_log_line_of_a_move_has_the_original_too() -> None:
    """Whoever reads only the log sees what the best model is worth."""
    run = Run()
    _model(run, 3, 0.7, 0.4)
    state = run.state
    assert state.best is not None
    assert describe(state.best, state) == (
        "epoch_003.pt  best so far: rna/epoch_003.pt, error 0.4000; the best original, epoch_003.pt, 0.7000; "
        "a gain of +42.9%, not compared with noise"
    )
