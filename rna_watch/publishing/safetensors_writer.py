"""Skeletons: new files with all but the tensors' bytes in them, which say where those go."""

from __future__ import annotations

import json
import os
import struct
from contextlib import suppress
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from rna_watch.errors import RefusedCheckpoint, StoreError
from rna_watch.formats.safetensors_file import STORED_NAMES
from rna_watch.layout.disk import write_all
from rna_watch.layout.dtypes import DTYPES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rna_watch.layout.layout import TensorView


@dataclass(frozen=True, slots=True, kw_only=True)
class Skeleton:
    """A file to be made: its size, what is known of its bytes, and the offset at which each part of the model goes.

    `parts` are (offset, bytes); `offsets` are by name.
    """

    size_bytes: int
    parts: tuple[tuple[int, bytes], ...]
    offsets: dict[str, int]


def safetensors(tensors: Mapping[str, TensorView], metadata: Mapping[str, str]) -> Skeleton:
    """A safetensors file of contiguous tensors, by name; the widest numbers come first, so that all are aligned.

    Raises:
        RefusedCheckpoint: the format has no such dtype.
    """
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    position = 0
    offsets = {}
    for name, view in sorted(tensors.items(), key=lambda item: -DTYPES[item[1].dtype].itemsize):
        if view.stored_dtype not in STORED_NAMES:
            raise RefusedCheckpoint(f"{name} is {view.stored_dtype}, which safetensors files cannot hold")
        end = position + prod(view.shape) * DTYPES[view.dtype].itemsize
        header[name] = {
            "dtype": STORED_NAMES[view.stored_dtype],
            "shape": list(view.stored_shape),
            "data_offsets": [position, end],
        }
        offsets[name] = position
        position = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    base = 8 + len(text)
    return Skeleton(
        size_bytes=base + position,
        parts=((0, struct.pack("<Q", len(text)) + text),),
        offsets={name: base + offset for name, offset in offsets.items()},
    )


def make(skeleton: Skeleton, path: str, mode: int) -> None:
    """Make the file, of its full size.

    Raises:
        StoreError: there is no room, or the folder cannot be written.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
        try:
            os.fchmod(descriptor, mode & 0o777 | 0o200)
            os.ftruncate(descriptor, skeleton.size_bytes)
            for offset, data in skeleton.parts:
                write_all(descriptor, memoryview(data), offset)
        finally:
            os.close(descriptor)
    except OSError as error:
        with suppress(OSError):
            Path(path).unlink(missing_ok=True)
        raise StoreError(cannot_write(path, error)) from error


def cannot_write(path: str, error: OSError) -> str:
    """What failed, and what to do about it."""
    return f"cannot write {path}: {error.strerror or error}; make room there, or name another folder with --output"
