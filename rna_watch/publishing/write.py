"""Writing a combination as a checkpoint: clone and patch, or in a file of its own, in parallel on an engine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rna_watch.acceleration.gram import merge
from rna_watch.formats import registry
from rna_watch.formats.format import WrittenAs
from rna_watch.layout import disk
from rna_watch.publishing import clone, consolidated, new_file, torch_writer
from rna_watch.publishing.draft import finish
from rna_watch.window import tasks_plan
from rna_watch.window.combine import write_values
from rna_watch.window.evidence import looked_at

if TYPE_CHECKING:
    from collections.abc import Callable

    from rna_watch.acceleration.gram import GramRows
    from rna_watch.layout.layout import Layout
    from rna_watch.publishing.new_file import Rewriting
    from rna_watch.window.combine import Combination
    from rna_watch.window.tasks import Run

_NEW_FILES = {WrittenAs.TORCH_ZIP: torch_writer.plan, WrittenAs.SAFETENSORS: consolidated.plan}


def publish(
    combination: Combination,
    destination: str,
    run: Run,
    *,
    drop: bool = False,
    new: bool = False,
    judge: Callable[[GramRows], None] | None = None,
) -> int:
    """Write a model under its final name, whole or not at all; returns its size in bytes.

    Args:
        combination: the model.
        destination: its path; what is there is replaced.
        run: runs tasks, as an engine's `map` does.
        drop: leave out the rest of the newest checkpoint's file, but for counters.
        new: replace nothing.
        judge: called, before the model gets its name, with what the pass found out of all checkpoints, also those of weight 0; it
            raises to leave everything as it was.

    Raises:
        UsageError: with `new`, something has the name by now.
        StoreError: there is no room, or the folder cannot be written.
        InputChanged: a checkpoint changed meanwhile.
        RefusedCheckpoint: the rest cannot be left out (`torch_writer.obstacle` says why).
    """
    if judge is None:
        combination = combination.without_zeros()
    newest = combination.layouts[-1]
    other = _rewriting(newest, drop=drop)
    limit = tasks_plan.task_elements(newest.parameters)
    with disk.writing(destination), disk.replacing(destination, durable=True, new=new) as temporary:
        if other is None:
            draft = clone.begin(combination, temporary, limit)
        else:
            draft = new_file.begin(other, combination, temporary, limit)
        given = {number for number, _ in combination.values}
        combined = [segment for segment in draft.segments if segment.extent not in given]
        results = run(
            [
                *tasks_plan.combine_tasks(
                    combination, combined, draft.outputs, looked_at(newest) if judge is not None else ""
                ),
                *tasks_plan.copy_tasks(newest.files + newest.carried, draft.copies, draft.outputs),
            ]
        )
        found = [result for result in results if isinstance(result, tuple)]
        patches = [patch for each in found for patch in each[0]]
        patches += [patch for result in results if isinstance(result, list) for patch in result]
        patches += write_values(combination, draft.target, draft.outputs)
        finish(draft, temporary, patches)
        if judge is not None:
            judge(merge(rows for _, rows in found))
    return draft.size_bytes


def _rewriting(newest: Layout, *, drop: bool) -> Rewriting | None:
    """The file of its own that a model is written to, if it is."""
    plan = _NEW_FILES.get(registry.written_as(newest, alone=drop))
    return plan(newest) if plan is not None else None
