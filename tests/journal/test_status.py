"""Whether a run is watched: every command gives the one answer, whatever happened to the daemon."""

from __future__ import annotations

import dataclasses
import errno
import fcntl
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rna_watch.errors import RunIsWatched, StoreError
from rna_watch.journal import heartbeat
from rna_watch.journal.lock import RunLock
from rna_watch.journal.owner import Owner, this_process
from rna_watch.journal.run_paths import RunPaths
from rna_watch.journal.status import Status, status_of
from tests.daemon.runs import alive, rna_watch, start_foreground, status, wait_until


def _frame(run: Path) -> str:
    """The dashboard's head, as a terminal gets it."""
    command = [sys.executable, "-m", "rna_watch", "status", str(run)]
    environment = os.environ | {"FORCE_COLOR": "1", "TERM": "xterm", "COLUMNS": "200"}
    shown = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
    return re.sub(r"\x1b\[[\d;]*m", "", shown).partition("── ")[0]


def _age(run: Path, seconds: float) -> None:
    """Let the last sign of life be so old, and the daemon older: what is there after so much silence."""
    path, lock = run / ".rna-watch" / "heartbeat.json", run / ".rna-watch" / "lock"
    beat = heartbeat.read(path)
    assert beat is not None
    heartbeat.write(path, dataclasses.replace(beat, time=time.time() - seconds))
    record = json.loads(lock.read_text()) | {"since": time.time() - 2 * seconds}
    with lock.open("r+") as file:  # in place: the lock is on the file
        file.write(json.dumps(record))
        file.truncate()


def _check_that_all_say_nobody_watches(run: Path, detail: str) -> None:
    """`status` in its four forms, `stop`, and `start`, which begins a daemon, on a run without a living one."""
    said = status(run)
    assert (said["state"], said["owner"], said["workers"]) == ("not running", None, [])
    checked = rna_watch("status", run, "--check")
    assert (checked.returncode, "(not running)" in checked.stderr) == (1, True)
    assert f"not running  {detail}" in _frame(run)
    stopped = rna_watch("stop", run)
    assert (stopped.returncode, "nothing watches" in stopped.stderr) == (3, True)
    started = rna_watch("start", run, "--engine", "inline")
    assert started.returncode == 0, started.stderr
    assert rna_watch("status", run, "--check").returncode == 0
    assert rna_watch("stop", run).returncode == 0


def test_after_a_kill_all_say_at_once_that_nobody_watches(tmp_path: Path) -> None:
    """The heartbeat of a daemon that was killed is still fresh, and its lock names it: neither makes it alive."""
    daemon = start_foreground(tmp_path, "--engine", "inline")
    try:
        wait_until(lambda: status(tmp_path)["state"] == "watching")
        assert "● watching" in _frame(tmp_path)
    finally:
        daemon.kill()
        daemon.communicate()
    assert "not running: last sign of life" in rna_watch("status", tmp_path).stdout
    _check_that_all_say_nobody_watches(tmp_path, "last sign of life ")


def test_a_daemon_that_ended_in_order_is_not_running_for_all(tmp_path: Path) -> None:
    """An orderly end is no other state; its reason is said."""
    assert rna_watch("start", tmp_path, "--engine", "inline").returncode == 0
    assert rna_watch("stop", tmp_path).returncode == 0
    _check_that_all_say_nobody_watches(tmp_path, "stopped: signal SIGTERM")


def test_a_suspended_daemon_is_silent_for_all_and_can_be_stopped(tmp_path: Path) -> None:
    """A process that gives no sign of life still has the run: all name it and say so, and `stop` ends it."""
    daemon = start_foreground(tmp_path, "--engine", "inline")
    try:
        wait_until(lambda: status(tmp_path)["state"] == "watching")
        daemon.send_signal(signal.SIGSTOP)
        wait_until(lambda: "\nState:\tT" in Path(f"/proc/{daemon.pid}/status").read_text())
        _age(tmp_path, 300.0)
        said = status(tmp_path)
        assert (said["state"], said["owner"]["pid"], said["workers"]) == ("silent", daemon.pid, [])
        checked = rna_watch("status", tmp_path, "--check")
        assert (checked.returncode, "(silent)" in checked.stderr) == (1, True)
        assert "silent: no sign of life for 5 min" in rna_watch("status", tmp_path).stdout
        assert "silent  no sign of life for 5 min" in _frame(tmp_path)
        started = rna_watch("start", tmp_path, "--engine", "inline")
        assert started.returncode == 1
        assert f"process {daemon.pid} on {socket.gethostname()} watches {tmp_path} already" in started.stderr
        assert "no sign of life for 5 min" in started.stderr
        stopper = rna_watch("stop", tmp_path)
        assert stopper.returncode == 0, stopper.stderr
        assert not alive(daemon.pid)
    finally:
        daemon.kill()
        daemon.communicate()


def test_a_copy_of_a_watched_folder_is_not_watched(tmp_path: Path) -> None:
    """A lock file that was copied names a process that lives, but watches elsewhere: `stop` leaves it alone."""
    run, copy = tmp_path / "run", tmp_path / "copy"
    run.mkdir()
    daemon = start_foreground(run, "--engine", "inline")
    try:
        wait_until(lambda: status(run)["state"] == "watching")
        shutil.copytree(run, copy)
        assert json.loads((copy / ".rna-watch" / "lock").read_text())["pid"] == daemon.pid
        assert status(copy)["state"] == "not running"
        assert rna_watch("stop", copy).returncode == 3
        assert status(run)["state"] == "watching"
    finally:
        daemon.kill()
        daemon.communicate()


def _record(paths: RunPaths, **changes: object) -> Owner:
    """A lock with the record of this process, but for what is changed; nobody holds the lock."""
    owner = dataclasses.replace(this_process(), **changes)
    paths.lock.write_text(json.dumps(dataclasses.asdict(owner)))
    return owner


def _beat(paths: RunPaths, owner: Owner, *, old_s: float = 0.0, state: str = "watching") -> None:
    """The owner's heartbeat, so old."""
    beat = heartbeat.Heartbeat(
        host=owner.host,
        pid=owner.pid,
        time=time.time() - old_s,
        state=state,
        watching="events and scans",
        queue=0,
        work=None,
        workers=(heartbeat.Worker(name="daemon", pid=owner.pid, memory_bytes=1, busy=False),),
        read_bytes_per_s=0.0,
    )
    heartbeat.write(paths.heartbeat, beat)


@pytest.fixture(name="paths")
def _paths(tmp_path: Path) -> RunPaths:
    """A run that was watched once."""
    paths = RunPaths(run=tmp_path, output=tmp_path)
    paths.create()
    return paths


@pytest.mark.parametrize(
    ("age_s", "beat_s", "state"),
    [
        (300.0, 1.0, "watching"),
        (300.0, 200.0, "not running"),
        (300.0, None, "not running"),
        (1.0, None, "starting"),
        (1.0, 200.0, "starting"),
    ],
)
def test_a_daemon_of_another_host_lives_as_long_as_its_heartbeat(
    paths: RunPaths, age_s: float, beat_s: float | None, state: str
) -> None:
    """The heartbeat's age decides if neither process nor lock can be seen; a young daemon may have none yet."""
    owner = _record(paths, host="another", since=time.time() - age_s)
    if beat_s is not None:
        _beat(paths, owner, old_s=beat_s)
    status = status_of(paths)
    assert (status.state, status.alive) == (state, state != "not running")
    assert status.owner == (owner if status.alive else None)
    assert bool(status.workers) == (state == "watching")


@pytest.mark.parametrize("record", ["", '{"host": "an', "[1]", '{"host": "another", "pid": 1, "nonce": 2}'])
def test_an_empty_or_damaged_lock_names_nobody(paths: RunPaths, record: str) -> None:
    """A lock without a whole record that nobody holds is no daemon, though the heartbeat is fresh; it is taken at once."""
    _beat(paths, this_process())
    paths.lock.write_text(record)
    assert status_of(paths) == Status(last_sign=pytest.approx(time.time(), abs=30))
    with RunLock(paths):
        assert status_of(paths).owner == Owner(**json.loads(paths.lock.read_text()))


@pytest.mark.parametrize("change", [{"start_ticks": 1}, {"boot_id": "earlier"}, {"pid": 2**22 - 1}])
@pytest.mark.parametrize("testable", [True, False], ids=["flock", "no flock"])
def test_a_process_of_the_same_number_is_no_owner(
    paths: RunPaths, change: dict[str, object], testable: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process may have the number after a crash or a restart of the machine: its start time differs."""
    if not testable:
        _without_flock(monkeypatch)
    _beat(paths, _record(paths, **change))
    assert not status_of(paths).alive


def _without_flock(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real `flock` on Lustre that was mounted without it."""

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", refuse)


def test_where_locks_cannot_be_tried_the_process_tells(paths: RunPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    """The living process on record has the run on a file system without flock."""
    _without_flock(monkeypatch)
    owner = _record(paths)
    _beat(paths, owner)
    status = status_of(paths)
    assert (status.state, status.owner) == ("watching", owner)
    with pytest.raises(RunIsWatched, match=f"process {os.getpid()} on "), RunLock(paths):
        pass


def test_a_lock_that_somebody_holds_is_a_living_daemon(paths: RunPaths) -> None:
    """Whoever it is: one that has not yet written its record, or one of another host on a coherent file system."""
    with paths.lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert (status_of(paths).state, status_of(paths).owner) == ("starting", None)
        with pytest.raises(RunIsWatched, match="another process watches"), RunLock(paths):
            pass
        owner = _record(paths, host="another", since=time.time() - 300)
        _beat(paths, owner, old_s=200)
        assert (status_of(paths).state, status_of(paths).owner) == ("silent", owner)
        _record(paths, pid=2**22 - 1)  # the daemon before, which was killed
        assert (status_of(paths).state, status_of(paths).owner) == ("starting", None)
    assert not status_of(paths).alive


def test_the_heartbeat_of_the_daemon_before_is_not_believed(paths: RunPaths) -> None:
    """The old file says nothing of a new daemon after a crash, nor does an orderly end that is not over."""
    with RunLock(paths):
        owner = status_of(paths).owner
        assert owner is not None
        _beat(paths, dataclasses.replace(owner, pid=2**22 - 1), state="working")
        assert status_of(paths).state == "starting"
        _beat(paths, owner, old_s=5.0, state="working")
        assert status_of(paths).state == "starting"
        _beat(paths, owner, state="stopped")
        assert (status_of(paths).state, status_of(paths).alive) == ("stopping", True)


def test_looking_at_a_lock_keeps_nobody_from_taking_it(paths: RunPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    """A `status` shares the lock for a moment to try it; a `start` in that moment tries again."""
    paths.lock.touch()
    flock, looks = fcntl.flock, [paths.lock.open("rb") for _ in range(3)]
    flock(looks[0], fcntl.LOCK_SH)

    def look_away(file: object, how: int) -> None:
        """The real `flock`, while one reader after the other looks at the lock."""
        try:
            flock(file, how)
        finally:
            if how & fcntl.LOCK_EX and looks:
                looks.pop(0).close()
                if looks:
                    flock(looks[0], fcntl.LOCK_SH)

    monkeypatch.setattr(fcntl, "flock", look_away)
    with RunLock(paths):
        assert looks == []


def test_a_lock_that_cannot_be_written_is_given_back(paths: RunPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    """The record does not fit on a full disk: the error says where, and nothing seems to have the run."""

    def fail(*_: object) -> int:
        """The real `pwrite` on a full disk."""
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", fail)
    with pytest.raises(StoreError, match=r"cannot write .*lock: No space left on device"), RunLock(paths):
        pass
    assert not status_of(paths).alive
