"""Extents: where the tensors of a checkpoint lie in its files, the one value that all formats share.

A *tensor* is a view (shape, stride, start) of a storage. An *extent* is the part of one storage that the model's
tensors use,
each element once however many tensors share it; its *chunks* say where those elements lie in files. Elements are
numbered
as in the storage, so that tensors, tied or overlapping, keep their views.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from enum import StrEnum
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from rna_watch.errors import InputChanged

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


class Role(StrEnum):
    """What an extent is to the extrapolation (facts: Scieur et al. 2018, section 4.2; buffers are not part of R)."""

    PARAMETER = "parameter"  # in the residuals, and combined
    STATISTIC = "statistic"  # combined with the same weights, not in the residuals
    VARIANCE = "variance"  # a statistic that must not become negative
    COPIED = "copied"  # integers and flags: the newest checkpoint's bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class FileIdentity:
    """Which content of which file: `os.stat` of it. ctime is left out of comparisons, as links and unlinks change it."""

    path: str
    inode: int
    size_bytes: int
    mtime_ns: int
    ctime_ns: int

    def same_content(self, other: FileIdentity) -> bool:
        """Whether both describe the same bytes, under whatever name."""
        return (self.inode, self.size_bytes, self.mtime_ns) == (other.inode, other.size_bytes, other.mtime_ns)


def identify(path: str, descriptor: int | None = None) -> FileIdentity:
    """The identity of the file behind a path, or behind an open descriptor of it.

    Raises:
        OSError: there is no such file.
    """
    stat = os.stat(path) if descriptor is None else os.fstat(descriptor)
    return FileIdentity(
        path=path,
        inode=stat.st_ino,
        size_bytes=stat.st_size,
        mtime_ns=stat.st_mtime_ns,
        ctime_ns=stat.st_ctime_ns,
    )


def check_unchanged(identity: FileIdentity, descriptor: int) -> None:
    """Compare an open file with what it was when it was planned.

    Raises:
        InputChanged: size, modification time or inode differ.
    """
    if not identity.same_content(identify(identity.path, descriptor)):
        raise InputChanged(f"{identity.path} changed while it was being read; the result was thrown away")


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """Elements [start, start + count) of an extent's storage, at a byte offset of file number `file`."""

    file: int
    offset_bytes: int
    start: int
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Extent:
    """The used part of one storage: chunks in ascending order, without overlap."""

    name: str
    dtype: str
    role: Role
    chunks: tuple[Chunk, ...]

    @property
    def count(self) -> int:
        """How many elements are used."""
        return sum(chunk.count for chunk in self.chunks)

    @property
    def storage_count(self) -> int:
        """How many elements a storage needs to hold them at their places."""
        return self.chunks[-1].start + self.chunks[-1].count if self.chunks else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorView:
    """A named tensor of the model: shape, stride and start (in elements) within extent number `extent`."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    extent: int
    start: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """A complete checkpoint: its files, the model's tensors and where their elements lie.

    `source` is the key path of the model inside the file ("" for a bare state dict); `counters` are the step
    and epoch numbers found inside; `fingerprint` identifies the content, whatever the name; `architecture` is a digest
    of what must agree within a window: names, dtypes, shapes, strides and sharing of storage.
    """

    format: str
    files: tuple[FileIdentity, ...]
    source: str
    tensors: tuple[TensorView, ...]
    extents: tuple[Extent, ...]
    counters: dict[str, int]
    fingerprint: str
    architecture: str = field(init=False)

    def __post_init__(self) -> None:
        owners = [extent.name for extent in self.extents]
        lines = sorted(f"{t.name}|{t.dtype}|{t.shape}|{t.stride}|{t.start}|{owners[t.extent]}" for t in self.tensors)
        digest = hashlib.blake2b("\n".join(lines).encode(errors="backslashreplace"), digest_size=8).hexdigest()
        object.__setattr__(self, "architecture", digest)

    @property
    def path(self) -> str:
        """The (first) file."""
        return self.files[0].path

    @property
    def size_bytes(self) -> int:
        """Size of all files."""
        return sum(file.size_bytes for file in self.files)

    @property
    def parameters(self) -> int:
        """Number of parameters, tied ones once."""
        return sum(extent.count for extent in self.extents if extent.role is Role.PARAMETER)


def difference(old: Layout, new: Layout) -> str:
    """In words, why two checkpoints cannot stand in one window ("" if they can)."""
    if old.architecture == new.architecture:
        return ""
    a, b = ({t.name: t for t in layout.tensors} for layout in (old, new))
    gone, added = sorted(a.keys() - b.keys()), sorted(b.keys() - a.keys())
    if gone or added:
        parts = [
            f"{len(names)} tensors {word} (such as {names[0]})"
            for names, word in ((gone, "removed"), (added, "added"))
            if names
        ]
        return "the model changed: " + ", ".join(parts)
    for name, tensor in a.items():
        for what in ("dtype", "shape", "stride"):
            before, after = getattr(tensor, what), getattr(b[name], what)
            if before != after:
                return f"the model changed: {what} of {name} was {before}, is {after}"
    return "the model changed: other tensors share storage than before"


# a piece costs about a kilobyte on its way through a window
_MOST_RUNS = 2**18


def runs(shape: Sequence[int], stride: Sequence[int], start: int) -> list[tuple[int, int]]:
    """The runs (first element, count) of a storage that a strided view covers, ascending and merged.

    Raises:
        ValueError: a negative stride or start, an end beyond any storage, or too many runs.
    """
    if start < 0 or any(step < 0 for step in stride) or any(size < 0 for size in shape):
        raise ValueError("negative shape, stride or start")
    if any(size == 0 for size in shape):
        return []
    if start + sum((size - 1) * step for size, step in zip(shape, stride, strict=True)) >= 2**62:
        raise ValueError("it ends beyond any storage")
    if tuple(stride) == contiguous(shape):
        return [(start, prod(shape))]
    length = 1
    outer = []
    for size, step in sorted(zip(shape, stride, strict=True), key=lambda pair: pair[1]):
        if size == 1 or step == 0:
            continue
        if step <= length:
            length += step * (size - 1)
        else:
            outer.append((size, step))
    if prod(size for size, _ in outer) > _MOST_RUNS:
        raise ValueError("its elements lie scattered in too many pieces; save a contiguous copy")
    if not outer:
        return [(start, length)]
    firsts = np.array([start], dtype=np.int64)
    for size, step in outer:
        firsts = (firsts[:, None] + np.arange(size, dtype=np.int64) * step).reshape(-1)
    return merge_runs((int(first), length) for first in np.sort(firsts))


def contiguous(shape: Sequence[int]) -> tuple[int, ...]:
    """The strides of a contiguous tensor (of at least one element)."""
    strides = []
    step = 1
    for size in reversed(shape):
        strides.append(step)
        step *= size
    return tuple(reversed(strides))


def merge_runs(parts: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """The union of runs (first, count), ascending; touching runs become one."""
    merged: list[tuple[int, int]] = []
    for first, count in sorted(parts):
        if merged and first <= merged[-1][0] + merged[-1][1]:
            last_first, last_count = merged[-1]
            merged[-1] = (last_first, max(last_count, first + count - last_first))
        else:
            merged.append((first, count))
    return merged
