"""The plan: bulk work over a window, cut into tasks of bounded size, the same on every engine and for any number of workers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from math import prod
from operator import attrgetter
from typing import TYPE_CHECKING, TypeVar

from threadpoolctl import threadpool_info

from rna_watch.acceleration.gram import Kernel, kernel_for
from rna_watch.layout.identity import FileIdentity
from rna_watch.layout.layout import Role
from rna_watch.layout.open_file import cache_bytes
from rna_watch.window.segments import BLOCK_ELEMENTS, Segment, window_segments

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from rna_watch.acceleration.residuals import Form
    from rna_watch.layout.factors import FactorPair
    from rna_watch.layout.layout import Layout, TensorView
    from rna_watch.window.combine import Combination, Rows
    from rna_watch.window.companions import Companions
    from rna_watch.window.copies import Copy

# 4 Mi elements of 11 float32 iterates are 184 MB of reading, about 0.1 s: long against the cost of a task, short
# against a stop.
TASK_ELEMENTS = 2**22
COPY_BYTES = 2**26
BUDGET_MIB = 64.0  # of block buffers in one worker
_MOST_TASKS = 512
_PRODUCT_COST = 16  # of an element of a factor, next to one that is combined
_KEPT = 2 / 3  # of the memory that is available: what stays in the page cache of a window that it cannot hold
_STATISTICS = frozenset({Role.STATISTIC, Role.VARIANCE})

Files = tuple[tuple[FileIdentity, ...], ...]
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class GramTask:
    """Part of the last `new` rows of the Gram matrix over these segments; statistics are only checked for being finite.

    The first `checkpoints` of `files` are the window's; those of the companions follow. `factors[group][i]` is (p, q) of
    residual i, where the residuals have another form besides the difference. `kernel` takes the products. `uncached`: what is
    read of so many files, the first, need not stay in the page cache, which cannot hold the window.
    """

    files: Files
    segments: tuple[Segment, ...]
    checkpoints: int
    new: int
    block_elements: int
    kernel: Kernel
    uncached: int = 0
    factors: tuple[tuple[tuple[float, float], ...], ...] = ()

    @property
    def work_bytes(self) -> int:
        """Bytes to read."""
        return sum(segment.read_bytes for segment in self.segments)


@dataclass(frozen=True, slots=True, kw_only=True)
class FactorTask:
    """Part of the triangular factor of the residuals (QR route); fields as `GramTask`."""

    files: Files
    segments: tuple[Segment, ...]
    checkpoints: int
    block_elements: int
    scales: tuple[float, ...]
    factors: tuple[tuple[tuple[float, float], ...], ...] = ()

    @property
    def work_bytes(self) -> int:
        """Bytes to read."""
        return sum(segment.read_bytes for segment in self.segments)


@dataclass(frozen=True, slots=True, kw_only=True)
class CombineTask:
    """Part of a weighted combination, written into the outputs; `evidence` names the elements that are looked at, if any are."""

    files: Files
    segments: tuple[Segment, ...]
    rows: Rows
    outputs: tuple[str, ...]
    block_elements: int
    evidence: str = ""
    uncached: bool = False

    @property
    def work_bytes(self) -> int:
        """Bytes to read."""
        return len(self.files) * sum(segment.size_bytes for segment in self.segments)


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyTask:
    """Pieces of a checkpoint's files, copied to their places in other files."""

    files: tuple[FileIdentity, ...]
    copies: tuple[Copy, ...]
    outputs: tuple[str, ...]

    @property
    def work_bytes(self) -> int:
        """Bytes to write."""
        return sum(copy.size_bytes for copy in self.copies)


@dataclass(frozen=True, slots=True, kw_only=True)
class Factor:
    """One of two matrices whose product counts: its segments, shape, strides and dtype, and where it is written."""

    segments: tuple[Segment, ...]
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: str
    offset_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ProductTask:
    """Some pairs of factors (B, A), combined as their products with one row of weights, written into a file."""

    files: Files
    pairs: tuple[tuple[Factor, Factor], ...]
    weights: tuple[float, ...]
    output: str

    @property
    def segments(self) -> tuple[Segment, ...]:
        """Those of all factors."""
        return tuple(segment for pair in self.pairs for factor in pair for segment in factor.segments)

    @property
    def work_bytes(self) -> int:
        """Bytes to read."""
        return sum(segment.read_bytes for segment in self.segments)


Task = GramTask | FactorTask | CombineTask | CopyTask | ProductTask


def task_elements(count: int) -> int:
    """Elements of a task for a model of `count` elements: bounded below by what a task costs, above by the number of tasks."""
    return max(TASK_ELEMENTS, -(-count // _MOST_TASKS))


def block_elements(checkpoints: int, budget_mib: float = BUDGET_MIB) -> int:
    """Elements of a block, so that its float64 values and the other buffers stay within a worker's budget."""
    within = int(budget_mib * 2**20) // (8 * (checkpoints + 4))
    return max(256, min(BLOCK_ELEMENTS, within))


def gram_tasks(
    layouts: Sequence[Layout], new: int, budget_mib: float, form: Form | None = None, beside: Companions | None = None
) -> list[GramTask]:
    """Tasks for the last rows of the Gram matrix of a window's residuals, in merge order.

    Args:
        layouts: the K checkpoints, oldest first.
        new: how many rows.
        budget_mib: memory of a worker's block.
        form: of the residuals; None for differences.
        beside: what is read besides the checkpoints.
    """
    limit = task_elements(layouts[-1].parameters)
    segments = window_segments(layouts, frozenset({Role.PARAMETER}) | _STATISTICS, limit, beside)
    files = _files(layouts, beside)
    block = block_elements(len(files), budget_mib)
    kernel = window_kernel(len(layouts))
    groups = _groups(segments, attrgetter("count"), limit)
    return [
        GramTask(
            files=files,
            segments=group,
            checkpoints=len(layouts),
            new=new,
            block_elements=block,
            kernel=kernel,
            uncached=uncached,
            factors=_by_group(form),
        )
        for group, uncached in zip(groups, _uncached(groups, layouts, len(files)), strict=True)
    ]


def _uncached(groups: Sequence[tuple[Segment, ...]], layouts: Sequence[Layout], files: int) -> Iterator[int]:
    """How many of the files, the first, are read for each group without staying in the page cache.

    Where it cannot hold the window, it keeps the beginning of all checkpoints but the oldest, which has no weight in an
    extrapolation and is in no later window: the pass that combines reads the others once more.
    """
    room = _KEPT * cache_bytes() if _outgrows(layouts) else math.inf
    for group in groups:
        room -= (len(layouts) - 1) * sum(segment.size_bytes for segment in group)
        yield 0 if room == math.inf else 1 if room >= 0 else files


def window_kernel(checkpoints: int) -> Kernel:
    """How products of so many checkpoints' residuals are taken on this machine."""
    return kernel_for(checkpoints - 1, _architecture())


@cache
def _architecture() -> str:
    """The kernels that BLAS takes on this machine ("" if it is none that says so)."""
    found = [str(each.get("architecture") or "") for each in threadpool_info() if each["user_api"] == "blas"]
    return next(iter(found), "")


def factor_tasks(
    layouts: Sequence[Layout], budget_mib: float, form: Form, beside: Companions | None = None
) -> list[FactorTask]:
    """Tasks for the triangular factor of a window's residuals, in merge order.

    Args:
        layouts: the K checkpoints, oldest first.
        budget_mib: memory of a worker's block.
        form: of the residuals.
        beside: what is read besides the checkpoints.
    """
    limit = task_elements(layouts[-1].parameters)
    segments = window_segments(layouts, frozenset({Role.PARAMETER}), limit, beside)
    files = _files(layouts, beside)
    return [
        FactorTask(
            files=files,
            segments=group,
            checkpoints=len(layouts),
            block_elements=block_elements(len(files), budget_mib),
            scales=form.scales,
            factors=_by_group(form),
        )
        for group in _groups(segments, attrgetter("count"), limit)
    ]


def _files(layouts: Sequence[Layout], beside: Companions | None) -> Files:
    return tuple(layout.files for layout in layouts) + (beside.files if beside else ())


def _by_group(form: Form | None) -> tuple[tuple[tuple[float, float], ...], ...]:
    """The form's factors, for each parameter group those of every residual."""
    return tuple(zip(*form.factors, strict=True)) if form else ()


def combine_tasks(
    combination: Combination, segments: Sequence[Segment], outputs: tuple[str, ...], evidence: str = ""
) -> list[CombineTask]:
    """Tasks that write a combination.

    Args:
        combination: the model.
        segments: what to write of it, as `combination.segments(...)` gives them.
        outputs: the files that are written.
        evidence: which elements are looked at, if any are.
    """
    limit = task_elements(combination.layouts[-1].parameters)
    uncached = _outgrows(combination.layouts)
    return [
        CombineTask(
            files=combination.files,
            segments=group,
            rows=combination.rows,
            outputs=outputs,
            block_elements=block_elements(len(combination.layouts)),
            evidence=evidence,
            uncached=uncached,
        )
        for group in _groups(segments, attrgetter("count"), limit)
    ]


def product_tasks(
    combination: Combination, pairs: Sequence[FactorPair], offsets: Mapping[int, int], output: str
) -> list[ProductTask]:
    """Tasks that combine pairs of factors as their products.

    Args:
        combination: the checkpoints and their weights.
        pairs: of the newest.
        offsets: where the factors go, by the number of their extents.
        output: the file that is written.
    """
    segments: dict[int, list[Segment]] = {}
    for segment in window_segments(combination.layouts, frozenset({Role.PARAMETER}), TASK_ELEMENTS):
        segments.setdefault(segment.extent, []).append(segment)

    def factor(view: TensorView) -> Factor:
        own = sorted(segments[view.extent], key=lambda each: each.start)
        offset = offsets[view.extent]
        return Factor(segments=tuple(own), shape=view.shape, stride=view.stride, dtype=view.dtype, offset_bytes=offset)

    work = [(factor(pair.up), factor(pair.down)) for pair in pairs]
    groups = _groups(work, lambda pair: sum(prod(each.shape) for each in pair), TASK_ELEMENTS // _PRODUCT_COST)
    return [
        ProductTask(files=combination.files, pairs=group, weights=combination.weights, output=output)
        for group in groups
    ]


def _outgrows(layouts: Sequence[Layout]) -> bool:
    return sum(file.size_bytes for layout in layouts for file in layout.files) > cache_bytes()


def copy_tasks(
    files: tuple[FileIdentity, ...], copies: Iterable[Copy], outputs: tuple[str, ...], limit_bytes: int = COPY_BYTES
) -> list[CopyTask]:
    """Tasks that copy pieces of a checkpoint's files.

    Args:
        files: the checkpoint's.
        copies: what to copy, and where to.
        outputs: the files that are written.
        limit_bytes: most bytes of a task that copies more than one piece.
    """
    groups = _groups(copies, attrgetter("size_bytes"), limit_bytes)
    return [CopyTask(files=files, copies=group, outputs=outputs) for group in groups]


def _groups(items: Iterable[T], size: Callable[[T], int], limit: int) -> list[tuple[T, ...]]:
    """Neighbours, together of at most the limit, but for one that is larger alone."""
    groups: list[tuple[T, ...]] = []
    group: list[T] = []
    total = 0
    for item in items:
        if group and total + size(item) > limit:
            groups.append(tuple(group))
            group, total = [], 0
        group.append(item)
        total += size(item)
    if group:
        groups.append(tuple(group))
    return groups
