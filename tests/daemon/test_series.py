"""Several series in one run: bounds, `best` and `latest` are each one's own."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest
import torch

from rna_watch.daemon.links import link_name
from rna_watch.journal.log import read
from rna_watch.journal.replay import RunState, replay
from tests.daemon.runs import events, rna_watch, status

if TYPE_CHECKING:
    from pathlib import Path

_JUDGE = """
def evaluate(state_dict, device):
    return {"loss": float(state_dict["weight"].double().square().mean())}
"""


@pytest.fixture
def options(tmp_path: Path) -> tuple[str, ...]:
    """An evaluator by which later checkpoints are better, and two outputs kept."""
    judge = tmp_path / "judge.py"
    judge.write_text(_JUDGE)
    return ("--evaluator", f"{judge}:evaluate", "--engine", "local", "--keep", "2")


def _save(run: Path, name: str, step: int, scale: float) -> None:
    """A network on its way to zero."""
    noise = torch.randn(40, 40, generator=torch.Generator().manual_seed(step))
    start = torch.randn(40, 40, generator=torch.Generator().manual_seed(ord(name[0])))
    torch.save({"weight": scale * (start * 0.7**step + 0.1 * noise)}, run / f"{name}_{step}.pt")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A generator whose losses are a hundred times those of its discriminator."""
    folder = tmp_path / "run"
    folder.mkdir()
    for step in range(1, 7):
        _save(folder, "D", step, 1.0)
        _save(folder, "G", step, 10.0)
    return folder


def test_bounds_best_and_latest_belong_to_a_series(run: Path, options: tuple[str, ...]) -> None:
    """The models of one series delete none of another, and each has a best by its own originals."""
    assert rna_watch("once", run, *options).returncode == 0
    links = {path.name: os.readlink(path) for path in (run / "rna").iterdir() if path.is_symlink()}
    assert links.keys() == {"best", "latest", "best.G_#.pt", "latest.G_#.pt"}
    assert (links["latest"], links["latest.G_#.pt"]) == ("D_6.pt", "G_6.pt")
    models = {path.name for path in (run / "rna").iterdir() if path.suffix == ".pt" and not path.is_symlink()}
    assert {"D_5.pt", "D_6.pt", "G_5.pt", "G_6.pt", links["best"], links["best.G_#.pt"]} == models
    told = status(run)
    assert [each["name"] for each in told["series"]] == ["D_#.pt", "G_#.pt"]
    assert told["series"][0]["best"] == told["best"]
    assert told["series"][1]["best"]["output"] == str(run / "rna" / links["best.G_#.pt"])
    assert {each["name"]: each["series"] for each in told["checkpoints"]}["G_3.pt"] == "G_#.pt"
    assert json.loads((run / "rna" / "G_6.pt.json").read_text())["series"] == "G_#.pt"


def test_what_is_no_link_of_ours_keeps_its_name(run: Path, options: tuple[str, ...]) -> None:
    """A file that is called like a series' best is left, and that is a problem in words."""
    (run / "rna").mkdir()
    (run / "rna" / "best.G_#.pt").write_text("mine")
    assert rna_watch("once", run, *options).returncode == 0
    assert (run / "rna" / "best.G_#.pt").read_text() == "mine"
    assert any("best.G_#.pt" in problem["what"] for problem in status(run)["problems"])


def test_the_series_of_an_older_best_stays_the_first(run: Path, options: tuple[str, ...]) -> None:
    """In a journal of 0.1.0, which names no series, `best` goes on to mean what it meant."""
    assert rna_watch("once", run, *options).returncode == 0
    journal = run / ".rna-watch" / "journal.jsonl"
    old = list(read(journal))
    bare = RunState()
    for event in old:
        if event.kind == "admitted":
            object.__setattr__(event, "series", "")
        if event.kind != "best_moved" or event.checkpoint.startswith("G"):
            bare.apply(event)
    assert bare.best is not None
    assert bare.best.checkpoint.startswith("G")
    assert bare.first == bare.best.checkpoint


def test_links_of_series_have_names_of_their_own() -> None:
    """Slashes and unprintable characters are replaced; series that look alike then, and long ones, are told apart."""
    state = replay([])
    assert link_name("best", "", state) == "best"
    assert link_name("best", "a/b_#.pt", state) == "best.a_b_#.pt"
    assert link_name("latest", "x\n#.pt", state) == "latest.x_#.pt"
    assert len(link_name("best", "y" * 300, state).encode()) < 200


def test_a_later_series_gets_its_own_best(run: Path, options: tuple[str, ...]) -> None:
    """What another series reached before blocks nothing."""
    for path in run.glob("G_*.pt"):
        path.rename(path.with_suffix(".later"))
    assert rna_watch("once", run, *options).returncode == 0
    for path in run.glob("G_*.later"):
        path.rename(path.with_suffix(".pt"))
    assert rna_watch("once", run, *options).returncode == 0
    moved = [event.checkpoint for event in events(run, "best_moved")]
    assert any(name.startswith("G") for name in moved)
    assert any(name.startswith("D") for name in moved)
