"""A combination as a state dict in memory: the only place where a model is ever whole."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from threadpoolctl import threadpool_limits

from rna_watch.checkpoints.combine import combined_blocks
from rna_watch.checkpoints.extents import Role
from rna_watch.checkpoints.model_source import plain_name
from rna_watch.checkpoints.numeric import DTYPES
from rna_watch.checkpoints.opened import OpenFile
from rna_watch.checkpoints.segments import WindowReader
from rna_watch.errors import InputChanged

if TYPE_CHECKING:
    from rna_watch.checkpoints.combine import Combination
    from rna_watch.checkpoints.extents import Extent, Layout

_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def state_dict(combination: Combination, device: torch.device) -> dict[str, torch.Tensor]:
    """The model under a plain model's keys (wrapper prefixes removed), tied tensors tied, strides as stored.

    Raises:
        InputChanged: a checkpoint changed meanwhile.
    """
    combination = combination.without_zeros()
    newest = combination.layouts[-1]
    storages = [torch.zeros(extent.storage_count, dtype=getattr(torch, extent.dtype)) for extent in newest.extents]
    arrays: list[Any] = [storage.view(_BITS[storage.element_size()]).numpy() for storage in storages]
    segments = combination.segments()
    with threadpool_limits(limits=1, user_api="blas"), WindowReader(combination.files) as reader:
        for number, start, bits in combined_blocks(reader, segments, combination.weights):
            first = segments[number].start + start
            array = arrays[segments[number].extent]
            array[first : first + len(bits)] = bits.view(array.dtype)
    _copy_integers(newest, arrays)
    moved = [storage.to(device) for storage in storages]
    return {
        plain_name(view.name): torch.as_strided(moved[view.extent], view.shape, view.stride, view.start)
        for view in newest.tensors
    }


def _copy_integers(layout: Layout, arrays: list[Any]) -> None:
    wanted: list[tuple[Extent, Any]] = [
        (extent, array) for extent, array in zip(layout.extents, arrays, strict=True) if extent.role is Role.COPIED
    ]
    if not wanted:
        return
    files = []
    try:
        for identity in layout.files:
            files.append(OpenFile(identity.path))
            if not files[-1].identity.same_content(identity):
                raise InputChanged(f"{identity.path} changed before its integers were read")
        for extent, array in wanted:
            itemsize = DTYPES[extent.dtype].itemsize
            for chunk in extent.chunks:
                data = files[chunk.file].read(chunk.offset_bytes, chunk.count * itemsize)
                array.view("u1")[chunk.start * itemsize : (chunk.start + chunk.count) * itemsize] = memoryview(data)
        for file in files:
            file.check_unchanged()
    finally:
        for file in files:
            file.__exit__(None, None, None)
