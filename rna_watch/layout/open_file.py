"""A checkpoint file, open for bounded reads: never mapped, never written."""

from __future__ import annotations

import errno
import math
import mmap
import os
import stat
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rna_watch.errors import IncompleteCheckpoint, InputChanged, RefusedCheckpoint, RnaWatchError, Unreadable
from rna_watch.layout.identity import check_unchanged, identify
from rna_watch.layout.trouble import UNREAD_AGAIN, in_words

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from rna_watch.layout.identity import FileIdentity

HEADER_LIMIT_BYTES = 256 * 2**20
_SAMPLE_BYTES = 4096
_PIECE_BYTES = 2**20
_PAGE_BYTES = 4096
_SMALL_BYTES = 2**16
# The system reads ahead in folios of up to 2 MiB, and drops those that lie in the range as a whole. Advice for what was just read
# dropped nothing (395 of 400 MB stayed); RWF_DONTCACHE drops folios of which the rest is still to be read: 36 % were read twice.
# With 4 MiB before it 12 MB stay, nothing is read twice, and reads take a third of the CPU time that they take with the flag.
_BEHIND_BYTES = 2**22
_MEMORY = Path("/proc/meminfo")


def _buffer(size_bytes: int, offset: int) -> memoryview:
    """Memory for what is read at an offset of a file: at the same place in a page, if it is large.

    Where it lies 1 to 31 bytes behind, copies of some processors (AMD Zen 3) take four times as long: their `rep movsb` waits for
    stores that it takes for its own.
    """
    if size_bytes < _SMALL_BYTES:
        return memoryview(bytearray(size_bytes))
    shift = offset % _PAGE_BYTES
    return memoryview(mmap.mmap(-1, shift + size_bytes, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))[shift:]


def open_regular(path: str, _flags: int = 0) -> int:
    """A descriptor of a regular file, to read from; nothing else is ever waited for (a pipe, a device). Also an `opener`.

    Raises:
        RefusedCheckpoint: it is something else.
        OSError: it cannot be opened.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError as error:
        if error.errno in {errno.ENXIO, errno.ENODEV}:  # a socket, a device that is not there
            raise RefusedCheckpoint(f"{path} is not a regular file") from error
        raise
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise RefusedCheckpoint(f"{path} is not a regular file")
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


class OpenFile:
    """An open file and the identity it had when it was opened; a context.

    Raises:
        RefusedCheckpoint: it is not a regular file.
        OSError: it cannot be opened.
    """

    start_bytes: int = 0  # of a part, within its file
    uncached: bool = False  # what is read into a buffer leaves nothing in the page cache that was not there

    def __init__(self, path: str) -> None:
        self.descriptor = open_regular(path)
        self.identity = identify(path, self.descriptor)
        self.size_bytes = self.identity.size_bytes

    def __enter__(self) -> OpenFile:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.descriptor)

    def read(self, offset: int, count: int) -> bytes:
        """Exactly `count` bytes of a header.

        Raises:
            IncompleteCheckpoint: the file ends before, or the count is beyond any header.
        """
        if count > HEADER_LIMIT_BYTES:
            raise IncompleteCheckpoint(f"its header claims {count} bytes: the file is damaged or still being written")
        data = os.pread(self.descriptor, count, self.start_bytes + offset)
        if len(data) != count:
            end = self.start_bytes + offset + len(data)
            raise IncompleteCheckpoint(f"it ends at byte {end}, {count - len(data)} bytes are missing")
        return data

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fill a buffer with the bytes at an offset, of a file that was planned to have them.

        Raises:
            InputChanged: it became shorter, or cannot be read.
            Unreadable: it cannot be read for a reason that may pass.
        """
        offset += self.start_bytes
        while buffer:
            try:
                count = self._preadv([buffer], offset)
            except OSError as error:
                raise _unread(self.identity.path, "read", error) from error
            if count == 0:
                raise InputChanged(f"{self.identity.path} became shorter while it was being read")
            buffer, offset = buffer[count:], offset + count

    def read_all(self, buffers: Sequence[memoryview], offset: int) -> None:
        """Fill buffers with the bytes from an offset on, one behind the other; as `read_into`."""
        if len(buffers) > 1:
            try:
                if self._preadv(buffers, self.start_bytes + offset) == sum(map(len, buffers)):
                    return
            except OSError as error:
                raise _unread(self.identity.path, "read", error) from error
        for buffer in buffers:
            self.read_into(buffer, offset)
            offset += len(buffer)

    def _preadv(self, buffers: Sequence[memoryview], offset: int) -> int:
        count = os.preadv(self.descriptor, buffers, offset)
        if self.uncached:
            start = max(0, offset - _BEHIND_BYTES) // _PAGE_BYTES * _PAGE_BYTES
            os.posix_fadvise(self.descriptor, start, offset + count - start, os.POSIX_FADV_DONTNEED)
        return count

    def pieces(self, offset: int, count: int) -> Iterator[memoryview]:
        """The `count` bytes at an offset in bounded pieces; a piece is of use until the next one.

        Raises:
            InputChanged: as `read_into`.
        """
        buffer = _buffer(min(count, _PIECE_BYTES), self.start_bytes + offset)
        for done in range(0, count, _PIECE_BYTES):
            piece = buffer[: count - done]
            self.read_into(piece, offset + done)
            yield piece

    def samples(self, offset: int, count: int, number: int) -> Iterator[bytes]:
        """All of a range, or samples spread over it, its first and last bytes among them.

        Args:
            offset: first byte of the range.
            count: its length in bytes.
            number: of samples, at least 2, each of 4096 bytes.
        """
        if count <= number * _SAMPLE_BYTES:
            yield self.read(offset, count)
            return
        for place in range(number):
            yield self.read(offset + place * (count - _SAMPLE_BYTES) // (number - 1), _SAMPLE_BYTES)

    def hole(self) -> int | None:
        """The first byte that was never written; None if there is none, or the file system does not say."""
        try:
            start = os.lseek(self.descriptor, 0, os.SEEK_HOLE)  # at the latest, the end
        except OSError:
            return None
        return start if start < self.size_bytes else None

    def check_unchanged(self) -> None:
        """Raises: InputChanged: the file is not what it was when it was opened."""
        check_unchanged(self.identity, self.descriptor)


class FileSlice(OpenFile):
    """A part of an open file, read as a file of its own; its first and last bytes, where headers are, are read once.

    It can be read as long as the file is open.

    Raises:
        IncompleteCheckpoint: the file ends before it does.
    """

    def __init__(self, file: OpenFile, start_bytes: int, size_bytes: int) -> None:
        self.descriptor = file.descriptor
        self.identity = file.identity
        self.start_bytes = start_bytes
        self.size_bytes = size_bytes
        self._ends: dict[int, bytes] = {}
        edge = _SAMPLE_BYTES // 2
        for offset in (0,) if size_bytes <= 2 * edge else (0, size_bytes - edge):
            self._ends[offset] = super().read(offset, min(size_bytes, 2 * edge if not offset else edge))

    def __exit__(self, *_: object) -> None:
        """The file is closed by who opened it."""

    def read(self, offset: int, count: int) -> bytes:
        """Exactly `count` bytes.

        Raises:
            IncompleteCheckpoint: the part ends before, or the count is beyond any header.
        """
        if offset + count > self.size_bytes:
            raise IncompleteCheckpoint(
                f"it ends at byte {self.size_bytes}, {offset + count - self.size_bytes} bytes are missing"
            )
        for start, data in self._ends.items():
            if start <= offset and offset + count <= start + len(data):
                return data[offset - start : offset - start + count]
        return super().read(offset, count)


def cache_bytes() -> float:
    """How many bytes of files can stay in the page cache; infinite where the system does not say."""
    try:
        (available,) = (line for line in _MEMORY.read_text().splitlines() if line.startswith("MemAvailable:"))
    except (OSError, ValueError):
        return math.inf
    return int(available.split()[1]) * 1024


@contextmanager
def opened(files: Iterable[FileIdentity], *, uncached: bool = False) -> Iterator[list[OpenFile]]:
    """Files of a checkpoint, open; checked before and after that they are those that were planned.

    Args:
        files: as they were planned.
        uncached: what is read is not kept in the page cache.

    Raises:
        InputChanged: one is gone, or is not the one that was planned, before the reading or after it.
        Unreadable: one cannot be opened for a reason that may pass.
    """
    with ExitStack() as stack:
        readers = []
        for file in files:
            try:
                reader = stack.enter_context(OpenFile(file.path))
            except OSError as error:
                raise _unread(file.path, "opened", error) from error
            except RefusedCheckpoint as error:
                raise InputChanged(str(error)) from error
            check_unchanged(file, reader.descriptor)
            reader.uncached = uncached
            readers.append(reader)
        yield readers
        for reader in readers:
            reader.check_unchanged()


def _unread(path: str, how: str, error: OSError) -> RnaWatchError:
    if error.errno in UNREAD_AGAIN:
        return Unreadable(f"{path} cannot be {how}: {in_words(error)}")
    return InputChanged(f"{path} cannot be {how} any more ({error.strerror})")
