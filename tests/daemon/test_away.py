"""A file system that goes away and comes back: real mounts, a real daemon, and the store's parts by themselves."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from rna_watch.daemon.recorder import Recorder
from rna_watch.errors import Cancelled, StoreAway
from rna_watch.journal import events as e
from rna_watch.journal import log
from rna_watch.journal.lock import RunLock
from rna_watch.journal.run_paths import RunPaths
from tests.daemon.disks import small_disk
from tests.daemon.runs import check_output, published, start_foreground, train, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(name="mounted")
def _mounted(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """A folder on a file system of its own, and a place where it is mounted."""
    with small_disk(tmp_path / "disk", 8 * 1024) as disk:
        there, place = disk / "run", tmp_path / "place"
        there.mkdir()
        place.mkdir()
        _mount(there, place)
        try:
            yield there, place
        finally:
            subprocess.run(["umount", "-l", place], capture_output=True, check=False)


def _mount(there: Path, place: Path) -> None:
    subprocess.run(["mount", "--bind", there, place], check=True)


def test_an_unmount_and_its_return_cost_nothing(mounted: tuple[Path, Path], tmp_path: Path) -> None:
    """The daemon waits, writes nothing to what lies there instead, and goes on when the same folder is back."""
    there, place = mounted
    train(there, count=3)
    said = tmp_path / "said"
    with said.open("w") as terminal:
        daemon = start_foreground(place, "--engine", "local", to=terminal)
    try:
        wait_until(lambda: published(there) == ["step_3.pt"])
        subprocess.run(["umount", "-l", place], check=True)
        wait_until(lambda: "nothing is published until it is back" in said.read_text())
        train(there, count=2, first=4)
        wait_until(lambda: daemon.poll() is None and os.listdir(place) == [])
        _mount(there, place)
        wait_until(lambda: published(there) == ["step_3.pt", "step_4.pt", "step_5.pt"])
        assert daemon.poll() is None
    finally:
        daemon.terminate()
        daemon.wait(timeout=30)
    assert daemon.returncode == 0
    assert "Traceback" not in said.read_text()
    check_output(there / "rna" / "step_5.pt", there)


def test_a_folder_that_was_removed_is_not_waited_for(tmp_path: Path) -> None:
    """Removed or replaced, the daemon ends with exit code 1 and the reason; so it is with a new journal in its place."""
    train(tmp_path / "run", count=3)
    daemon = start_foreground(tmp_path / "run", "--engine", "local")
    wait_until(lambda: published(tmp_path / "run") == ["step_3.pt"])
    shutil.rmtree(tmp_path / "run" / ".rna-watch")
    said, _ = daemon.communicate(timeout=60)
    assert daemon.returncode == 1
    assert "was removed or replaced" in said
    assert "Traceback" not in said


def test_away_and_lost_are_told_apart(mounted: tuple[Path, Path]) -> None:
    """No file system, or another one: away. The same one without the lock: lost. Nothing is recorded meanwhile."""
    there, place = mounted
    paths = RunPaths(run=place, output=place)
    paths.create()
    with RunLock(paths) as lock:
        recorder = Recorder(paths.journal, check=lock.check)
        assert (lock.away(), lock.lost()) == ("", "")
        subprocess.run(["umount", "-l", place], check=True)
        assert "not mounted" in lock.away()
        assert lock.lost() == ""
        with pytest.raises(StoreAway):
            recorder.record(e.Noted(text="while it is away"))
        _mount(there, place)
        assert (lock.away(), lock.lost()) == ("", "")
        recorder.record(e.Noted(text="back"))
        paths.lock.unlink()
        assert lock.away() == ""
        assert "removed or replaced" in lock.lost()
        recorder.close()
    assert [event.text for event in log.read(paths.journal) if isinstance(event, e.Noted)] == ["back"]


def test_an_intent_is_on_the_disk_before_its_act(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the journal cannot be written, `publishing` waits for it, and a daemon that is told to stop waits no longer."""
    intent = e.Publishing(checkpoint="a.pt", output="a.pt", temporary="t", manifest_digest="d")
    recorder = Recorder(tmp_path / "journal", ())
    write, waits = os.write, 3

    def full(descriptor: int, data: bytes) -> int:
        """The real `write` on a disk that is full for a while."""
        if waits:
            raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))
        return write(descriptor, data)

    def proceed() -> None:
        nonlocal waits
        waits -= 1

    monkeypatch.setattr(os, "write", full)
    recorder.proceed = proceed
    recorder.record(intent)
    assert waits == 0
    assert [event.kind for event in log.read(tmp_path / "journal")] == ["publishing", "problem", "solved"]

    def stop() -> None:
        raise Cancelled("stopping")

    waits, recorder.proceed = 1, stop
    with pytest.raises(Cancelled):
        recorder.record(intent)
    recorder.close()
