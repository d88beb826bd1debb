"""Exports: a plain safetensors copy of a checkpoint's model, for serving: bare names, contiguous tensors, nothing else.

Of names for one tensor only the first is kept; the file's metadata say which name stands for each other one, as
`safetensors.torch.save_model` does, so that `load_model` finds them.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

from rna_watch.errors import RefusedCheckpoint
from rna_watch.publishing import safetensors_writer
from rna_watch.window.copies import Strip, elements, strips

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rna_watch.layout.layout import Layout, TensorView
    from rna_watch.publishing.safetensors_writer import Skeleton

SAFETENSORS = "safetensors"
_FORMAT = {"format": "pt"}
_SHOWN = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """What an export is made of: the file without its tensors, and the strips that fill it."""

    skeleton: Skeleton
    strips: tuple[Strip, ...]


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
        same = (view.extent, view.shape, view.stride, view.start, view.pairs)
        if same in kept and 0 not in view.shape:
            aliases[name] = kept[same]
        else:
            kept[same] = name
            tensors[name] = view
    return tensors, aliases


def obstacle(layout: Layout) -> str:
    """In words, why a checkpoint's model cannot be exported ("" if it can)."""
    try:
        safetensors_writer.safetensors(plain_tensors(layout)[0], _FORMAT)
    except RefusedCheckpoint as error:
        return str(error)
    return ""


def plan(layout: Layout) -> Export:
    """How a checkpoint's model is exported.

    Raises:
        RefusedCheckpoint: safetensors has no such dtype.
    """
    tensors, aliases = plain_tensors(layout)
    made = safetensors_writer.safetensors(tensors, _FORMAT | aliases)
    return Export(
        skeleton=made,
        strips=tuple(strip for name in tensors for strip in _strips(layout, tensors[name], made.offsets[name])),
    )


def _strips(layout: Layout, view: TensorView, offset_bytes: int) -> Iterator[Strip]:
    return strips(layout.extents[view.extent], view.shape, view.stride, view.start, 0, offset_bytes)


def compared(layout: Layout, path: str) -> tuple[list[str], list[str]]:
    """Problems of a published model's export, and notes on it, in words.

    Raises:
        RefusedCheckpoint: safetensors has no such dtype.
        InputChanged: the model changed meanwhile.
    """
    name = os.path.basename(path)  # noqa: PTH119 - a string crosses process boundaries
    try:
        found = problems(layout, path)
    except OSError as error:
        return [], [f"its plain copy {name} was not compared: {error.strerror or error}"]
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return ([f"its plain copy {name}: {', '.join(found[:_SHOWN])}{more}"] if found else []), []


def problems(layout: Layout, path: str) -> list[str]:
    """In words, what of an export is not the checkpoint's model.

    Raises:
        OSError: the export cannot be read.
        RefusedCheckpoint: safetensors has no such dtype.
        InputChanged: the checkpoint changed meanwhile.
    """
    tensors, aliases = plain_tensors(layout)
    made = safetensors_writer.safetensors(tensors, _FORMAT | aliases)
    with open(path, "rb") as file:  # noqa: PTH123 - a string crosses process boundaries
        if os.fstat(file.fileno()).st_size != made.size_bytes:
            return ["it has another size than its model's tensors take"]
        if any(_read(file, offset, len(data)) != data for offset, data in made.parts):
            return ["its header does not name its model's tensors"]
        return [
            f"{name} is not as in the model"
            for name, view in tensors.items()
            if any(
                _read(file, strip.offset_bytes, strip.size_bytes) != bits.tobytes()
                for strip, bits in elements(layout.files, list(_strips(layout, view, made.offsets[name])))
            )
        ]


def _read(file: BinaryIO, offset: int, count: int) -> bytes:
    file.seek(offset)
    return file.read(count)
