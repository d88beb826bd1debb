"""A made model: one that is no combination of its inputs, and the file in which the tensors that were made lie.

It is a safetensors file of ours, with a layout under which it stands in a window like a checkpoint. A tensor is the used part of
one storage, in the order of its elements, under the name and in the dtype that the newest checkpoint gives it.
"""

from __future__ import annotations

import hashlib
import json
import struct
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from rna_watch.errors import EvaluationFailed
from rna_watch.formats.safetensors_file import STORED_NAMES
from rna_watch.layout import disk
from rna_watch.layout.dtypes import DTYPES
from rna_watch.layout.identity import identify
from rna_watch.layout.open_file import opened
from rna_watch.window.combine import COMBINED

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping

    from rna_watch.layout.layout import Chunk, Extent, Layout
    from rna_watch.window.combine import Combination

# what a model is to its inputs: a combination, trained from one, or with products of factors in it
COMBINATION, TRAINING, PRODUCT = "combination", "training", "product"


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """A model that was made here: its kind, how it was made (as a manifest says it), and what is to be said.

    `combination` copies what was made from the file `path`; the rest is the newest checkpoint's, or combined.
    """

    kind: str
    combination: Combination
    path: str
    account: Mapping[str, Any]
    notes: tuple[str, ...] = ()


def combined(layout: Layout, among: Collection[int] | None = None) -> list[tuple[int, Extent]]:
    """The extents that are combined (only those of these numbers), with their numbers, those of the widest numbers first."""
    found = [
        (number, extent)
        for number, extent in enumerate(layout.extents)
        if extent.role in COMBINED and (among is None or number in among)
    ]
    return sorted(found, key=lambda each: -DTYPES[each[1].dtype].itemsize)


def _header(newest: Layout, among: Collection[int] | None) -> bytes:
    header: dict[str, object] = {"__metadata__": {"made_by": "rna-watch"}}
    position = 0
    for _, extent in combined(newest, among):
        end = position + extent.count * DTYPES[extent.dtype].itemsize
        if extent.dtype not in STORED_NAMES:
            raise EvaluationFailed(f"{extent.name} is {extent.dtype}, which safetensors files cannot hold")
        offsets = [position, end]
        header[extent.name] = {"dtype": STORED_NAMES[extent.dtype], "shape": [extent.count], "data_offsets": offsets}
        position = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def write(path: str, newest: Layout, parts: Callable[[int, Chunk], memoryview]) -> None:
    """Write the file, whole or not at all.

    Args:
        path: its path.
        newest: the newest checkpoint.
        parts: the bytes of a chunk of an extent, by its number.

    Raises:
        OSError: it cannot be written.
        EvaluationFailed: safetensors files cannot hold a dtype of the model.
    """
    with disk.replacing(path, durable=False) as temporary, disk.create(temporary) as file:
        position = 0
        for data in _pieces(newest, parts):
            disk.write_all(file.fileno(), data, position)
            position += len(data)


def begin(path: str, newest: Layout, among: Collection[int]) -> dict[int, int]:
    """Make the file for these extents, empty but for its header; returns the byte at which each begins.

    Raises:
        OSError: it cannot be written.
        EvaluationFailed: safetensors files cannot hold a dtype of the model.
    """
    header = _header(newest, among)
    offsets, position = {}, len(header)
    for number, extent in combined(newest, among):
        offsets[number] = position
        position += extent.count * DTYPES[extent.dtype].itemsize
    with disk.replacing(path, durable=False) as temporary, disk.create(temporary) as file:
        disk.write_all(file.fileno(), memoryview(header), 0)
        file.truncate(position)
    return offsets


def _pieces(newest: Layout, parts: Callable[[int, Chunk], memoryview]) -> Iterator[memoryview]:
    yield memoryview(_header(newest, None))
    for number, extent in combined(newest):
        for chunk in extent.chunks:
            yield parts(number, chunk)


def layout(path: str, newest: Layout, among: Collection[int] | None = None) -> Layout:
    """The layout of the file: the newest checkpoint's tensors, where their combined elements lie in it.

    Args:
        path: the file.
        newest: the newest checkpoint; its integers and flags are in no file here.
        among: the numbers of the extents that are in it; None: all that are combined.

    Raises:
        OSError: there is no such file.
    """
    extents = [replace(extent, chunks=()) for extent in newest.extents]
    position = len(_header(newest, among))
    for number, extent in combined(newest, among):
        chunks = []
        for chunk in extent.chunks:
            chunks.append(replace(chunk, file=0, offset_bytes=position))
            position += chunk.count * DTYPES[extent.dtype].itemsize
        extents[number] = replace(extent, chunks=tuple(chunks))
    found = replace(
        newest,
        format="safetensors",
        files=(identify(path),),
        extents=tuple(extents),
        optimizer=None,
        gradient=None,
        gradient_problem="",
        root="",
        carried=(),
        kinds=(),
    )
    return replace(found, fingerprint=digest(found, among))


def digest(model: Layout, among: Collection[int] | None = None) -> str:
    """A digest of the combined tensors of a model (only those of these extents): names, dtypes, and bytes in order.

    Raises:
        InputChanged: a file changed meanwhile.
    """
    found = hashlib.blake2b(digest_size=16)
    with opened(model.files) as files:
        for _, extent in sorted(combined(model, among), key=lambda each: each[1].name):
            found.update(f"{extent.name}|{extent.dtype}|{extent.count}\n".encode(errors="backslashreplace"))
            for chunk in extent.chunks:
                size = chunk.count * DTYPES[extent.dtype].itemsize
                for piece in files[chunk.file].pieces(chunk.offset_bytes, size):
                    found.update(piece)
    return found.hexdigest()
