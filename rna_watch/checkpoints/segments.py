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
from rna_watch.checkpoints.numeric import DTYPES, Float64, widen
from rna_watch.errors import InputChanged

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import TracebackType

# 65,536 float32 are 256 KiB a read; the float64 block of eleven iterates, 5.8 MB, stays in the last cache. Smaller blocks cost
# calls, larger ones memory traffic (measured on ResNet-152, one core: 16 Ki 2.0 s, 64 Ki 1.25 s, 256 Ki 1.85 s a combination).
BLOCK_ELEMENTS = 65_536

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
        self._open.enter_context(np.errstate(invalid="ignore"))  # signalling NaNs
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
        values = np.empty((len(self._descriptors), capacity), dtype=np.float64)
        raw = np.empty(capacity * 8, dtype=np.uint8)
        for pieces in cut_blocks(segments, capacity):
            size = pieces[-1].column + pieces[-1].count
            dtype = segments[pieces[0].segment].dtype
            bits = raw[: size * DTYPES[dtype].itemsize].view(DTYPES[dtype].bits)
            target = raw.data
            for k in range(len(self._descriptors)):
                done = 0
                for file, offset, length in _runs(k, segments, pieces, DTYPES[dtype].itemsize):
                    self._read(k, file, offset, target[done : done + length])
                    done += length
                widen(bits, dtype, values[k, :size])
            yield Block(pieces, values[:, :size])

    def _read(self, k: int, file: int, offset: int, into: memoryview) -> None:
        self.read_bytes += len(into)
        while into:
            try:
                got = os.preadv(self._descriptors[k][file], [into], offset)
            except OSError as error:
                raise InputChanged(f"{self._files[k][file].path} cannot be read any more ({error.strerror})") from error
            if got == 0:
                raise InputChanged(f"{self._files[k][file].path} became shorter while it was being read")
            into, offset = into[got:], offset + got


def _runs(k: int, segments: Sequence[Segment], pieces: Sequence[Piece], itemsize: int) -> list[tuple[int, int, int]]:
    """What to read of checkpoint k for these pieces: (file, offset, bytes), neighbours in a file as one."""
    runs: list[tuple[int, int, int]] = []
    for piece in pieces:
        for file, offset, count in _part(segments[piece.segment].places[k], piece, itemsize):
            length = count * itemsize
            if runs and runs[-1][0] == file and runs[-1][1] + runs[-1][2] == offset:
                runs[-1] = (file, runs[-1][1], runs[-1][2] + length)
            else:
                runs.append((file, offset, length))
    return runs


def _part(places: tuple[Place, ...], piece: Piece, itemsize: int) -> list[Place]:
    """The places of a piece of a segment."""
    if len(places) == 1:
        ((file, offset, _),) = places
        return [(file, offset + piece.start * itemsize, piece.count)]
    parts = []
    position = 0
    for file, offset, count in places:
        low, high = max(piece.start, position), min(piece.start + piece.count, position + count)
        if low < high:
            parts.append((file, offset + (low - position) * itemsize, high - low))
        position += count
    return parts
