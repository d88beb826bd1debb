"""Ray's session folder: one of our own, at a short path, which nobody else enters and which a lock holds while we live."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from rna_watch.errors import EngineError
from rna_watch.layout import disk

if TYPE_CHECKING:
    from collections.abc import Iterator

PREFIX = "rw-"
# a socket's path has at most 107 bytes, and Ray 2.60 adds up to 64: a session's name (42 with a process id of 7 digits),
# `sockets` and `plasma_store`
_SOCKET_BYTES, _RAY_BYTES = 107, 64
_OWN_BYTES = len(f"/{PREFIX}01234567/r")
_ROOM_BYTES = 16 * 2**20
_WORDS = {errno.ENOSPC: "is full", errno.EDQUOT: "is beyond this user's quota"}


class Session:
    """A folder for one cluster: `folder` is what Ray gets, which it opens to everybody; the one around it is ours alone.

    Raises:
        EngineError: no place for it is there; the message says of each why.
    """

    def __init__(self) -> None:
        why = []
        for base in _places():
            if len(os.fsencode(base)) + _OWN_BYTES + _RAY_BYTES > _SOCKET_BYTES:
                why.append(f"{base} is too long a path for Ray's sockets")
                continue
            try:
                self._held = disk.HeldFolder(base, PREFIX, _ROOM_BYTES)
            except OSError as error:
                why.append(f"{base} {_WORDS.get(error.errno or 0, f'cannot be used ({error.strerror or error})')}")
                continue
            self.folder = Path(self._held.path, "r")
            return
        raise EngineError(
            f"Ray has no place for its session, which takes {_ROOM_BYTES // 2**20} MiB: {'; '.join(why)}; make room there, name "
            "another short folder with TMPDIR, or take --engine local"
        )

    def remove(self) -> None:
        """Remove it with all that Ray left in it; a second time does nothing."""
        self._held.remove()


def remove_stale() -> None:
    """Remove sessions of ours whose lock nobody holds any more, as their daemon was killed before it could."""
    for base in _places():
        with contextlib.suppress(OSError):
            disk.remove_unheld(base, PREFIX)


def _places() -> Iterator[Path]:
    """The folders that a session may lie in, the best one first."""
    named = [os.environ.get(name) for name in ("TMPDIR", "TEMP", "TMP")]
    found = [*named, tempfile.tempdir, "/tmp", "/var/tmp", os.environ.get("XDG_RUNTIME_DIR")]  # noqa: S108 - a folder of our own
    yield from dict.fromkeys(Path(each).absolute() for each in found if each)
