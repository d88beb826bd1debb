"""Strips: parts of tensors that are carried over from a checkpoint to another place in the order of their logical elements.

A strip is a strided view of one extent, small enough to be held in memory, and the place where its elements go.
"""

from __future__ import annotations

import os
import zlib
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from rna_watch.errors import InputChanged
from rna_watch.layout.disk import write_all
from rna_watch.layout.dtypes import DTYPES, Array
from rna_watch.layout.open_file import OpenFile
from rna_watch.layout.strides import contiguous, runs
from rna_watch.window.combine import Patch

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rna_watch.layout.identity import FileIdentity
    from rna_watch.layout.layout import Chunk, Extent

STRIP_ELEMENTS = 2**20
# scattered elements need an index beside them, and as many runs at most as `runs` gives
_SCATTERED_ELEMENTS = 2**18


@dataclass(frozen=True, slots=True, kw_only=True)
class Strip:
    """Elements of an extent (a view of its storage), the chunks that hold them, and where they go: file and byte offset."""

    dtype: str
    chunks: tuple[Chunk, ...]
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    start: int
    file: int
    offset_bytes: int

    @property
    def size_bytes(self) -> int:
        """Bytes to write."""
        return prod(self.shape) * DTYPES[self.dtype].itemsize


def strips(
    extent: Extent, shape: tuple[int, ...], stride: tuple[int, ...], start: int, file: int, offset_bytes: int
) -> Iterator[Strip]:
    """A view of an extent, cut into strips that stand one behind the other at the place where they go."""
    itemsize = DTYPES[extent.dtype].itemsize
    for sizes, steps, first in _cut(shape, stride, start):
        count = prod(sizes)
        last = first + sum((size - 1) * step for size, step in zip(sizes, steps, strict=True))
        yield Strip(
            dtype=extent.dtype,
            chunks=tuple(each for each in extent.chunks if each.start <= last and each.start + each.count > first),
            shape=sizes,
            stride=steps,
            start=first,
            file=file,
            offset_bytes=offset_bytes,
        )
        offset_bytes += count * itemsize


def _cut(
    shape: tuple[int, ...], stride: tuple[int, ...], start: int
) -> Iterator[tuple[tuple[int, ...], tuple[int, ...], int]]:
    """Views (shape, stride, start) that have the elements of one in its order."""
    count = prod(shape)
    if stride == contiguous(shape):
        for first in range(0, count, STRIP_ELEMENTS):
            yield (min(STRIP_ELEMENTS, count - first),), (1,), start + first
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


def carry(files: Sequence[FileIdentity], group: Sequence[Strip], outputs: Sequence[str]) -> list[Patch]:
    """Write strips of a checkpoint's files to their places in the outputs.

    Raises:
        InputChanged: the checkpoint changed meanwhile.
        OSError: an output cannot be written.
    """
    patches = []
    writers = [os.open(path, os.O_WRONLY | os.O_CLOEXEC) for path in outputs]
    try:
        for strip, bits in elements(files, group):
            data = bits.data.cast("B")
            write_all(writers[strip.file], data, strip.offset_bytes)
            patches.append(
                Patch(
                    file=strip.file, offset_bytes=strip.offset_bytes, size_bytes=strip.size_bytes, crc=zlib.crc32(data)
                )
            )
    finally:
        for writer in writers:
            os.close(writer)
    return patches


def elements(files: Sequence[FileIdentity], group: Sequence[Strip]) -> Iterator[tuple[Strip, Array]]:
    """The bits of each strip of a checkpoint's files, in logical order.

    Raises:
        InputChanged: the checkpoint changed meanwhile.
    """
    readers: dict[int, OpenFile] = {}
    try:
        for number in sorted({chunk.file for strip in group for chunk in strip.chunks}):
            try:
                readers[number] = OpenFile(files[number].path)
            except OSError as error:
                raise InputChanged(f"{files[number].path} cannot be opened any more ({error.strerror})") from error
            if not readers[number].identity.same_content(files[number]):
                raise InputChanged(f"{files[number].path} changed before it could be copied")
        for strip in group:
            yield strip, _elements(strip, readers)
        for reader in readers.values():
            reader.check_unchanged()
    finally:
        for reader in readers.values():
            os.close(reader.descriptor)


def _elements(strip: Strip, readers: dict[int, OpenFile]) -> Array:
    """The bits of a strip's elements, in logical order."""
    used = runs(strip.shape, strip.stride, strip.start)
    bits = DTYPES[strip.dtype].bits
    stored = np.empty(sum(count for _, count in used), dtype=bits)
    raw = stored.data.cast("B")
    begins = []
    done = 0
    for first, count in used:
        begins.append(done)
        for chunk in strip.chunks:
            low, high = max(first, chunk.start), min(first + count, chunk.start + chunk.count)
            if low < high:
                into = (done + low - first) * bits.itemsize
                _read(
                    readers[chunk.file],
                    raw[into : into + (high - low) * bits.itemsize],
                    chunk.offset_bytes + (low - chunk.start) * bits.itemsize,
                )
        done += count
    if strip.stride == contiguous(strip.shape):
        return stored
    places = np.array([strip.start], dtype=np.int64)
    for size, step in zip(strip.shape, strip.stride, strict=True):
        places = (places[:, None] + np.arange(size, dtype=np.int64) * step).reshape(-1)
    firsts = np.array([first for first, _ in used], dtype=np.int64)
    run = np.searchsorted(firsts, places, side="right") - 1
    gathered: Array = stored[np.array(begins, dtype=np.int64)[run] + places - firsts[run]]
    return gathered


def _read(reader: OpenFile, into: memoryview, offset: int) -> None:
    while into:
        try:
            got = os.preadv(reader.descriptor, [into], offset)
        except OSError as error:
            raise InputChanged(f"{reader.identity.path} cannot be read any more ({error.strerror})") from error
        if got == 0:
            raise InputChanged(f"{reader.identity.path} became shorter while it was being read")
        into, offset = into[got:], offset + got
