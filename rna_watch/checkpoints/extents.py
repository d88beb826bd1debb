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
from dataclasses import dataclass, field, replace
from enum import StrEnum
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from rna_watch.checkpoints.names import canonical_names, plain_names
from rna_watch.checkpoints.numeric import PAIRS
from rna_watch.errors import InputChanged

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rna_watch.checkpoints.optimizer_state import OptimizerState


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


def identify_folder(path: str) -> FileIdentity:
    """The identity of a folder as a whole: its inode, the sum of its files' sizes, the latest of their times.

    Raises:
        OSError: there is no such folder, or a file went while it was looked at.
    """
    size, times, changes = 0, [0], [0]
    for folder, _, names in os.walk(path):
        for name in names:
            stat = os.lstat(os.path.join(folder, name))  # noqa: PTH118 - a string crosses process boundaries
            size += stat.st_size
            times.append(stat.st_mtime_ns)
            changes.append(stat.st_ctime_ns)
    return FileIdentity(
        path=path,
        inode=os.stat(path).st_ino,
        size_bytes=size,
        mtime_ns=max(times),
        ctime_ns=max(changes),
    )


def identify_any(path: str) -> FileIdentity:
    """The identity of a file or of a folder as a whole.

    Raises:
        OSError: there is none.
    """
    return identify_folder(path) if os.path.isdir(path) else identify(path)  # noqa: PTH112


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
    """The used part of one storage: chunks in ascending order, without overlap.

    In a layout, the name is that of its first tensor, as it is known across a window (without wrappers' prefixes).
    """

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
class Companion:
    """Values that belong to a parameter extent, element by element (momentum, gradient): dtype and chunks, parallel to its own.

    `group` is the optimizer's parameter group, -1 where the parameter is in none. No chunks: all values are zero.
    """

    group: int
    dtype: str = ""
    chunks: tuple[Chunk, ...] = ()


OUTSIDE = Companion(group=-1)


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorView:
    """A named tensor of the model: shape, stride and start (in elements) within extent number `extent`.

    The name is the stored one. `pairs`: it holds complex numbers, described as real ones with a last axis of two.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    extent: int
    start: int
    pairs: bool = False

    @property
    def stored_dtype(self) -> str:
        """The dtype that torch gives it."""
        return next(name for name, real in PAIRS.items() if real == self.dtype) if self.pairs else self.dtype

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """The shape that torch gives it."""
        return self.shape[:-1] if self.pairs else self.shape


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A group of tensors in a checkpoint that may be taken as the model: its key path, and how many tensors it has.

    `averaged`: it is a moving average of the weights, kept beside them.
    """

    path: str
    tensors: int
    averaged: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """A complete checkpoint: its files, the model's tensors and where their elements lie.

    `source` is the key path of the model inside the file ("" for a bare state dict); `counters` are the step
    and epoch numbers found inside; `fingerprint` identifies the content, whatever the name; `architecture` is a digest
    of what must agree within a window: names, dtypes, shapes, strides and sharing of storage. `optimizer` is the state of
    the one optimizer in the file, `gradient` the layout of the mean gradient that the training saved beside it, and
    `gradient_problem` why that is not this checkpoint's own, if so.
    `sources` are all that could have been taken as the model.
    A checkpoint that is a folder has that folder as its `root`; `files` are those that hold the model, `carried` those that
    a copy for use takes over as they are (configuration, tokenizer, metadata). `kinds` names the file format of each of
    `files` where that is not `format`.
    """

    format: str
    files: tuple[FileIdentity, ...]
    source: str
    tensors: tuple[TensorView, ...]
    extents: tuple[Extent, ...]
    counters: dict[str, int]
    fingerprint: str
    optimizer: OptimizerState | None = None
    gradient: Layout | None = None
    gradient_problem: str = ""
    root: str = ""
    carried: tuple[FileIdentity, ...] = ()
    kinds: tuple[str, ...] = ()
    sources: tuple[Source, ...] = ()
    architecture: str = field(init=False)

    def __post_init__(self) -> None:
        names = canonical_names(view.name for view in self.tensors)
        owners = {view.extent: names[view.name] for view in reversed(self.tensors)}
        extents = tuple(
            extent if owners.get(number, extent.name) == extent.name else replace(extent, name=owners[number])
            for number, extent in enumerate(self.extents)
        )
        object.__setattr__(self, "extents", extents)
        lines = sorted(
            f"{names[t.name]}|{t.stored_dtype}|{t.shape}|{t.stride}|{t.start}|{owners[t.extent]}" for t in self.tensors
        )
        if self.averaged:
            lines.append("an average")
        digest = hashlib.blake2b("\n".join(lines).encode(errors="backslashreplace"), digest_size=8).hexdigest()
        object.__setattr__(self, "architecture", digest)

    @property
    def averaged(self) -> bool:
        """Whether the model is a moving average of weights that are in the checkpoint too, or were."""
        return any(source.averaged for source in self.sources if source.path == self.source)

    @property
    def plain_names(self) -> dict[str, str]:
        """The key that the bare model uses for each tensor, by stored name."""
        return plain_names(view.name for view in self.tensors)

    @property
    def path(self) -> str:
        """The file, or the folder."""
        return self.root or self.files[0].path

    def inside(self, file: FileIdentity) -> str:
        """The path of one of a folder's files within it."""
        return os.path.relpath(file.path, self.root)

    def kind(self, file: int) -> str:
        """The file format of one of `files`."""
        return self.kinds[file] if self.kinds else self.format

    @property
    def size_bytes(self) -> int:
        """Size of all files that a copy of it has."""
        return sum(file.size_bytes for file in self.files + self.carried)

    @property
    def parameters(self) -> int:
        """Number of parameters, tied ones once."""
        return sum(extent.count for extent in self.extents if extent.role is Role.PARAMETER)


def covers(view: TensorView, extent: Extent) -> bool:
    """Whether a tensor is all of its extent, in one piece."""
    return (
        len(extent.chunks) == 1 and extent.chunks[0].start == view.start and extent.chunks[0].count == prod(view.shape)
    )


def difference(old: Layout, new: Layout) -> str:
    """In words, why two checkpoints cannot stand in one window ("" if they can)."""
    if old.architecture == new.architecture:
        return ""
    if old.averaged != new.averaged:
        kinds = ["an average of the weights" if each.averaged else "the weights" for each in (old, new)]
        return f"the model changed: it was {kinds[0]} ({old.source!r}), is {kinds[1]} ({new.source!r})"
    a, b = (_by_name(layout) for layout in (old, new))
    gone, added = sorted(a.keys() - b.keys()), sorted(b.keys() - a.keys())
    if len(gone) == len(a):
        return (
            f"the model changed: it is another, none of its {len(b)} tensors (such as {added[0]}) has the name of one of the "
            f"{len(a)} before (such as {gone[0]})"
        )
    if gone or added:
        parts = [
            f"{len(names)} tensors {word} (such as {names[0]})"
            for names, word in ((gone, "removed"), (added, "added"))
            if names
        ]
        return f"the model changed: {', '.join(parts)}; {len(a.keys() & b.keys())} have the names of before"
    for what in ("stored_dtype", "stored_shape", "stride"):
        changed = [name for name in a if getattr(a[name], what) != getattr(b[name], what)]
        if changed:
            before, after = (getattr(each[changed[0]], what) for each in (a, b))
            others = f" ({len(changed)} of {len(a)} tensors changed so)" if len(changed) > 1 else ""
            return f"the model changed: {what.removeprefix('stored_')} of {changed[0]} was {before}, is {after}{others}"
    return "the model changed: other tensors share storage than before"


def _by_name(layout: Layout) -> dict[str, TensorView]:
    """The tensors by the names under which a window knows them."""
    names = canonical_names(view.name for view in layout.tensors)
    return {names[view.name]: view for view in layout.tensors}


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
