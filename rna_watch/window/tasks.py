"""What a worker does with one task: plain functions of small values, with bounded memory and one thread."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from rna_watch.acceleration.gram import GramRows, block_residuals, block_rows, merge, stored_rows
from rna_watch.acceleration.qr_factor import block_factor, stacked_factor
from rna_watch.layout.dtypes import DTYPES
from rna_watch.layout.layout import Role
from rna_watch.window.combine import Patch, write_combination
from rna_watch.window.copies import write_copies
from rna_watch.window.evidence import Evidence
from rna_watch.window.products import Norms, write_products
from rna_watch.window.reader import WindowReader, still_infinities
from rna_watch.window.segments import matrix_columns
from rna_watch.window.tasks_plan import CombineTask, CopyTask, FactorTask, GramTask, ProductTask, Task

if TYPE_CHECKING:
    from rna_watch.window.reader import Block
    from rna_watch.window.segments import Segment

_MERGED = 64  # parts at a time
Float64 = npt.NDArray[np.float64]
Result = GramRows | Float64 | list[Patch] | tuple[list[Patch], GramRows] | Norms
# what runs tasks: an engine's `map`, or `run_all`
Run = Callable[[Sequence[Task]], Sequence[Result]]


def run(task: Task) -> Result:
    """Do one task: rows of the Gram matrix, a triangular factor, the patches that were written, or norms of products."""
    match task:
        case GramTask():
            return gram_rows(task)
        case FactorTask():
            return triangular_factor(task)
        case CombineTask():
            return combined(task)
        case CopyTask():
            return write_copies(task.files, task.copies, task.outputs)
        case ProductTask():
            return write_products(task)


def run_all(work: Sequence[Task]) -> list[Result]:
    """Do tasks here, one after the other."""
    return [run(task) for task in work]


def single_thread() -> None:
    """Keep this process's matrix kernels to one thread: parallelism comes from tasks, and the bits stay the same."""
    threadpool_limits(limits=1, user_api="blas")


def gram_rows(task: GramTask) -> GramRows:
    """A task's part of the Gram matrix.

    Raises:
        InputChanged: a checkpoint changed meanwhile.
    """
    k = task.checkpoints
    parts = [_no_rows(task)]
    bad: set[int] = set()
    first_new = 0 if task.new == k - 1 else k - task.new
    # values that are not finite are reported by name, so numpy need not warn of them
    with (
        np.errstate(over="ignore", invalid="ignore"),
        WindowReader(task.files, task.uncached) as reader,
    ):
        as_stored = task.kernel == "compiled" and len(task.files) == k and not task.factors
        for block in reader.blocks(task.segments, task.block_elements):
            if task.segments[block.pieces[0].segment].role is not Role.PARAMETER:
                for step in block.steps():
                    bad |= _non_finite(step.values[:k], first_new)
            elif as_stored and (part := _rows_of_stored(block, task)) is not None:
                parts.append(part)
            else:
                parts.extend(_rows_of_values(step, task) for step in block.steps())
            if len(parts) >= _MERGED:
                parts = [merge(parts)]
    total = merge(parts)
    if not np.isfinite(total.rows).all():
        bad |= _non_finite_iterates(task)
    return replace(total, non_finite=frozenset(bad))


def _rows_of_stored(block: Block, task: GramTask) -> GramRows | None:
    """A block's part of the Gram matrix by the compiled loops; None where something is not finite."""
    bits, dtype = block.stored
    return stored_rows(bits, dtype, task.new, DTYPES[dtype].eps, matrix_columns(block.pieces, task.segments))


def _rows_of_values(block: Block, task: GramTask) -> GramRows:
    """A block's part of the Gram matrix; elements that are infinite in all checkpoints count as constants."""
    segment, values = task.segments[block.pieces[0].segment], block.values
    still = still_infinities(values[: task.checkpoints])
    if still is not None:
        values[:, still] = 0.0
    return block_rows(
        values,
        task.new,
        DTYPES[segment.dtype].eps,
        checkpoints=task.checkpoints,
        factors=_factors(task, segment),
        other_eps=DTYPES[segment.companion_dtype].eps if segment.companion_dtype else 0.0,
        matrices=matrix_columns(block.pieces, task.segments),
        kernel=task.kernel,
    )


def combined(task: CombineTask) -> list[Patch] | tuple[list[Patch], GramRows]:
    """A task's part of a combination.

    Raises:
        InputChanged: a checkpoint changed meanwhile.
        OSError: an output cannot be written.
    """
    evidence = Evidence(task.segments, len(task.files), task.evidence) if task.evidence else None
    patches = write_combination(
        task.files,
        task.segments,
        task.rows,
        task.outputs,
        task.block_elements,
        evidence,
        uncached=task.uncached,
    )
    if evidence is None:
        return patches
    if evidence.damaged:  # a second look, only where the sums came out non-finite
        with WindowReader(task.files, len(task.files) if task.uncached else 0) as reader:
            for block in reader.steps(task.segments, task.block_elements):
                evidence.look(block, task.rows[task.segments[block.pieces[0].segment].group])
    return patches, evidence.found()


def _no_rows(task: GramTask) -> GramRows:
    zeros = np.zeros((task.new, task.checkpoints - 1), dtype=np.float64)
    return GramRows(
        rows=zeros, rounding_energy=0.0, non_finite=frozenset(), form_rows=zeros.copy() if task.factors else None
    )


def _factors(task: GramTask | FactorTask, segment: Segment) -> tuple[tuple[float, float], ...]:
    """(p, q) of every residual for a segment's parameter group; zeros for parameters outside of all groups."""
    if not task.factors:
        return ()
    return task.factors[segment.group] if segment.group >= 0 else ((0.0, 0.0),) * (task.checkpoints - 1)


def triangular_factor(task: FactorTask) -> Float64:
    """A task's part of the residuals' triangular factor `(N, N)`.

    Raises:
        InputChanged: a checkpoint changed meanwhile.
    """
    scales = np.asarray(task.scales, dtype=np.float64)[:, None]
    factors: list[Float64] = []
    with WindowReader(task.files) as reader:
        for block in reader.steps(task.segments, task.block_elements):
            segment = task.segments[block.pieces[0].segment]
            still = still_infinities(block.values[: task.checkpoints])
            if still is not None:
                block.values[:, still] = 0.0
            residuals = block_residuals(block.values, checkpoints=task.checkpoints, factors=_factors(task, segment))
            residuals *= scales
            factors = [stacked_factor([*factors, block_factor(residuals)])]
    return factors[0]


def _non_finite(values_kn: Float64, first: int) -> set[int]:
    """The numbers of iterates, from `first` on, with NaN or infinite elements that are no constants."""
    still = still_infinities(values_kn)
    if still is not None:
        values_kn[:, still] = 0.0
    return {k for k in range(first, len(values_kn)) if not np.isfinite(values_kn[k]).all()}


def _non_finite_iterates(task: GramTask) -> set[int]:
    """A second look, only where products came out non-finite: which iterates are to blame."""
    k = task.checkpoints
    with WindowReader(task.files) as reader:
        blocks = reader.steps(task.segments, task.block_elements)
        return {number for block in blocks for number in _non_finite(block.values[:k], 0)}
