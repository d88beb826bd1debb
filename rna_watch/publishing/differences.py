"""Differences: where a published file parts from the recipe of its model, found with bounded memory.

Letters: K checkpoints. Values are compared by their stored bits, so that -0.0 is not 0.0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from threadpoolctl import threadpool_limits

from rna_watch.formats.registry import file_format
from rna_watch.layout.dtypes import DTYPES, Array, Float64, widen
from rna_watch.layout.layout import Role
from rna_watch.layout.open_file import opened
from rna_watch.layout.strides import merge_runs
from rna_watch.window import tasks_plan
from rna_watch.window.combine import combined_blocks
from rna_watch.window.reader import WindowReader
from rna_watch.window.segments import BLOCK_ELEMENTS, window_segments

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence

    from rna_watch.layout.layout import Layout, TensorView
    from rna_watch.layout.open_file import OpenFile
    from rna_watch.window.combine import Combination
    from rna_watch.window.segments import Place, Segment

_SHOWN = 5
STATISTICS = frozenset({Role.STATISTIC, Role.VARIANCE})
_UNSIGNED = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A tensor that is not what it should be: how many of its elements differ, and by how much at most."""

    name: str
    differing: int
    elements: int
    largest: float


def combined_differences(
    model: Layout, combination: Combination, *, statistics: bool = True, without: Collection[int] = ()
) -> tuple[list[Difference], int]:
    """The tensors of a file that are not, bit for bit, sum_k w_k y_k, in the model's order; and how many values were compared.

    Args:
        model: the file, of the inputs' architecture.
        combination: the recipe, K checkpoints.
        statistics: compare normalization statistics too.
        without: the numbers of extents of the newest checkpoint that are not compared.

    Raises:
        InputChanged: a file changed meanwhile.
    """
    both = combination.behind(model)
    segments = both.segments(tasks_plan.task_elements(combination.layouts[-1].parameters))
    segments = [
        segment
        for segment in segments
        if (statistics or segment.role not in STATISTICS) and segment.extent not in without
    ]
    # cut as when the file was written: the last bits of a float64 sum depend on the block that it is computed in
    groups = [task.segments for task in tasks_plan.combine_tasks(both, segments, ())]
    block = tasks_plan.block_elements(len(combination.layouts))
    tally = _Tally(combination.layouts[-1])
    with (
        threadpool_limits(limits=1, user_api="blas"),
        opened(model.files) as stored,
        WindowReader(combination.files) as reader,
    ):
        for group in groups:
            own = [replace(segment, places=segment.places[1:]) for segment in group]
            for number, start, bits in combined_blocks(reader, own, combination.rows, block):
                segment = group[number]
                found = _stored(stored, segment.places[0], start, len(bits), segment.dtype)
                tally.add(segment, start, bits, found)
    return tally.differences(), sum(segment.count for segment in segments)


def copied_differences(model: Layout, newest: Layout) -> list[Difference]:
    """The integers and flags of a file that are not those of the newest checkpoint.

    Raises:
        InputChanged: a file changed meanwhile.
    """
    tally = _Tally(newest)
    with opened(model.files) as stored, opened(newest.files) as source:
        for segment in window_segments((model, newest), frozenset({Role.COPIED}), BLOCK_ELEMENTS):
            found, wanted = (
                _stored(each, places, 0, segment.count, segment.dtype)
                for each, places in zip((stored, source), segment.places, strict=True)
            )
            tally.add(segment, 0, wanted, found)
    return tally.differences()


def differences_beside(model: Layout, newest: Layout) -> dict[str, int] | None:
    """How many bytes outside the model's tensors are not the newest checkpoint's, by the part or the file they are in.

    None if the tensors lie elsewhere, because the file was saved again. Checksums may differ.

    Raises:
        InputChanged: a file changed meanwhile.
    """
    places = [{extent.name: extent.chunks for extent in layout.extents} for layout in (model, newest)]
    sizes = [[file.size_bytes for file in layout.files] for layout in (model, newest)]
    if places[0] != places[1] or sizes[0] != sizes[1]:
        return None
    counts: dict[str, int] = {}
    with opened(model.files) as stored, opened(newest.files) as source:
        for file in range(len(newest.files)):
            names, starts, ends = _parts(source[file], newest.kind(file))
            where = f" of {newest.inside(newest.files[file])}" if newest.root else ""
            for positions in _differing(stored[file], source[file], _outside(newest, file)):
                inside = np.searchsorted(starts, positions, side="right") - 1
                known = (inside >= 0) & (positions < ends[inside])
                for number, count in zip(*np.unique(np.where(known, inside, -1), return_counts=True), strict=True):
                    name = names[number] if number >= 0 else "its headers"
                    if name:
                        counts[name + where] = counts.get(name + where, 0) + int(count)
    return counts | _carried_differences(model, newest)


def some(parts: Sequence[str]) -> str:
    """The first of several parts of a sentence, and how many more there are."""
    more = f" and {len(parts) - _SHOWN} more" if len(parts) > _SHOWN else ""
    return ", ".join(parts[:_SHOWN]) + more


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
    with opened(layout.files) as stored:
        for number, file in enumerate(stored):
            pieces = ((chunk, extent.name) for extent in layout.extents for chunk in extent.chunks)
            owners = sorted((chunk.offset_bytes, name) for chunk, name in pieces if chunk.file == number)
            checksums = file_format(layout.kind(number)).checksums
            found, sums = checksums.damage(file, owners) if checksums is not None else ([], False)
            problems += found
            kept &= sums
    return problems, kept


def _parts(file: OpenFile, format_name: str) -> tuple[list[str], Array, Array]:
    """The named parts of a file, ascending, with their first and end bytes; checksums have no name."""
    checksums = file_format(format_name).checksums
    found = checksums.parts(file) if checksums is not None else []
    parts = sorted(part for part in found if part[0] < part[1]) or [(0, 0, "")]
    return [part[2] for part in parts], np.array([part[0] for part in parts]), np.array([part[1] for part in parts])


def _outside(layout: Layout, file: int) -> Iterator[tuple[int, int]]:
    """The byte ranges (offset, size) of a file outside the model's tensors."""
    tensors = merge_runs(
        (chunk.offset_bytes, chunk.count * DTYPES[extent.dtype].itemsize)
        for extent in layout.extents
        for chunk in extent.chunks
        if chunk.file == file
    )
    position = 0
    for start, count in [*tensors, (layout.files[file].size_bytes, 0)]:
        yield position, start - position
        position = start + count


def _differing(one: OpenFile, other: OpenFile, ranges: Iterable[tuple[int, int]]) -> Iterator[Array]:
    """The positions of the bytes that differ within these ranges, in bounded pieces."""
    for start, size in ranges:
        position = start
        for a, b in zip(one.pieces(start, size), other.pieces(start, size), strict=True):
            where = np.flatnonzero(np.asarray(a) != np.asarray(b))
            if len(where):
                yield position + where
            position += len(a)


def _stored(files: Sequence[OpenFile], places: Sequence[Place], start: int, count: int, dtype: str) -> Array:
    """The stored bits of elements [start, start + count), counted over these places."""
    bits = np.empty(count, dtype=DTYPES[dtype].bits)
    raw = bits.data.cast("B")
    position = 0
    for number, offset, size in places:
        low, high = max(start, position), min(start + count, position + size)
        if low < high:
            part = raw[(low - start) * bits.itemsize : (high - start) * bits.itemsize]
            files[number].read_into(part, offset + (low - position) * bits.itemsize)
        position += size
    return bits


class _Tally:
    """Counts differing elements by the tensors that they belong to; of tensors that are the same view, the first."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._views: list[list[int]] = [[] for _ in layout.extents]
        self._counts: dict[int, tuple[int, float]] = {}
        seen = set()
        for number, view in enumerate(layout.tensors):
            if view.place not in seen:
                self._views[view.extent].append(number)
            seen.add(view.place)

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
    covered = np.array(view.runs, dtype=np.int64).reshape(-1, 2)
    return covered[:, 0], covered[:, 0] + covered[:, 1]


def _carried_differences(model: Layout, newest: Layout) -> dict[str, int]:
    """How many bytes of the files that both carry differ, by file; a file that only one of the two has does not count."""
    own = {model.inside(file): file for file in model.carried}
    counts: dict[str, int] = {}
    for theirs in newest.carried:
        name = newest.inside(theirs)
        if name not in own:
            continue
        count = abs(own[name].size_bytes - theirs.size_bytes)
        with opened([own[name], theirs]) as (stored, source):
            shared = min(stored.size_bytes, source.size_bytes)
            count += sum(len(positions) for positions in _differing(stored, source, [(0, shared)]))
        if count:
            counts[name] = count
    return counts
