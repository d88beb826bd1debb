"""A combination or a whole window as tensors in memory; a model is whole nowhere else.

Letters: K checkpoints, N = K - 1 residuals, n elements of an extent's storage.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from rna_watch.acceleration.gram import differences, products
from rna_watch.errors import EvaluationFailed
from rna_watch.layout.blocks import cut
from rna_watch.layout.dtypes import DTYPES, Float64
from rna_watch.layout.layout import Role
from rna_watch.layout.open_file import opened
from rna_watch.window.combine import combined_blocks
from rna_watch.window.reader import WindowReader, still_infinities
from rna_watch.window.tasks_plan import window_kernel

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rna_watch.layout.blocks import Block
    from rna_watch.layout.layout import Extent, Layout, TensorView
    from rna_watch.window.combine import Combination

_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def state_dict(combination: Combination, device: torch.device) -> dict[str, torch.Tensor]:
    """The model under a plain model's keys (wrapper prefixes removed); tied tensors stay tied, strides are as stored.

    Raises:
        InputChanged: a checkpoint changed meanwhile.
    """
    return views(combination.layouts[-1], [storage.to(device) for storage in storages_of(combination)])


def on_device(combination: Combination, device: str) -> dict[str, torch.Tensor]:
    """The same, for a device by its name.

    Raises:
        InputChanged: a checkpoint changed meanwhile.
    """
    return state_dict(combination, torch.device(device))


def placed(
    tensors: dict[str, torch.Tensor], placement: Callable[[str, torch.Tensor], object]
) -> dict[str, torch.Tensor]:
    """Each tensor as the user's `placement(name, tensor)` returns it, one after the other; `tensors` is emptied meanwhile.

    Tied tensors are placed once, under the first of their names, and stay tied.

    Raises:
        EvaluationFailed: what it returns is no tensor of the same shape.
    """
    found: dict[str, torch.Tensor] = {}
    same: dict[int, torch.Tensor] = {}
    names = {name: id(tensor) for name, tensor in tensors.items()}
    for name, key in names.items():
        tensor = tensors.pop(name)
        if key not in same:
            made = placement(name, tensor)
            if not isinstance(made, torch.Tensor) or made.shape != tensor.shape:
                what = f"shape {tuple(made.shape)}" if isinstance(made, torch.Tensor) else f"{made!r:.100}"
                raise EvaluationFailed(
                    f"placement('{name}', tensor) must return a tensor of the shape {tuple(tensor.shape)}, not {what}"
                )
            same[key] = made
        found[name] = same[key]
    return found


def storages_of(combination: Combination) -> list[torch.Tensor]:
    """The model by extent, `(n,)` each, in the stored dtypes.

    Raises:
        InputChanged: a checkpoint changed meanwhile.
    """
    combination = combination.without_zeros()
    newest = combination.layouts[-1]
    storages = [_storage(extent) for extent in newest.extents]
    arrays = [_bits(storage) for storage in storages]
    segments = combination.segments()
    with threadpool_limits(limits=1, user_api="blas"), WindowReader(combination.files) as reader:
        for number, start, bits in combined_blocks(reader, segments, combination.rows):
            first = segments[number].start + start
            array = arrays[segments[number].extent]
            array[first : first + len(bits)] = bits.view(array.dtype)
    _copy_integers(newest, arrays)
    return storages


def views(layout: Layout, storages: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors of a model under plain names, as views of its extents' storages `(n,)`; equal views are one tensor.

    `torch.func.functional_call` accepts tied parameters only if they are one and the same tensor.
    """
    same: dict[tuple[object, ...], torch.Tensor] = {}
    tensors = {}
    plain = layout.plain_names
    for view in layout.tensors:
        key = view.place
        if key not in same:
            tensor = _tensor(view, storages[view.extent])
            same[key] = torch.view_as_complex(tensor) if view.pairs else tensor
        if view.name in plain:
            tensors[plain[view.name]] = same[key]
    return tensors


def _tensor(view: TensorView, storage: torch.Tensor) -> torch.Tensor:
    """A view of a storage; a copy where it lies there in blocks."""
    if not view.blocks:
        return torch.as_strided(storage, view.shape, view.stride, view.start)
    return _joined(view.blocks, storage)


def _joined(blocks: Sequence[Block], storage: torch.Tensor) -> torch.Tensor:
    """Blocks as one tensor, joined along one axis after the other: a gradient then goes back to each of them once."""
    if len(blocks) == 1:
        return torch.as_strided(storage, blocks[0].shape, blocks[0].stride, blocks[0].start)
    for axis in range(len(blocks[0].shape)):
        layers = cut(blocks, axis)
        if len(layers) > 1:
            return torch.cat([_joined(each, storage) for each in layers], axis)
    raise EvaluationFailed("a tensor of the model is cut into blocks that no axis separates")


def span(combination: Combination) -> tuple[list[torch.Tensor], dict[int, Float64]]:
    """The combination and the window's residuals, by extent: row 0 and rows 1 to N of `(K, n)`, float32 (or float64).

    The Gram matrices of the residuals, `(N, N)`, by number of each parameter extent, are made of the same blocks.

    Float64 is for extents that are stored so. Integers are the newest checkpoint's, `(n,)`. Variances are not clamped yet:
    they still move.

    Raises:
        InputChanged: a checkpoint changed meanwhile.
    """
    newest = combination.layouts[-1]
    count = len(combination.layouts)
    storages = [
        _storage(extent)
        if extent.role is Role.COPIED
        else torch.zeros((count, extent.storage_count), dtype=compute_dtype(extent))
        for extent in newest.extents
    ]
    arrays = [
        _bits(storage) if extent.role is Role.COPIED else storage.numpy()
        for extent, storage in zip(newest.extents, storages, strict=True)
    ]
    steps_back = -np.cumsum(combination.rows, axis=1)[:, :-1]  # sum_k w_k y_k = y_K - sum_i (w_0 + .. + w_(i-1)) r_i
    kernel = window_kernel(count)
    segments = combination.segments()
    grams = {
        number: np.zeros((count - 1, count - 1))
        for number, extent in enumerate(newest.extents)
        if extent.role is Role.PARAMETER
    }
    with (
        threadpool_limits(limits=1, user_api="blas"),
        np.errstate(over="ignore"),
        WindowReader(combination.files) as reader,
    ):
        for block in reader.steps(segments):
            values = block.values
            still = still_infinities(values)
            if still is not None:
                kept, values[:, still] = values[-1, still], 0.0
            residuals = differences(values)
            values[-1] += steps_back[segments[block.pieces[0].segment].group] @ residuals
            if still is not None:
                values[-1, still] = kept
            for piece in block.pieces:
                first = segments[piece.segment].start + piece.start
                number = segments[piece.segment].extent
                columns = slice(piece.column, piece.column + piece.count)
                if number in grams:
                    grams[number] += products(residuals[:, columns], kernel)
                elements = slice(first, first + piece.count)
                arrays[number][0, elements], arrays[number][1:, elements] = values[-1, columns], residuals[:, columns]
    _copy_integers(newest, arrays)
    return storages, grams


def compute_dtype(extent: Extent) -> torch.dtype:
    """The dtype in which an extent is trained: float64 if it is stored so, else float32."""
    return torch.float64 if extent.dtype == "float64" else torch.float32


def _storage(extent: Extent) -> torch.Tensor:
    return torch.zeros(extent.storage_count, dtype=getattr(torch, extent.dtype))


def _bits(storage: torch.Tensor) -> Any:
    return storage.view(_BITS[storage.element_size()]).numpy()


def _copy_integers(layout: Layout, arrays: list[Any]) -> None:
    wanted: list[tuple[Extent, Any]] = [
        (extent, array) for extent, array in zip(layout.extents, arrays, strict=True) if extent.role is Role.COPIED
    ]
    if not wanted:
        return
    with opened(layout.files) as files:
        for extent, array in wanted:
            itemsize = DTYPES[extent.dtype].itemsize
            raw = memoryview(array.view("u1"))
            for chunk in extent.chunks:
                into = raw[chunk.start * itemsize : (chunk.start + chunk.count) * itemsize]
                files[chunk.file].read_into(into, chunk.offset_bytes)
