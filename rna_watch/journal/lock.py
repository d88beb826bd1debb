"""One daemon a run: a lock file with its owner's record, taken over when the owner is gone."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
from typing import TYPE_CHECKING

from rna_watch.errors import RunIsWatched, StoreAway, StoreError
from rna_watch.journal.command_line import command
from rna_watch.journal.owner import encoded, record_bytes, recorded, this_process
from rna_watch.journal.status import settled
from rna_watch.layout import disk, owned

if TYPE_CHECKING:
    from collections.abc import Callable

    from rna_watch.journal.run_paths import RunPaths

_UNSUPPORTED = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP}
_TRIES = 20
_PAUSE_S = 0.02


def check_unwatched(paths: RunPaths, say: Callable[[str], None] = lambda _: None) -> None:
    """Make sure that nothing watches a run; waits as long as only a heartbeat can tell, and it has not.

    Args:
        paths: the run's paths.
        say: shows a line if that takes a while.

    Raises:
        RunIsWatched: a process does; the message names it.
    """
    status = settled(paths, say)
    if status.alive:
        detail = status.detail(time.time())
        raise RunIsWatched(
            f"{status.who()} watches {paths.run} already{f' ({detail})' if detail else ''}; "
            f"see `{command('status', paths.run, paths.output)}`, end it with `{command('stop', paths.run, paths.output)}`"
        )


class RunLock:
    """Holds a run for this process; a context.

    The run's status decides. flock also guards against two processes that start at once, if the file system has it. Where
    it has not, the one that writes its record last has the run, and the other finds that out by `lost` and `check`.

    Args:
        paths: the run's paths; the folders are there.
        say: shows a line if an owner that is perhaps gone is waited for.
        shared: whether this process has other runs too.

    Raises:
        RunIsWatched: another process has it; the message names it.
        StoreError: the lock file cannot be written.
    """

    def __init__(self, paths: RunPaths, say: Callable[[str], None] = lambda _: None, *, shared: bool = False) -> None:
        self._paths = paths
        self._shared = shared
        self._say = say
        self._fd = -1

    def __enter__(self) -> RunLock:
        check_unwatched(self._paths, self._say)
        with contextlib.ExitStack() as undo:
            try:
                self._fd = owned.open_at(self._paths.lock, os.O_RDWR | os.O_CREAT, 0o644)
                undo.callback(os.close, self._fd)
                self._take()
                self._record()
            except OSError as error:
                raise StoreError(
                    f"cannot write {self._paths.lock}: {error.strerror}; check the folder's permissions and free space"
                ) from error
            self.check()
            undo.pop_all()
        return self

    def _take(self) -> None:
        for _ in range(_TRIES):
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:  # a process holds it, or is testing it at this moment
                check_unwatched(self._paths)
                time.sleep(_PAUSE_S)
            except OSError as error:
                if error.errno not in _UNSUPPORTED:
                    raise
                return
            else:
                return
        raise RunIsWatched(f"another process keeps {self._paths.lock} locked")

    def _record(self) -> None:
        self._owner = this_process(self._fd, shared=self._shared)
        try:
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, encoded(self._owner)[0], 0)
            self._write_beside()
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, 0)
            raise

    def _write_beside(self) -> None:
        with disk.replacing(self._paths.owner, durable=False) as temporary:
            disk.write_new(temporary, encoded(self._owner)[1])

    def _successor(self) -> str:
        """The process that has taken the run over; "" if none has, as far as the files can be read."""
        with contextlib.suppress(OSError):
            if record_bytes(self._paths.lock, self._paths.owner) == encoded(self._owner):
                return ""
            owner = recorded(self._paths.lock, self._paths.owner)
            if owner == self._owner.in_lock():  # one that started at the same moment and gave up wrote its own there
                self._write_beside()
            elif owner not in {None, self._owner}:
                return str(owner)
        return ""

    def check(self) -> None:
        """Make sure that the run is still this process's; called before each act on what a successor would hold.

        Raises:
            RunIsWatched: another process has taken it over, because this one gave no sign of life for too long.
            StoreAway: the folder cannot be reached at the moment.
        """
        if reason := self.away():
            raise StoreAway(reason)
        if successor := self._successor():
            raise RunIsWatched(
                f"{successor} has taken {self._paths.run} over, since this daemon gave no sign of life for a while; it ends "
                "and publishes nothing more"
            )

    def away(self) -> str:
        """Why the run's own folder cannot be reached at the moment; "" if it can, or if it is lost.

        It is away if the folder above it is gone too, if another file system lies there (it was unmounted), or if the
        system fails to look. The device of a lock that is there is not compared: it is another one when a network file
        system was mounted anew.
        """
        try:
            self._paths.lock.stat()
        except FileNotFoundError:
            return "" if self._removed() else f"{self._paths.state} is away: its file system is not mounted"
        except OSError as error:
            return f"{self._paths.state} cannot be reached: {error.strerror}"
        return ""

    def _removed(self) -> bool:
        """Whether the lock, which is not there, was removed: its file system is there."""
        try:
            return self._paths.output.stat().st_dev == os.fstat(self._fd).st_dev
        except OSError:
            return False

    def lost(self) -> str:
        """Why the run is no longer ours; "" if it is, or if that cannot be told at the moment (`away`)."""
        try:
            replaced = self._paths.lock.stat().st_ino != os.fstat(self._fd).st_ino
        except FileNotFoundError:
            replaced = self._removed()
        except OSError:
            return ""
        if replaced:
            return "the folder of its journal and lock was removed or replaced"
        successor = self._successor()
        return f"{successor} has taken the run over" if successor else ""

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            if not self._successor():
                os.ftruncate(self._fd, 0)
                disk.remove(self._paths.owner)
        os.close(self._fd)
