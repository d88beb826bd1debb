"""Trainers that save folders: running them, and checks of the folders that the daemon writes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file

from tests.daemon.runs import events
from tests.trainers.live_run import script

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

STATE = (
    "optimizer*",
    "scheduler*",
    "rng_state*",
    "random_states*",
    "scaler*",
    "trainer_state.json",
    "training_args.bin",
)


def run(name: str, folder: Path, *flags: str, **options: object) -> list[str]:
    """Run a trainer to its end; returns the checkpoints that it announced."""
    given = [part for key, value in options.items() for part in (f"--{key.replace('_', '-')}", value)]
    said = script(name, folder, *given, *(f"--{flag}" for flag in flags))
    return [each["saved"] for each in said if "saved" in each]


def done(folder: Path, output: Path | None = None) -> list[str]:
    """Checkpoints that are through, in the order in which they came through, as often as that was recorded."""
    found = [event for kind in ("finished", "published") for event in events(folder, kind, output)]
    return [event.checkpoint for event in sorted(found, key=lambda event: event.seq)]


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    """A model's tensors, out of all weight files of its folder."""
    found: dict[str, torch.Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        found |= load_file(file)
    for file in sorted(folder.glob("pytorch_model*.bin")):
        found |= torch.load(file, weights_only=True)
    return found


def check_folder(model: Path, originals: Path) -> None:
    """A folder that was written is its manifest's combination of the originals, file by file, without training state.

    Args:
        model: the published folder.
        originals: where the inputs lie, under the paths that the manifest gives.
    """
    manifest = json.loads(model.with_name(f"{model.name}.json").read_text())
    inputs = [originals / each["path"] for each in manifest["inputs"]]
    check_combination(model, inputs, manifest["weights"])
    newest = inputs[-1]
    names = {str(file.relative_to(model)) for file in model.rglob("*") if file.is_file()}
    state = {str(file.relative_to(newest)) for pattern in STATE for file in newest.glob(pattern)}
    assert names == {str(file.relative_to(newest)) for file in newest.rglob("*") if file.is_file()} - state
    weights = {name for name in names if name.endswith((".safetensors", ".bin"))}
    assert weights
    for name in names - weights:
        assert (model / name).read_bytes() == (newest / name).read_bytes(), name


def check_combination(model: Path, inputs: Sequence[Path], weights: Sequence[float]) -> None:
    """A folder's tensors are the weighted sum of others', computed in float64."""
    assert abs(sum(weights) - 1) < 1e-12
    stored = [tensors(folder) for folder in inputs]
    result = tensors(model)
    assert result.keys() == stored[-1].keys()
    for name, tensor in result.items():
        if not tensor.is_floating_point():
            assert torch.equal(tensor, stored[-1][name]), name
            continue
        twin = sum(w * each[name].double() for w, each in zip(weights, stored, strict=True))
        tolerance = torch.finfo(tensor.dtype).eps * twin.abs() + 1e-12
        assert ((tensor.double() - twin).abs() <= tolerance).all(), name
