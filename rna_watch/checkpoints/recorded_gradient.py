"""The mean gradient that a training run may save beside a checkpoint: a safetensors file named CHECKPOINT.gradient.

It holds, under the names of the model's state dict (no wrapper prefixes), the mean over the steps since the checkpoint
before of the gradients that the optimizer saw, weight decay included. It is written before its checkpoint, whole: under
another name first, then renamed. Parameters that were not trained may be missing.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from rna_watch.checkpoints import safetensors_file
from rna_watch.checkpoints.extents import OUTSIDE, Chunk, Companion, Role, covers
from rna_watch.checkpoints.names import spellings
from rna_watch.checkpoints.numeric import DTYPES
from rna_watch.checkpoints.opened import OpenFile
from rna_watch.errors import RnaWatchError

if TYPE_CHECKING:
    from rna_watch.checkpoints.extents import Layout

SUFFIX = ".gradient"


def find(checkpoint: str) -> Layout | None:
    """The layout of the gradient beside a checkpoint; None if there is none that can be read."""
    if not os.path.isfile(checkpoint + SUFFIX):  # noqa: PTH113 - a string crosses process boundaries
        return None
    try:
        with OpenFile(checkpoint + SUFFIX) as file:
            return safetensors_file.read_layout(file)
    except (OSError, RnaWatchError):
        return None


def assign(layout: Layout) -> tuple[dict[str, Companion], str]:
    """For each parameter extent, by name, its recorded gradient; or a sentence that says why it cannot be used."""
    gradient = layout.gradient
    if gradient is None:
        return {}, "the training saved no mean gradient beside it"
    if layout.averaged:
        return {}, "the model is a moving average, not the weights that the recorded gradients belong to"
    plain = layout.plain_names
    known = set(plain.values())
    *more, fewest = spellings(view.name for view in gradient.tensors)
    spelled = next((names for names in more if known.issuperset(names.values())), fewest)
    recorded = {spelled[view.name]: (view, gradient.extents[view.extent]) for view in gradient.tensors}
    assigned: dict[str, Companion] = {}
    for view in layout.tensors:
        extent = layout.extents[view.extent]
        name = plain.get(view.name)
        if extent.role is not Role.PARAMETER or assigned.get(extent.name, OUTSIDE) is not OUTSIDE:
            continue
        if name not in recorded or not extent.chunks:  # another name of a tied tensor may still come
            assigned[extent.name] = OUTSIDE
            continue
        found, place = recorded[name]
        if found.shape != view.shape or not covers(view, extent) or not DTYPES[found.dtype].linear:
            return {}, f"the recorded gradient of {view.name} has another shape or dtype than a gradient of that tensor"
        if [s for n, s in zip(found.shape, found.stride, strict=True) if n > 1] != [
            s for n, s in zip(view.shape, view.stride, strict=True) if n > 1
        ]:
            return {}, f"the recorded gradient of {view.name} lies in another order than the tensor itself"
        (chunk,) = place.chunks
        own = extent.chunks[0]
        assigned[extent.name] = Companion(
            group=0,
            dtype=found.dtype,
            chunks=(Chunk(file=chunk.file, offset_bytes=chunk.offset_bytes, start=own.start, count=own.count),),
        )
    return assigned, ""
