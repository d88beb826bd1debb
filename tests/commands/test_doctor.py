"""`doctor`: one line for each thing that a run's watching needs, and an error where one will not work."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rna_watch import kernels
from rna_watch.commands import doctor
from rna_watch.config import RunConfig
from rna_watch.errors import RnaWatchError
from rna_watch.watching import hints

EVALUATOR = """
import torch
network = torch.nn.Linear(4, 2)
def evaluate(state_dict, device):
    network.load_state_dict({SOURCE})
    return {{"error": 1.0}}
"""


def _look(run: Path, **settings: object) -> tuple[list[str], str]:
    """The lines, and the error at the end."""
    said: list[str] = []
    config = RunConfig.model_validate({"engine": "local"} | settings)
    try:
        doctor.doctor(run, config, ["rna-watch", "doctor", str(run)], said.append)
    except RnaWatchError as error:
        return said, str(error)
    return said, ""


def _line(said: list[str], subject: str) -> str:
    (line,) = [each for each in said if each.split()[1] == subject]
    return line


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Three checkpoints."""
    folder = tmp_path / "run"
    folder.mkdir()
    for step in range(3):
        torch.save(torch.nn.Linear(4, 2).state_dict(), folder / f"step_{step}.pt")
    return folder


def test_all_that_works_is_said(run: Path) -> None:
    """Series and steps, file system, events, room, engine; without an evaluator, how to get one; nothing is left behind."""
    before = sorted(run.iterdir())
    said, error = _look(run)
    assert error == ""
    assert _line(said, "series") == "works  series       3 checkpoints: step_*.pt, steps 0 to 2"
    assert "step_2.pt" in _line(said, "checkpoint")
    assert _line(said, "inotify").startswith("works")
    assert "rna-watch init" in _line(said, "evaluator")
    assert {each.split()[1] for each in said} >= {
        "file",
        "output",
        "disk",
        "quota",
        "cores",
        "loops",
        "Ray",
        "GPU",
        "watched",
    }
    assert sorted(run.iterdir()) == before


@pytest.mark.parametrize(("compiled", "said"), [(True, "works  loops "), (False, "note   loops ")])
def test_loops_that_are_not_compiled_are_said(
    compiled: bool, said: str, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With what to install; it is no failure."""
    monkeypatch.setattr(kernels, "COMPILED", compiled)
    lines, error = _look(run)
    assert (_line(lines, "loops")[: len(said)], error) == (said, "")
    assert ("install gcc" in _line(lines, "loops")) != compiled


def test_what_will_not_work_is_an_error(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An evaluator that fails, a disk without room, no inotify: each with its reason; what stops nothing is a note."""
    evaluator = tmp_path / "evaluator.py"
    evaluator.write_text(EVALUATOR.format(SOURCE="{'weight': state_dict['weight']}"))
    monkeypatch.setattr(hints, "Observer", lambda: (_ for _ in ()).throw(OSError(28, "inotify watch limit reached")))
    said, error = _look(run, evaluator=f"{evaluator}:evaluate", reserve=1e9)
    assert error == "2 things will not work as they are"
    assert "Missing keys, which the network has: bias" in _line(said, "evaluator")
    assert "not one model can be written; make room" in _line(said, "disk")
    assert _line(said, "inotify").startswith("note   inotify      no file system events (inotify watch limit reached)")
    evaluator.write_text(EVALUATOR.format(SOURCE="state_dict"))
    said, error = _look(run, evaluator=f"{evaluator}:evaluate")
    assert error == ""
    assert _line(said, "test").startswith("note   test         error is one number")


def test_a_folder_without_checkpoints_and_one_that_cannot_be_used_are_told(tmp_path: Path) -> None:
    """Nothing there yet is a note; a checkpoint that cannot be read, or a device that is not there, an error."""
    said, error = _look(tmp_path)
    assert error == ""
    assert _line(said, "checkpoints").startswith("note   checkpoints  there is no checkpoint in")
    (tmp_path / "step_1.pt").write_bytes(b"PK\3\4 cut off")
    said, error = _look(tmp_path, device="cuda")
    assert "step_1.pt cannot be read" in _line(said, "checkpoints")
    assert "2 things will not work" in error or Path("/dev/nvidia0").exists()
