"""Segments: runs of logical elements and where each of the window's K checkpoints keeps them, read block by block.

Letters: K checkpoints, n elements of a block. A block's values are `(K, n)` float64.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from rna_watch.checkpoints.extents import Extent, FileIdentity, Layout, Role, check_unchanged
from rna_watch.checkpoints.numeric import DTYPES, Array, Float64, widen
from rna_watch.errors import InputChanged

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import TracebackType

# 16,384 float32 are 64 KiB a read; the float64 block of ten iterates, 1.3 MB, stays in cache (larger blocks were
# slower).
BLOCK_ELEMENTS = 16_384

Place = tuple[int, int, int]  # file number, byte offset, count of elements


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A run of one extent's elements: `places[k]` says where checkpoint k keeps them.

    `extent` and `start` (in elements of its storage) say which they are in the newest, last checkpoint, where they
    lie in one piece.
    """

    extent: int
    start: int
    count: int
    dtype: str
    role: Role
    places: tuple[tuple[Place, ...], ...]

    @property
    def size_bytes(self) -> int:
        """Bytes in one checkpoint."""
        return self.count * DTYPES[self.dtype].itemsize


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Elements [start, start + count) of a segment, at column `column` of a block."""

    segment: int
    start: int
    count: int
    column: int


@dataclass(frozen=True, slots=True)
class Block:
    """Some pieces of equal dtype and role, with their values `(K, n)`; the array is reused for the next block."""

    pieces: tuple[Piece, ...]
    values: Float64


def window_segments(layouts: Sequence[Layout], roles: frozenset[Role], limit: int) -> list[Segment]:
    """The segments of all extents of these roles, of at most `limit` elements, ordered by role, dtype and place.

    Args:
        layouts: K compatible checkpoints (equal architecture), oldest first.
        roles: which extents to take.
        limit: largest number of elements of a segment.
    """
    newest = layouts[-1]
    by_name = [{extent.name: extent for extent in layout.extents} for layout in layouts]
    segments = []
    for number, extent in enumerate(newest.extents):
        if extent.role not in roles:
            continue
        peers = [names[extent.name] for names in by_name]
        position = 0
        for chunk in extent.chunks:
            for first in range(0, chunk.count, limit):
                count = min(limit, chunk.count - first)
                segments.append(
                    Segment(
                        extent=number,
                        start=chunk.start + first,
                        count=count,
                        dtype=extent.dtype,
                        role=extent.role,
                        places=tuple(_places(peer, position + first, count) for peer in peers),
                    )
                )
            position += chunk.count
    order = list(Role)
    return sorted(segments, key=lambda s: (order.index(s.role), s.dtype, s.places[-1][0]))


def _places(extent: Extent, first: int, count: int) -> tuple[Place, ...]:
    """Where elements [first, first + count), counted over the chunks, lie."""
    itemsize = DTYPES[extent.dtype].itemsize
    places = []
    position = 0
    for chunk in extent.chunks:
        low, high = max(first, position), min(first + count, position + chunk.count)
        if low < high:
            places.append((chunk.file, chunk.offset_bytes + (low - position) * itemsize, high - low))
        position += chunk.count
    return tuple(places)


def cut_blocks(segments: Sequence[Segment], capacity: int = BLOCK_ELEMENTS) -> Iterator[tuple[Piece, ...]]:
    """Pack segments into blocks of at most `capacity` elements of one dtype and role."""
    pieces: list[Piece] = []
    column = 0
    kind: tuple[str, Role] | None = None
    for number, segment in enumerate(segments):
        if pieces and kind != (segment.dtype, segment.role):
            yield tuple(pieces)
            pieces, column = [], 0
        kind = (segment.dtype, segment.role)
        start = 0
        while start < segment.count:
            count = min(segment.count - start, capacity - column)
            pieces.append(Piece(segment=number, start=start, count=count, column=column))
            start, column = start + count, column + count
            if column == capacity:
                yield tuple(pieces)
                pieces, column = [], 0
    if pieces:
        yield tuple(pieces)


class WindowReader:
    """Reads blocks of K checkpoints into private, reused buffers; a context that checks the files before and after.

    Raises:
        InputChanged: a file is gone, or is not the one that was planned, before or after the reading.
    """

    def __init__(self, files: Sequence[Sequence[FileIdentity]]) -> None:
        self._files = files
        self._open = ExitStack()
        self._descriptors: list[list[int]] = []
        self.read_bytes = 0

    def __enter__(self) -> WindowReader:
        try:
            for files in self._files:
                self._descriptors.append([self._open_one(file) for file in files])
            self._check()
        except BaseException:
            self._open.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._check()
        finally:
            self._open.close()

    def _open_one(self, file: FileIdentity) -> int:
        try:
            descriptor = os.open(file.path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise InputChanged(f"{file.path} cannot be opened any more ({error.strerror})") from error
        self._open.callback(os.close, descriptor)
        return descriptor

    def _check(self) -> None:
        for files, descriptors in zip(self._files, self._descriptors, strict=True):
            for file, descriptor in zip(files, descriptors, strict=True):
                check_unchanged(file, descriptor)

    def blocks(self, segments: Sequence[Segment], capacity: int = BLOCK_ELEMENTS) -> Iterator[Block]:
        """The values of all segments, a block at a time, in order."""
        count = len(self._descriptors)
        values = np.empty((count, capacity), dtype=np.float64)
        raw = np.empty(capacity * 8, dtype=np.uint8)
        for pieces in cut_blocks(segments, capacity):
            size = pieces[-1].column + pieces[-1].count
            dtype = segments[pieces[0].segment].dtype
            for k in range(count):
                widen(self._fill(k, segments, pieces, dtype, size, raw), dtype, values[k, :size])
            yield Block(pieces, values[:, :size])

    def _fill(
        self, k: int, segments: Sequence[Segment], pieces: Sequence[Piece], dtype: str, size: int, raw: Array
    ) -> Array:
        """Read the pieces of checkpoint k side by side; neighbours in the file are read together."""
        kind = DTYPES[dtype]
        target = raw.data[: size * kind.itemsize]
        pending: tuple[int, int, int] | None = None  # file, offset, bytes
        done = 0
        for piece in pieces:
            for file, offset, count in _part(segments[piece.segment].places[k], piece, kind.itemsize):
                length = count * kind.itemsize
                if pending and pending[0] == file and pending[1] + pending[2] == offset:
                    pending = (file, pending[1], pending[2] + length)
                    continue
                if pending:
                    self._read(k, pending, target[done : done + pending[2]])
                    done += pending[2]
                pending = (file, offset, length)
        if pending:
            self._read(k, pending, target[done : done + pending[2]])
        return raw[: size * kind.itemsize].view(kind.bits)

    def _read(self, k: int, run: tuple[int, int, int], into: memoryview) -> None:
        file, offset, length = run
        while into:
            try:
                got = os.preadv(self._descriptors[k][file], [into], offset)
            except OSError as error:
                raise InputChanged(f"{self._files[k][file].path} cannot be read any more ({error.strerror})") from error
            if got == 0:
                raise InputChanged(f"{self._files[k][file].path} became shorter while it was being read")
            into, offset = into[got:], offset + got
        self.read_bytes += length


def _part(places: tuple[Place, ...], piece: Piece, itemsize: int) -> Iterator[Place]:
    """The places of a piece of a segment."""
    position = 0
    for file, offset, count in places:
        low, high = max(piece.start, position), min(piece.start + piece.count, position + count)
        if low < high:
            yield file, offset + (low - position) * itemsize, high - low
        position += count
