"""The pieces of a tensor that ranks saved in blocks: where each run of its logical elements lies."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from rna_watch.errors import RefusedCheckpoint
from rna_watch.formats import model_source
from rna_watch.layout.blocks import Block, is_dense, uncovered
from rna_watch.layout.dtypes import DTYPES
from rna_watch.layout.layout import Chunk, Extent, TensorView
from rna_watch.layout.strides import contiguous, runs

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rna_watch.formats.dcp_items import Part
    from rna_watch.formats.safe_pickle import PickledTensor

# A piece costs about a kilobyte on its way through a window.
MOST_PIECES = 2**18
MOST_IN_ALL = 2**20
# Up to so many pieces, a tensor is read in the order of its logical elements, so that its cut may change within a window. One in
# more is read in the order of its blocks, where each is a single piece.
FEW_PIECES = 2**10
_MOST_COMPARED = 2**27  # pairs of blocks, along each axis: 4,096 blocks of eight axes

Piece = tuple[int, int, int, int]  # first element of the tensor, count, file number, byte offset


def strides(shape: Sequence[int]) -> tuple[int, ...]:
    """The strides of a contiguous tensor, as torch has them for an empty one too."""
    return contiguous([max(size, 1) for size in shape])


def extents(
    tensors: Mapping[str, PickledTensor], parts: Mapping[str, Sequence[Part]], *, blocks: bool
) -> tuple[list[Extent], list[TensorView]]:
    """The extents of a model's tensors, and their views.

    Args:
        tensors: the whole of each, by name: dtype, shape, and strides of a contiguous one.
        parts: the saved pieces of each, by name.
        blocks: tensors in many pieces may be numbered block after block.

    Raises:
        RefusedCheckpoint: the pieces of one overlap, leave elements out, or are too many.
    """
    counts = {name: _count(tensor, parts[name]) for name, tensor in tensors.items()}
    few = FEW_PIECES if sum(count for count in counts.values() if count <= FEW_PIECES) <= MOST_IN_ALL else 0
    found: list[Extent] = []
    views: list[TensorView] = []
    pieces = 0
    for name, tensor in tensors.items():
        own = [part for part in parts[name] if 0 not in part.tensor.shape]
        many = blocks and len(own) > 1 and counts[name] > max(few, len(own))
        if (
            many
            and len(own) ** 2 * len(tensor.shape) <= _MOST_COMPARED
            and all(is_dense(part.tensor.shape, part.tensor.stride) for part in own)
        ):
            extent, view = _in_blocks(name, tensor, own)
        else:
            extent, view = _in_order(name, tensor, parts[name])
        pieces += len(extent.chunks)
        if pieces > MOST_IN_ALL:
            raise _scattered(f"{name}, with all before it,", pieces)
        views.append(replace(view, extent=len(found)))
        found.append(extent)
    return found, views


def _in_blocks(name: str, tensor: PickledTensor, parts: Sequence[Part]) -> tuple[Extent, TensorView]:
    """A tensor's extent, block after block, and its view."""
    itemsize = DTYPES[tensor.dtype].itemsize
    chunks: list[Chunk] = []
    blocks: list[Block] = []
    done = 0
    for offsets, part in sorted(((_offsets(tensor, part), part) for part in parts), key=lambda pair: pair[0]):
        own = part.tensor
        blocks.append(Block(offsets=offsets, shape=own.shape, stride=own.stride, start=done))
        at = part.start_bytes + own.start * itemsize
        chunks.append(Chunk(file=part.file, offset_bytes=at, start=done, count=blocks[-1].count))
        done += blocks[-1].count
    if wrong := uncovered(blocks, tensor.shape):
        raise _not_once(name, wrong)
    return _extent(name, tensor, chunks), _view(name, tensor, tensor.stride, tuple(blocks))


def _in_order(name: str, tensor: PickledTensor, parts: Sequence[Part]) -> tuple[Extent, TensorView]:
    """A tensor's extent in the order of its logical elements, and its view."""
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
            pieces += [
                (first, count, part.file, part.start_bytes + position * itemsize)
                for first, count, position in _pieces(name, tensor, _offsets(tensor, part), part.tensor)
            ]
            if len(pieces) > MOST_PIECES:
                raise _scattered(name, len(pieces))
    return _extent(name, tensor, _joined(name, pieces, prod(tensor.shape), itemsize)), _view(name, tensor, stride)


def _extent(name: str, tensor: PickledTensor, chunks: Sequence[Chunk]) -> Extent:
    return Extent(name=name, dtype=tensor.dtype, role=model_source.role(name, tensor.dtype), chunks=tuple(chunks))


def _view(name: str, tensor: PickledTensor, stride: tuple[int, ...], blocks: tuple[Block, ...] = ()) -> TensorView:
    return TensorView(
        name=name,
        dtype=tensor.dtype,
        shape=tensor.shape,
        stride=stride,
        extent=0,
        start=0,
        pairs=tensor.pairs,
        blocks=blocks,
    )


def _offsets(tensor: PickledTensor, part: Part) -> tuple[int, ...]:
    """Where a piece begins along each axis; complex numbers have one more, of two."""
    return (*part.item.offsets, 0) if tensor.pairs else part.item.offsets


def _scattered(name: str, count: int) -> RefusedCheckpoint:
    """The refusal of a tensor that lies in too many pieces."""
    return RefusedCheckpoint(
        f"{name} is cut by columns, or strided, into {count} pieces, more than can be read one by one; cut it by rows, or save "
        "it whole"
    )


def _not_once(name: str, wrong: str) -> RefusedCheckpoint:
    return RefusedCheckpoint(f"the saved pieces of {name} {wrong}")


def _pieces(
    name: str, tensor: PickledTensor, offsets: Sequence[int], piece: PickledTensor
) -> list[tuple[int, int, int]]:
    """The runs (first element of the tensor, count, first element of the piece's storage) of a block, ascending."""
    if 0 in piece.shape:
        return []
    whole = strides(tensor.shape)
    count, outer = _run(tensor, piece)
    number = prod(size for size, _, _ in outer)
    if number > MOST_PIECES:
        raise _scattered(name, number)
    firsts = np.array([sum(at * step for at, step in zip(offsets, whole, strict=True))], dtype=np.int64)
    positions = np.array([piece.start], dtype=np.int64)
    for size, step, own in reversed(outer):
        along = np.arange(size, dtype=np.int64)
        firsts = (firsts[:, None] + along * step).reshape(-1)
        positions = (positions[:, None] + along * own).reshape(-1)
    return [(first, count, position) for first, position in zip(firsts.tolist(), positions.tolist(), strict=True)]


def _run(tensor: PickledTensor, piece: PickledTensor) -> tuple[int, list[tuple[int, int, int]]]:
    """How many elements of a block lie together in the tensor and in the block's storage; and what (size, steps) is around."""
    count = 1
    outer: list[tuple[int, int, int]] = []
    for size, step, own in reversed(list(zip(piece.shape, strides(tensor.shape), piece.stride, strict=True))):
        if size == 1:
            continue
        if not outer and step == own == count:
            count *= size
        else:
            outer.append((size, step, own))
    return count, outer


def _count(tensor: PickledTensor, parts: Sequence[Part]) -> int:
    """In how many pieces a tensor lies, in the order of its logical elements."""
    return sum(
        prod(size for size, _, _ in _run(tensor, part.tensor)[1]) for part in parts if 0 not in part.tensor.shape
    )


def _joined(name: str, pieces: list[Piece], elements: int, itemsize: int) -> list[Chunk]:
    """The pieces in order, neighbours in a file as one; together they are the whole tensor, each element once."""
    chunks: list[Chunk] = []
    end = 0
    for first, count, file, offset in sorted(pieces):
        if first != end:
            wrong = "overlap" if first < end else "leave elements out"
            raise _not_once(name, wrong)
        last = chunks[-1] if chunks else None
        if last and last.file == file and last.offset_bytes + last.count * itemsize == offset:
            chunks[-1] = replace(last, count=last.count + count)
        else:
            chunks.append(Chunk(file=file, offset_bytes=offset, start=first, count=count))
        end = first + count
    if end != elements:
        raise _not_once(name, "leave elements out")
    return chunks
