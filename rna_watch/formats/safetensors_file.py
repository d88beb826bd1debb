"""The safetensors format, one file: a JSON header with the tensors' byte ranges, then their bytes.

A file is complete when header and ranges cover it exactly; a shorter or a longer one is still being written. So is one with
holes, as release candidates of safetensors 0.7.1 and 0.8.0 set a file's size first. Zeros that were written are no hole; a
sparse copy has some, and is taken as complete two minutes after its last change.
Format: https://huggingface.co/docs/safetensors, "Format".
"""

from __future__ import annotations

import hashlib
import re
import struct
import time
from itertools import accumulate
from math import prod
from operator import mul
from typing import TYPE_CHECKING, Any

from rna_watch.errors import IncompleteCheckpoint, RefusedCheckpoint
from rna_watch.formats import loading, model_source
from rna_watch.formats.format import FileFormat
from rna_watch.layout import bounded_json
from rna_watch.layout.dtypes import DTYPES, PAIRS
from rna_watch.layout.layout import Chunk, Extent, Layout, Role, TensorView
from rna_watch.layout.strides import contiguous

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rna_watch.layout.open_file import OpenFile

HEADER_LIMIT_BYTES = 100_000_000  # the library's own
_MOST_AXES = 64  # torch's and numpy's
_MOST_BYTES = 2**63
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
    digest = hashlib.blake2b(raw, digest_size=16)
    try:
        header = bounded_json.parse(raw, strict=True)
        del raw  # it is large
        metadata = _metadata(header)
        entries = {name: _entry(name, value) for name, value in header.items()}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
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
        fingerprint=_fingerprint(file, digest, extents),
    )


def read_metadata(file: OpenFile) -> dict[str, str]:
    """What the writer stated besides the tensors, by name; empty if it is nothing of the kind.

    Raises:
        IncompleteCheckpoint: the header is not all there.
        ValueError: it is no JSON.
    """
    (length,) = struct.unpack("<Q", file.read(0, 8))
    return _metadata(bounded_json.parse(file.read(8, length)))


def _metadata(header: dict[str, Any]) -> dict[str, str]:
    """What the writer stated besides the tensors, taken out of the header; the library wants texts."""
    found = header.pop("__metadata__", None) or {}
    if not isinstance(found, dict) or not all(isinstance(each, str) for each in found.values()):
        raise TypeError("its metadata are no texts")
    return found


def _sizes(value: Any, what: str) -> tuple[int, ...]:
    """A list of whole numbers: 1.9, "1" and true are none, to the library neither."""
    if not isinstance(value, list) or any(type(each) is not int or not 0 <= each < _MOST_BYTES for each in value):
        raise ValueError(f"{what} is no list of whole numbers")
    return tuple(value)


def _entry(name: str, value: Any) -> tuple[int, int, str, tuple[int, ...]]:
    name.encode()  # half of a surrogate pair is no name
    start, end = _sizes(value["data_offsets"], f"the place of {name}")
    shape = _sizes(value["shape"], f"the shape of {name}")
    if len(shape) > _MOST_AXES:
        raise ValueError(f"{name} has more than {_MOST_AXES} axes")
    dtype = _NAMES.get(value["dtype"])
    if dtype is None:
        raise RefusedCheckpoint(f"{name} has dtype {value['dtype']}, which cannot be averaged; save it as F32 or BF16")
    itemsize = 2 * DTYPES[PAIRS[dtype]].itemsize if dtype in PAIRS else DTYPES[dtype].itemsize
    if (
        any(each >= _MOST_BYTES for each in accumulate(shape, mul, initial=itemsize))
        or end - start != prod(shape) * itemsize
    ):
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


def _counters(metadata: dict[str, str]) -> dict[str, int]:
    numbers = {key: int(value) for key, value in metadata.items() if _COUNT.fullmatch(value)}
    return model_source.counters(numbers)


def _fingerprint(file: OpenFile, digest: hashlib.blake2b, extents: Sequence[Extent]) -> str:
    """A digest of the header and of samples of every tensor (often few of them train): the format keeps no checksum.

    Args:
        file: the file.
        digest: the header's.
        extents: where the tensors lie.
    """
    number = max(2, _SAMPLES // len(extents))
    for extent in extents:
        for chunk in extent.chunks:
            for sample in file.samples(chunk.offset_bytes, chunk.count * DTYPES[extent.dtype].itemsize, number):
                digest.update(sample)
    return digest.hexdigest()


def _recognises(_path: str, head: bytes) -> bool:
    """A header length that is allowed, then a brace."""
    return len(head) >= 9 and head[8:9] == b"{" and struct.unpack_from("<Q", head)[0] <= HEADER_LIMIT_BYTES


FORMAT = FileFormat(
    name="safetensors",
    recognises=_recognises,
    read_layout=read_layout,
    endings=(".safetensors",),
    loading=loading.safetensors_file,
)
