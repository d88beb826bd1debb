"""Checkpoints that are equal bit for bit: they count once in a window, and a window of nothing else gives no model."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import pytest
import torch

from rna_watch.journal.words import describe
from tests.daemon.in_process import Noise, process
from tests.daemon.runs import check_output, events, published, rna_watch, train

if TYPE_CHECKING:
    from pathlib import Path


def _inputs(run: Path, name: str) -> list[str]:
    manifest = json.loads((run / "rna" / f"{name}.json").read_text())
    return [each["path"] for each in manifest["inputs"]]


def _repeat(run: Path, step: int, of: int) -> None:
    """A later save of the same model, in a file with other content next to it."""
    content = torch.load(run / f"step_{of}.pt", weights_only=True)
    torch.save({"model": content["model"], "epoch": step, "saved_at": f"{step} o'clock"}, run / f"step_{step}.pt")


@pytest.mark.parametrize("evaluated", [False, True], ids=["nothing evaluated", "evaluated"])
def test_a_window_of_equal_checkpoints_gives_nothing(tmp_path: Path, *, evaluated: bool) -> None:
    """It is said why, for each checkpoint after the first, and nothing is written."""
    train(tmp_path, count=1)
    for step in range(2, 6):
        _repeat(tmp_path, step, 1)
    process(tmp_path, tmp_path, [Noise(0)] if evaluated else [])
    assert published(tmp_path) == []
    reasons = {event.checkpoint: event.reason for event in events(tmp_path, "finished")}
    assert len(reasons) == 5
    assert all("equals it bit for bit, as step_1.pt does" in reasons[f"step_{step}.pt"] for step in range(2, 6))
    assert [(event.checkpoint, event.of) for event in events(tmp_path, "repeated")] == [
        (f"step_{step}.pt", "step_1.pt") for step in range(2, 6)
    ]
    assert describe(events(tmp_path, "repeated")[0]) == (
        "step_2.pt  equals step_1.pt bit for bit, so that they count once in a window"
    )


def test_equal_neighbours_count_once(tmp_path: Path) -> None:
    """The window goes on without the repeated checkpoint, before it, at it, and after it; each model is its manifest's."""
    train(tmp_path, count=4)
    _repeat(tmp_path, 5, 4)
    _repeat(tmp_path, 6, 4)
    train(tmp_path, count=2, first=7)
    process(tmp_path, tmp_path, window=3)
    windows = {step: [int(name[5:-3]) for name in _inputs(tmp_path, f"step_{step}.pt")] for step in range(3, 9)}
    assert windows == {
        3: [1, 2, 3],
        4: [1, 2, 3, 4],
        5: [1, 2, 3, 5],
        6: [1, 2, 3, 6],
        7: [2, 3, 4, 7],
        8: [3, 4, 7, 8],
    }
    for step in windows:
        check_output(tmp_path / "rna" / f"step_{step}.pt", tmp_path)


def test_a_repetition_that_is_written_again_counts_for_itself(tmp_path: Path) -> None:
    """What was equal to the old version of a checkpoint is no repetition of the new one."""
    train(tmp_path, count=4)
    _repeat(tmp_path, 5, 4)
    state = process(tmp_path, tmp_path)
    assert state.checkpoints["step_5.pt"].repeats == "step_4.pt"
    other = tmp_path / "other"
    train(other, count=4, optimizer="adam")
    shutil.move(other / "step_4.pt", tmp_path / "step_4.pt")
    shutil.rmtree(other)
    state = process(tmp_path, tmp_path)
    assert state.checkpoints["step_5.pt"].repeats == ""


def test_statistics_that_moved_are_no_repetition(tmp_path: Path) -> None:
    """Equal parameters with other running statistics are another model."""
    train(tmp_path, count=3)
    content = torch.load(tmp_path / "step_3.pt", weights_only=True)
    content["model"]["norm.running_mean"] = content["model"]["norm.running_mean"] + 1.0
    content["epoch"] = 4
    torch.save(content, tmp_path / "step_4.pt")
    process(tmp_path, tmp_path)
    assert events(tmp_path, "repeated") == []
    assert _inputs(tmp_path, "step_4.pt") == [f"step_{step}.pt" for step in range(1, 5)]


def test_by_hand_too(tmp_path: Path) -> None:
    """`extrapolate` refuses checkpoints that are all equal, and leaves out those that equal the next one."""
    train(tmp_path, count=4)
    _repeat(tmp_path, 5, 4)
    _repeat(tmp_path, 6, 4)
    equal = [tmp_path / f"step_{step}.pt" for step in (4, 5, 6)]
    result = rna_watch("extrapolate", *equal, "-o", tmp_path / "out.pt")
    assert result.returncode == 1
    assert "equal bit for bit: there is nothing to combine" in result.stderr
    assert not (tmp_path / "out.pt").exists()
    result = rna_watch("extrapolate", tmp_path / "step_3.pt", *equal, "-o", tmp_path / "out.pt")
    assert "2 are too few" in result.stderr
    several = [tmp_path / f"step_{step}.pt" for step in (2, 3)]
    result = rna_watch("extrapolate", *several, *equal, "-o", tmp_path / "out.pt", "--json")
    assert result.returncode == 0, result.stderr
    manifest = json.loads(result.stdout)
    assert [each["step"] for each in manifest["inputs"]] == [2, 3, 6]
    assert manifest["reason"].startswith("2 of the checkpoints equal the next one bit for bit and are left out; ")
