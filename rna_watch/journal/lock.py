"""One daemon a run: a lock file with its owner's record, taken over at once when the owner is gone."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import socket
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rna_watch.errors import RunIsWatched, StoreError
from rna_watch.journal import heartbeat

if TYPE_CHECKING:
    from rna_watch.journal.run_paths import RunPaths

_UNSUPPORTED = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP}


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """Who holds a run: host, process, and what tells that process from a later one of the same number."""

    host: str
    pid: int
    boot_id: str
    start_ticks: int
    since: float

    def lives_here(self) -> bool:
        """Whether the owner is a live process of this host."""
        return (
            self.host == socket.gethostname()
            and self.boot_id == _boot_id()
            and _start_ticks(self.pid) == self.start_ticks
        )

    def is_here(self) -> bool:
        """Whether the owner ran on this host."""
        return self.host == socket.gethostname()


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _start_ticks(pid: int) -> int | None:
    """Start time of a process in clock ticks since boot (field 22 of its stat); None if there is none, or only a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in {"Z", "X"} else int(fields[19])


def read_owner(paths: RunPaths) -> Owner | None:
    """The owner on record, alive or not."""
    try:
        return Owner(**json.loads(paths.lock.read_text()))
    except (OSError, ValueError, TypeError):
        return None


def living_owner(paths: RunPaths) -> Owner | None:
    """The owner, if it lives: by its process on this host, by its heartbeat on another."""
    owner = read_owner(paths)
    if owner is None:
        return None
    if owner.is_here():
        return owner if owner.lives_here() else None
    beat = heartbeat.read(paths.heartbeat)
    fresh = beat is not None and beat.fresh(time.time()) and beat.host == owner.host
    return owner if fresh or time.time() - owner.since < heartbeat.STALE_AFTER_S else None


class RunLock:
    """Holds a run for this process; a context.

    flock guards against two starters at once where the file system has it; the record and the heartbeat decide
    everywhere.

    Raises:
        RunIsWatched: another process has it, and which.
        StoreError: the lock file cannot be written.
    """

    def __init__(self, paths: RunPaths) -> None:
        self._paths = paths
        self._fd = -1

    def __enter__(self) -> RunLock:
        try:
            self._fd = os.open(self._paths.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise StoreError(
                f"cannot write {self._paths.lock}: {error.strerror}; check the folder's permissions"
            ) from error
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                os.close(self._fd)
                raise RunIsWatched(_who(self._paths, read_owner(self._paths))) from error
        owner = living_owner(self._paths)
        if owner is not None and owner.pid != os.getpid():
            os.close(self._fd)
            raise RunIsWatched(_who(self._paths, owner))
        mine = Owner(
            host=socket.gethostname(),
            pid=os.getpid(),
            boot_id=_boot_id(),
            start_ticks=_start_ticks(os.getpid()) or 0,
            since=time.time(),
        )
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, json.dumps(asdict(mine)).encode(), 0)
        return self

    def lost(self) -> bool:
        """Whether the lock file is not the one that was locked any more: our folder was removed, or made anew meanwhile.

        Where the folder above it is gone too, it may come back as it was (a file system that is away for a moment).
        """
        try:
            there, mine = self._paths.lock.stat(), os.fstat(self._fd)
        except FileNotFoundError:
            return self._paths.output.is_dir()
        except OSError:
            return False
        return (there.st_dev, there.st_ino) != (mine.st_dev, mine.st_ino)

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            os.ftruncate(self._fd, 0)
        os.close(self._fd)


def _who(paths: RunPaths, owner: Owner | None) -> str:
    who = f"process {owner.pid} on {owner.host}" if owner else "another process"
    return f"{who} watches {paths.run} already; see `rna-watch status {paths.run}`, end it with `rna-watch stop {paths.run}`"
