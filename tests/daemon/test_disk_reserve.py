"""A disk that is large enough for the training alone: what of ours gives way, on real small file systems."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

import pytest
import torch

from tests.daemon.disks import resize, small_disk
from tests.daemon.in_process import process
from tests.daemon.runs import events, train
from tests.daemon.test_admission import Folder

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

KIB = 1024
SIZE_KIB = 100  # of a checkpoint, about


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for ten checkpoints."""
    with small_disk(tmp_path / "disk", 10 * SIZE_KIB) as path:
        yield path


def _save(folder: Folder, step: int, name: str = "") -> str:
    name = name or f"step_{step}.pt"
    folder.save(name, float(step), step=step, beside=torch.full((SIZE_KIB * KIB // 4 - 500,), float(step)))
    return name


def _take(folder: Folder, *steps: int) -> None:
    for step in steps:
        folder.consider(_save(folder, step))


def _train(folder: Folder, *, deletes_first: bool) -> None:
    """Twelve saves of a trainer that keeps two, and what the daemon does after each."""
    for step in range(1, 13):
        old = folder.path / f"step_{step - 2}.pt"
        if deletes_first:
            old.unlink(missing_ok=True)
        _take(folder, step)
        old.unlink(missing_ok=True)
        folder.pins.keep_room()


def _pinned(folder: Folder) -> list[int | None]:
    return [checkpoint.step for checkpoint in folder.recorder.checkpoints() if checkpoint.pinned]


def _fill(disk: Path, left_kib: int) -> Path:
    ballast = disk / "ballast"
    ballast.write_bytes(bytes(shutil.disk_usage(disk).free - left_kib * KIB))
    return ballast


def test_what_the_trainer_deleted_is_unpinned_oldest_first(disk: Path) -> None:
    """Only as many as the training needs, none that the trainer still has, visibly; with room again all is as before."""
    folder = Folder(disk)
    _take(folder, 1, 2, 3, 4, 5)
    folder.pins.keep_room()
    assert _pinned(folder) == [1, 2, 3, 4, 5]
    for step in (2, 1, 3):
        (disk / f"step_{step}.pt").unlink()
    _fill(disk, 2 * SIZE_KIB + SIZE_KIB // 2)
    folder.pins.keep_room()
    assert _pinned(folder) == [2, 3, 4, 5]
    assert events(disk, "unpinned")[0].reason == "the training may need the room on the disk"
    problem = folder.recorder.state.problems["room"]
    assert "windows become shorter" in problem.what
    assert "--reserve" in problem.remedy
    count = len(folder.paths.journal.read_bytes())
    folder.pins.keep_room()
    assert len(folder.paths.journal.read_bytes()) == count
    resize(disk, 20 * SIZE_KIB)
    folder.pins.keep_room()
    assert "room" not in folder.recorder.state.problems
    _take(folder, 6)
    assert _pinned(folder) == [2, 3, 4, 5, 6]


def test_below_the_reserve_nothing_is_kept_from_the_trainers_retention(disk: Path) -> None:
    """A link would take from the trainer what its next deletion gives: all are unpinned, no new one is made, and it recovers."""
    folder = Folder(disk)
    _take(folder, 1, 2, 3)
    ballast = _fill(disk, 2 * SIZE_KIB)
    _take(folder, 4)
    folder.pins.keep_room()
    assert _pinned(folder) == []
    assert list(folder.paths.pins.iterdir()) == []
    assert events(disk, "admitted")[-1].pin == "none"
    assert "room" in folder.recorder.state.problems
    newest = folder.recorder.checkpoint("step_4.pt")
    assert newest is not None
    layout = folder.pins.layout(newest)
    assert layout is not None
    assert layout.path == str(disk / "step_4.pt")
    ballast.unlink()
    folder.pins.keep_room()
    assert folder.recorder.state.problems == {}
    _take(folder, 5)
    assert _pinned(folder) == [5]


def test_copies_of_a_rewritten_name_give_way_too(disk: Path) -> None:
    """Copies of `last.pt` are ours alone: the oldest go until the reserve and the next model have room."""
    folder = Folder(disk)
    for step in range(1, 11):
        folder.consider(_save(folder, step, "last.pt"))
        folder.pins.keep_room()
        assert shutil.disk_usage(disk).free >= 3 * SIZE_KIB * KIB
    assert _pinned(folder) == [6, 7, 8, 9, 10]
    assert "room" in folder.recorder.state.problems


@pytest.mark.parametrize(("reserve", "kept"), [("auto", [2, 3]), (60 * KIB / 2**30, [1, 2, 3]), (0, [1, 2, 3])])
def test_the_reserve_is_a_setting(disk: Path, reserve: float | str, kept: list[int]) -> None:
    """Twice a checkpoint by itself; so many GiB, or none, where that is said."""
    folder = Folder(disk, reserve=reserve)
    _take(folder, 1, 2, 3)
    for step in (1, 2, 3):
        (disk / f"step_{step}.pt").unlink()
    _fill(disk, 2 * SIZE_KIB)
    folder.pins.keep_room()
    assert _pinned(folder) == kept


@pytest.mark.parametrize("deletes_first", [True, False])
def test_a_trainer_whose_disk_is_just_large_enough_can_always_save(tmp_path: Path, deletes_first: bool) -> None:
    """A trainer with retention that can go on alone on a disk of any size can go on beside us, whenever it deletes."""
    least = 2 if deletes_first else 3
    for tenths in range(10 * least + 3, 95, 4):
        with small_disk(tmp_path / f"disk{tenths}", tenths * SIZE_KIB // 10 + 20) as disk:
            folder = Folder(disk)
            _train(folder, deletes_first=deletes_first)
            assert sorted(os.listdir(disk)) == [".rna-watch", "rna", "step_11.pt", "step_12.pt"]
            folder.recorder.close()


def test_without_the_reserve_the_trainer_may_not_be_able_to_save(disk: Path) -> None:
    """What the reserve is for: with none, links keep what the trainer deletes, and a disk for ten holds no two any more."""
    folder = Folder(disk, reserve=0)
    with pytest.raises((OSError, RuntimeError)):
        _train(folder, deletes_first=False)


def test_a_command_is_given_no_models_where_there_is_no_room_for_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files that an evaluating command loads take room as well: the checkpoint waits before its evaluation."""
    train(tmp_path, count=3)
    settings = {"evaluate_command": "false {checkpoint}"}
    with monkeypatch.context() as nearly_full:
        real = shutil.disk_usage
        nearly_full.setattr(shutil, "disk_usage", lambda path: real(path)._replace(free=20_000))
        state = process(tmp_path, tmp_path, **settings)
    assert state.checkpoints["step_3.pt"].stage == "measured"
    assert "held" in state.problems
    assert process(tmp_path, tmp_path, **settings).checkpoints["step_3.pt"].stage == "published"
