"""The summary of one call: the result first, then counted details, and the error that goes with it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
import torch

from rna_watch.commands.summary import of_last_call, summarize
from rna_watch.errors import NothingToDo, RnaWatchError
from rna_watch.journal import events as e
from rna_watch.journal.run_paths import RunPaths
from tests.comparison.run_of import Run
from tests.daemon.runs import HERE, rna_watch, train

if TYPE_CHECKING:
    from pathlib import Path

    from rna_watch.commands.summary import Summary


def _summary(run: Run, folder: Path) -> Summary:
    return summarize(of_last_call(run.events), run.state, RunPaths(run=folder, output=folder))


def _published(run: Run, *steps: int) -> Run:
    for step in steps:
        run.checkpoint(step, {"last": 0.5, "rna-5-1e-08": 0.4}, chosen="rna-5-1e-08", better=True, significant=step > 3)
        run.publish(step)
    return run


def test_what_was_made_comes_first(tmp_path: Path) -> None:
    """How many models, how many of them better and beyond noise; then `best`, the stages, and what went wrong, counted."""
    run = _published(Run(), 3, 4, 5)
    for step in (6, 7):
        run.admit(step).add(e.Skipped(checkpoint=f"epoch_{step:03}.pt", reason=f"epoch_{step:03}.pt holds NaN"))
    summary = _summary(run, tmp_path)
    assert summary.error is None
    assert summary.lines[0] == "3 models were published: 3 better than the original, 2 of them beyond noise"
    assert summary.lines[-1] == "     2 x  left out: it holds NaN"


@pytest.mark.parametrize(
    ("event", "count", "reason"),
    [
        (lambda name: e.Finished(checkpoint=name, reason="number 1 of a new window"), 340, "number 1 of a new window"),
        (lambda name: e.Skipped(checkpoint=name, reason=f"{name} is damaged"), 5, "left out: it is damaged (5 times)"),
        (lambda name: e.Failed(checkpoint=name, reason="the disk is full", will_retry=False), 1, "the disk is full"),
    ],
    ids=["finished", "skipped", "failed"],
)
def test_where_nothing_was_published_one_reason_comes_first(
    tmp_path: Path, event: object, count: int, reason: str
) -> None:
    """The most frequent reason is in the first line and in the error; equal messages are one line with their number."""
    assert callable(event)
    run = Run()
    for step in range(1, count + 1):
        run.admit(step).add(event(f"epoch_{step:03}.pt"))
    summary = _summary(run, tmp_path)
    assert summary.lines[0].startswith("nothing was published: ")
    assert reason in summary.lines[0]
    assert type(summary.error) is RnaWatchError
    assert str(summary.error) == summary.lines[0]
    (counted,) = [line for line in summary.lines if " x  " in line]
    assert counted.startswith(f"{count:6} x  ")


def test_what_was_left_of_a_run_with_models_is_no_failure(tmp_path: Path) -> None:
    """A daemon ended before it came to the first checkpoint, of which there is no model anyway; a failure stays one."""
    run = _published(Run(), 3, 4)
    run.add(run.events[0]).admit(1).add(e.Finished(checkpoint="epoch_001.pt", reason="number 1 of a new window"))
    summary = _summary(run, tmp_path)
    assert isinstance(summary.error, NothingToDo)
    assert summary.lines[0].startswith("nothing was published: ")
    run.admit(2).add(e.Failed(checkpoint="epoch_002.pt", reason="the disk is full", will_retry=False))
    assert type(_summary(run, tmp_path).error) is RnaWatchError


def test_only_the_last_call_counts(tmp_path: Path) -> None:
    """What an earlier start made is no result of this one: there was nothing to do."""
    run = _published(Run(), 3, 4)
    summary = _summary(run.add(run.events[0]), tmp_path)
    assert isinstance(summary.error, NothingToDo)
    assert summary.lines[0] == "nothing to do: the 2 checkpoints that can be used were done before"


@pytest.mark.parametrize("evaluated", [False, True])
def test_a_call_whose_every_evaluation_failed_has_failed(tmp_path: Path, evaluated: bool) -> None:
    """Models that were written unevaluated do not hide it; one evaluation that worked makes it a success."""
    run = _published(Run(), 3)
    run.add(run.events[0])
    run.admit(4).add(e.EvaluationFailed(checkpoint="epoch_004.pt", candidate="last", reason="KeyError: 'fc.weight'"))
    if evaluated:
        run.evaluate(4, "average-5", 0.4)
    run.publish(4)
    summary = _summary(run, tmp_path)
    assert (summary.error is None) == evaluated
    assert ("every evaluation failed: KeyError: 'fc.weight'" in summary.lines[0]) != evaluated
    assert summary.lines[0].startswith("1 model was published")


def test_many_kinds_of_messages_are_cut(tmp_path: Path) -> None:
    """A dozen of the most frequent are shown; the log has the others."""
    run = Run()
    for step in range(1, 31):
        run.admit(step).add(e.Skipped(checkpoint=f"epoch_{step:03}.pt", reason=f"reason {step}"))
    lines = _summary(run, tmp_path).lines
    assert sum(" x  " in line for line in lines) == 12
    assert lines[-1].split() == ["and", "18", "other", "messages:", "rna-watch", "logs", str(tmp_path)]


def test_the_terminal_shows_equal_messages_once(tmp_path: Path) -> None:
    """Twelve checkpoints that fail alike are one line while the command runs and one, counted, at its end; the log has each."""
    train(tmp_path, count=12)
    result = rna_watch("once", tmp_path, "--engine", "local", "--evaluator", f"{HERE / 'evaluator.py'}:broken")
    assert result.returncode == 1
    failing = [line for line in result.stdout.splitlines() if "evaluation of last failed" in line]
    assert len(failing) == 2
    assert failing[-1].split()[:2] == ["12", "x"]
    assert (tmp_path / ".rna-watch" / "log").read_text().count("evaluation of last failed") == 12
    first, *_ = [line for line in result.stdout.splitlines() if "models were published" in line]
    assert re.match(
        r"10 models were published, not evaluated; every evaluation failed: evaluator.py:\d+: KeyError", first
    )
    assert re.match(r"rna-watch: every evaluation failed: evaluator.py:\d+: KeyError", result.stderr.splitlines()[-1])


def test_two_checkpoints_are_too_few(tmp_path: Path) -> None:
    """Nothing was published, and the command says why and fails; called again, there is nothing to do."""
    train(tmp_path, count=2)
    first = rna_watch("once", tmp_path, "--engine", "local")
    assert first.returncode == 1
    assert "nothing was published: " in first.stderr
    assert "extrapolation begins with 3" in first.stderr
    assert rna_watch("once", tmp_path, "--engine", "local").returncode == 3


def test_models_of_which_it_is_not_known_are_no_unevaluated_ones(tmp_path: Path) -> None:
    """A metric whose direction is not known was evaluated, and nothing is claimed of the models."""
    train(tmp_path, count=4)
    judge = tmp_path / "judge.py"
    judge.write_text("def evaluate(state_dict, device):\n    return {'wobble': 1.0}\n")
    result = rna_watch("once", tmp_path, "--engine", "local", "--evaluator", f"{judge}:evaluate")
    assert "2 models were published: 2 not comparable with the original" in result.stdout


def test_a_file_written_again_is_not_called_another_name_of_itself(tmp_path: Path) -> None:
    """Refused first and admitted later, it is one file; its versions have names of their own."""
    torch.save({"model": {"w": torch.zeros(3)}}, tmp_path / "fold_1.pt")
    assert rna_watch("once", tmp_path, "--engine", "local", "--step", r"x(\d+)").returncode == 3
    result = rna_watch("once", tmp_path, "--engine", "local")
    assert "fold_1.save1.pt  complete" in result.stdout
    assert "another name" not in result.stdout
