"""timm's CheckpointSaver beside a real daemon: EMA, retention by metric, hard links."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from tests.daemon.runs import events, rna_watch, wait_until
from tests.trainers.live_run import (
    Run,
    check_each_once,
    check_is_combination,
    check_outputs,
    listing,
    manifest_of,
    script,
    tensors_of,
    watched,
)

if TYPE_CHECKING:
    from pathlib import Path

# its import takes seconds and warns: only the child processes do it
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="timm is not installed"),
]

TRAINER = "timm_trainer"
PLAIN = ("--residuals", "difference", "--methods", "rna", "--windows", 5)


def test_the_best_few_with_hard_links_are_each_taken_once(tmp_path: Path) -> None:
    """`last` and `model_best` are other names; epochs that are not among the best come from `last`; outputs load in timm."""
    run = Run.below(tmp_path)
    with watched(run.folder, *PLAIN):
        said = script(TRAINER, "train", run.folder, "--copies", run.copies, "--epochs", 8)
        wait_until(run.settled)
    check_each_once(run)
    assert [each["numbered"] for each in said if "saved" in each] == [True, True, True, True, False, True, True, True]
    assert listing(run.folder) == [
        *(f"checkpoint-{epoch}.pth.tar" for epoch in (1, 6, 7)),
        "last.pth.tar",
        "model_best.pth.tar",
    ]
    assert (run.folder / "last.pth.tar").samefile(run.folder / "checkpoint-7.pth.tar")
    names = {event.checkpoint for event in events(run.folder, "admitted")}
    assert names == {*(f"checkpoint-{epoch}.pth.tar" for epoch in (0, 1, 2, 3, 5, 6, 7)), "last.epoch4.pth.tar"}
    aliases = {event.checkpoint for event in events(run.folder, "aliased")}
    assert aliases <= {"last.pth.tar", "model_best.pth.tar"}
    published = check_outputs(run, "state_dict")
    assert published[-1] == "checkpoint-7.pth.tar"
    _check_weights(run, "checkpoint-7.pth.tar", [2, 3, 4, 5, 6, 7])
    kept = Run(folder=tmp_path / "later", copies=run.copies)
    result = rna_watch("once", run.folder, "--engine", "local", "--output", kept.folder, *PLAIN)
    assert result.returncode == 0, result.stderr
    _check_weights(kept, "checkpoint-7.pth.tar", [1, 6, 7])
    weights = tmp_path / "weights.pt"
    script(TRAINER, "load", run.folder / "rna" / "checkpoint-7.pth.tar", "--weights", weights, "--raw")
    check_is_combination(weights, run, "checkpoint-7.pth.tar", "", source="state_dict")
    averaged = tensors_of(run.folder / "rna" / "checkpoint-7.pth.tar", "state_dict_ema")
    newest = tensors_of(run.folder / "checkpoint-7.pth.tar", "state_dict_ema")
    assert all(torch.equal(averaged[name], newest[name]) for name in newest)


def _check_weights(run: Run, name: str, expected: list[int]) -> None:
    """Algorithm 1 of the paper by hand, each residual divided by the epochs that it spans."""
    manifest = manifest_of(run, name)
    steps = [each["step"] for each in manifest["inputs"]]
    assert steps == expected
    copies = run.saved()
    models = [tensors_of(copies[each["fingerprint"]], "state_dict") for each in manifest["inputs"]]
    names = [key for key, tensor in models[0].items() if tensor.is_floating_point() and "running" not in key]
    y = np.array([np.concatenate([model[key].double().numpy().ravel() for key in names]) for model in models])
    residuals = np.diff(y, axis=0) / np.diff(steps)[:, None]
    gram = residuals @ residuals.T
    z = np.linalg.solve(
        gram / np.linalg.norm(gram, 2) + manifest["regularization"] * np.eye(len(gram)), np.ones(len(gram))
    )
    assert np.allclose(manifest["coefficients"], z / z.sum(), rtol=1e-6, atol=1e-9)


def test_the_moving_average_is_combined_when_it_is_asked_for(tmp_path: Path) -> None:
    """Windows with `--source state_dict_ema` hold the EMA's tensors, which `create_model(checkpoint_path=...)` prefers."""
    run = Run.below(tmp_path)
    script(TRAINER, "train", run.folder, "--copies", run.copies, "--epochs", 4, "--pause", 0)
    result = rna_watch("once", run.folder, "--engine", "local", "--source", "state_dict_ema", *PLAIN)
    assert result.returncode == 0, result.stderr
    assert check_outputs(run, "state_dict_ema") == ["checkpoint-3.pth.tar"]
    raw = tensors_of(run.folder / "rna" / "checkpoint-3.pth.tar", "state_dict")
    newest = tensors_of(run.folder / "checkpoint-3.pth.tar", "state_dict")
    assert all(torch.equal(raw[name], newest[name]) for name in newest)
    weights = tmp_path / "weights.pt"
    script(TRAINER, "load", run.folder / "rna" / "checkpoint-3.pth.tar", "--weights", weights)
    check_is_combination(weights, run, "checkpoint-3.pth.tar", "", source="state_dict_ema")
