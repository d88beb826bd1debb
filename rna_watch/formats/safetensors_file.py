"""The safetensors format, one file: a JSON header with the tensors' byte ranges, then their bytes.

A file is complete when header and ranges cover it exactly; a shorter or a longer one is still being written. So is one with
holes, as release candidates of safetensors 0.7.1 and 0.8.0 set a file's size first. Zeros that were written are no hole; a
sparse copy has some, and is taken as complete two minutes after its last change.
Format: https://huggingface.co/docs/safetensors, "Format".
"""

from __future__ import annotations

import hashlib
import json
import re
import struct
import time
from math import prod
from typing import TYPE_CHECKING, Any

from rna_watch.errors import IncompleteCheckpoint, RefusedCheckpoint
from rna_watch.formats import model_source
from rna_watch.formats.format import FileFormat
from rna_watch.layout.dtypes import DTYPES, PAIRS
from rna_watch.layout.layout import Chunk, Extent, Layout, Role, TensorView
from rna_watch.layout.strides import contiguous

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rna_watch.layout.open_file import OpenFile

_HEADER_LIMIT = 100_000_000
_COUNT = re.compile(r"[0-9]{1,18}")
_SAMPLES = 1024
_RESTED_NS = 120 * 10**9
_NAMES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U64": "uint64",
    "U32": "uint32",
    "U16": "uint16",
    "U8": "uint8",
    "BOOL": "bool",
    "C64": "complex64",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2": "float8_e5m2",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "F8_E8M0": "float8_e8m0fnu",
}
STORED_NAMES = {dtype: name for name, dtype in _NAMES.items()}


def read_layout(file: OpenFile, source: str | None = None) -> Layout:
    """The layout of a complete file.

    Raises:
        IncompleteCheckpoint: header and file size do not agree (yet).
        RefusedCheckpoint: it is complete, but holds what cannot be combined.
    """
    if source is not None:
        raise RefusedCheckpoint("a safetensors file has no keys above its tensors: leave --source out")
    (length,) = struct.unpack("<Q", file.read(0, 8))
    if 8 + length > file.size_bytes:
        raise IncompleteCheckpoint(f"its header of {length} bytes is not all there ({file.size_bytes} bytes so far)")
    raw = file.read(8, length)
    try:
        header = json.loads(raw)
        metadata = header.pop("__metadata__", {})
        entries = {name: _entry(name, value) for name, value in header.items()}
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
        raise RefusedCheckpoint(f"its header is damaged ({type(error).__name__}: {error})") from error
    base = 8 + length
    position = 0
    for start, end, *_ in sorted(entries.values(), key=lambda entry: (entry[0], entry[1])):
        if start != position:
            raise RefusedCheckpoint(f"its header is damaged: tensors leave a gap or overlap at byte {base + position}")
        position = end
    if base + position != file.size_bytes:
        raise IncompleteCheckpoint(f"{base + position} bytes are announced, {file.size_bytes} are there")
    hole = file.hole()
    if hole is not None and abs(time.time_ns() - file.identity.mtime_ns) < _RESTED_NS:
        raise IncompleteCheckpoint(
            f"it has its size, but nothing is written at byte {hole} (yet); if it is a copy that leaves zeros out, it is taken "
            f"{_RESTED_NS // 10**9} s after its last change"
        )
    extents, views = _place(entries, base)
    return Layout(
        format=FORMAT.name,
        files=(file.identity,),
        source="",
        tensors=views,
        extents=extents,
        counters=_counters(metadata),
        fingerprint=_fingerprint(file, raw, extents),
    )


def read_metadata(file: OpenFile) -> dict[str, str]:
    """What the writer stated besides the tensors, by name; empty if it is nothing of the kind.

    Raises:
        IncompleteCheckpoint: the header is not all there.
        ValueError: it is no JSON.
    """
    (length,) = struct.unpack("<Q", file.read(0, 8))
    found = json.loads(file.read(8, length)).get("__metadata__", {})
    return {key: value for key, value in found.items() if isinstance(value, str)} if isinstance(found, dict) else {}


def _entry(name: str, value: Any) -> tuple[int, int, str, tuple[int, ...]]:
    start, end = (int(offset) for offset in value["data_offsets"])
    shape = tuple(int(size) for size in value["shape"])
    dtype = _NAMES.get(value["dtype"])
    if dtype is None:
        raise RefusedCheckpoint(f"{name} has dtype {value['dtype']}, which cannot be averaged; save it as F32 or BF16")
    itemsize = 2 * DTYPES[PAIRS[dtype]].itemsize if dtype in PAIRS else DTYPES[dtype].itemsize
    if start < 0 or any(size < 0 for size in shape) or end - start != prod(shape) * itemsize:
        raise ValueError(f"byte range and shape of {name} disagree")
    return start, end, dtype, shape


def _place(
    entries: dict[str, tuple[int, int, str, tuple[int, ...]]], base: int
) -> tuple[tuple[Extent, ...], tuple[TensorView, ...]]:
    model_source.check_dtypes(
        (name, PAIRS.get(dtype, dtype), shape) for name, (_start, _end, dtype, shape) in entries.items()
    )
    extents: list[Extent] = []
    views: list[TensorView] = []
    for name, (start, _end, stored, size) in entries.items():
        pairs = stored in PAIRS  # as `torch.view_as_real` shows them
        dtype, shape = (PAIRS[stored], (*size, 2)) if pairs else (stored, size)
        count = prod(shape)
        chunks = (Chunk(file=0, offset_bytes=base + start, start=0, count=count),) if count else ()
        views.append(
            TensorView(
                name=name,
                dtype=dtype,
                shape=shape,
                stride=contiguous(shape),
                extent=len(extents),
                start=0,
                pairs=pairs,
            )
        )
        extents.append(Extent(name=name, dtype=dtype, role=model_source.role(name, dtype), chunks=chunks))
    if not any(extent.role is not Role.COPIED for extent in extents):
        raise RefusedCheckpoint("it holds no floating-point tensors: nothing to extrapolate")
    return tuple(extents), tuple(views)


def _counters(metadata: object) -> dict[str, int]:
    if not isinstance(metadata, dict):
        return {}
    numbers = {key: int(value) for key, value in metadata.items() if isinstance(value, str) and _COUNT.fullmatch(value)}
    return model_source.counters(numbers)


def _fingerprint(file: OpenFile, header: bytes, extents: Sequence[Extent]) -> str:
    """A digest of the header and of samples of every tensor (often few of them train): the format keeps no checksum."""
    digest = hashlib.blake2b(header, digest_size=16)
    number = max(2, _SAMPLES // len(extents))
    for extent in extents:
        for chunk in extent.chunks:
            for sample in file.samples(chunk.offset_bytes, chunk.count * DTYPES[extent.dtype].itemsize, number):
                digest.update(sample)
    return digest.hexdigest()


def _recognises(_path: str, head: bytes) -> bool:
    """A header length that is allowed, then a brace."""
    return len(head) >= 9 and head[8:9] == b"{" and struct.unpack_from("<Q", head)[0] <= _HEADER_LIMIT


FORMAT = FileFormat(
    name="safetensors",
    recognises=_recognises,
    read_layout=read_layout,
    endings=(".safetensors",),
)
