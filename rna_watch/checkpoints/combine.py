"""The weighted combination of K checkpoints, block by block: sum_k w_k y_k, rounded once to the stored dtype."""

from __future__ import annotations

import os
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from rna_watch.checkpoints.extents import FileIdentity, Layout, Role
from rna_watch.checkpoints.numeric import DTYPES, Array, narrow
from rna_watch.checkpoints.segments import BLOCK_ELEMENTS, Segment, WindowReader, window_segments

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

COMBINED = frozenset({Role.PARAMETER, Role.STATISTIC, Role.VARIANCE})


@dataclass(frozen=True, slots=True, kw_only=True)
class Combination:
    """A model as a recipe: these checkpoints (oldest first, the newest last) with these weights, which sum to one.

    Equation: sum_k w_k y_k, computed as y_K + sum_k w_k (y_k - y_K), so that tensors that do not move stay bitwise
    equal.
    Integers and flags are the newest checkpoint's.
    """

    layouts: tuple[Layout, ...]
    weights: tuple[float, ...]

    def without_zeros(self) -> Combination:
        """The same model, naming only checkpoints that matter (and the newest, which lends everything else)."""
        last = len(self.weights) - 1
        kept = [k for k, weight in enumerate(self.weights) if weight != 0.0 or k == last]
        return Combination(layouts=tuple(self.layouts[k] for k in kept), weights=tuple(self.weights[k] for k in kept))

    def segments(self, limit: int = 2**22) -> list[Segment]:
        """The segments that are combined."""
        return window_segments(self.layouts, COMBINED, limit)

    @property
    def files(self) -> tuple[tuple[FileIdentity, ...], ...]:
        """The files of every checkpoint."""
        return tuple(layout.files for layout in self.layouts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Patch:
    """A run that was written: file number and byte offset in the clone, length, CRC-32 of the bytes."""

    file: int
    offset_bytes: int
    size_bytes: int
    crc: int


def combined_blocks(
    reader: WindowReader, segments: Sequence[Segment], weights: Sequence[float], block_elements: int = BLOCK_ELEMENTS
) -> Iterator[tuple[int, int, Array]]:
    """The combination as (segment number, first element within it, bits in the stored dtype), in order."""
    w = np.asarray(weights[:-1], dtype=np.float64)
    total = np.empty(block_elements, dtype=np.float64)
    for block in reader.blocks(segments, block_elements):
        first = segments[block.pieces[0].segment]
        size = block.values.shape[1]
        newest = block.values[-1]
        if len(w):
            block.values[:-1] -= newest
            np.dot(w, block.values[:-1], out=total[:size])
            still = total[:size] == 0.0
            total[:size] += newest
            np.copyto(total[:size], newest, where=still)  # 0.0 + -0.0 is 0.0, other bits than the newest's
        else:
            total[:size] = newest
        if first.role is Role.VARIANCE:
            np.maximum(total[:size], 0.0, out=total[:size])
        bits = np.empty(size, dtype=DTYPES[first.dtype].bits)
        narrow(total[:size], first.dtype, bits)
        for piece in block.pieces:
            yield piece.segment, piece.start, bits[piece.column : piece.column + piece.count]


def write_combination(
    files: Sequence[Sequence[FileIdentity]],
    segments: Sequence[Segment],
    weights: Sequence[float],
    outputs: Sequence[str],
    block_elements: int = BLOCK_ELEMENTS,
) -> list[Patch]:
    """Write the combination of these segments into the clone, each at its place in the newest checkpoint.

    Args:
        files: the files of each of the K checkpoints.
        segments: what to write.
        weights: K weights.
        outputs: the clone's files, numbered as the newest checkpoint's.
        block_elements: elements of a block.

    Raises:
        InputChanged: a checkpoint changed meanwhile.
        OSError: the clone cannot be written.
    """
    crcs = [0] * len(segments)
    descriptors = [os.open(path, os.O_WRONLY | os.O_CLOEXEC) for path in outputs]
    try:
        with WindowReader(files) as reader:
            for number, start, bits in combined_blocks(reader, segments, weights, block_elements):
                ((file, offset, _),) = segments[number].places[-1]
                write_all(descriptors[file], bits.data.cast("B"), offset + start * bits.itemsize)
                crcs[number] = zlib.crc32(bits.data, crcs[number])
    finally:
        for descriptor in descriptors:
            os.close(descriptor)
    return [
        Patch(
            file=segment.places[-1][0][0],
            offset_bytes=segment.places[-1][0][1],
            size_bytes=segment.size_bytes,
            crc=crc,
        )
        for segment, crc in zip(segments, crcs, strict=True)
    ]


def write_all(descriptor: int, data: memoryview, offset: int) -> None:
    """Write all bytes at an offset, however the system splits them."""
    while data:
        count = os.pwrite(descriptor, data, offset)
        data, offset = data[count:], offset + count
