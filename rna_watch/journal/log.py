"""The journal file: append-only JSON lines, each checked, shared by one writer and any number of readers."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import threading
import time
import zlib
from collections import deque
from typing import TYPE_CHECKING

from rna_watch.errors import StoreError
from rna_watch.journal.records import PathError, from_record, to_record
from rna_watch.layout import owned
from rna_watch.layout.trouble import NO_ROOM, PASSING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import IO

    from rna_watch.journal.events import Event
MOST_LINE_BYTES = 2**26
_PATIENCE_S = 600.0  # with errors that may pass; room on the disk is waited for without a limit


def encode(event: Event) -> bytes:
    """The line of an event; numbers that JSON lacks (infinities, NaN) are written as Python's JSON writes them."""
    body = json.dumps(to_record(event), separators=(",", ":"), sort_keys=True)
    return f'{body[:-1]},"crc":{zlib.crc32(body.encode())}}}\n'.encode()


def decode(line: bytes, refused: list[str] | None = None) -> Event | None:
    """The event of one line; None if the line is torn, damaged or of an unknown kind, or names a path outside of our folders.

    Args:
        line: with its end.
        refused: gets the reason if a path is why, in words.
    """
    head, comma, tail = line.rstrip(b"\n").rpartition(b',"crc":')
    if not comma or not tail.endswith(b"}") or not tail[:-1].isdigit():
        return None
    body = head + b"}"
    if zlib.crc32(body) != int(tail[:-1]):
        return None
    try:
        return from_record(json.loads(body))
    except RecursionError:
        return None
    except PathError as error:
        if refused is not None:
            refused.append(str(error))
    except (ValueError, TypeError):
        pass
    return None


class Journal:
    """The writer of a run's journal; `trouble` says why lines wait, if any do.

    Each record is one `write` to a descriptor opened with O_APPEND; `durable=True` also waits for the disk. The next writer
    ends a line that a crash cut off, and every reader skips it.

    Args:
        path: the file.
        seq: the number of its last event, if that is known.
    """

    def __init__(self, path: Path, seq: int | None = None) -> None:
        self.path = path
        self._lock = threading.Lock()
        try:
            self._fd = owned.open_at(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
            stat = os.fstat(self._fd)
            size, self._inode = stat.st_size, stat.st_ino
            self._size = size
            if size and os.pread(self._fd, 1, size - 1) != b"\n":
                self._size += os.write(self._fd, b"\n")
        except OSError as error:
            raise StoreError(f"cannot open the journal {path}: {error.strerror}; check its permissions") from error
        self.alone = True  # whether nobody else was seen to write to it
        self._waiting: deque[bytes] = deque()
        self._unsynced = False
        self._since = 0.0
        self.trouble = ""
        self._seq = max((event.seq for event in read(path)), default=0) if seq is None else seq

    def append(self, event: Event, *, durable: bool = False) -> Event:
        """Number, stamp and write one event; returns it as written.

        Lines wait in memory (`waiting`) while the disk is full or fails, and are written, in order, as soon as that passes.

        Raises:
            StoreError: the journal cannot be written for another reason (read-only, gone), or for too long.
        """
        with self._lock:
            written = dataclasses.replace(event, time=time.time(), seq=self._seq + 1)
            self._seq += 1
            self._waiting.append(encode(written))
            self._unsynced = self._unsynced or durable
            self._flush()
        return written

    def lost(self) -> str:
        """Why the file is no longer the one that this process writes; "" if it is, or if that cannot be seen now.

        Where its folder is gone too, the run's lock tells whether that is lost or a file system that is away for a moment.
        """
        try:
            found, own = self.path.stat(), os.fstat(self._fd)
            lost = found.st_ino != own.st_ino or own.st_size < self._size
        except FileNotFoundError:
            lost = self.path.parent.is_dir()
        except OSError:
            return ""
        return f"the journal {self.path} was removed or replaced" if lost else ""

    def flush(self) -> None:
        """Try again to write what waits.

        Raises:
            StoreError: as `append`.
        """
        if self.waiting:
            with self._lock:
                self._flush()

    @property
    def length(self) -> int:
        """The bytes of the file, as far as this process knows; a line that is being written is not part of it."""
        return self._size

    @property
    def waiting(self) -> int:
        """How many lines wait for the disk; a line that may not be on the disk yet counts too where it has to be."""
        return len(self._waiting) + self._unsynced

    def _flush(self) -> None:
        try:
            try:
                self._write()
            except OSError as error:
                if error.errno not in PASSING or not self._reopened():
                    raise
                self._write()
        except OSError as error:
            self.trouble = f"cannot write the journal {self.path}: {error.strerror}"
            self._since = self._since or time.monotonic()
            full = error.errno in NO_ROOM
            if not full and (error.errno not in PASSING or time.monotonic() - self._since > _PATIENCE_S):
                raise StoreError(self.trouble) from error
        else:
            self.trouble, self._since = "", 0.0

    def _write(self) -> None:
        while self._waiting:
            line = self._waiting[0]
            size = os.fstat(self._fd).st_size
            if size < self._size:
                raise StoreError(f"the journal {self.path} was removed or replaced")
            self.alone = self.alone and size == self._size
            count = os.write(self._fd, line)
            if count != len(line):
                os.ftruncate(self._fd, size)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self._waiting.popleft()
            self._size = size + count
        if self._unsynced:
            os.fdatasync(self._fd)
            self._unsynced = False

    def _reopened(self) -> bool:
        """Whether the file, the same one, could be opened anew; after an unmount the old descriptor may be of no use."""
        try:
            descriptor = owned.open_at(self.path, os.O_RDWR | os.O_APPEND)
        except OSError:
            return False
        same = os.fstat(descriptor).st_ino == self._inode
        if same:
            os.dup2(descriptor, self._fd, inheritable=False)
        os.close(descriptor)
        return same

    def close(self) -> None:
        """Close the file; the journal is not usable afterwards."""
        os.close(self._fd)


def lines(file: IO[bytes]) -> Iterator[bytes]:
    """The lines of a journal with their ends; of one that is longer than any of ours, only the end is given."""
    while line := file.readline(MOST_LINE_BYTES):
        yield line


def read(path: Path, refused: list[str] | None = None) -> Iterator[Event]:
    """All sound events of a journal, oldest first; nothing if there is no journal.

    Args:
        path: the journal.
        refused: gets a line in words for each event that is left out because of a path in it.
    """
    try:
        with path.open("rb") as file:
            for line in lines(file):
                event = decode(line, refused) if line.endswith(b"\n") else None  # the line is not finished yet
                if event is not None:
                    yield event
    except FileNotFoundError:
        return
