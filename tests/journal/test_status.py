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

from rna_watch.commands.status import check
from rna_watch.errors import RnaWatchError, RunIsWatched, StoreError
from rna_watch.journal import events as e
from rna_watch.journal import heartbeat, log
from rna_watch.journal import owner as owner_module
from rna_watch.journal import status as status_module
from rna_watch.journal.lock import RunLock
from rna_watch.journal.owner import Owner, encoded, recorded, this_process
from rna_watch.journal.run_paths import RunPaths
from rna_watch.journal.status import Status, status_of
from tests.daemon.runs import alive, rna_watch, start_foreground, status, wait_until


def _frame(run: Path) -> str:
    """The dashboard's head, as a terminal gets it."""
    command = [sys.executable, "-m", "rna_watch", "dashboard", str(run), "--once"]
    environment = os.environ | {"FORCE_COLOR": "1", "TERM": "xterm", "COLUMNS": "200"}
    shown = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
    return re.sub(r"\x1b\[[\d;]*m", "", shown).partition("── ")[0]


def _age(run: Path, seconds: float) -> None:
    """Let the last sign of life be so old, and the daemon older: what is there after so much silence."""
    paths = RunPaths(run=run, output=run)
    beat = heartbeat.read(paths.heartbeat)
    assert beat is not None
    heartbeat.write(paths.heartbeat, dataclasses.replace(beat, time=time.time() - seconds))
    for path in (paths.lock, paths.owner):
        record = json.loads(path.read_text()) | {"since": time.time() - 2 * seconds}
        with path.open("r+") as file:  # in place: the lock is on the file
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


def _record(paths: RunPaths, *, old: bool = False, **changes: object) -> Owner:
    """A lock with the record of this process, but for what is changed; nobody holds the lock.

    Args:
        paths: the run's paths.
        old: as version 0.1.0 writes it.
        changes: fields of the record.
    """
    with paths.lock.open("a") as file:
        owner = dataclasses.replace(this_process(file.fileno()), **changes)
    in_lock, whole = encoded(owner)
    paths.lock.write_bytes(in_lock)
    if old:
        return owner.in_lock()
    paths.owner.write_bytes(whole)
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


class Clock:
    """The clock by which this process watches heartbeats, in the test's hands."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        """Seconds."""
        return self.now

    def sleep(self, seconds: float) -> None:
        """Let time pass, at once."""
        self.now += seconds

    def time(self) -> float:
        """Seconds since 1970; nothing here needs another than the real one."""
        return time.time()


@pytest.fixture(name="clock")
def _clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    for module in (heartbeat, status_module):
        monkeypatch.setattr(module, "time", clock)
    return clock


_ELSEWHERE = {
    "another host": {"host": "another", "boot_id": "another"},
    "a host of our name": {"boot_id": "another"},
    "a container": {"pid_namespace": 1},
    "0.1.0 on another host": {"host": "another", "boot_id": "another", "old": True},
    "0.1.0 in a container": {"host": "another", "old": True},
}


@pytest.mark.parametrize("where", _ELSEWHERE)
def test_a_daemon_that_cannot_be_seen_lives_as_long_as_its_heartbeat_changes(
    paths: RunPaths, where: str, clock: Clock
) -> None:
    """It is taken for alive until 30 s have passed without a change; the answer is certain after either."""
    owner = _record(paths, since=time.time() - 300, **_ELSEWHERE[where])
    for _ in range(3):
        _beat(paths, owner)
        status = status_of(paths)
        assert (status.state, status.owner) == ("watching", owner)
        clock.now += 29
        assert (status_of(paths).alive, status_of(paths).certain) == (True, status.certain)
    assert status.certain
    clock.now += 2
    assert status_of(paths) == Status(last_sign=pytest.approx(time.time(), abs=30))


@pytest.mark.parametrize("where", ["another host", "a host of our name", "0.1.0 on another host"])
@pytest.mark.parametrize("wrong_s", [7200.0, -7200.0], ids=["slow", "fast"])
def test_the_clock_of_another_host_does_not_matter(paths: RunPaths, where: str, wrong_s: float, clock: Clock) -> None:
    """A living daemon whose clock is hours wrong is alive; a dead one whose clock was fast is gone like any other."""
    owner = _record(paths, since=time.time() - wrong_s - 300, **_ELSEWHERE[where])
    _beat(paths, owner, old_s=wrong_s)
    assert (status_of(paths).state, status_of(paths).certain) == ("watching", False)
    _beat(paths, owner, old_s=wrong_s - 1)
    assert (status_of(paths).state, status_of(paths).certain) == ("watching", True)
    clock.now += 31
    assert not status_of(paths).alive


@pytest.mark.parametrize("where", _ELSEWHERE)
def test_a_young_daemon_that_cannot_be_seen_may_have_no_heartbeat_yet(
    paths: RunPaths, where: str, clock: Clock
) -> None:
    """It is starting, for as long as any other may be silent."""
    owner = _record(paths, **_ELSEWHERE[where])
    _beat(paths, dataclasses.replace(owner, pid=owner.pid + 1))
    assert (status_of(paths).state, status_of(paths).owner) == ("starting", owner)
    clock.now += 31
    assert not status_of(paths).alive


@pytest.mark.parametrize("where", ["a container", "0.1.0 in a container"])
def test_a_container_on_this_host_has_our_clock(paths: RunPaths, where: str, clock: Clock) -> None:
    """An old heartbeat need not be watched; one that changes as we watch is believed more than the clock, which may jump."""
    owner = _record(paths, since=time.time() - 300, **_ELSEWHERE[where])
    _beat(paths, owner, old_s=200)
    assert (status_of(paths).alive, status_of(paths).certain) == (False, True)
    _beat(paths, owner, old_s=199)
    assert status_of(paths).state == "watching"
    clock.now += 31
    assert not status_of(paths).alive


def test_what_takes_time_is_waited_for_and_said(paths: RunPaths, clock: Clock) -> None:
    """One line names whom and how long; the run is then taken, and the lock is the new owner's."""
    owner = _record(paths, host="another", boot_id="another", since=time.time() - 300)
    _beat(paths, owner)
    lines: list[str] = []
    with RunLock(paths, lines.append):
        assert status_of(paths).owner is not None
        assert status_of(paths).owner != owner
    assert lines == [f"waiting  for a sign of life of {owner}, at most 30 s: without one it counts as gone"]
    assert clock.now == pytest.approx(1030, abs=1)


@pytest.mark.parametrize("record", ["", '{"host": "an', "[1]", '{"host": "another", "pid": 1, "nonce": 2}'])
def test_an_empty_or_damaged_lock_names_nobody(paths: RunPaths, record: str) -> None:
    """A lock without a whole record that nobody holds is no daemon, though the heartbeat is fresh; it is taken at once."""
    _beat(paths, _record(paths))
    paths.lock.write_text(record)
    assert status_of(paths) == Status(last_sign=pytest.approx(time.time(), abs=30))
    with RunLock(paths):
        assert status_of(paths).owner == Owner(**json.loads(paths.owner.read_text()))


@pytest.mark.parametrize("change", [{"start_ticks": 1}, {"pid": 2**22 - 1}])
@pytest.mark.parametrize("testable", [True, False], ids=["flock", "no flock"])
def test_a_process_of_the_same_number_is_no_owner(
    paths: RunPaths, change: dict[str, object], testable: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process may have the number after a crash: its start time differs, which is known at once."""
    if not testable:
        _without_flock(monkeypatch)
    _beat(paths, _record(paths, **change))
    assert (status_of(paths).alive, status_of(paths).certain) == (False, True)


def test_a_host_that_was_started_again_is_another(paths: RunPaths, clock: Clock) -> None:
    """The owner's boot is over if it was ours; another host may have our name, so its heartbeat is watched."""
    owner = _record(paths, boot_id="earlier", since=time.time() - 300)
    _beat(paths, owner, old_s=200)
    assert not status_of(paths).certain
    clock.now += 31
    assert not status_of(paths).alive


@pytest.mark.parametrize("change", [{"start_ticks": 1}, {"pid": 2**22 - 1}])
def test_a_process_of_0_1_0_that_is_gone_leaves_a_free_lock(paths: RunPaths, change: dict[str, object]) -> None:
    """Its record does not tell its PID namespace; process and lock together prove that it is gone, at once."""
    _beat(paths, _record(paths, old=True, **change))
    assert (status_of(paths).alive, status_of(paths).certain) == (False, True)


def test_a_process_of_0_1_0_that_is_not_seen_may_be_in_a_container(
    paths: RunPaths, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a lock that can be tried, its heartbeat tells."""
    _without_flock(monkeypatch)
    owner = _record(paths, old=True, start_ticks=1, since=time.time() - 300)
    _beat(paths, owner)
    assert (status_of(paths).alive, status_of(paths).certain) == (True, False)
    _beat(paths, owner)
    assert (status_of(paths).alive, status_of(paths).certain) == (True, True)
    clock.now += 31
    assert not status_of(paths).alive


def test_a_copy_of_a_run_of_0_1_0_is_told_by_its_heartbeat(paths: RunPaths, clock: Clock) -> None:
    """The process on record lives and the lock is free: it may be a copy, or a file system without locks."""
    owner = _record(paths, old=True, since=time.time() - 300)
    _beat(paths, owner)
    assert (status_of(paths).alive, status_of(paths).certain) == (True, False)
    clock.now += 31
    assert not status_of(paths).alive


def test_a_process_of_another_user_may_be_hidden(
    paths: RunPaths, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """/proc mounted with hidepid shows no other user's process: that it is not shown proves nothing."""
    owner = _record(paths, pid=1, start_ticks=1, since=time.time() - 300)
    _beat(paths, owner)

    def refuse(*_: object) -> None:
        """The real `kill`, of another user."""
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "kill", refuse)
    monkeypatch.setattr(owner_module, "_start_ticks", lambda _: None)
    assert (status_of(paths).alive, status_of(paths).certain) == (True, False)
    clock.now += 31
    assert not status_of(paths).alive


def test_processes_of_another_proc_are_not_ours(paths: RunPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    """A PID namespace without a /proc of its own sees the host's: process 1 there is another."""
    monkeypatch.setattr(os, "readlink", lambda _: "4711")
    assert _record(paths, start_ticks=1).lives() is None
    assert _record(paths, pid=2**22 - 1).lives() is False


@pytest.mark.parametrize("change", [{"pid": 0}, {"pid": -1}, {"pid": "1"}, {"host": 3}, {"since": None}])
def test_a_record_that_no_daemon_wrote_names_nobody(paths: RunPaths, change: dict[str, object]) -> None:
    """A signal to process 0 or -1 would reach many."""
    _record(paths, **change)
    assert status_of(paths).owner is None


def test_one_that_was_taken_over_touches_nothing_more(paths: RunPaths) -> None:
    """A daemon that was silent for too long finds another's nonce: it says whose, and leaves the files alone."""
    with RunLock(paths) as lock:
        lock.check()
        assert lock.lost() == ""
        successor = _record(paths, pid=4711)
        assert lock.lost() == f"process 4711 on {socket.gethostname()} has taken the run over"
        with pytest.raises(RunIsWatched, match=r"process 4711 on .* has taken .* publishes nothing more"):
            lock.check()
    assert recorded(paths.lock, paths.owner) == successor


def test_one_of_0_1_0_takes_over_too(paths: RunPaths) -> None:
    """It knows nothing of the file next to the lock, which is then not its own."""
    with RunLock(paths) as lock:
        successor = _record(paths, old=True, host="another")
        assert "on another has taken the run over" in lock.lost()
    assert recorded(paths.lock, paths.owner) == successor


def test_the_record_next_to_the_lock_is_mended(paths: RunPaths) -> None:
    """Of two that start at one moment, the one whose record is in the lock has the run; the other's nonce goes."""
    with RunLock(paths) as lock:
        mine = paths.owner.read_bytes()
        paths.owner.write_bytes(mine.replace(b'"pid": ', b'"pid": 1'))
        assert lock.lost() == ""
        assert paths.owner.read_bytes() == mine
        paths.owner.unlink()
        lock.check()
        assert paths.owner.read_bytes() == mine
    assert (paths.lock.read_bytes(), paths.owner.exists()) == (b"", False)


def test_0_1_0_can_read_what_is_written(paths: RunPaths) -> None:
    """It takes a record with a field that it does not know for none."""
    with RunLock(paths):
        assert sorted(json.loads(paths.lock.read_text())) == ["boot_id", "host", "pid", "since", "start_ticks"]


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


def test_a_lock_that_somebody_holds_is_a_living_daemon(paths: RunPaths, clock: Clock) -> None:
    """Whoever it is: one that has not yet written its record, or one of another host on a coherent file system."""
    with paths.lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert (status_of(paths).state, status_of(paths).owner) == ("starting", None)
        with pytest.raises(RunIsWatched, match="another process watches"), RunLock(paths):
            pass
        owner = _record(paths, host="another", boot_id="another", since=time.time() - 300)
        _beat(paths, owner, old_s=200)
        assert status_of(paths).owner == owner
        clock.now += 31
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


def test_check_fails_while_everything_fails(tmp_path: Path) -> None:
    """After three failures in a row of the work, or of evaluations, until one succeeds, and with the problem in words."""
    paths = RunPaths(run=tmp_path, output=tmp_path)
    paths.create()

    def checked(*events: e.Event) -> str:
        for event in events:
            journal.append(event)
        heartbeat.write(paths.heartbeat, beat)
        try:
            check(paths)
        except RnaWatchError as error:
            return str(error)
        return ""

    failed = e.Failed(checkpoint="a.pt", reason="a task failed", will_retry=True)
    unjudged = e.EvaluationFailed(checkpoint="a.pt", candidate="last", reason="KeyError")
    with RunLock(paths):
        beat = heartbeat.Heartbeat(
            host=socket.gethostname(),
            pid=os.getpid(),
            time=time.time() + 1,
            state="watching",
            watching="scans",
            queue=0,
            work=None,
            workers=(),
            read_bytes_per_s=0.0,
        )
        journal = log.Journal(paths.journal)
        assert checked() == ""
        assert checked(failed, failed) == ""
        assert (
            checked(e.Published(checkpoint="a.pt", output="a.pt", written_bytes=1, seconds=1.0), failed, failed) == ""
        )
        problem = e.Problem(key="engine", what="Ray's gcs_server ended", remedy="none")
        assert "last 3 attempts at a model" in checked(failed, problem)
        assert checked(failed).endswith("failed: Ray's gcs_server ended")
        assert checked(e.Finished(checkpoint="a.pt", reason="number 1 of a new window"), unjudged, unjudged) == ""
        assert "last 3 evaluations" in checked(unjudged)
        assert checked(e.Evaluated(checkpoint="a.pt", candidate="last", metrics={"loss": 1.0}, seconds=1.0)) == ""
        journal.close()
