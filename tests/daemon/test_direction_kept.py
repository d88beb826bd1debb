"""What a run does where the direction of its metric is not known, and with a direction that its journal has."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from rna_watch.commands.status import as_dict
from rna_watch.comparison.comparison import compare
from rna_watch.errors import UsageError
from rna_watch.journal import events as e
from rna_watch.journal.run_paths import RunPaths
from tests.daemon.in_process import Noise, process
from tests.daemon.runs import check_journal_tells, check_output, events, train

if TYPE_CHECKING:
    from pathlib import Path


def test_nothing_is_claimed_by_a_metric_of_unknown_direction(tmp_path: Path) -> None:
    """It is a problem with a remedy; models are published and evaluated, none is called better, `best` does not move."""
    train(tmp_path, count=5)
    state = process(tmp_path, tmp_path, [Noise(0, metric="wobble")])
    (problem,) = state.problems.values()
    assert "'wobble' does not tell" in problem.what
    assert "--mode min or --mode max" in problem.remedy
    models = [checkpoint for checkpoint in state.checkpoints.values() if checkpoint.output]
    assert len(models) == 3
    for checkpoint in models:
        assert checkpoint.chosen is not None
        assert checkpoint.chosen.better_than_original is checkpoint.chosen.significant is None
        assert checkpoint.chosen.comparisons == []
        assert "direction of the metric is not known" in checkpoint.chosen.reason
        assert len(checkpoint.evaluations) > 2
        known = {name: checkpoint.chosen.metrics.get(name) for name in ("original", "chosen")}
        assert known["original"] == checkpoint.evaluations["last"]
        assert known["chosen"] == checkpoint.evaluations.get(checkpoint.chosen.candidate)
        model = tmp_path / "rna" / str(checkpoint.output)
        check_output(model, tmp_path)
        assert json.loads(model.with_name(f"{model.name}.json").read_text())["better_than_original"] is None
    assert state.best is None
    assert not (tmp_path / "rna" / "best").is_symlink()
    assert as_dict(RunPaths(run=tmp_path, output=tmp_path), print)["metric"] == {"name": "wobble", "mode": None}
    with pytest.raises(UsageError, match="--mode min or --mode max"):
        compare(state)
    assert compare(state, mode="max").mode == "max"


def test_a_direction_that_is_given_ends_the_problem(tmp_path: Path) -> None:
    """From then on models are compared, and the journal keeps what was given."""
    train(tmp_path, count=4)
    process(tmp_path, tmp_path, [Noise(0, metric="wobble")])
    train(tmp_path, count=2, first=5)
    state = process(tmp_path, tmp_path, [Noise(0, metric="wobble")], mode="max")
    assert not state.problems
    check_journal_tells(state)
    assert state.checkpoints["step_6.pt"].chosen is not None
    assert state.checkpoints["step_6.pt"].chosen.better_than_original is not None
    train(tmp_path, count=1, first=7)
    state = process(tmp_path, tmp_path, [Noise(0, metric="wobble")])
    assert [(event.metric, event.mode) for event in events(tmp_path, "metric_chosen")] == [
        ("wobble", ""),
        ("wobble", "max"),
    ]
    assert not state.problems


@pytest.mark.parametrize(
    ("metric", "mode", "line"),
    [
        (
            "val_loss",
            "max",
            "val_loss: higher is better, as before in this run, though its name says that lower is better",
        ),
        (
            "wobble",
            "min",
            "wobble: lower is better, as before in this run, though its name does not tell; --mode changes it",
        ),
        ("val_loss", "min", ""),
    ],
)
def test_a_journal_keeps_its_direction(tmp_path: Path, metric: str, mode: str, line: str) -> None:
    """One line says so where the words of the name say otherwise or nothing; nothing else changes."""
    train(tmp_path, count=3)
    process(tmp_path, tmp_path, [Noise(0, metric=metric)], mode=mode)
    train(tmp_path, count=2, first=4)
    state = process(tmp_path, tmp_path, [Noise(0, metric=metric)])
    notes = [event.text for event in state.recent if isinstance(event, e.Noted)]
    assert len(notes) == bool(line)
    assert all(note.startswith(line) for note in notes)
    assert [event.mode for event in events(tmp_path, "metric_chosen")] == [mode]
    check_journal_tells(state)
