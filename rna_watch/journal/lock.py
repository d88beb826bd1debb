"""One daemon a run: a lock file with its owner's record, taken over at once when the owner is gone."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import time
from dataclasses import asdict
from typing import TYPE_CHECKING

from rna_watch.errors import RunIsWatched, StoreError
from rna_watch.journal.owner import this_process
from rna_watch.journal.status import status_of

if TYPE_CHECKING:
    from rna_watch.journal.run_paths import RunPaths

_UNSUPPORTED = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP}
_TRIES = 20
_PAUSE_S = 0.02


def check_unwatched(paths: RunPaths) -> None:
    """Make sure that nothing watches a run.

    Raises:
        RunIsWatched: a process does; the message names it.
    """
    status = status_of(paths)
    if status.alive:
        detail = status.detail(time.time())
        raise RunIsWatched(
            f"{status.who()} watches {paths.run} already{f' ({detail})' if detail else ''}; "
            f"see `rna-watch status {paths.run}`, end it with `rna-watch stop {paths.run}`"
        )


class RunLock:
    """Holds a run for this process; a context.

    The run's status decides. flock also guards against two processes that start at once, if the file system has it.

    Raises:
        RunIsWatched: another process has it; the message names it.
        StoreError: the lock file cannot be written.
    """

    def __init__(self, paths: RunPaths) -> None:
        self._paths = paths
        self._fd = -1

    def __enter__(self) -> RunLock:
        check_unwatched(self._paths)
        with contextlib.ExitStack() as undo:
            try:
                self._fd = os.open(self._paths.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
                undo.callback(os.close, self._fd)
                self._take()
                os.ftruncate(self._fd, 0)
                os.pwrite(self._fd, json.dumps(asdict(this_process())).encode(), 0)
            except OSError as error:
                raise StoreError(
                    f"cannot write {self._paths.lock}: {error.strerror}; check the folder's permissions and free space"
                ) from error
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

    def lost(self) -> bool:
        """Whether the lock file is no longer the one that was locked: our folder was removed or replaced.

        It may come back if the folder above it is gone too (a file system that is away for a moment); that is no loss.
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
