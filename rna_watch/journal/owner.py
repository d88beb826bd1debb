"""The owner of a run: the process that the run's lock names, and whether it can be seen from here that it lives."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import secrets
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from rna_watch.journal import fields
from rna_watch.layout import bounded_json

_LARGEST_PID = 2**22
_BESIDE = ("nonce", "pid_namespace", "lock_inode", "shared")


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """The process that holds a run: host, process id, and what tells it from every other one, of whatever machine.

    The lock holds the first five fields. The others lie in a file next to it, because version 0.1.0 reads a lock with a
    field that it does not know as one without an owner; they are None for an owner of that version. `nonce` is made for
    this one taking of the lock. `pid_namespace` is that namespace's inode, and `lock_inode` the lock file's, which tells
    the file from a copy of it. `shared` says that the process has other runs too: it is asked by a file, not by a signal,
    to let this one go.
    """

    host: str
    pid: int
    boot_id: str
    start_ticks: int
    since: float
    nonce: str | None = None
    pid_namespace: int | None = None
    lock_inode: int | None = None
    shared: bool = False

    def lives(self) -> bool | None:
        """Whether the process lives; None if that cannot be seen from here (another machine, another PID namespace)."""
        if not self.shares_clock() or self.pid_namespace != (_pid_namespace() if self.nonce else None):
            return None
        if self.nonce is None and self.host != socket.gethostname():
            return None
        return lives(self.pid, self.start_ticks)

    def shares_clock(self) -> bool:
        """Whether the owner runs on the kernel that runs us, so that its times and ours can be compared."""
        return bool(self.boot_id) and self.boot_id == _boot_id()

    def in_lock(self) -> Owner:
        """What the lock alone tells of it."""
        return dataclasses.replace(self, nonce=None, pid_namespace=None, lock_inode=None, shared=False)

    def __str__(self) -> str:
        elsewhere = self.nonce and self.shares_clock() and self.pid_namespace != _pid_namespace()
        return f"process {self.pid} on {self.host}{' (in another PID namespace)' if elsewhere else ''}"


def this_process(lock: int | None = None, *, shared: bool = False) -> Owner:
    """The record of the calling process, as of now, with a new nonce.

    Args:
        lock: a descriptor of the lock file, if it holds one.
        shared: whether the process has other runs too.
    """
    return Owner(
        host=socket.gethostname(),
        pid=os.getpid(),
        boot_id=_boot_id(),
        start_ticks=_start_ticks("self") or 0,
        since=time.time(),
        nonce=secrets.token_hex(8),
        pid_namespace=_pid_namespace(),
        lock_inode=None if lock is None else os.fstat(lock).st_ino,
        shared=shared,
    )


def encoded(owner: Owner) -> tuple[bytes, bytes]:
    """An owner as the lock records it, and as the file next to the lock does."""
    whole = {key: value for key, value in dataclasses.asdict(owner).items() if key != "shared" or value}
    return json.dumps({key: whole[key] for key in whole if key not in _BESIDE}).encode(), json.dumps(whole).encode()


def recorded(lock: Path, beside: Path) -> Owner | None:
    """The owner that the lock names, whole if the file next to it is of the same one; None without a whole record.

    Raises:
        OSError: a file is there and cannot be read.
    """
    owner, whole = _read(lock), _read(beside)
    return whole if whole is not None and owner == whole.in_lock() else owner


def record_bytes(lock: Path, beside: Path) -> tuple[bytes, bytes] | None:
    """The bytes of both files, as `encoded` makes them; None if one is not there, or is too large.

    Raises:
        OSError: a file is there and cannot be read.
    """
    try:
        return bounded_json.read_bytes(lock), bounded_json.read_bytes(beside)
    except (FileNotFoundError, ValueError):
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """A look at a lock: its recorded owner, alive or not, whether it is held (None: that cannot be tried), its inode."""

    owner: Owner | None
    held: bool | None
    inode: int | None

    def proof(self) -> bool | None:
        """Whether a daemon lives, as far as lock and process prove it; None if the heartbeat has to tell.

        A lock that is held is proof of life. One that is free is none of death: not every file system has such locks, or
        has them between machines. If the owner's process can be seen, it decides; a copied lock names a process that has
        another. An owner of version 0.1.0 may be in another PID namespace or hold another file, so process and lock must
        agree.
        """
        if self.held:
            return True
        if self.owner is None:
            return None if self.inode is None and self.held is None else False
        lives = self.owner.lives()
        if lives is None:
            return None
        if self.owner.nonce is not None:
            return lives and (self.held is None or self.inode == self.owner.lock_inode)
        return lives if lives == (self.held is None) else None


def look(lock: Path, beside: Path) -> Look:
    """Look at a lock; never raises.

    The shared lock that is tried here lasts for microseconds; `RunLock` tries again when it meets one.
    """
    try:
        with lock.open("rb") as file:
            return Look(owner=recorded(lock, beside), held=_held(file), inode=os.fstat(file.fileno()).st_ino)
    except FileNotFoundError:
        return Look(owner=None, held=False, inode=None)
    except OSError:
        return Look(owner=None, held=None, inode=None)


def _held(file: IO[bytes]) -> bool | None:
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # the file system has no such locks, or fails
        return None
    return False


def _read(path: Path) -> Owner | None:
    try:
        return of_values(bounded_json.read(path))
    except (FileNotFoundError, ValueError):
        return None


def of_values(values: dict[str, Any]) -> Owner | None:
    """The owner that was recorded so; None if it is no whole record."""
    try:
        fields.check(Owner, values)
        owner = Owner(**values)
        numbers = owner.pid, owner.start_ticks, owner.since
        sound = all(isinstance(number, int | float) for number in numbers) and 0 < owner.pid <= _LARGEST_PID
        return owner if sound and isinstance(owner.host, str) and isinstance(owner.boot_id, str) else None
    except (ValueError, TypeError, AttributeError):
        return None


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _pid_namespace() -> int | None:
    """The inode of our PID namespace; None if the system does not tell."""
    try:
        return os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return None


def begun(pid: int) -> int | None:
    """What tells a living process of our PID namespace from a later one of its id; None if it is not there, or not shown."""
    ticks = _start_ticks(pid)
    return ticks if ticks is not None and ticks >= 0 and lives(pid, ticks) else None


def lives(pid: int, start_ticks: int) -> bool | None:
    """Whether a process of our PID namespace lives; None if /proc hides it, or shows the processes of another namespace."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # it is another user's
    try:
        if os.readlink("/proc/self") != str(os.getpid()):  # noqa: PTH115 - a number, no path
            return None
        found = _start_ticks(pid)
    except OSError:
        return None
    return None if found is None else found == start_ticks


def _start_ticks(pid: int | str) -> int | None:
    """Start time of a process in clock ticks since boot (field 22 of its stat); -1 of a zombie, None if it is not shown."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return -1 if fields[0] in {"Z", "X"} else int(fields[19])
