"""Copies: pieces of a checkpoint's files that are written elsewhere as they are, with bounded memory.

A view is written in the order of its logical elements, so that a transposed tensor comes out contiguous.
"""

from __future__ import annotations

import zlib
from bisect import bisect_right
from dataclasses import dataclass, replace
from itertools import groupby
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from rna_watch.layout.blocks import band, row
from rna_watch.layout.disk import patching, write_all
from rna_watch.layout.dtypes import DTYPES, Array
from rna_watch.layout.layout import Chunk
from rna_watch.layout.open_file import opened
from rna_watch.layout.strides import contiguous, runs
from rna_watch.window.combine import Patch

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from rna_watch.layout.blocks import Block
    from rna_watch.layout.identity import FileIdentity
    from rna_watch.layout.layout import Extent, TensorView
    from rna_watch.layout.open_file import OpenFile

# what is held in memory: contiguous elements, or scattered ones, which need an index as well, and as many runs at most as
# `runs` gives
_CONTIGUOUS_ELEMENTS = 2**20
_SCATTERED_ELEMENTS = 2**18


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy:
    """A piece of a checkpoint's files, and the place where it goes: file and byte offset.

    The piece is a view (`shape`, `stride`, `start`) of elements of `dtype` that lie in `chunks`, or has that shape and is put
    together of `blocks`; or, without a dtype, it is the bytes of one chunk.
    """

    chunks: tuple[Chunk, ...]
    file: int
    offset_bytes: int
    dtype: str = ""
    shape: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    start: int = 0
    blocks: tuple[Block, ...] = ()

    @property
    def size_bytes(self) -> int:
        """Bytes to write."""
        return prod(self.shape) * DTYPES[self.dtype].itemsize if self.dtype else self.chunks[0].count

    @property
    def sources(self) -> list[int]:
        """The numbers of the files that hold the piece."""
        return sorted({chunk.file for chunk in self.chunks})


def of_bytes(source: int, offset_bytes: int, size_bytes: int, file: int) -> Copy:
    """A copy of raw bytes, to the same offset of another file.

    Args:
        source: number of the file that holds them.
        offset_bytes: of the first one, in both files.
        size_bytes: how many.
        file: number of the file that is written.
    """
    chunk = Chunk(file=source, offset_bytes=offset_bytes, start=0, count=size_bytes)
    return Copy(chunks=(chunk,), file=file, offset_bytes=offset_bytes)


def of_view(
    extent: Extent, shape: tuple[int, ...], stride: tuple[int, ...], start: int, file: int, offset_bytes: int
) -> Iterator[Copy]:
    """A view of an extent, cut into copies that stand one behind the other at the place where they go.

    Args:
        extent: the elements, numbered as in their storage.
        shape: of the view.
        stride: in elements.
        start: number of the first element.
        file: number of the file that is written.
        offset_bytes: where the first element goes.
    """
    itemsize = DTYPES[extent.dtype].itemsize
    for sizes, steps, first in _cut(shape, stride, start):
        last = first + sum((size - 1) * step for size, step in zip(sizes, steps, strict=True))
        yield Copy(
            chunks=tuple(each for each in extent.chunks if each.start <= last and each.start + each.count > first),
            file=file,
            offset_bytes=offset_bytes,
            dtype=extent.dtype,
            shape=sizes,
            stride=steps,
            start=first,
        )
        offset_bytes += prod(sizes) * itemsize


def of_tensor(extent: Extent, view: TensorView, file: int, offset_bytes: int) -> Iterator[Copy]:
    """A tensor in the order of its logical elements, cut into copies that stand one behind the other.

    Args:
        extent: the one that it lies in.
        view: the tensor.
        file: number of the file that is written.
        offset_bytes: where the first element goes.
    """
    if not view.blocks:
        yield from of_view(extent, view.shape, view.stride, view.start, file, offset_bytes)
        return
    starts = [chunk.start for chunk in extent.chunks]  # each block is one of them
    for shape, blocks in _bands(view.shape, view.blocks):
        yield Copy(
            chunks=tuple(extent.chunks[bisect_right(starts, block.start) - 1] for block in blocks),
            file=file,
            offset_bytes=offset_bytes,
            dtype=extent.dtype,
            shape=shape,
            blocks=blocks,
        )
        offset_bytes += prod(shape) * DTYPES[extent.dtype].itemsize


def _bands(shape: tuple[int, ...], blocks: tuple[Block, ...]) -> Iterator[tuple[tuple[int, ...], tuple[Block, ...]]]:
    """Parts of a tensor, a few rows each, in its order: their shape and the blocks that they are put together of."""
    inner = prod(shape[1:])
    rows = _CONTIGUOUS_ELEMENTS // inner
    if not rows and len(shape) > 1:
        for number in range(shape[0]):
            yield from _bands(shape[1:], row(blocks, number))
        return
    rows = max(rows, 1)
    for first in range(0, shape[0], rows):
        count = min(rows, shape[0] - first)
        yield (count, *shape[1:]), band(blocks, first, first + count)


def _cut(
    shape: tuple[int, ...], stride: tuple[int, ...], start: int
) -> Iterator[tuple[tuple[int, ...], tuple[int, ...], int]]:
    """Views (shape, stride, start) that have the elements of one in its order."""
    count = prod(shape)
    if stride == contiguous(shape):
        for first in range(0, count, _CONTIGUOUS_ELEMENTS):
            yield (min(_CONTIGUOUS_ELEMENTS, count - first),), (1,), start + first
        return
    if count <= _SCATTERED_ELEMENTS:
        if count:
            yield shape, stride, start
        return
    inner = prod(shape[1:])
    rows = _SCATTERED_ELEMENTS // inner
    if not rows:
        for row in range(shape[0]):
            yield from _cut(shape[1:], stride[1:], start + row * stride[0])
        return
    for row in range(0, shape[0], rows):
        yield (min(rows, shape[0] - row), *shape[1:]), stride, start + row * stride[0]


def write_copies(files: Sequence[FileIdentity], copies: Iterable[Copy], outputs: Sequence[str]) -> list[Patch]:
    """Write copies to their places; returns what was written of tensors.

    Args:
        files: the checkpoint's, as they were when the copies were planned.
        copies: what to copy.
        outputs: the files that are written.

    Raises:
        InputChanged: the checkpoint changed meanwhile.
        OSError: an output cannot be written.
    """
    patches = []
    for number, group in groupby(copies, key=lambda each: each.file):
        with patching(outputs[number]) as writer:
            for each, offset, data in contents(files, group):
                write_all(writer.fileno(), data, offset)
                if each.dtype:
                    crc = zlib.crc32(data)
                    patches.append(Patch(file=number, offset_bytes=offset, size_bytes=len(data), crc=crc))
    return patches


def contents(files: Sequence[FileIdentity], copies: Iterable[Copy]) -> Iterator[tuple[Copy, int, memoryview]]:
    """What copies are to write, in bounded pieces, each with its place: the copy, the byte offset, the bytes.

    A piece is of use until the next one.

    Raises:
        InputChanged: the checkpoint changed meanwhile.
    """
    for numbers, group in groupby(copies, key=lambda each: each.sources):
        with opened(files[number] for number in numbers) as found:
            readers = dict(zip(numbers, found, strict=True))
            for each in group:
                if each.dtype:
                    yield each, each.offset_bytes, _elements(each, readers).data.cast("B")
                    continue
                (chunk,), offset = each.chunks, each.offset_bytes
                for piece in readers[chunk.file].pieces(chunk.offset_bytes, chunk.count):
                    yield each, offset, piece
                    offset += len(piece)


def _elements(copy: Copy, readers: Mapping[int, OpenFile]) -> Array:
    """The bits of a view's elements, in logical order."""
    if copy.blocks:
        whole = np.empty(copy.shape, dtype=DTYPES[copy.dtype].bits)
        for each in copy.blocks:
            part = replace(copy, shape=each.shape, stride=each.stride, start=each.start, blocks=())
            whole[each.where] = _elements(part, readers).reshape(each.shape)
        return whole
    used = runs(copy.shape, copy.stride, copy.start)
    bits = DTYPES[copy.dtype].bits
    stored = np.empty(sum(count for _, count in used), dtype=bits)
    raw = stored.data.cast("B")
    begins = []
    done = 0
    for first, count in used:
        begins.append(done)
        for chunk in copy.chunks:
            low, high = max(first, chunk.start), min(first + count, chunk.start + chunk.count)
            if low < high:
                into = (done + low - first) * bits.itemsize
                readers[chunk.file].read_into(
                    raw[into : into + (high - low) * bits.itemsize],
                    chunk.offset_bytes + (low - chunk.start) * bits.itemsize,
                )
        done += count
    if copy.stride == contiguous(copy.shape):
        return stored
    places = np.array([copy.start], dtype=np.int64)
    for size, step in zip(copy.shape, copy.stride, strict=True):
        places = (places[:, None] + np.arange(size, dtype=np.int64) * step).reshape(-1)
    firsts = np.array([first for first, _ in used], dtype=np.int64)
    run = np.searchsorted(firsts, places, side="right") - 1
    gathered: Array = stored[np.array(begins, dtype=np.int64)[run] + places - firsts[run]]
    return gathered
