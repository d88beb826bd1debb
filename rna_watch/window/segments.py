"""Segments: runs of logical elements and where each of the window's K checkpoints keeps them, read block by block.

Letters: K checkpoints, C companions (momentum buffers, gradients), n elements of a block. A block's values are
`(K + C, n)` float64, or `(K, n)` where these elements have no companions.
"""

from __future__ import annotations

import resource
from bisect import bisect_left, bisect_right
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from rna_watch.layout.dtypes import DTYPES, Float64, widen
from rna_watch.layout.layout import Layout, Role
from rna_watch.layout.open_file import opened

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import TracebackType

    from rna_watch.layout.identity import FileIdentity
    from rna_watch.layout.layout import Chunk
    from rna_watch.layout.open_file import OpenFile
    from rna_watch.window.companions import Companions

# 65,536 float32 are 256 KiB a read: smaller ones cost calls.
BLOCK_ELEMENTS = 65_536
# What is read is widened and worked on in blocks of so many bytes of float64, which stay in a core's own cache: smaller ones cost
# calls, larger ones memory traffic.
_CACHE_BYTES = 2**20
_CACHE_STEP = 2048

Bools = npt.NDArray[np.bool_]
Place = tuple[int, int, int]  # file number, byte offset, count of elements
_OTHER_FILES = 512
# Of each weight matrix, the elements whose norms tell trainings apart: of all of them they would cost 9 % of the pass that makes
# every row of the Gram matrix at N = 10 (measured on blocks of 65,536); of so many, no more than that pass differs from itself.
MATRIX_ELEMENTS = 2**13
# What is read at once: across gaps of so many bytes (headers of small tensors), into as many buffers as the system takes.
_GAP_BYTES = 2**12
_MOST_BUFFERS = 1024
NOWHERE = -1  # the number of no file: elements that are zero


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A run of one extent's elements: `places[k]` says where checkpoint k keeps them.

    `extent` and `start` (in elements of its storage) say which they are in the newest, last checkpoint, where they
    lie in one piece. Behind the K checkpoints, `places` may name `companions`, of `companion_dtype`; `group` is then the
    optimizer's parameter group, and in a combination the number of the row of weights. `matrix`: so many of them, the
    first, are of the first `MATRIX_ELEMENTS` of a weight matrix. `target` is where they are written, if not where the
    newest checkpoint keeps them.
    """

    extent: int
    start: int
    count: int
    dtype: str
    role: Role
    places: tuple[tuple[Place, ...], ...]
    companions: int = 0
    companion_dtype: str = ""
    group: int = 0
    matrix: int = 0
    target: Place | None = None

    def dtype_of(self, source: int) -> str:
        """The dtype in which a source keeps these elements."""
        return self.dtype if source < len(self.places) - self.companions else self.companion_dtype

    @property
    def size_bytes(self) -> int:
        """Bytes in one checkpoint."""
        return self.count * DTYPES[self.dtype].itemsize

    @property
    def read_bytes(self) -> int:
        """Bytes in all sources."""
        return sum(self.count * DTYPES[self.dtype_of(k)].itemsize for k in range(len(self.places)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Elements [start, start + count) of a segment, at column `column` of a block."""

    segment: int
    start: int
    count: int
    column: int


@dataclass(frozen=True, slots=True)
class Block:
    """Some pieces of equal dtype, role and group, with their values `(K, n)`; the array is reused for the next block."""

    pieces: tuple[Piece, ...]
    values: Float64


def still_infinities(values_kn: Float64) -> Bools | None:
    """Which elements are infinite and the same in all checkpoints (the -inf of a mask), or None where there are none.

    They are constants: no residual has a part of them, and every combination keeps them. NaN never is one.
    """
    newest = values_kn[-1]
    if np.isfinite(newest).all():
        return None
    found: Bools = (values_kn == newest).all(axis=0) & np.isinf(newest)
    return found if found.any() else None


def window_segments(
    layouts: Sequence[Layout], roles: frozenset[Role], limit: int, beside: Companions | None = None
) -> list[Segment]:
    """The segments of all extents of these roles, of at most `limit` elements, ordered by role, dtype and place.

    Args:
        layouts: K compatible checkpoints (equal architecture), oldest first.
        roles: which extents to take.
        limit: largest number of elements of a segment.
        beside: what is read along with parameters.
    """
    newest = layouts[-1]
    by_name = [{extent.name: extent for extent in layout.extents} for layout in layouts]
    matrices = _matrices(newest)
    segments = []
    for number, extent in enumerate(newest.extents):
        if extent.role not in roles:
            continue
        peers = [names[extent.name].chunks for names in by_name]
        parts = beside.parts[extent.name] if beside and extent.role is Role.PARAMETER else ()
        companion_dtype = next((part.dtype for part in parts if part.chunks), "")
        itemsizes = [DTYPES[extent.dtype].itemsize] * len(peers)
        if companion_dtype:
            peers += [part.chunks for part in parts]
            itemsizes += [DTYPES[companion_dtype].itemsize] * len(parts)
        starts = [_starts(chunks) for chunks in peers]
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
                        places=tuple(
                            _places(chunks, positions, itemsize, position + first, count)
                            for chunks, positions, itemsize in zip(peers, starts, itemsizes, strict=True)
                        ),
                        companions=len(parts) if companion_dtype else 0,
                        companion_dtype=companion_dtype,
                        group=parts[0].group if parts else 0,
                        matrix=min(count, max(0, MATRIX_ELEMENTS - position - first)) if number in matrices else 0,
                    )
                )
            position += chunk.count
    order = list(Role)
    k = len(layouts)
    return sorted(
        segments, key=lambda s: (order.index(s.role), s.dtype, s.group, s.companion_dtype, s.places[k - 1][0])
    )


def _starts(chunks: Sequence[Chunk]) -> Sequence[int]:
    """The counts at which chunks begin and, last, at which they end."""
    if len(chunks) == 1:
        return (0, chunks[0].count)
    return list(accumulate((chunk.count for chunk in chunks), initial=0))


def _places(
    chunks: Sequence[Chunk], positions: Sequence[int], itemsize: int, first: int, count: int
) -> tuple[Place, ...]:
    """Where elements [first, first + count), counted over the chunks, lie; without chunks they are zeros.

    `positions` are the chunks' `_starts`.
    """
    if not chunks:
        return ((NOWHERE, 0, count),)
    if len(chunks) == 1:
        return ((chunks[0].file, chunks[0].offset_bytes + first * itemsize, count),)
    places = []
    for number in range(bisect_right(positions, first) - 1, bisect_left(positions, first + count)):
        chunk, position = chunks[number], positions[number]
        low, high = max(first, position), min(first + count, position + chunk.count)
        if low < high:
            places.append((chunk.file, chunk.offset_bytes + (low - position) * itemsize, high - low))
    return tuple(places)


def cut_blocks(segments: Sequence[Segment], capacity: int = BLOCK_ELEMENTS) -> Iterator[tuple[Piece, ...]]:
    """Pack segments into blocks of at most `capacity` elements of one kind: dtype, role, group, companions."""
    pieces: list[Piece] = []
    column = 0
    kind: tuple[str, Role, int, str] | None = None
    for number, segment in enumerate(segments):
        own = (segment.dtype, segment.role, segment.group, segment.companion_dtype)
        if pieces and kind != own:
            yield tuple(pieces)
            pieces, column = [], 0
        kind = own
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


def cache_elements(count: int) -> int:
    """How many elements of so many sources are worked on at a time."""
    return max(_CACHE_STEP, _CACHE_BYTES // (8 * count) // _CACHE_STEP * _CACHE_STEP)


def _steps(pieces: tuple[Piece, ...], step: int) -> Iterator[tuple[int, tuple[Piece, ...]]]:
    """The pieces of a block, a few columns at a time: the first of these columns, and the pieces at theirs."""
    size = pieces[-1].column + pieces[-1].count
    if size <= step:
        yield 0, pieces
        return
    number = 0
    for start in range(0, size, step):
        stop = min(start + step, size)
        inside = []
        while number < len(pieces):
            piece = pieces[number]
            low, high = max(start, piece.column), min(stop, piece.column + piece.count)
            inside.append(
                Piece(
                    segment=piece.segment, start=piece.start + low - piece.column, count=high - low, column=low - start
                )
            )
            if piece.column + piece.count > stop:
                break
            number += 1
            if piece.column + piece.count == stop:
                break
        yield start, tuple(inside)


def _matrices(layout: Layout) -> set[int]:
    """The extents that hold weight matrices: parameters of two or more dimensions."""
    return {view.extent for view in layout.tensors if len(view.stored_shape) > 1}


def matrix_elements(layout: Layout) -> int:
    """How many elements of weight matrices are looked at."""
    extents = [layout.extents[number] for number in _matrices(layout)]
    return sum(min(each.count, MATRIX_ELEMENTS) for each in extents if each.role is Role.PARAMETER)


def matrix_columns(pieces: Sequence[Piece], segments: Sequence[Segment]) -> list[slice]:
    """The columns of a block that hold the first elements of weight matrices, neighbours as one."""
    found: list[slice] = []
    for piece in pieces:
        count = min(piece.count, segments[piece.segment].matrix - piece.start)
        if count > 0:
            start = found.pop().start if found and found[-1].stop == piece.column else piece.column
            found.append(slice(start, piece.column + count))
    return found


def allow_files(count: int) -> None:
    """Let this process have so many more files open, as far as the system allows: windows of sharded checkpoints are many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count + _OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


class WindowReader:
    """Reads blocks of K checkpoints into private, reused buffers; a context that checks the files before and after.

    Args:
        files: of each checkpoint, and of the companions.
        uncached: what is read of so many of them, the first, does not stay in the page cache.

    Raises:
        InputChanged: a file is gone, or is not the one that was planned, before or after the reading.
    """

    def __init__(self, files: Sequence[Sequence[FileIdentity]], uncached: int = 0) -> None:
        self._files = files
        self._uncached = uncached
        self._open = ExitStack()
        self._readers: list[list[OpenFile]] = []
        self._gap = memoryview(bytearray(_GAP_BYTES))
        self.read_bytes = 0

    def __enter__(self) -> WindowReader:
        allow_files(sum(len(files) for files in self._files))
        with ExitStack() as stack:
            stack.enter_context(np.errstate(invalid="ignore"))  # signalling NaNs
            self._readers = [
                stack.enter_context(opened(files, uncached=number < self._uncached))
                for number, files in enumerate(self._files)
            ]
            self._open = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._open.__exit__(kind, error, traceback)

    def blocks(self, segments: Sequence[Segment], capacity: int = BLOCK_ELEMENTS) -> Iterator[Block]:
        """The values of all segments, a block at a time, in order.

        Args:
            segments: what to read.
            capacity: elements that are read at a time from each source; a block has fewer where those fill a core's cache.
        """
        count = len(self._readers)
        step = min(capacity, cache_elements(count))
        values = np.empty((count, step), dtype=np.float64)
        raw = np.empty((count, capacity * 8), dtype=np.uint8)
        for pieces in cut_blocks(segments, capacity):
            first = segments[pieces[0].segment]
            sources = len(first.places)
            for k in range(sources):
                self._read(k, _runs(k, segments, pieces, DTYPES[first.dtype_of(k)].itemsize), raw[k].data)
            own = sources - first.companions
            parts = ((0, own, first.dtype), (own, sources, first.companion_dtype))[: 2 if first.companions else 1]
            stored = [(low, high, dtype, raw[low:high].view(DTYPES[dtype].bits)) for low, high, dtype in parts]
            for start, inside in _steps(pieces, step):
                size = inside[-1].column + inside[-1].count
                for low, high, dtype, bits in stored:
                    widen(bits[:, start : start + size], dtype, values[low:high, :size])
                yield Block(inside, values[:sources, :size])

    def _read(self, k: int, runs: Sequence[tuple[int, int, int]], into: memoryview) -> None:
        """Read runs of one checkpoint, one behind the other; those that lie close together in a file at once."""
        done = 0
        near: list[memoryview] = []  # what to read at once: runs, and between them what is thrown away
        begin = at = place = 0
        for file, offset, length in runs:
            part, done = into[done : done + length], done + length
            if file == NOWHERE:
                part[:] = bytes(length)
                continue
            self.read_bytes += length
            gap = offset - at
            if near and (file != place or not 0 <= gap <= len(self._gap) or len(near) + 2 > _MOST_BUFFERS):
                self._readers[k][place].read_all(near, begin)
                near = []
            if not near:
                begin = offset
            elif gap:
                near.append(self._gap[:gap])
            near.append(part)
            place, at = file, offset + length
        if near:
            self._readers[k][place].read_all(near, begin)


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
