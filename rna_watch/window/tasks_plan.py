"""The plan: bulk work over a window, cut into tasks of bounded size, the same on every engine and for any number of workers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rna_watch.layout.identity import FileIdentity
from rna_watch.layout.layout import Role
from rna_watch.window.segments import BLOCK_ELEMENTS, Segment, window_segments

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rna_watch.acceleration.residuals import Form
    from rna_watch.layout.layout import Layout
    from rna_watch.window.combine import Combination
    from rna_watch.window.companions import Companions
    from rna_watch.window.copies import Strip
    from rna_watch.window.copying import Gap

# 4 Mi elements of 11 float32 iterates are 184 MB of reading, about 0.1 s: long against the cost of a task, short
# against a stop.
TASK_ELEMENTS = 2**22
_MOST_TASKS = 512
# of the block buffers in one worker
BUDGET_MIB = 64.0
_STATISTICS = frozenset({Role.STATISTIC, Role.VARIANCE})

Files = tuple[tuple[FileIdentity, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class GramTask:
    """Part of the last `new` rows of the Gram matrix over these segments; statistics are only checked for being finite.

    The first `checkpoints` of `files` are the window's; what stands beside them follows. `factors[group][i]` is (p, q) of
    residual i, where the residuals have another form besides the difference.
    """

    files: Files
    segments: tuple[Segment, ...]
    checkpoints: int
    new: int
    block_elements: int
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
    """Part of a weighted combination, written into the clone's files."""

    files: Files
    segments: tuple[Segment, ...]
    weights: tuple[float, ...]
    outputs: tuple[str, ...]
    block_elements: int

    @property
    def work_bytes(self) -> int:
        """Bytes to read."""
        return len(self.files) * sum(segment.size_bytes for segment in self.segments)


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyTask:
    """Bytes that the clone takes over from the newest checkpoint."""

    files: tuple[FileIdentity, ...]
    gaps: tuple[Gap, ...]
    outputs: tuple[str, ...]

    @property
    def work_bytes(self) -> int:
        """Bytes to read."""
        return sum(gap.size_bytes for gap in self.gaps)


@dataclass(frozen=True, slots=True, kw_only=True)
class CarryTask:
    """Strips of a checkpoint's tensors, carried to their places in other files."""

    files: tuple[FileIdentity, ...]
    strips: tuple[Strip, ...]
    outputs: tuple[str, ...]

    @property
    def work_bytes(self) -> int:
        """Bytes to write."""
        return sum(strip.size_bytes for strip in self.strips)


Task = GramTask | FactorTask | CombineTask | CopyTask | CarryTask


def task_elements(count: int) -> int:
    """Elements of a task for a model of `count` elements: bounded below by what a task costs, above by the number of tasks."""
    return max(TASK_ELEMENTS, -(-count // _MOST_TASKS))


def block_elements(checkpoints: int, budget_mib: float) -> int:
    """Elements of a block, so that its float64 values and the buffers beside it stay within a worker's budget."""
    within = int(budget_mib * 2**20) // (8 * (checkpoints + 4))
    return max(256, min(BLOCK_ELEMENTS, within))


def gram_tasks(
    layouts: Sequence[Layout], new: int, budget_mib: float, form: Form | None = None, beside: Companions | None = None
) -> list[GramTask]:
    """Tasks for the last `new` rows of the Gram matrix of these checkpoints' residuals, in merge order."""
    limit = task_elements(layouts[-1].parameters)
    segments = window_segments(layouts, frozenset({Role.PARAMETER}) | _STATISTICS, limit, beside)
    files = _files(layouts, beside)
    block = block_elements(len(files), budget_mib)
    return [
        GramTask(
            files=files,
            segments=group,
            checkpoints=len(layouts),
            new=new,
            block_elements=block,
            factors=_by_group(form),
        )
        for group in _groups(segments, limit)
    ]


def factor_tasks(
    layouts: Sequence[Layout], budget_mib: float, form: Form, beside: Companions | None = None
) -> list[FactorTask]:
    """Tasks for the triangular factor of these checkpoints' residuals, in merge order."""
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
        for group in _groups(segments, limit)
    ]


def _files(layouts: Sequence[Layout], beside: Companions | None) -> Files:
    return tuple(layout.files for layout in layouts) + (beside.files if beside else ())


def _by_group(form: Form | None) -> tuple[tuple[tuple[float, float], ...], ...]:
    """The form's factors, for each parameter group those of every residual."""
    return tuple(zip(*form.factors, strict=True)) if form else ()


def combine_tasks(
    combination: Combination, segments: Sequence[Segment], outputs: tuple[str, ...], budget_mib: float
) -> list[CombineTask]:
    """Tasks that write a combination; `segments` as `combination.segments(...)` gives them."""
    limit = task_elements(combination.layouts[-1].parameters)
    return [
        CombineTask(
            files=combination.files,
            segments=group,
            weights=combination.weights,
            outputs=outputs,
            block_elements=block_elements(len(combination.layouts), budget_mib),
        )
        for group in _groups(segments, limit)
    ]


def copy_tasks(
    files: tuple[FileIdentity, ...], gaps: Iterable[Gap], outputs: tuple[str, ...], limit_bytes: int = 2**26
) -> list[CopyTask]:
    """Tasks that copy gaps of a checkpoint's files into the outputs."""
    tasks: list[CopyTask] = []
    group: list[Gap] = []
    total = 0
    for gap in gaps:
        group.append(gap)
        total += gap.size_bytes
        if total >= limit_bytes:
            tasks.append(CopyTask(files=files, gaps=tuple(group), outputs=outputs))
            group, total = [], 0
    if group:
        tasks.append(CopyTask(files=files, gaps=tuple(group), outputs=outputs))
    return tasks


def carry_tasks(
    files: tuple[FileIdentity, ...], strips: Iterable[Strip], outputs: tuple[str, ...], limit_bytes: int = 2**26
) -> list[CarryTask]:
    """Tasks that carry strips to their places."""
    tasks: list[CarryTask] = []
    group: list[Strip] = []
    total = 0
    for strip in strips:
        group.append(strip)
        total += strip.size_bytes
        if total >= limit_bytes:
            tasks.append(CarryTask(files=files, strips=tuple(group), outputs=outputs))
            group, total = [], 0
    if group:
        tasks.append(CarryTask(files=files, strips=tuple(group), outputs=outputs))
    return tasks


def _groups(segments: Iterable[Segment], limit: int) -> list[tuple[Segment, ...]]:
    """Neighbouring segments, together at most `limit` elements (each alone is)."""
    groups: list[tuple[Segment, ...]] = []
    group: list[Segment] = []
    total = 0
    for segment in segments:
        if group and total + segment.count > limit:
            groups.append(tuple(group))
            group, total = [], 0
        group.append(segment)
        total += segment.count
    if group:
        groups.append(tuple(group))
    return groups
