"""Extents: where the tensors of a checkpoint lie in its files, the one value that all formats share.

A *tensor* is a view (shape, stride, start) of a storage. An *extent* is the part of one storage that the model's tensors use,
each element once however many tensors share it; its *chunks* say where those elements lie in files. Elements are numbered as
in the storage, so that tied and overlapping tensors keep their views.
"""

from __future__ import annotations

import hashlib
import os
import re
from copy import copy
from dataclasses import dataclass, field, replace
from enum import StrEnum
from fnmatch import translate
from math import prod
from typing import TYPE_CHECKING

from rna_watch.layout.blocks import Block, runs_of
from rna_watch.layout.dtypes import PAIRS
from rna_watch.layout.names import by_part, canonical_names, plain_names
from rna_watch.layout.strides import runs

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rna_watch.acceleration.residuals import ParameterGroup
    from rna_watch.layout.identity import FileIdentity


class Role(StrEnum):
    """What an extent is to the extrapolation (facts: Scieur et al. 2018, section 4.2; buffers are not part of R)."""

    PARAMETER = "parameter"  # in the residuals, and combined
    STATISTIC = "statistic"  # combined with the same weights, not in the residuals
    VARIANCE = "variance"  # a statistic that must not become negative
    COPIED = "copied"  # the newest checkpoint's bytes: integers, flags, states of metrics, what is ignored


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
    """One value for each element of a parameter extent (momentum, gradient): dtype and chunks, parallel to the extent's own.

    `group` is the optimizer's parameter group, -1 where the parameter is in none. All values are zero where there are no chunks.
    """

    group: int
    dtype: str = ""
    chunks: tuple[Chunk, ...] = ()


OUTSIDE = Companion(group=-1)


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorView:
    """A named tensor of the model: shape, stride and start (in elements) within extent number `extent`.

    The name is the stored one. `pairs`: it holds complex numbers, described as real ones with a last axis of two. `blocks`: its
    elements are numbered one block after the other; `stride` is then a contiguous tensor's, and says nothing of the extent.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    extent: int
    start: int
    pairs: bool = False
    blocks: tuple[Block, ...] = ()

    @property
    def place(self) -> tuple[object, ...]:
        """What equal views of an extent have in common."""
        return self.extent, self.shape, self.stride, self.start, self.blocks

    @property
    def cut(self) -> str:
        """The blocks, as text: equal for equal cuts."""
        return "".join(f"|{each.offsets}{each.shape}{each.stride}" for each in self.blocks)

    @property
    def runs(self) -> list[tuple[int, int]]:
        """The runs (first element, count) of the extent's storage that it covers, ascending."""
        return runs_of(self.blocks) if self.blocks else runs(self.shape, self.stride, self.start)

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

    `averaged`: it is a moving average of the weights, stored next to them.
    """

    path: str
    tensors: int
    averaged: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """A complete checkpoint: its files, the model's tensors and where their elements lie.

    Args:
        format: name of its format.
        files: those that hold the model.
        source: key path of the model inside the file ("" for a bare state dict); several with commas: networks as one model.
        tensors: the model's.
        extents: where their elements lie; tensors refer to them by number.
        counters: the step and epoch numbers found inside.
        fingerprint: identifies the content, whatever the file's name.
        optimizer: the state of the one optimizer in the file.
        gradient: the layout of the mean gradient that the training saved next to it.
        gradient_problem: why that is not this checkpoint's own ("" if it is).
        root: the folder, of a checkpoint that is one.
        carried: the files in it that a copy for use takes over as they are (configuration, tokenizer, metadata).
        kinds: name of the file format of each of `files`, where that is not `format`.
        sources: all groups of tensors that could have been taken as the model.
        parts: the key paths in `source`, where they are several: names of tensors begin with them.
        ignore: glob patterns of names; the tensors that match, and those that share their storage, are copied.
        optimizer_steps: the steps that its optimizers count, the largest of them; None if unknown.
        saved_to: the folder that the trainer says it saves to ("" if unknown).

    `architecture` is a digest of what must agree within a window: names, dtypes, shapes, strides, blocks and sharing of storage,
    but of tensors that are copied names and dtypes alone, and of ignored ones nothing. `structure` is a digest of all of it.
    `ignored` are the ignored tensors, by their names in a window.
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
    parts: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    optimizer_steps: int | None = None
    saved_to: str = ""
    architecture: str = field(init=False)
    structure: str = field(init=False)
    ignored: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        names = self.window_names
        owners = {view.extent: names[view.name] for view in reversed(self.tensors)}
        left_out = {view.extent for view in matching(self, self.ignore)} if self.ignore else set()
        extents = tuple(
            extent
            if owners.get(number, extent.name) == extent.name and number not in left_out
            else replace(
                extent, name=owners.get(number, extent.name), role=Role.COPIED if number in left_out else extent.role
            )
            for number, extent in enumerate(self.extents)
        )
        object.__setattr__(self, "extents", extents)
        object.__setattr__(self, "ignored", tuple(names[t.name] for t in self.tensors if t.extent in left_out))
        lines = [
            (
                t.extent,
                f"{names[t.name]}|{t.stored_dtype}|",
                f"{t.shape}|{t.stride}|{t.start}|{owners[t.extent]}{t.cut}",
            )
            for t in self.tensors
        ]
        agree = [
            front if extents[number].role is Role.COPIED else front + rest
            for number, front, rest in lines
            if number not in left_out
        ]
        last = ["an average"] if self.averaged else []
        object.__setattr__(self, "architecture", _digest(sorted(agree) + last))
        object.__setattr__(self, "structure", _digest(sorted(front + rest for _, front, rest in lines) + last))

    def of_other_file(
        self, file: FileIdentity, *, counters: dict[str, int], fingerprint: str, optimizer_steps: int | None
    ) -> Layout:
        """The layout of another file in which every tensor lies where it lies in this one."""
        found = copy(self)  # what follows from the tensors is not computed again
        changed = {
            "files": (file,),
            "counters": counters,
            "fingerprint": fingerprint,
            "optimizer_steps": optimizer_steps,
        }
        for name, value in changed.items():
            object.__setattr__(found, name, value)
        return found

    @property
    def averaged(self) -> bool:
        """Whether the model is a moving average of weights that are in the checkpoint too, or were."""
        own = self.parts or (self.source,)
        return any(source.averaged for source in self.sources if source.path in own)

    @property
    def plain_names(self) -> dict[str, str]:
        """The key that the bare model uses for each tensor, by stored name."""
        return by_part(plain_names, (view.name for view in self.tensors), self.parts)

    @property
    def window_names(self) -> dict[str, str]:
        """The name by which each tensor is known across a window, by stored name."""
        return by_part(canonical_names, (view.name for view in self.tensors), self.parts)

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


def _digest(lines: list[str]) -> str:
    return hashlib.blake2b("\n".join(lines).encode(errors="backslashreplace"), digest_size=8).hexdigest()


def matching(layout: Layout, patterns: Iterable[str]) -> list[TensorView]:
    """The tensors whose whole name, as it is stored, in the bare model or across a window, matches one of the patterns."""
    wanted = re.compile("|".join(map(translate, patterns)))
    plain, common = layout.plain_names, layout.window_names
    return [
        view
        for view in layout.tensors
        if any(map(wanted.match, {view.name, plain.get(view.name, view.name), common[view.name]}))
    ]


def covers(view: TensorView, extent: Extent) -> bool:
    """Whether a tensor covers all of its extent, which lies in one piece."""
    if len(extent.chunks) != 1 or view.blocks:
        return False
    return extent.chunks[0].start == view.start and extent.chunks[0].count == prod(view.shape)


Setting = bool | float | tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Buffer:
    """A tensor of an optimizer's state: dtype, shape, and where its elements lie, in one piece."""

    dtype: str
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A parameter as the optimizer knows it: its group, its name where stored, its buffer where it has one.

    `unreadable`: it has momentum, but not as a plain tensor in one piece. `moments` is its state by torch's names, where the
    optimizer is of Adam's kind: tensors, and the number of steps, which may be a plain number; None cannot be read.
    """

    group: int
    name: str | None
    buffer: Buffer | None
    unreadable: bool = False
    moments: tuple[tuple[str, Buffer | float | None], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerState:
    """One optimizer: its kind, the settings of its groups, and its parameters in its own order.

    `settings` are those of each group by torch's names, as far as they are plain numbers or pairs of them.
    """

    kind: str
    groups: tuple[ParameterGroup, ...]
    members: tuple[Member, ...]
    settings: tuple[dict[str, Setting], ...] = ()
