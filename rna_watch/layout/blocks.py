"""Blocks of a tensor that its ranks saved apart: the elements of each lie together, those of a row do not.

A tensor that is cut by columns lies in as many pieces as it has rows, times the ranks. In the order of its blocks it lies in as
many as there are ranks: read so, the cut costs nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from rna_watch.layout.strides import runs

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_BAND = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A rectangular block of a tensor: `offsets` along its axes, and its own view (`shape`, `stride`, `start`) of an extent."""

    offsets: tuple[int, ...]
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    start: int

    @property
    def count(self) -> int:
        """How many elements it has."""
        return prod(self.shape)

    @property
    def where(self) -> tuple[slice, ...]:
        """The index of the block in its tensor."""
        return tuple(slice(at, at + size) for at, size in zip(self.offsets, self.shape, strict=True))


def is_dense(shape: Sequence[int], stride: Sequence[int]) -> bool:
    """Whether the elements of a view lie side by side, in whichever order of its axes."""
    step = 1
    for each, size in sorted(zip(stride, shape, strict=True)):
        if size > 1:
            if each != step:
                return False
            step *= size
    return prod(shape) > 0


def uncovered(blocks: Sequence[Block], shape: Sequence[int]) -> str:
    """What is wrong with the blocks of a tensor of this shape: they "overlap" or "leave elements out"; "" if each is in one."""
    lows = np.array([each.offsets for each in blocks], dtype=np.int64).reshape(len(blocks), -1)
    ends = lows + np.array([each.shape for each in blocks], dtype=np.int64).reshape(len(blocks), -1)
    for first in range(0, len(blocks), _BAND):  # some blocks with all, along one axis at a time: memory stays bounded
        own = slice(first, first + _BAND)
        shared = np.ones((len(lows[own]), len(blocks)), dtype=bool)
        for axis in range(lows.shape[1]):
            shared &= lows[own, None, axis] < ends[:, axis]
            shared &= lows[:, axis] < ends[own, None, axis]
        if np.count_nonzero(shared) > len(shared):  # each with itself
            return "overlap"
    outside = bool((lows < 0).any() or (ends > np.array(shape)).any())
    return "leave elements out" if outside or sum(each.count for each in blocks) != prod(shape) else ""


def cut(blocks: Sequence[Block], axis: int) -> list[list[Block]]:
    """Blocks in layers along an axis, in order, that no block of another reaches into; one layer where there are no more."""
    layers: list[list[Block]] = []
    end = 0
    for each in sorted(blocks, key=lambda block: block.offsets[axis]):
        if not layers or each.offsets[axis] >= end:
            layers.append([])
        layers[-1].append(each)
        end = max(end, each.offsets[axis] + each.shape[axis])
    return layers


def band(blocks: Iterable[Block], low: int, high: int) -> tuple[Block, ...]:
    """The blocks of the rows [low, high) of a tensor, which is one itself."""
    found = []
    for each in blocks:
        at, size = each.offsets[0], each.shape[0]
        first, end = max(low, at), min(high, at + size)
        if first < end:
            found.append(
                replace(
                    each,
                    offsets=(first - low, *each.offsets[1:]),
                    shape=(end - first, *each.shape[1:]),
                    start=each.start + (first - at) * each.stride[0],
                )
            )
    return tuple(found)


def row(blocks: Iterable[Block], number: int) -> tuple[Block, ...]:
    """The blocks of one row of a tensor, without its first axis."""
    return tuple(
        replace(each, offsets=each.offsets[1:], shape=each.shape[1:], stride=each.stride[1:])
        for each in band(blocks, number, number + 1)
    )


def runs_of(blocks: Iterable[Block]) -> list[tuple[int, int]]:
    """The runs (first element, count) of an extent that blocks cover, ascending."""
    return sorted(run for each in blocks for run in runs(each.shape, each.stride, each.start))
