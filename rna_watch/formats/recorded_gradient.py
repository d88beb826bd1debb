"""The mean gradient that a training run may save next to a checkpoint: a safetensors file named CHECKPOINT.gradient.

It holds, under the names of the model's state dict (no wrapper prefixes), the mean over the steps since the checkpoint
before of the gradients that the optimizer saw, weight decay included. It is written before its checkpoint, whole: under
another name first, then renamed. Parameters that were not trained may be missing. Its metadata may state, as JSON: `order`,
the axes of a tensor in the order in which they are written, where that is another than the parameter's; and `weights`, of some
parameters dtype and the bits of the first, middle and last element, which show whether it is this checkpoint's.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from rna_watch.errors import RnaWatchError
from rna_watch.formats import safetensors_file
from rna_watch.layout import bounded_json
from rna_watch.layout.dtypes import DTYPES
from rna_watch.layout.layout import OUTSIDE, Chunk, Companion, Layout, Role, covers
from rna_watch.layout.names import spellings
from rna_watch.layout.open_file import OpenFile

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rna_watch.layout.layout import Extent, TensorView

SUFFIX = ".gradient"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Recording:
    """A recorded gradient, and what it states of the weights: dtype and bits of three elements, by name."""

    layout: Layout
    weights: Mapping[str, tuple[str, tuple[int, ...]]]


def attached(layout: Layout) -> Layout:
    """A checkpoint's layout with that of the gradient next to it, if there is one that can be read."""
    recording = _read(layout.path + SUFFIX)
    if recording is None:
        return layout
    return replace(layout, gradient=recording.layout, gradient_problem=_problem(layout, recording))


def _read(path: str) -> _Recording | None:
    if not os.path.isfile(path):  # noqa: PTH113 - a string crosses process boundaries
        return None
    try:
        with OpenFile(path) as file:
            layout, metadata = safetensors_file.read_layout(file), safetensors_file.read_metadata(file)
        orders = dict(bounded_json.parse(metadata.get("order", "{}").encode()))
        views = tuple(_ordered(view, orders[view.name]) if view.name in orders else view for view in layout.tensors)
        stated = bounded_json.parse(metadata.get("weights", "{}").encode()).items()
        weights = {name: (str(each["dtype"]), tuple(int(bits) for bits in each["bits"])) for name, each in stated}
    except (OSError, RnaWatchError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    return _Recording(layout=replace(layout, tensors=views), weights=weights)


def _ordered(view: TensorView, order: list[int]) -> TensorView:
    """A tensor whose axes were written in an order, as the parameter has them."""
    if sorted(order) != list(range(len(view.shape))):
        raise ValueError(f"{order} is no order of {len(view.shape)} axes")
    where = [order.index(axis) for axis in range(len(order))]
    return replace(view, shape=tuple(view.shape[i] for i in where), stride=tuple(view.stride[i] for i in where))


def _problem(layout: Layout, recording: _Recording) -> str:
    """Why a gradient is not this checkpoint's own ("" if it is): what it states of the weights does not agree with these.

    This happens where a name is written again and the training was stopped between gradient and checkpoint.
    """
    spelled, plain = _spelled(layout, recording.layout), layout.plain_names
    views = {plain[view.name]: view for view in reversed(layout.tensors) if view.name in plain}
    try:
        with OpenFile(layout.files[0].path) as file:
            for name, (dtype, bits) in recording.weights.items():
                view = views.get(spelled.get(name, name))
                count = prod(view.shape) if view is not None else 0
                if view is None or view.dtype != dtype or not count or len(bits) != len(_stated_at(count)):
                    continue
                for place, expected in zip(_stated_at(count), bits, strict=True):
                    if _bits(file, layout.extents[view.extent], view, place) not in {None, expected}:
                        return (
                            f"the recorded gradient beside it belongs to other weights: {view.name} was another when it was "
                            "recorded"
                        )
    except (OSError, RnaWatchError):
        return ""  # it changed meanwhile, and whoever reads it will see that
    return ""


def _stated_at(count: int) -> tuple[int, int, int]:
    return 0, count // 2, count - 1


def _bits(file: OpenFile, extent: Extent, view: TensorView, place: int) -> int | None:
    """The bits of an element, counted in rows, as an integer; None where it is not in the checkpoint's first file."""
    if view.blocks:
        return None
    indices = np.unravel_index(place, view.shape) if view.shape else ()
    position = view.start + sum(int(i) * stride for i, stride in zip(indices, view.stride, strict=True))
    size = DTYPES[view.dtype].itemsize
    for chunk in extent.chunks:
        if chunk.file == 0 and chunk.start <= position < chunk.start + chunk.count:
            raw = file.read(chunk.offset_bytes + (position - chunk.start) * size, size)
            return int.from_bytes(raw, "little", signed=True)
    return None


def _spelled(layout: Layout, gradient: Layout) -> dict[str, str]:
    """For each name in a recording, the bare model's."""
    known = set(layout.plain_names.values())
    *more, fewest = spellings(view.name for view in gradient.tensors)
    return next((names for names in more if known.issuperset(names.values())), fewest)


def assign(layout: Layout) -> tuple[dict[str, Companion], str]:
    """For each parameter extent, by name, its recorded gradient; or a sentence that says why it cannot be used."""
    gradient = layout.gradient
    if gradient is None:
        return {}, "the training saved no mean gradient beside it"
    if layout.averaged:
        return {}, "the model is a moving average, not the weights that the recorded gradients belong to"
    if layout.gradient_problem:
        return {}, layout.gradient_problem
    plain, spelled = layout.plain_names, _spelled(layout, gradient)
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
