"""Verification: where a published file parts from the recipe of its model, found with bounded memory.

Letters: K checkpoints. Values are compared by their stored bits, so that -0.0 is not 0.0.
"""

from __future__ import annotations

import math
import os
from contextlib import ExitStack
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from rna_watch.errors import InputChanged
from rna_watch.formats import checksums, hugging_face, torch_zip
from rna_watch.layout.dtypes import DTYPES, Array, Float64, widen
from rna_watch.layout.identity import check_unchanged
from rna_watch.layout.layout import Role
from rna_watch.layout.open_file import OpenFile
from rna_watch.layout.strides import merge_runs, runs
from rna_watch.window.combine import combined_blocks
from rna_watch.window.segments import BLOCK_ELEMENTS, WindowReader, window_segments

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import TracebackType

    from rna_watch.layout.layout import Layout, TensorView
    from rna_watch.window.combine import Combination
    from rna_watch.window.segments import Place, Segment

_COPY_BYTES = 2**20
_SHOWN = 5
_UNSIGNED = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}


class Verdict(StrEnum):
    """What a verification ends with."""

    VERIFIED = "verified"
    DIFFERS = "differs"
    UNVERIFIABLE = "unverifiable"


_WORDS = {Verdict.DIFFERS: "DIFFERS from what its manifest claims", Verdict.UNVERIFIABLE: "cannot be verified"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """A checkpoint as a manifest names it."""

    path: str
    fingerprint: str
    weight: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What came out of verifying one model; `inputs` pairs each recorded one with the path where it was found.

    `target` is what a link points to.
    """

    output: str
    verdict: Verdict
    problems: tuple[str, ...]
    notes: tuple[str, ...] = ()
    inputs: tuple[tuple[Input, str | None], ...] = ()
    summary: str = ""
    target: str = ""

    def as_dict(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "output": self.output,
            "verdict": str(self.verdict),
            "inputs": [
                {"recorded": each.path, "weight": each.weight, "path": path, "ok": path is not None}
                for each, path in self.inputs
            ],
            "problems": list(self.problems),
            "notes": list(self.notes),
        }

    def lines(self) -> list[str]:
        """For a person."""
        words = _WORDS.get(self.verdict) or f"verified: {self.summary}"
        shown = f"{self.output} -> {self.target}" if self.target else self.output
        return [f"{shown}: {words}", *(f"  {line}" for line in (*self.problems, *self.notes))]


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A tensor that is not what it should be: how many of its elements differ, and by how much at most."""

    name: str
    differing: int
    elements: int
    largest: float


def combined_differences(
    model: Layout, combination: Combination, groups: Sequence[Sequence[Segment]], block_elements: int = BLOCK_ELEMENTS
) -> list[Difference]:
    """The tensors of a file that are not, bit for bit, sum_k w_k y_k, in the model's order.

    Args:
        model: the file, of the inputs' architecture.
        combination: the recipe, K checkpoints.
        groups: segments of (model, *inputs), cut as they were when the file was written: the last bits of a float64 sum
            depend on the block it is computed in.
        block_elements: elements of a block, likewise.

    Raises:
        InputChanged: a file changed meanwhile.
    """
    tally = _Tally(combination.layouts[-1])
    with _Stored(model) as stored, WindowReader(combination.files) as reader:
        for group in groups:
            segments = [replace(segment, places=segment.places[1:]) for segment in group]
            for number, start, bits in combined_blocks(reader, segments, combination.weights, block_elements):
                segment = group[number]
                found = stored.read(segment.places[0], start, len(bits), segment.dtype)
                tally.add(segment, start, bits, found)
    return tally.differences()


def copied_differences(model: Layout, newest: Layout) -> list[Difference]:
    """The integers and flags of a file that are not those of the newest checkpoint.

    Raises:
        InputChanged: a file changed meanwhile.
    """
    tally = _Tally(newest)
    with _Stored(model) as stored, _Stored(newest) as source:
        for segment in window_segments((model, newest), frozenset({Role.COPIED}), BLOCK_ELEMENTS):
            found, wanted = (
                each.read(places, 0, segment.count, segment.dtype)
                for each, places in zip((stored, source), segment.places, strict=True)
            )
            tally.add(segment, 0, wanted, found)
    return tally.differences()


def differences_beside(model: Layout, newest: Layout) -> dict[str, int] | None:
    """Bytes outside the model's tensors that are not the newest checkpoint's, by the part or the file they are in.

    None where the two cannot be laid over each other, because the file was saved again. Checksums may differ.

    Raises:
        InputChanged: a file changed meanwhile.
    """
    places = [{extent.name: extent.chunks for extent in layout.extents} for layout in (model, newest)]
    sizes = [[file.size_bytes for file in layout.files] for layout in (model, newest)]
    if places[0] != places[1] or sizes[0] != sizes[1]:
        return None
    counts: dict[str, int] = {}
    with _Stored(model) as stored, _Stored(newest) as source:
        for file in range(len(newest.files)):
            names, starts, ends = _parts(source.files[file], newest.kind(file))
            where = f" of {newest.inside(newest.files[file])}" if newest.root else ""
            for offset, size in _outside(newest, file):
                a, b = (np.frombuffer(each.files[file].read(offset, size), dtype=np.uint8) for each in (stored, source))
                if np.array_equal(a, b):
                    continue
                positions = offset + np.flatnonzero(a != b)
                inside = np.searchsorted(starts, positions, side="right") - 1
                known = (inside >= 0) & (positions < ends[inside])
                for number, count in zip(*np.unique(np.where(known, inside, -1), return_counts=True), strict=True):
                    name = names[number] if number >= 0 else "its headers"
                    if name:
                        counts[name + where] = counts.get(name + where, 0) + int(count)
    return counts | hugging_face.carried_differences(model, newest)


def sentences(differences: Sequence[Difference], what: str) -> list[str]:
    """The first differences in words; `what` says what an element is that differs."""
    found = [
        f"{each.name}: {each.differing:,} of {each.elements:,} elements {'are' if each.differing > 1 else 'is'} {what}; "
        f"largest difference {each.largest:.3g}"
        for each in differences[:_SHOWN]
    ]
    more = len(differences) - _SHOWN
    return [*found, f"and {more} more tensor{'s' * (more > 1)}"] if more > 0 else found


def damage(layout: Layout) -> tuple[list[str], bool]:
    """In words, what of a file does not match its checksums, and whether its writer kept any.

    Raises:
        InputChanged: the file changed meanwhile.
    """
    problems: list[str] = []
    kept = True
    with _Stored(layout) as stored:
        for number, file in enumerate(stored.files):
            pieces = ((chunk, extent.name) for extent in layout.extents for chunk in extent.chunks)
            owners = sorted((chunk.offset_bytes, name) for chunk, name in pieces if chunk.file == number)
            zips = checksums.zips(file, layout.kind(number))
            kept &= bool(zips)
            for base, part in zips:
                found = checksums.damage(part, [(offset - base, name) for offset, name in owners if offset >= base])
                problems += found or []
                kept &= found is not None
    return problems, kept


def _parts(file: OpenFile, format_name: str) -> tuple[list[str], Array, Array]:
    """The named parts of a file, ascending, with their first and end bytes; checksums have no name."""
    parts: list[tuple[int, int, str]] = []
    for base, part in checksums.zips(file, format_name):
        for record in torch_zip.read_directory(part):
            offset = torch_zip.payload_offset(part, record)
            parts += [(base + field, base + field + 4, "") for field in checksums.checksum_fields(record, offset)]
            parts.append((base + offset, base + offset + record.size_bytes, f"record {record.name}"))
    parts = sorted(part for part in parts if part[0] < part[1]) or [(0, 0, "")]
    return [part[2] for part in parts], np.array([part[0] for part in parts]), np.array([part[1] for part in parts])


def _outside(layout: Layout, file: int) -> Iterator[tuple[int, int]]:
    """The byte ranges (offset, size) of a file outside the model's tensors, in pieces."""
    tensors = merge_runs(
        (chunk.offset_bytes, chunk.count * DTYPES[extent.dtype].itemsize)
        for extent in layout.extents
        for chunk in extent.chunks
        if chunk.file == file
    )
    position = 0
    for start, count in [*tensors, (layout.files[file].size_bytes, 0)]:
        for offset in range(position, start, _COPY_BYTES):
            yield offset, min(_COPY_BYTES, start - offset)
        position = start + count


class _Stored:
    """A checkpoint's own bytes, in a context that checks before and after that it is the one that was planned."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._open = ExitStack()
        self.files: list[OpenFile] = []

    def __enter__(self) -> _Stored:
        try:
            for identity in self._layout.files:
                try:
                    self.files.append(self._open.enter_context(OpenFile(identity.path)))
                except OSError as error:
                    raise InputChanged(f"{identity.path} cannot be opened any more ({error.strerror})") from error
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

    def _check(self) -> None:
        for identity, file in zip(self._layout.files, self.files, strict=True):
            check_unchanged(identity, file.descriptor)

    def read(self, places: Sequence[Place], start: int, count: int, dtype: str) -> Array:
        """The stored bits of elements [start, start + count), counted over these places."""
        bits = DTYPES[dtype].bits
        parts = []
        position = 0
        for number, offset, size in places:
            low, high = max(start, position), min(start + count, position + size)
            if low < high:
                at = offset + (low - position) * bits.itemsize
                parts.append(self._bytes(number, at, (high - low) * bits.itemsize))
            position += size
        return np.frombuffer(parts[0] if len(parts) == 1 else b"".join(parts), dtype=bits)

    def _bytes(self, number: int, offset: int, count: int) -> bytes:
        path = self._layout.files[number].path
        try:
            data = os.pread(self.files[number].descriptor, count, offset)
        except OSError as error:
            raise InputChanged(f"{path} cannot be read any more ({error.strerror})") from error
        if len(data) != count:
            raise InputChanged(f"{path} became shorter while it was being read")
        return data


class _Tally:
    """Counts differing elements by the tensors that they belong to; of tensors that are the same view, the first."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._views: list[list[int]] = [[] for _ in layout.extents]
        self._counts: dict[int, tuple[int, float]] = {}
        seen = set()
        for number, view in enumerate(layout.tensors):
            key = (view.extent, view.shape, view.stride, view.start)
            if key not in seen:
                self._views[view.extent].append(number)
            seen.add(key)

    def add(self, segment: Segment, start: int, expected: Array, found: Array) -> None:
        unsigned = _UNSIGNED[expected.itemsize]
        where = np.flatnonzero(expected.view(unsigned) != found.view(unsigned))
        if not len(where):
            return
        with np.errstate(invalid="ignore", over="ignore"):
            by = np.abs(_values(found[where], segment.dtype) - _values(expected[where], segment.dtype))
        positions = segment.start + start + where
        for number in self._views[segment.extent]:
            firsts, ends = _pieces(self._layout.tensors[number])
            if not len(firsts) or positions[0] >= ends[-1] or positions[-1] < firsts[0]:
                continue
            piece = np.searchsorted(firsts, positions, side="right") - 1
            inside = (piece >= 0) & (positions < ends[piece])
            if inside.any():
                count, largest = self._counts.get(number, (0, 0.0))
                self._counts[number] = (
                    count + int(np.count_nonzero(inside)),
                    float(np.maximum(largest, by[inside].max())),
                )

    def differences(self) -> list[Difference]:
        return [
            Difference(
                name=view.name,
                differing=count,
                elements=_elements(view),
                largest=largest,
            )
            for view, (count, largest) in (
                (self._layout.tensors[n], found) for n, found in sorted(self._counts.items())
            )
        ]


def _values(bits: Array, dtype: str) -> Float64:
    values = np.empty(len(bits), dtype=np.float64)
    widen(bits, dtype, values)
    return values


def _elements(view: TensorView) -> int:
    """How many elements of its storage a tensor covers (an expanded one has fewer than its shape says)."""
    firsts, ends = _pieces(view)
    return min(math.prod(view.shape), int((ends - firsts).sum()))


@lru_cache(maxsize=64)
def _pieces(view: TensorView) -> tuple[Array, Array]:
    """The runs of a tensor's storage that it covers: first elements and ends."""
    covered = np.array(runs(view.shape, view.stride, view.start), dtype=np.int64).reshape(-1, 2)
    return covered[:, 0], covered[:, 0] + covered[:, 1]
