"""Strided views as runs of their storage."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

# a piece costs about a kilobyte on its way through a window
_MOST_RUNS = 2**18


def runs(shape: Sequence[int], stride: Sequence[int], start: int) -> list[tuple[int, int]]:
    """The runs (first element, count) of a storage that a strided view covers, ascending and merged.

    Args:
        shape: of the view.
        stride: in elements, one per axis.
        start: element of the storage at which the view begins.

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
