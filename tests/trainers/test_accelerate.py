"""Accelerate's `save_state` with automatic naming: it deletes before it writes, and takes every neighbour for its own."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

import pytest
import torch

from tests.daemon.runs import events, published, rna_watch, wait_until
from tests.trainers import live_run, watched

if TYPE_CHECKING:
    from pathlib import Path

SCRIPT = "accelerate_trainer"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not importlib.util.find_spec("accelerate"), reason="accelerate is not installed"),
]


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_all_states_of_a_project_with_a_limit_become_models(tmp_path: Path, kind: str) -> None:
    """Models appear outside of `checkpoints` with the project as run directory, each its manifest's combination."""
    run, archive = tmp_path / "run", tmp_path / "archive" / "checkpoints"
    run.mkdir()
    with live_run.watched(run):
        names = watched.run(SCRIPT, run, *(["bin"] if kind == "bin" else []), pause=0.8, copies=archive)
        wait_until(lambda: len(watched.done(run)) >= len(names))
    assert watched.done(run) == names == [f"checkpoints/checkpoint_{number}" for number in range(7)]
    assert published(run) == names[2:]
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == [f"checkpoint_{n}" for n in (4, 5, 6)]
    for name in published(run):
        watched.check_folder(run / "rna" / name, tmp_path / "archive")
    assert rna_watch("verify", run / "rna" / names[-1]).returncode == 0


def test_a_state_with_our_model_in_it_loads(tmp_path: Path) -> None:
    """`load_state` takes a copy of an original in which our weights stand in place of its own."""
    run = tmp_path / "run"
    watched.run(SCRIPT, run)
    assert rna_watch("once", run, "--engine", "local").returncode == 0
    model = run / "rna" / published(run)[-1]
    state = run / published(run)[-1]
    (state / "model.safetensors").write_bytes((model / "model.safetensors").read_bytes())
    watched.run(SCRIPT, state, "load")
    loaded = torch.load(state.with_name(f"{state.name}.loaded"), weights_only=True)
    for name, tensor in watched.tensors(model).items():
        assert torch.equal(loaded[name], tensor), name


def test_the_folder_of_the_checkpoints_itself_needs_an_output_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`start` refuses `checkpoints` as run directory and names --output; with it, training goes on undisturbed."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    project, output, archive = tmp_path / "project", tmp_path / "ours", tmp_path / "archive"
    run = project / "checkpoints"
    (run / "checkpoint_0").mkdir(parents=True)
    refused = rna_watch("start", run, "--engine", "local")
    assert refused.returncode == 2
    assert "--output" in refused.stderr
    assert "Accelerate" in refused.stderr
    assert [path.name for path in run.iterdir()] == ["checkpoint_0"]
    (run / "checkpoint_0").rmdir()
    with live_run.watched(run, output=output):
        names = watched.run(SCRIPT, project, pause=0.8, copies=archive)
        wait_until(lambda: len(watched.done(run, output)) >= len(names))
    assert watched.done(run, output) == [name.removeprefix("checkpoints/") for name in names]
    assert sorted(path.name for path in run.iterdir()) == [f"checkpoint_{n}" for n in (4, 5, 6)]
    assert not events(run, "failed", output)
    for name in published(run, output):
        watched.check_folder(output / "rna" / name, archive)
