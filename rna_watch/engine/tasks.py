"""What a worker does with one task: plain functions of small values, with bounded memory and one thread."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from threadpoolctl import threadpool_limits

from rna_watch.acceleration.gram import GramRows, block_rows
from rna_watch.checkpoints.clone import copy_gaps
from rna_watch.checkpoints.combine import Patch, write_combination
from rna_watch.checkpoints.extents import Role
from rna_watch.checkpoints.numeric import DTYPES
from rna_watch.checkpoints.segments import WindowReader
from rna_watch.engine.plan import CombineTask, CopyTask, GramTask, Task

if TYPE_CHECKING:
    import numpy.typing as npt

Result = GramRows | list[Patch] | int


def run(task: Task) -> Result:
    """Do one task: rows of the Gram matrix, patches that were written, or the number of bytes copied."""
    match task:
        case GramTask():
            return gram_rows(task)
        case CombineTask():
            return write_combination(task.files, task.segments, task.weights, task.outputs, task.block_elements)
        case CopyTask():
            return copy_gaps(task.files, task.gaps, task.outputs)


def single_thread() -> None:
    """Keep this process's matrix kernels to one thread: parallelism comes from tasks, and the bits stay the same."""
    threadpool_limits(limits=1, user_api="blas")


def gram_rows(task: GramTask) -> GramRows:
    """A task's part of the Gram matrix.

    Raises:
        InputChanged: a checkpoint changed meanwhile.
    """
    k = len(task.files)
    rows = np.zeros((task.new, k - 1), dtype=np.float64)
    energy = 0.0
    bad: set[int] = set()
    first_new = 0 if task.new == k - 1 else k - task.new
    # values that are not finite are reported by name, so numpy need not warn of them
    with np.errstate(over="ignore", invalid="ignore"), WindowReader(task.files) as reader:
        for block in reader.blocks(task.segments, task.block_elements):
            segment = task.segments[block.pieces[0].segment]
            if segment.role is not Role.PARAMETER:
                bad |= _non_finite(block.values, first_new)
                continue
            part = block_rows(block.values, task.new, DTYPES[segment.dtype].eps)
            rows += part.rows
            energy += part.rounding_energy
    if not np.isfinite(rows).all():
        bad |= _non_finite_iterates(task)
    return GramRows(rows=rows, rounding_energy=energy, non_finite=frozenset(bad))


def _non_finite(values_kn: npt.NDArray[np.float64], first: int) -> set[int]:
    """The numbers of iterates, from `first` on, with NaN or infinite elements."""
    return {k for k in range(first, len(values_kn)) if not np.isfinite(values_kn[k]).all()}


def _non_finite_iterates(task: GramTask) -> set[int]:
    """A second look, only where products came out non-finite: which iterates are to blame."""
    with WindowReader(task.files) as reader:
        return {k for block in reader.blocks(task.segments, task.block_elements) for k in _non_finite(block.values, 0)}
