"""Which model of a run is the best, over made journals."""

from __future__ import annotations

import math

import pytest

from rna_watch.journal import events as e
from rna_watch.journal.metric import best_so_far
from tests.comparison.run_of import Run


def _publish(run: Run, step: int, original: float, model: float) -> str:
    """A checkpoint whose model was written."""
    better = model > original if run.events[1].mode == "max" else model < original
    run.checkpoint(step, {"last": original, "rna-5-1e-08": model}, chosen="rna-5-1e-08", better=better).publish(step)
    return f"epoch_{step:03}.pt"


def _judged_by(run: Run, evaluator: str) -> None:
    """Another evaluator judges from now on."""
    started = run.events[0]
    run.add(e.Started(**{name: getattr(started, name) for name in started.__slots__} | {"evaluator": evaluator}))


@pytest.mark.parametrize(
    ("mode", "original", "model", "best"),
    [
        ("min", 0.5, 0.3, True),
        ("min", 0.5, 0.4, False),
        ("min", 0.39, 0.39, False),
        ("max", 0.5, 0.9, True),
        ("max", 0.5, 0.6, False),
        ("min", 0.5, math.nan, False),
        ("min", 0.5, -math.inf, False),
    ],
    ids=["better", "as good as a model before", "no better than its original", "larger", "smaller", "NaN", "infinite"],
)
def test_the_best_beats_every_original_and_every_model(mode: str, original: float, model: float, best: bool) -> None:
    """Strictly, in the direction of the metric; what is no finite number never wins."""
    run = Run(mode=mode)
    _publish(run, 3, 0.7, 0.4)
    name = _publish(run, 4, original, model)
    assert best_so_far(run.state, name) == (model if best else None)


def test_what_a_replaced_checkpoint_reached_counts_on() -> None:
    """A name that is written again takes nothing back: its former model is still to be beaten."""
    run = Run()
    _publish(run, 3, 0.7, 0.4)
    name = _publish(run, 3, 0.7, 0.5)
    assert best_so_far(run.state, name) is None


def test_an_original_alone_is_to_be_beaten() -> None:
    """Also one whose window is too short for a model."""
    run = Run().checkpoint(1, {"last": 0.1})
    name = _publish(run, 3, 0.7, 0.4)
    assert best_so_far(run.state, name) is None


def test_only_values_of_one_evaluator_are_compared() -> None:
    """Another evaluator's numbers say nothing of this one's; where it judges again, its former numbers count again."""
    run = Run()
    _publish(run, 3, 0.7, 0.4)
    _judged_by(run, "other.py:evaluate")
    other = _publish(run, 4, 7.0, 4.0)
    assert best_so_far(run.state, other) == 4.0
    _judged_by(run, "eval.py:evaluate")
    worse = _publish(run, 5, 0.7, 0.5)
    assert best_so_far(run.state, worse) is None
    better = _publish(run, 6, 0.7, 0.3)
    assert best_so_far(run.state, better) == 0.3
    assert best_so_far(run.state, other) == 4.0
