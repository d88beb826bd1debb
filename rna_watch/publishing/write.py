"""Writing a combination as a checkpoint: clone and patch, or in a file of its own, in parallel on an engine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rna_watch.formats import deepspeed, torch_zip
from rna_watch.layout import disk
from rna_watch.publishing import clone, consolidated, new_file, torch_writer
from rna_watch.window import tasks_plan
from rna_watch.window.combine import write_values

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rna_watch.layout.layout import Layout
    from rna_watch.publishing.new_file import Rewriting
    from rna_watch.window.combine import Combination
    from rna_watch.window.tasks import Result
    from rna_watch.window.tasks_plan import Task

    Run = Callable[[Sequence[Task]], Sequence[Result]]


def publish(
    combination: Combination, destination: str, *, temporary: str, budget_mib: float, run: Run, drop: bool = False
) -> int:
    """Write a model under its final name, whole or not at all; returns the size in bytes.

    Args:
        combination: the model.
        destination: its path; an existing file is replaced.
        temporary: path in the same folder, for the file in the making.
        budget_mib: memory budget of a worker.
        run: the engine's `map`.
        drop: leave out what lies beside the model in its file, but for counters.

    Raises:
        StoreError: there is no room, or the folder cannot be written.
        InputChanged: a checkpoint changed meanwhile.
        RefusedCheckpoint: what lies beside the model cannot be left out (`model_file.obstacle` says why).
    """
    combination = combination.without_zeros()
    newest = combination.layouts[-1]
    other = _rewriting(newest, drop=drop)
    if other is not None:
        return _rewrite(other, combination, destination, temporary=temporary, budget_mib=budget_mib, run=run)
    segments = combination.segments(tasks_plan.task_elements(newest.parameters))
    copy = clone.begin(newest, segments, temporary)
    try:
        given = {number for number, _ in combination.values}
        combined = [segment for segment in segments if segment.extent not in given]
        results = run(
            [
                *tasks_plan.combine_tasks(combination, combined, copy.temporaries, budget_mib),
                *tasks_plan.copy_tasks(copy.sources, copy.gaps, copy.temporaries),
            ]
        )
        patches = [patch for result in results if isinstance(result, list) for patch in result]
        patches += write_values(combination, newest, copy.temporaries)
        clone.finish(copy, patches, destination)
    finally:
        clone.discard(copy)
    return newest.size_bytes


def _rewriting(newest: Layout, *, drop: bool) -> Rewriting | None:
    """The file of its own that a model is written to, if it is."""
    if newest.format == deepspeed.NAME:
        return consolidated.plan(newest)
    return torch_writer.plan(newest) if drop and newest.format == torch_zip.NAME else None


def _rewrite(
    other: Rewriting, combination: Combination, destination: str, *, temporary: str, budget_mib: float, run: Run
) -> int:
    newest = combination.layouts[-1]
    given = {number for number, _ in combination.values}
    segments = other.segments(combination, tasks_plan.task_elements(newest.parameters))
    combined = [segment for segment in segments if segment.extent not in given]
    try:
        path = new_file.begin(other, newest, temporary)
        results = run(
            [
                *tasks_plan.combine_tasks(combination, combined, (path,), budget_mib),
                *tasks_plan.carry_tasks(newest.files, other.strips(newest), (path,)),
            ]
        )
        patches = [patch for result in results if isinstance(result, list) for patch in result]
        patches += write_values(combination, other.target(newest), (path,))
        new_file.finish(other, newest, temporary, path, patches, destination)
    finally:
        disk.remove(temporary)
    return other.skeleton.size_bytes + sum(file.size_bytes for file in newest.carried)
