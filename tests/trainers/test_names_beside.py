"""Names next to a trainer's checkpoints and what its own functions make of them: why outputs lie in a folder of their own.

Each harm is shown with the library's real function, and then that our real outputs do none of it.
"""

from __future__ import annotations

import importlib.util
import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from rna_watch.journal.run_paths import RunPaths
from tests.daemon.runs import published, rna_watch
from tests.trainers.live_run import script
from tests.trainers.saved_folder import save

LOCAL = ("--engine", "local", "--workers", 1)


def _needs(name: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(importlib.util.find_spec(name) is None, reason=f"{name} is not installed")


def _decide(*arguments: object) -> dict[str, Any]:
    return script("decisions", *arguments)[-1]


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def _hugging_face(run: Path) -> None:
    for number, step in enumerate((100, 200, 300), start=1):
        save(run / f"checkpoint-{step}", number)
        os.utime(run / f"checkpoint-{step}", (1000 * number, 1000 * number))


def _accelerate(project: Path) -> Path:
    folder = project / "checkpoints"
    for number in (4, 5, 6):
        save(folder / f"checkpoint_{number}", number, ("model.safetensors", "optimizer.bin", "random_states_0.pkl"))
    return folder


@pytest.mark.slow
@_needs("transformers")
def test_the_hugging_face_trainer_counts_what_begins_like_a_checkpoint(tmp_path: Path) -> None:
    """Next to `checkpoint-300-rna`, a limit of two costs the user `checkpoint-200`; the folder that we make costs nothing."""
    harmed, run = tmp_path / "harmed", tmp_path / "run"
    _hugging_face(harmed)
    save(harmed / "checkpoint-300-rna", 3)
    _decide("rotate", harmed, 2)
    assert _names(harmed) == ["checkpoint-300", "checkpoint-300-rna"]
    _hugging_face(run)
    times = {path.name: path.stat().st_mtime_ns for path in run.iterdir()}
    assert rna_watch("once", run, *LOCAL).returncode == 0
    assert published(run) == ["checkpoint-300"]
    assert {path.name: path.stat().st_mtime_ns for path in run.iterdir() if path.name in times} == times
    assert _decide("rotate", run, 2) == {"last": "checkpoint-300"}
    assert _names(run) == [".rna-watch", "checkpoint-200", "checkpoint-300", "rna"]


@pytest.mark.slow
@_needs("accelerate")
def test_accelerate_crashes_on_a_foreign_folder_and_deletes_a_numbered_one(tmp_path: Path) -> None:
    """In `checkpoints` a folder without a number ends `save_state`, one with a number is deleted: there nothing is ours."""
    _accelerate(tmp_path / "crashed")
    (tmp_path / "crashed" / "checkpoints" / "rna").mkdir()
    with pytest.raises(AssertionError, match="IndexError"):
        _decide("save", tmp_path / "crashed", 3)
    folder = _accelerate(tmp_path / "numbered")
    (folder / "rna_0").mkdir()
    assert _decide("save", tmp_path / "numbered", 3)["deleted"].keys() == {"rna_0", "checkpoint_4"}
    project = tmp_path / "project"
    folder = _accelerate(project)
    assert rna_watch("once", project, *LOCAL).returncode == 0
    assert published(project) == ["checkpoints/checkpoint_6"]
    assert _names(folder) == ["checkpoint_4", "checkpoint_5", "checkpoint_6"]
    said = _decide("save", project, 3)
    assert said["deleted"] == {"checkpoint_4": False}, "it deletes before it writes"
    assert said["written"][-1] == "random_states_0.pkl"
    assert _names(folder) == ["checkpoint_5", "checkpoint_6", "checkpoint_7"]


@pytest.mark.slow
@_needs("lightning")
def test_lightning_takes_every_name_that_begins_with_last(tmp_path: Path) -> None:
    """`last-rna.ckpt` would be resumed from; what we make of `last.ckpt` is not among the candidates."""
    for step in (1, 2, 3):
        content = {"state_dict": {"weight": torch.full((3,), float(step))}, "global_step": step}
        torch.save(content, tmp_path / f"step={step}.ckpt")
    torch.save(content | {"loops": 1}, tmp_path / "last.ckpt")
    assert rna_watch("once", tmp_path, *LOCAL).returncode == 0
    assert published(tmp_path)
    assert _decide("last", tmp_path) == {"last": ["last.ckpt"]}
    (tmp_path / "last-rna.ckpt").touch()
    assert _decide("last", tmp_path) == {"last": ["last-rna.ckpt", "last.ckpt"]}


@pytest.mark.parametrize(
    "pattern",
    [
        r"step-(\d+)",  # torchtitan: purged by age, and resumed from
        r"\d",  # Accelerate's order, DeepSpeed's tags, Megatron's iter_0000100
        r"^(checkpoint|last|latest|epoch|ep|iter|recovery|model|best|global_step)",
    ],
)
def test_our_folders_match_no_trainers_pattern(pattern: str) -> None:
    """The trainers that cannot be installed with these tests tell their checkpoints by such names; ours are none."""
    paths = RunPaths(run=Path("run"), output=Path("run"))
    assert not any(re.search(pattern, folder.name) for folder in (paths.models, paths.state))
