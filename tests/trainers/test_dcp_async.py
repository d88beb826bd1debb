"""Asynchronous distributed checkpoints beside a real daemon."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import torch
import torch.distributed.checkpoint as dcp

from tests.checkpoints.dcp_forms import QUIET, load
from tests.daemon.runs import events, published, wait_until
from tests.trainers import watched
from tests.trainers.live_run import Run
from tests.trainers.live_run import watched as watching

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.slow, *QUIET]
COUNT = 7


def test_every_folder_is_taken_once_though_retention_deletes(tmp_path: Path) -> None:
    """Saved in the background, and removed two saves later, each step is one checkpoint; its model is its manifest's."""
    run = Run.below(tmp_path)
    with watching(run.folder):
        names = watched.run("dcp_async_trainer", run.folder, copies=run.copies, count=COUNT, pause=2, keep=2)
        wait_until(lambda: len(published(run.folder)) == COUNT - 2)
    assert names == [f"step-{step}" for step in range(1, COUNT + 1)]
    assert [event.checkpoint for event in events(run.folder, "admitted")] == names
    assert published(run.folder) == names[2:]
    assert not events(run.folder, "refused")
    left = [path.name for path in run.folder.iterdir() if path.name.startswith("step-")]
    assert sorted(left) == names[-2:]
    for name in published(run.folder):
        check_published(run.folder / "rna" / name, run.copies)


def check_published(model: Path, copies: Path) -> None:
    """The library loads a folder that was written: the manifest's combination, next to the newest's optimizer and step."""
    manifest = json.loads(model.with_name(f"{model.name}.json").read_text())
    inputs = [load(copies / each["path"], "model.") for each in manifest["inputs"]]
    found = {f"model.{name}": torch.zeros_like(tensor) for name, tensor in inputs[-1].items()}
    state = {**found, "step": 0}
    dcp.load(state, checkpoint_id=model, no_dist=True)
    assert state["step"] == manifest["step"]
    momentum = load(model, "optimizer.")
    newest = load(copies / manifest["inputs"][-1]["path"], "optimizer.")
    assert momentum.keys() == newest.keys()
    assert all(torch.equal(momentum[name], newest[name]) for name in newest)
    for name, newest in inputs[-1].items():
        tensor = found[f"model.{name}"]
        if not newest.is_floating_point():
            assert torch.equal(tensor, newest), name
            continue
        twin = sum(w * each[name].double() for w, each in zip(manifest["weights"], inputs, strict=True))
        twin = twin.clamp(min=0) if name.endswith("running_var") else twin
        assert ((tensor.double() - twin).abs() <= torch.finfo(tensor.dtype).eps * twin.abs() + 1e-12).all(), name
