"""The file of an annealed model: its combined tensors, and the layout under which it stands in a window like a checkpoint.

It is a safetensors file of ours. A tensor is the used part of one storage, in the order of its elements, under the name and
in the dtype that the newest checkpoint gives it.
"""

from __future__ import annotations

import hashlib
import json
import struct
from dataclasses import replace
from typing import TYPE_CHECKING

from rna_watch.errors import EvaluationFailed
from rna_watch.formats.safetensors_file import STORED_NAMES
from rna_watch.layout import disk
from rna_watch.layout.dtypes import DTYPES
from rna_watch.layout.identity import identify
from rna_watch.layout.open_file import opened
from rna_watch.window.combine import COMBINED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rna_watch.layout.layout import Chunk, Extent, Layout


def combined(layout: Layout) -> list[tuple[int, Extent]]:
    """The extents that are combined, with their numbers, those of the widest numbers first."""
    found = [(number, extent) for number, extent in enumerate(layout.extents) if extent.role in COMBINED]
    return sorted(found, key=lambda each: -DTYPES[each[1].dtype].itemsize)


def _header(newest: Layout) -> bytes:
    header: dict[str, object] = {"__metadata__": {"made_by": "rna-watch"}}
    position = 0
    for _, extent in combined(newest):
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


def _pieces(newest: Layout, parts: Callable[[int, Chunk], memoryview]) -> Iterator[memoryview]:
    yield memoryview(_header(newest))
    for number, extent in combined(newest):
        for chunk in extent.chunks:
            yield parts(number, chunk)


def layout(path: str, newest: Layout) -> Layout:
    """The layout of the file: the newest checkpoint's tensors, where their combined elements lie in it.

    Args:
        path: the file.
        newest: the newest checkpoint; its integers and flags are in no file here.

    Raises:
        OSError: there is no such file.
    """
    extents = [replace(extent, chunks=()) for extent in newest.extents]
    position = len(_header(newest))
    for number, extent in combined(newest):
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
    return replace(found, fingerprint=digest(found))


def digest(model: Layout) -> str:
    """A digest of the combined tensors of a model: names, dtypes, and bytes in the order of their elements.

    Raises:
        InputChanged: a file changed meanwhile.
    """
    found = hashlib.blake2b(digest_size=16)
    with opened(model.files) as files:
        for _, extent in sorted(combined(model), key=lambda each: each[1].name):
            found.update(f"{extent.name}|{extent.dtype}|{extent.count}\n".encode(errors="backslashreplace"))
            for chunk in extent.chunks:
                size = chunk.count * DTYPES[extent.dtype].itemsize
                for piece in files[chunk.file].pieces(chunk.offset_bytes, size):
                    found.update(piece)
    return found.hexdigest()
