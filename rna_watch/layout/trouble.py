"""Errors of the system by what they mean: they pass by themselves, there is no room, or this process has used up its own."""

from __future__ import annotations

import errno
import stat
from typing import TYPE_CHECKING

from rna_watch.errors import RnaWatchError, UsageError

if TYPE_CHECKING:
    from pathlib import Path

NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
OURS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})  # said of no file and of no evaluator
PASSING = OURS | {
    errno.EIO,
    errno.ESTALE,
    errno.ENOTCONN,
    errno.ETIMEDOUT,
    errno.EAGAIN,
    errno.EINTR,
    errno.EBUSY,
    errno.EHOSTDOWN,
    errno.EHOSTUNREACH,
    errno.EREMOTEIO,
    errno.ENOLINK,
    errno.ESHUTDOWN,
}
# where reading fails with one of these, nothing is said of what lies there; some file systems have no room to read either
UNREAD = PASSING | NO_ROOM
# nor of what was read before, where access is refused now
UNREAD_AGAIN = UNREAD | {errno.EACCES, errno.EPERM}


def in_words(error: OSError) -> str:
    """What went wrong, with the remedy where it is this process that has used up what it may have."""
    said = error.strerror or str(error)
    if error.errno in {errno.EMFILE, errno.ENFILE}:
        return f"rna-watch may open no more files ({said}); raise `ulimit -n`"
    if error.errno == errno.ENOMEM:
        return f"there is not enough memory ({said})"
    if error.errno in {errno.EACCES, errno.EPERM}:
        return f"{said}; give this user read access, or check the mount"
    return f"{said}; check the disk or mount"


def of_run(run: Path, error: OSError) -> RnaWatchError:
    """What to raise where a run directory cannot be looked at: a failure where that may pass, else wrong usage."""
    what = f"the run directory {run} cannot be looked at: "
    if error.errno in UNREAD:
        return RnaWatchError(what + in_words(error))
    return UsageError(f"{what}{error.strerror or error}; give this user access to it and to the folders above it")


def check_run(run: Path) -> None:
    """Make sure that a run directory is there.

    Raises:
        UsageError: it does not exist, is no folder, or is closed to this user.
        RnaWatchError: it cannot be looked at for a reason that may pass.
    """
    try:
        there = stat.S_ISDIR(run.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        there = False
    except OSError as error:
        raise of_run(run, error) from error
    if not there:
        raise UsageError(f"the run directory {run} does not exist (or is no folder)")
