"""Exporting a published model as plain safetensors, in parallel on an engine."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from rna_watch.errors import StoreError
from rna_watch.formats.probe import probe
from rna_watch.layout import disk
from rna_watch.publishing import export, safetensors_writer
from rna_watch.window import tasks_plan

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rna_watch.window.tasks import Result
    from rna_watch.window.tasks_plan import Task


def write(
    model: str,
    destination: str,
    *,
    source: str | None,
    temporary: str,
    run: Callable[[Sequence[Task]], Sequence[Result]],
) -> int:
    """Write a model's export under its final name, whole or not at all; returns its size in bytes.

    Args:
        model: a checkpoint that is complete.
        destination: the export's path; an existing file is replaced.
        source: key path of the model inside it.
        temporary: path in the same folder, for the file in the making.
        run: the engine's `map`.

    Raises:
        StoreError: there is no room, or the folder cannot be written.
        RefusedCheckpoint: safetensors has no such dtype.
        InputChanged: the model changed meanwhile.
    """
    layout = probe(model, source)
    made = export.plan(layout)
    newest = max(layout.files, key=lambda file: file.mtime_ns)
    safetensors_writer.make(made.skeleton, temporary, Path(newest.path).stat().st_mode)
    try:
        run(tasks_plan.carry_tasks(layout.files, made.strips, (temporary,)))
        disk.settle(temporary, newest.mtime_ns)
        os.replace(temporary, destination)  # noqa: PTH105 - atomic by specification
        disk.sync_folder(os.path.dirname(destination) or ".")  # noqa: PTH120
    except OSError as error:
        raise StoreError(safetensors_writer.cannot_write(destination, error)) from error
    finally:
        disk.remove(temporary)
    return made.skeleton.size_bytes
