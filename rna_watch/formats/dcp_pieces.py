"""The pieces of a tensor that ranks saved in blocks: where each run of its logical elements lies."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from rna_watch.errors import RefusedCheckpoint
from rna_watch.formats import model_source
from rna_watch.layout.dtypes import DTYPES
from rna_watch.layout.layout import Chunk, Extent, TensorView
from rna_watch.layout.strides import contiguous, runs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rna_watch.formats.dcp_items import Part
    from rna_watch.formats.safe_pickle import PickledTensor

# a piece costs about a kilobyte on its way through a window
MOST_PIECES = 2**18

Piece = tuple[int, int, int, int]  # first element of the tensor, count, file number, byte offset


def strides(shape: Sequence[int]) -> tuple[int, ...]:
    """The strides of a contiguous tensor, as torch has them for an empty one too."""
    return contiguous([max(size, 1) for size in shape])


def extent(name: str, tensor: PickledTensor, parts: Sequence[Part]) -> tuple[Extent, TensorView]:
    """A tensor's extent, in the order of its logical elements, and its view.

    Args:
        name: of the tensor.
        tensor: the whole of it: dtype, shape, and strides of a contiguous one.
        parts: its saved pieces.

    Raises:
        RefusedCheckpoint: its pieces overlap, leave elements out, or are too many.
    """
    itemsize = DTYPES[tensor.dtype].itemsize
    stride = tensor.stride
    pieces: list[Piece] = []
    dense = [(0, prod(tensor.shape))]
    own = parts[0].tensor if len(parts) == 1 else tensor
    if own.shape == tensor.shape and own.stride != stride and runs(own.shape, own.stride, 0) == dense:
        # saved in one piece, in another order of its axes: that order is kept
        stride = own.stride
        pieces = [(0, prod(tensor.shape), parts[0].file, parts[0].start_bytes + own.start * itemsize)]
    else:
        for part in parts:
            offsets = (*part.item.offsets, 0) if tensor.pairs else part.item.offsets
            pieces += [
                (first, count, part.file, part.start_bytes + position * itemsize)
                for first, count, position in _pieces(name, tensor, offsets, part.tensor)
            ]
            if len(pieces) > MOST_PIECES:
                raise scattered(name, len(pieces))
    found = Extent(
        name=name,
        dtype=tensor.dtype,
        role=model_source.role(name, tensor.dtype),
        chunks=tuple(_joined(name, pieces, prod(tensor.shape), itemsize)),
    )
    view = TensorView(
        name=name, dtype=tensor.dtype, shape=tensor.shape, stride=stride, extent=0, start=0, pairs=tensor.pairs
    )
    return found, view


def scattered(name: str, count: int) -> RefusedCheckpoint:
    """The refusal of a tensor that lies in too many pieces."""
    return RefusedCheckpoint(
        f"{name} is cut by columns, or strided, into {count} pieces, more than can be read one by one; cut it by rows, or save "
        "it whole"
    )


def _pieces(
    name: str, tensor: PickledTensor, offsets: Sequence[int], piece: PickledTensor
) -> list[tuple[int, int, int]]:
    """The runs (first element of the tensor, count, first element of the piece's storage) of a block, ascending."""
    if 0 in piece.shape:
        return []
    whole = strides(tensor.shape)
    count = 1
    outer: list[tuple[int, int, int]] = []
    for size, step, own in reversed(list(zip(piece.shape, whole, piece.stride, strict=True))):
        if size == 1:
            continue
        if not outer and step == own == count:
            count *= size
        else:
            outer.append((size, step, own))
    number = prod(size for size, _, _ in outer)
    if number > MOST_PIECES:
        raise scattered(name, number)
    firsts = np.array([sum(at * step for at, step in zip(offsets, whole, strict=True))], dtype=np.int64)
    positions = np.array([piece.start], dtype=np.int64)
    for size, step, own in reversed(outer):
        along = np.arange(size, dtype=np.int64)
        firsts = (firsts[:, None] + along * step).reshape(-1)
        positions = (positions[:, None] + along * own).reshape(-1)
    return [(first, count, position) for first, position in zip(firsts.tolist(), positions.tolist(), strict=True)]


def _joined(name: str, pieces: list[Piece], elements: int, itemsize: int) -> list[Chunk]:
    """The pieces in order, neighbours in a file as one; together they are the whole tensor, each element once."""
    chunks: list[Chunk] = []
    end = 0
    for first, count, file, offset in sorted(pieces):
        if first != end:
            wrong = "overlap" if first < end else "leave elements out"
            raise RefusedCheckpoint(f"the saved pieces of {name} {wrong}")
        last = chunks[-1] if chunks else None
        if last and last.file == file and last.offset_bytes + last.count * itemsize == offset:
            chunks[-1] = replace(last, count=last.count + count)
        else:
            chunks.append(Chunk(file=file, offset_bytes=offset, start=first, count=count))
        end = first + count
    if end != elements:
        raise RefusedCheckpoint(f"the saved pieces of {name} leave elements out")
    return chunks
