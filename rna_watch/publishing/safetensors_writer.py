"""A safetensors file of contiguous tensors: its header, and where the tensors' bytes go."""

from __future__ import annotations

import json
import struct
from math import prod
from typing import TYPE_CHECKING

from rna_watch.errors import RefusedCheckpoint
from rna_watch.formats.safetensors_file import STORED_NAMES
from rna_watch.layout.dtypes import DTYPES
from rna_watch.publishing.new_file import Skeleton

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rna_watch.layout.layout import TensorView


def skeleton(tensors: Mapping[str, TensorView], metadata: Mapping[str, str]) -> Skeleton:
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
