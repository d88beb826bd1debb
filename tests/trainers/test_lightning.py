"""Lightning's Trainer and ModelCheckpoint beside a real daemon."""

from __future__ import annotations

import importlib.util
import math
from typing import TYPE_CHECKING

import pytest
import torch

from tests.daemon.runs import events, published, status, wait_until
from tests.trainers.live_run import (
    Run,
    check_each_once,
    check_is_combination,
    check_outputs,
    listing,
    manifest_of,
    script,
    watched,
)

if TYPE_CHECKING:
    from pathlib import Path

# its import takes seconds and warns: only the child processes do it
pytestmark = pytest.mark.skipif(importlib.util.find_spec("lightning") is None, reason="lightning is not installed")

TRAINER = "lightning_trainer"
KEY = "state_dict"
CONTENT = {
    *("pytorch-lightning_version", "state_dict", "epoch", "global_step", "loops", "callbacks"),
    *("optimizer_states", "lr_schedulers", "hyper_parameters"),
}


def _fit(run: Run, *arguments: object) -> list[dict[str, object]]:
    return script(TRAINER, "fit", run.folder, "--copies", run.copies, *arguments)


def _steps(run: Run) -> list[int]:
    return sorted(event.step for event in events(run.folder, "admitted"))


def _new(path: Path) -> Path:
    path.mkdir()
    return path


@pytest.mark.slow
def test_every_save_is_taken_once_though_retention_deletes(tmp_path: Path) -> None:
    """Each step is one checkpoint with the two best kept and `last.ckpt` rewritten; a model loads into the module."""
    run = Run.below(tmp_path)
    with watched(run.folder):
        said = _fit(run, "--steps", 24, "--every", 4, "--pause", 0.9)
        wait_until(lambda: _steps(run) == [4, 8, 12, 16, 20, 24])
        wait_until(run.settled)
    check_each_once(run)
    names = check_outputs(run, KEY)
    assert "epoch=4-step=20.ckpt" in names
    assert any(event.checkpoint == "last.ckpt" for event in events(run.folder, "aliased"))
    assert listing(run.folder) == ["epoch=1-step=8.ckpt", "epoch=4-step=20.ckpt", "last.ckpt"]
    third = next(number for number, each in enumerate(said) if str(each.get("saved")).endswith("step=12.ckpt"))
    assert said[third + 1] == {"removed": "epoch=0-step=4.ckpt"}, "it deletes after it has saved"
    written = torch.load(run.folder / "rna" / "epoch=4-step=20.ckpt")
    assert written.keys() == torch.load(run.folder / "epoch=4-step=20.ckpt").keys() >= CONTENT


@pytest.mark.slow
def test_what_we_write_is_a_checkpoint_to_lightning(tmp_path: Path) -> None:
    """`Trainer.test(ckpt_path=...)` and `load_from_checkpoint` take an output, and get the manifest's combination."""
    run = Run.below(tmp_path)
    with watched(run.folder):
        _fit(run, "--pause", 0.9, "--top", -1, "--last", "false", "--filename", "{epoch:02d}-{score:.2f}-{step}")
        wait_until(lambda: len(published(run.folder)) == 4)
    check_each_once(run)
    name = check_outputs(run, KEY)[-1]
    output = run.folder / "rna" / name
    assert name == "epoch=05-score=1.00-step=24.ckpt"
    weights = tmp_path / "weights.pt"
    script(TRAINER, "load", run.folder, "--checkpoint", output, "--weights", weights)
    check_is_combination(weights, run, name, "", source=KEY)
    tested = script(TRAINER, "test", run.folder, "--checkpoint", output, "--weights", weights)[-1]
    check_is_combination(weights, run, name, "", source=KEY)
    assert math.isfinite(tested["test_loss"])


@pytest.mark.slow
def test_a_second_training_into_the_same_folder_is_not_mixed_with_the_first(tmp_path: Path) -> None:
    """Names that collide get `-v1`; they are a sequence of their own, and no window holds files of both trainings."""
    run = Run.below(tmp_path)
    with watched(run.folder):
        _fit(run, "--steps", 16, "--pause", 0.9, "--top", -1)
        second = Run(folder=run.folder, copies=_new(tmp_path / "second"))
        _fit(second, "--steps", 24, "--pause", 0.9, "--top", -1, "--seed", 1)
        first = run.saved().keys()
        for number, copy in enumerate(sorted(second.copies.iterdir())):
            copy.rename(run.copies / f"second{number:03d}")
        wait_until(run.settled)
    check_each_once(run)
    names = check_outputs(run, KEY)
    assert "epoch=2-step=12-v1.ckpt" in names
    for name in names:
        assert len({each["fingerprint"] in first for each in manifest_of(run, name)["inputs"]}) == 1, name


@pytest.mark.slow
def test_a_copy_from_another_device_is_never_taken_half(tmp_path: Path) -> None:
    """Written in slow pieces onto its final name, then given an older time: waited for, and taken whole, once."""
    run = Run.below(tmp_path)
    with watched(run.folder, report_after_s=0.1):
        _fit(run, "--pause", 0.9, "--slow-copy", 0.5, "--steps", 16, "--last", "true")
        wait_until(run.settled)
    check_each_once(run)
    check_outputs(run, KEY)
    assert {each["state"] for each in status(run.folder)["checkpoints"]} <= {"published", "finished", "alias"}
    waited = {event.reason for event in events(run.folder, "waiting")}
    assert waited
    assert all("zip directory" in reason or "being written" in reason for reason in waited), waited
