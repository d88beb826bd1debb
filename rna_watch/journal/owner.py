"""The owner of a run: the process that the run's lock file names, and what this machine knows of it."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """The process that holds a run: host, process id, and what tells it from a later process of the same id."""

    host: str
    pid: int
    boot_id: str
    start_ticks: int
    since: float

    def lives_here(self) -> bool:
        """Whether the owner is a live process of this host."""
        return self.is_here() and self.boot_id == _boot_id() and _start_ticks(self.pid) == self.start_ticks

    def is_here(self) -> bool:
        """Whether the owner ran on this host."""
        return self.host == socket.gethostname()


def this_process() -> Owner:
    """The record of the calling process, as of now."""
    pid = os.getpid()
    return Owner(
        host=socket.gethostname(),
        pid=pid,
        boot_id=_boot_id(),
        start_ticks=_start_ticks(pid) or 0,
        since=time.time(),
    )


def look(lock: Path) -> tuple[Owner | None, bool | None]:
    """The recorded owner, alive or not, and whether the lock is held: None if this machine cannot find out.

    The shared lock that is tried here lasts for microseconds; `RunLock` tries again when it meets one.
    """
    try:
        with lock.open("rb") as file:
            return _parsed(file.read()), _held(file)
    except FileNotFoundError:
        return None, False
    except OSError:
        return None, None


def _held(file: IO[bytes]) -> bool | None:
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # the file system has no such locks, or fails
        return None
    return False


def _parsed(record: bytes) -> Owner | None:
    try:
        return Owner(**json.loads(record))
    except (ValueError, TypeError):
        return None


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _start_ticks(pid: int) -> int | None:
    """Start time of a process in clock ticks since boot (field 22 of its stat); None if it is gone or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in {"Z", "X"} else int(fields[19])
