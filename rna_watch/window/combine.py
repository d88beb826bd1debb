"""The weighted combination of K checkpoints, block by block: sum_k w_k y_k, rounded once to the stored dtype.

Weights come as rows `(K,)`: one for the whole model, or one for each tensor.
"""

from __future__ import annotations

import os
import zlib
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from rna_watch import kernels
from rna_watch.errors import RefusedCheckpoint
from rna_watch.layout.disk import begin_writeback, patching, write_all
from rna_watch.layout.dtypes import DTYPES, Array, Float64, narrow
from rna_watch.layout.layout import Layout, Role, covers
from rna_watch.window.reader import WindowReader, still_infinities
from rna_watch.window.segments import BLOCK_ELEMENTS, Segment, window_segments

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from rna_watch.layout.identity import FileIdentity
    from rna_watch.window.evidence import Evidence
    from rna_watch.window.reader import Block

Rows = tuple[tuple[float, ...], ...]
_LARGE_BYTES = 2**23  # written by a task, from which on its way to the disk begins beside the next one
COMBINED = frozenset({Role.PARAMETER, Role.STATISTIC, Role.VARIANCE})


@dataclass(frozen=True, slots=True, kw_only=True)
class Combination:
    """A model as a recipe: these checkpoints (oldest first, the newest last) with these weights, which sum to one.

    Equation: sum_k w_k y_k, computed as y_K + sum_k w_k (y_k - y_K), so that tensors that do not move stay bitwise equal;
    one other checkpoint alone, with weight 1, is taken as it is. `layer_weights` are (name of an extent, its own row of weights)
    where they differ from tensor to tensor. Integers and flags are the newest checkpoint's. Running variances are kept from
    going below zero if `clamp`. `values` are those extents, by number, that are not combined but given, as bytes.
    """

    layouts: tuple[Layout, ...]
    weights: tuple[float, ...]
    layer_weights: tuple[tuple[str, tuple[float, ...]], ...] = ()
    clamp: bool = True
    values: tuple[tuple[int, bytes], ...] = ()

    @property
    def rows(self) -> Rows:
        """The rows of weights that differ, that of the whole model first; the `group` of a segment is the number of its row."""
        return tuple(dict.fromkeys(tuple(row) for row in (self.weights, *(row for _, row in self.layer_weights))))

    def without_zeros(self) -> Combination:
        """The same model, naming only checkpoints that matter (and the newest, which lends everything else)."""
        last = len(self.weights) - 1
        kept = [k for k in range(last + 1) if k == last or any(row[k] != 0.0 for row in self.rows)]
        return self._of([self.layouts[k] for k in kept], lambda row: tuple(row[k] for k in kept))

    def behind(self, other: Layout) -> Combination:
        """The same model with a layout before its inputs that has no weight in it."""
        return self._of([other, *self.layouts], lambda row: (0.0, *row))

    def _of(self, layouts: Sequence[Layout], row: Callable[[tuple[float, ...]], tuple[float, ...]]) -> Combination:
        layers = tuple((name, row(weights)) for name, weights in self.layer_weights)
        return replace(self, layouts=tuple(layouts), weights=row(self.weights), layer_weights=layers)

    def segments(self, limit: int = 2**22) -> list[Segment]:
        """The segments that are combined; a variance that is not clamped is a statistic like any other."""
        segments = window_segments(self.layouts, COMBINED, limit)
        if not self.clamp:
            segments = [replace(s, role=Role.STATISTIC) if s.role is Role.VARIANCE else s for s in segments]
        if not self.layer_weights:
            return segments
        numbers = {row: number for number, row in enumerate(self.rows)}
        of_extent = {name: numbers[tuple(row)] for name, row in self.layer_weights}
        names = [extent.name for extent in self.layouts[-1].extents]
        return [replace(each, group=of_extent.get(names[each.extent], 0)) for each in segments]

    def with_values(self, values: Mapping[str, Array]) -> Combination:
        """The same model with some tensors given, by name, in the bits of their stored dtype.

        Raises:
            RefusedCheckpoint: such a tensor shares its storage with others.
        """
        newest = self.layouts[-1]
        given = []
        for view in newest.tensors:
            if view.name in values:
                if not covers(view, newest.extents[view.extent]):
                    raise RefusedCheckpoint(
                        f"{view.name} shares its storage with other tensors, so it cannot be replaced"
                    )
                given.append((view.extent, values[view.name].tobytes()))
        return replace(self, values=tuple(given))

    @property
    def files(self) -> tuple[tuple[FileIdentity, ...], ...]:
        """The files of every checkpoint."""
        return tuple(layout.files for layout in self.layouts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Patch:
    """A run of a tensor's bytes that was written: number of the file, byte offset, length, CRC-32."""

    file: int
    offset_bytes: int
    size_bytes: int
    crc: int


def combined_blocks(
    reader: WindowReader,
    segments: Sequence[Segment],
    rows: Rows,
    block_elements: int = BLOCK_ELEMENTS,
    evidence: Evidence | None = None,
) -> Iterator[tuple[int, int, Array]]:
    """The combination as (segment number, first element within it, bits in the stored dtype), in order.

    Args:
        reader: of the K checkpoints, oldest first.
        segments: what to combine; `group` is the number of a segment's row.
        rows: rows of K weights.
        block_elements: elements of a block.
        evidence: gathers what the values tell of the window.
    """
    total = np.empty(block_elements, dtype=np.float64)
    for block in reader.blocks(segments, block_elements):
        first = segments[block.pieces[0].segment]
        weights, bits = rows[first.group], np.empty(block.size, dtype=DTYPES[first.dtype].bits)
        if evidence is not None:
            evidence.before(block, weights)
        if first.role is Role.VARIANCE or not _combine_stored(block, weights, bits):
            start = 0
            for step in block.steps():
                sums = total[: step.size]
                _combine(step.values, weights, sums)
                if evidence is not None and not np.isfinite(sums).all():
                    evidence.damaged = True
                if first.role is Role.VARIANCE:
                    np.maximum(sums, 0.0, out=sums)
                narrow(sums, first.dtype, bits[start : start + step.size])
                start += step.size
        for piece in block.pieces:
            yield piece.segment, piece.start, bits[piece.column : piece.column + piece.count]


def _combine_stored(block: Block, weights: Sequence[float], bits: Array) -> bool:
    """Combine a block by the compiled loops, if there are any, it is a sum of several checkpoints, and it comes out finite."""
    used = [k for k, weight in enumerate(weights[:-1]) if weight]
    if not kernels.COMPILED or not used or (len(used) == 1 and weights[used[0]] == 1.0):
        return False
    stored, dtype = block.stored
    return kernels.combine(stored[used[0] :], dtype, np.asarray(weights[used[0] :], dtype=np.float64), bits)


def _combine(values: Float64, weights: Sequence[float], out: Float64) -> None:
    """Combine a block, which is overwritten."""
    newest = values[-1]
    used = [k for k, weight in enumerate(weights) if weight]
    if len(used) == 1 and used[0] < len(weights) - 1 and weights[used[0]] == 1.0:
        out[...] = values[used[0]]  # y_K + (y_k - y_K) may round
        return
    if not used or used[0] == len(weights) - 1:
        out[...] = newest
        return
    values = values[used[0] :]
    still = still_infinities(values)
    if still is not None:
        values[:-1, still] = 0.0
        kept, newest[still] = newest[still], 0.0
    _weighted_steps(values, weights[used[0] :], out)
    unmoved = out == 0.0
    out += newest
    np.copyto(out, newest, where=unmoved)  # 0.0 + -0.0 is 0.0, other bits than the newest's
    if still is not None:
        out[still] = kept


def _weighted_steps(values: Float64, weights: Sequence[float], out: Float64) -> None:
    """sum_k w_k (y_k - y_K), in place of the y_k: products and sums one by one, so that every processor rounds alike."""
    steps = values[:-1]
    steps -= values[-1]
    steps *= np.asarray(weights[:-1], dtype=np.float64)[:, None]
    out[...] = steps[0]
    for step in steps[1:]:
        out += step


def write_combination(
    files: Sequence[Sequence[FileIdentity]],
    segments: Sequence[Segment],
    rows: Rows,
    outputs: Sequence[str],
    block_elements: int = BLOCK_ELEMENTS,
    evidence: Evidence | None = None,
    *,
    uncached: bool = False,
) -> list[Patch]:
    """Write the combination of these segments, each at its target, or else at its place in the newest checkpoint.

    Args:
        files: the files of each of the K checkpoints.
        segments: what to write; `group` is the number of a segment's row.
        rows: rows of K weights.
        outputs: the files that are written, by number.
        block_elements: elements of a block.
        evidence: gathers what the values tell of the window.
        uncached: what is read and written need not stay in the page cache.

    Raises:
        InputChanged: a checkpoint changed meanwhile.
        OSError: an output cannot be written.
    """
    crcs = [0] * len(segments)
    places = [segment.target or segment.places[-1][0] for segment in segments]
    with ExitStack() as stack, WindowReader(files, len(files) if uncached else 0) as reader:
        writers = {file: stack.enter_context(patching(outputs[file])) for file in {each[0] for each in places}}
        for number, start, bits in combined_blocks(reader, segments, rows, block_elements, evidence):
            file, offset, _ = places[number]
            write_all(writers[file].fileno(), bits.data.cast("B"), offset + start * bits.itemsize)
            crcs[number] = zlib.crc32(bits.data, crcs[number])
        for writer in writers.values():
            if sum(each.size_bytes for each in segments) >= _LARGE_BYTES:
                begin_writeback(writer.fileno())
            if uncached:  # what is on the disk by now is dropped
                os.posix_fadvise(writer.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return [
        Patch(file=file, offset_bytes=offset, size_bytes=segment.size_bytes, crc=crc)
        for segment, (file, offset, _), crc in zip(segments, places, crcs, strict=True)
    ]


def write_values(combination: Combination, target: Layout, outputs: Sequence[str]) -> list[Patch]:
    """Write the values that are given instead of combined.

    Args:
        combination: the model, with such values.
        target: its layout, with its chunks in the outputs.
        outputs: the files that are written, by number.

    Raises:
        OSError: an output cannot be written.
    """
    patches = []
    for number, data in combination.values:
        chunk = target.extents[number].chunks[0]
        with patching(outputs[chunk.file]) as writer:
            write_all(writer.fileno(), memoryview(data), chunk.offset_bytes)
        patches.append(
            Patch(file=chunk.file, offset_bytes=chunk.offset_bytes, size_bytes=len(data), crc=zlib.crc32(data))
        )
    return patches
