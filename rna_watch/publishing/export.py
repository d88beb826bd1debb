"""Exports: a plain safetensors copy of a checkpoint's model, for serving: bare names, contiguous tensors, nothing else.

Of names for one tensor only the first is kept; the file's metadata say which name stands for each other one, as
`safetensors.torch.save_model` does, so that `load_model` finds them.
"""

from __future__ import annotations

import os
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from rna_watch.errors import RefusedCheckpoint
from rna_watch.formats.probe import probe
from rna_watch.layout import disk
from rna_watch.publishing import new_file, safetensors_writer
from rna_watch.window import copies, tasks_plan

if TYPE_CHECKING:
    from rna_watch.layout.layout import Layout, TensorView
    from rna_watch.publishing.new_file import Skeleton
    from rna_watch.window.copies import Copy
    from rna_watch.window.tasks import Run

SAFETENSORS = "safetensors"
_FORMAT = {"format": "pt"}


def plain_tensors(layout: Layout) -> tuple[dict[str, TensorView], dict[str, str]]:
    """The tensors to write by their bare names, and for each name that is left out the one that stands for it."""
    plain = layout.plain_names
    kept: dict[tuple[object, ...], str] = {}
    tensors: dict[str, TensorView] = {}
    aliases: dict[str, str] = {}
    for view in layout.tensors:
        name = plain.get(view.name)
        if name is None:
            continue
        same = (view.place, view.pairs)
        if same in kept and 0 not in view.shape:
            aliases[name] = kept[same]
        else:
            kept[same] = name
            tensors[name] = view
    return tensors, aliases


def obstacle(layout: Layout) -> str:
    """In words, why a checkpoint's model cannot be exported ("" if it can)."""
    try:
        safetensors_writer.skeleton(plain_tensors(layout)[0], _FORMAT)
    except RefusedCheckpoint as error:
        return str(error)
    return ""


def write(model: str, destination: str, source: str, run: Run, *, new: bool = False) -> int:
    """Write a model's export under its final name, whole or not at all; returns its size in bytes.

    Args:
        model: a checkpoint that is complete.
        destination: the export's path; what is there is replaced.
        source: key path of the model inside it.
        run: runs tasks, as an engine's `map` does.
        new: replace nothing.

    Raises:
        UsageError: with `new`, something has the name by now.
        StoreError: there is no room, or the folder cannot be written.
        RefusedCheckpoint: safetensors has no such dtype.
        InputChanged: the model changed meanwhile.
    """
    layout = probe(model, source or None)
    made, copied = _plan(layout)
    newest = max(layout.files, key=lambda file: file.mtime_ns)
    with disk.writing(destination), disk.replacing(destination, durable=True, new=new) as temporary:
        new_file.make(made, temporary, newest)
        run(tasks_plan.copy_tasks(layout.files, chain(*copied.values()), (temporary,)))
        os.utime(temporary, ns=(newest.mtime_ns, newest.mtime_ns))
    return made.size_bytes


def _plan(layout: Layout) -> tuple[Skeleton, dict[str, list[Copy]]]:
    """The file without its tensors, and for each of those what fills it."""
    tensors, aliases = plain_tensors(layout)
    made = safetensors_writer.skeleton(tensors, _FORMAT | aliases)
    return made, {
        name: list(copies.of_tensor(layout.extents[view.extent], view, 0, made.offsets[name]))
        for name, view in tensors.items()
    }


def problems(layout: Layout, path: str) -> list[str]:
    """In words, what of an export is not the checkpoint's model.

    Raises:
        OSError: the export cannot be read.
        RefusedCheckpoint: safetensors has no such dtype.
        InputChanged: the checkpoint changed meanwhile.
    """
    made, copied = _plan(layout)
    with Path(path).open("rb") as file:
        if os.fstat(file.fileno()).st_size != made.size_bytes:
            return ["it has another size than its model's tensors take"]
        if any(_read(file, offset, len(data)) != data for offset, data in made.parts):
            return ["its header does not name its model's tensors"]
        return [
            f"{name} is not as in the model"
            for name, own in copied.items()
            if any(_read(file, at, len(data)) != data.tobytes() for _, at, data in copies.contents(layout.files, own))
        ]


def _read(file: BinaryIO, offset: int, count: int) -> bytes:
    file.seek(offset)
    return file.read(count)
