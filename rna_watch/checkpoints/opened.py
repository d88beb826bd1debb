"""A checkpoint file, open for bounded reads: never mapped, never written."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from rna_watch.checkpoints.extents import check_unchanged, identify
from rna_watch.errors import IncompleteCheckpoint

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

HEADER_LIMIT_BYTES = 256 * 2**20
_SAMPLE_BYTES = 4096


class OpenFile:
    """An open file and the identity it had when it was opened; a context.

    Raises:
        OSError: it cannot be opened.
    """

    def __init__(self, path: str) -> None:
        self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self.identity = identify(path, self.descriptor)

    def __enter__(self) -> OpenFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        os.close(self.descriptor)

    @property
    def size_bytes(self) -> int:
        """Size when it was opened."""
        return self.identity.size_bytes

    def read(self, offset: int, count: int) -> bytes:
        """Exactly `count` bytes.

        Raises:
            IncompleteCheckpoint: the file ends before, or the count is beyond any header.
        """
        if count > HEADER_LIMIT_BYTES:
            raise IncompleteCheckpoint(f"its header claims {count} bytes: the file is damaged or still being written")
        data = os.pread(self.descriptor, count, offset)
        if len(data) != count:
            raise IncompleteCheckpoint(f"it ends at byte {offset + len(data)}, {count - len(data)} bytes are missing")
        return data

    def samples(self, offset: int, count: int, number: int) -> Iterator[bytes]:
        """All of a range, or `number` samples (at least 2) spread over it, its first and its last bytes among them."""
        if count <= number * _SAMPLE_BYTES:
            yield self.read(offset, count)
            return
        for place in range(number):
            yield self.read(offset + place * (count - _SAMPLE_BYTES) // (number - 1), _SAMPLE_BYTES)

    def check_unchanged(self) -> None:
        """Raises: InputChanged: the file is not what it was when it was opened."""
        check_unchanged(self.identity, self.descriptor)
