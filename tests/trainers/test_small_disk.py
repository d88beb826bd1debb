"""Trainers on a disk that is large enough for them alone, with a real daemon that writes to the same one."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.daemon.disks import resize, small_disk
from tests.daemon.runs import events, published, status, wait_until
from tests.trainers.live_run import Run, check_outputs, script, watched

if TYPE_CHECKING:
    from pathlib import Path

TRAINER = "plain_trainer"
WIDTH = 4000


def _on(disk: Path, tmp_path: Path) -> Run:
    copies = tmp_path / "copies"
    copies.mkdir()
    return Run(folder=disk, copies=copies)


def _sizes(tmp_path: Path, style: str) -> int:
    """KiB of one checkpoint."""
    run = Run(folder=tmp_path / "measured", copies=tmp_path)
    run.folder.mkdir()
    script(TRAINER, style, run.folder, "--count", 1, "--width", WIDTH)
    return max(path.stat().st_size for path in run.folder.iterdir()) // 1024 + 1


def _problems(run: Run) -> str:
    return " ".join(problem["what"] for problem in status(run.folder)["problems"])


@pytest.mark.slow
def test_models_wait_where_the_training_may_need_the_room(tmp_path: Path) -> None:
    """A training fills the disk: models wait, which is said; with room again every one of them is published."""
    size = _sizes(tmp_path, "steps")
    with small_disk(tmp_path / "disk", 10 * size + 200) as disk:
        run = _on(disk, tmp_path)
        with watched(disk):
            script(TRAINER, "steps", disk, "--copies", run.copies, "--count", 7, "--width", WIDTH, "--pause", 0.7)
            wait_until(lambda: len(events(disk, "chosen")) == 5)
            wait_until(lambda: "models wait" in _problems(run))
            assert "windows become shorter" in _problems(run)
            assert shutil.disk_usage(disk).free >= (size - 200) * 1024
            assert {each["state"] for each in status(disk)["checkpoints"]} == {"finished", "published", "chosen"}
            assert not events(disk, "failed")
            before = published(disk)
            resize(disk, 40 * size)
            wait_until(lambda: len(published(disk)) == 5)
            wait_until(lambda: _problems(run) == "")
        assert 1 <= len(before) <= 3
        assert before == published(disk)[: len(before)]
        assert check_outputs(run, "model") == [f"step_{step}.pt" for step in range(3, 8)]


@pytest.mark.slow
def test_a_training_that_deletes_finds_its_room_beside_us(tmp_path: Path) -> None:
    """Two checkpoints kept on a disk for nine: a training ends as it does alone; without a reserve it cannot save."""
    size = _sizes(tmp_path, "composer")
    train = ("composer", "--width", WIDTH, "--count", 14, "--pause", 0.7)
    with small_disk(tmp_path / "disk", 9 * size + 200) as disk:
        run = _on(disk, tmp_path)
        with watched(disk):
            announced = script(TRAINER, train[0], disk, "--copies", run.copies, *train[1:])
            wait_until(lambda: len(run.worked_off()) == 14)
        assert len(announced) == 14
        assert "room" in {event.key for event in events(disk, "problem")}
        assert not events(disk, "failed")
        assert check_outputs(run, "state.model")
        assert sorted(path.name for path in disk.glob("*.pt")) == [
            "ep4-ba130-rank0.pt",
            "ep4-ba140-rank0.pt",
            "latest-rank0.pt",
        ]
    with (
        small_disk(tmp_path / "other", 9 * size + 200) as disk,
        watched(disk, "--reserve", 0),
        pytest.raises((AssertionError, subprocess.SubprocessError), match="enforce fail|No space left"),
    ):
        script(TRAINER, train[0], disk, *train[1:])
