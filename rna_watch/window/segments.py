"""Segments: runs of logical elements and where each of the window's K checkpoints keeps them, packed into blocks.

Letters: K checkpoints, C companions (momentum buffers, gradients), n elements of a block.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

from rna_watch.layout.dtypes import DTYPES
from rna_watch.layout.layout import Layout, Role

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rna_watch.layout.layout import Chunk
    from rna_watch.window.companions import Companions

# 65,536 float32 are 256 KiB a read: smaller ones cost calls.
BLOCK_ELEMENTS = 65_536
Place = tuple[int, int, int]  # file number, byte offset, count of elements
# Of each weight matrix, the elements whose norms tell trainings apart: of all of them they would cost 9 % of the pass that makes
# every row of the Gram matrix at N = 10 (measured on blocks of 65,536); of so many, no more than that pass differs from itself.
MATRIX_ELEMENTS = 2**13
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
