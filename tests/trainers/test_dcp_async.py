"""Asynchronous distributed checkpoints beside a real daemon."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp

from tests.daemon.runs import events, published, start_foreground, wait_until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:torch.distributed is (disabled|unavailable)"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
COUNT = 7


def test_every_folder_is_taken_once_though_retention_deletes(tmp_path: Path) -> None:
    """Saved in the background, and removed two saves later, each step is one checkpoint; its model is its manifest's."""
    run, copies = tmp_path / "run", tmp_path / "copies"
    run.mkdir()
    copies.mkdir()
    daemon = start_foreground(run, "--engine", "inline", "--quiet", 0.2, "--scan-interval", 0.2, "--keep", 20)
    try:
        wait_until(lambda: bool(events(run, "started")))
        script = Path(__file__).with_name("dcp_async_trainer.py")
        options = ["--count", str(COUNT), "--pause", "2", "--keep", "2"]
        subprocess.run([sys.executable, str(script), str(run), str(copies), *options], check=True, timeout=120)
        wait_until(lambda: len(published(run)) == COUNT - 2)
    finally:
        daemon.terminate()
        said, _ = daemon.communicate(timeout=20)
    assert daemon.returncode == 0, said
    names = [f"step-{step}" for step in range(1, COUNT + 1)]
    assert [event.checkpoint for event in events(run, "admitted")] == names
    assert published(run) == names[2:]
    assert not events(run, "refused")
    left = [path.name for path in run.iterdir() if path.name.startswith("step-")]
    assert sorted(left) == names[-2:]
    for name in published(run):
        check_published(run / "rna" / name, copies)


def check_published(model: Path, copies: Path) -> None:
    """The library loads a folder that was given back: the manifest's combination, beside the newest's optimizer and step."""
    manifest = json.loads(model.with_name(f"{model.name}.json").read_text())
    inputs = [torch.load(copies / f"{each['path']}.pt", weights_only=True) for each in manifest["inputs"]]
    found = {f"model.{name}": torch.zeros_like(tensor) for name, tensor in inputs[-1].items()}
    state = {**found, "step": 0}
    dcp.load(state, checkpoint_id=model, no_dist=True)
    assert state["step"] == manifest["step"]
    for name, newest in inputs[-1].items():
        tensor = found[f"model.{name}"]
        if not newest.is_floating_point():
            assert torch.equal(tensor, newest), name
            continue
        twin = sum(w * each[name].double() for w, each in zip(manifest["weights"], inputs, strict=True))
        twin = twin.clamp(min=0) if name.endswith("running_var") else twin
        assert ((tensor.double() - twin).abs() <= torch.finfo(tensor.dtype).eps * twin.abs() + 1e-12).all(), name
