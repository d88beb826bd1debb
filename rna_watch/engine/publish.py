"""Writing a combination as a checkpoint: clone and patch, in parallel on an engine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rna_watch.checkpoints import clone
from rna_watch.checkpoints.combine import write_values
from rna_watch.engine import plan

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rna_watch.checkpoints.combine import Combination
    from rna_watch.engine.plan import Task
    from rna_watch.engine.tasks import Result


def publish(
    combination: Combination,
    destination: str,
    *,
    temporary: str,
    budget_mib: float,
    run: Callable[[Sequence[Task]], Sequence[Result]],
) -> int:
    """Write a model under its final name, whole or not at all; returns the size in bytes.

    Args:
        combination: the model.
        destination: its path; an existing file is replaced.
        temporary: path in the same folder, for the clone in the making.
        budget_mib: memory budget of a worker.
        run: the engine's `map`.

    Raises:
        StoreError: there is no room, or the folder cannot be written.
        InputChanged: a checkpoint changed meanwhile.
    """
    combination = combination.without_zeros()
    newest = combination.layouts[-1]
    segments = combination.segments(plan.task_elements(newest.parameters))
    copy = clone.begin(newest, segments, temporary)
    try:
        given = {number for number, _ in combination.values}
        combined = [segment for segment in segments if segment.extent not in given]
        results = run(
            [*plan.combine_tasks(combination, combined, copy.temporaries, budget_mib), *plan.copy_tasks(copy)]
        )
        patches = [patch for result in results if isinstance(result, list) for patch in result]
        patches += write_values(combination, copy.temporaries)
        clone.finish(copy, patches, destination)
    finally:
        clone.discard(copy)
    return newest.size_bytes
