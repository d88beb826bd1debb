"""Errors of the system by what they mean: they pass by themselves, there is no room, or this process has used up its own."""

from __future__ import annotations

import errno

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


def in_words(error: OSError) -> str:
    """What went wrong, with the remedy where it is this process that has used up what it may have."""
    said = error.strerror or str(error)
    if error.errno in {errno.EMFILE, errno.ENFILE}:
        return f"rna-watch may open no more files ({said}); raise `ulimit -n`"
    if error.errno == errno.ENOMEM:
        return f"there is not enough memory ({said})"
    return f"{said}; check the disk or mount"
