"""The zip format of `torch.save`: its central directory, its pickle and its storages, read with a few bounded reads.

Layout as written by torch 1.6 to 2.13: records stored uncompressed, payloads aligned to 64 bytes, a data descriptor
behind
each, then the central directory. A file is complete when that directory can be read, as it is written last.
"""

from __future__ import annotations

import hashlib
import os
import struct
import zlib
from bisect import bisect_left
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from rna_watch.errors import IncompleteCheckpoint, RefusedCheckpoint
from rna_watch.formats import model_source, optimizer_state, safe_pickle, storages
from rna_watch.layout.dtypes import DTYPES
from rna_watch.layout.layout import Layout

if TYPE_CHECKING:
    from rna_watch.formats.safe_pickle import PickledTensor, Storage
    from rna_watch.layout.open_file import OpenFile

NAME = "torch zip"
MAGIC = b"PK\x03\x04"
_END = b"PK\x05\x06"
_END64 = b"PK\x06\x06"
_LOCATOR64 = b"PK\x06\x07"
_ENTRY = b"PK\x01\x02"
_DESCRIPTOR = b"PK\x07\x08"
_END_SIZE = 22
_COMMENT_LIMIT = 65535
_HAS_DESCRIPTOR = 0x08
_SAMPLES = 64
_LONGEST_HEADER = 30 + 2 * 65535  # of a record: its name and what else it says, before its bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A record of the zip: where its entry in the central directory, its local header and its bytes lie."""

    name: str
    entry_offset: int
    header_offset: int
    size_bytes: int
    crc: int
    flags: int
    method: int


def recognises(head: bytes) -> bool:
    """Whether a file that begins so can be one of ours."""
    return head.startswith(MAGIC)


def read_layout(file: OpenFile, source: str | None = None) -> Layout:
    """The layout of a complete file.

    Raises:
        IncompleteCheckpoint: it has no readable central directory (yet).
        RefusedCheckpoint: it is complete, but no checkpoint that can be combined.
    """
    by_name = _by_name(file)
    tree = _tree(file, by_name)
    path, tensors = model_source.find_model(tree, source)

    def locate(storage: Storage) -> tuple[int, int] | None:
        record = by_name.get(f"data/{storage.key}")
        return None if record is None else (payload_offset(file, record), record.size_bytes)

    def one_element(tensor: PickledTensor) -> bytes | None:
        offset = storages.first_byte(tensor, locate)
        return None if offset is None else file.read(offset, DTYPES[tensor.dtype].itemsize)

    extents, views = storages.place(tensors, locate)
    return Layout(
        format=NAME,
        files=(file.identity,),
        source=path,
        tensors=views,
        extents=extents,
        counters=model_source.counters(tree, one_element),
        fingerprint=_fingerprint(file, by_name),
        optimizer=optimizer_state.find_optimizer(tree, lambda tensor: storages.first_byte(tensor, locate)),
        sources=model_source.sources(tree),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """What a file holds: its tree of values, the first byte and the length of its storages by key, its fingerprint."""

    tree: object
    storages: dict[str, tuple[int, int]]
    fingerprint: str


def read_contents(file: OpenFile) -> Contents:
    """What a complete file holds.

    Raises:
        IncompleteCheckpoint, RefusedCheckpoint: as for `read_layout`.
    """
    by_name = _by_name(file)
    return Contents(
        tree=_tree(file, by_name),
        storages={
            name.removeprefix("data/"): (payload_offset(file, record), record.size_bytes)
            for name, record in by_name.items()
            if name.startswith("data/")
        },
        fingerprint=_fingerprint(file, by_name),
    )


def read_tree(file: OpenFile) -> object:
    """The tree of values in a complete file.

    Raises:
        IncompleteCheckpoint, RefusedCheckpoint: as for `read_layout`.
    """
    return _tree(file, _by_name(file))


def checksum(content: bytes) -> int:
    """CRC-32 of a record."""
    return zlib.crc32(content)


def _by_name(file: OpenFile) -> dict[str, Record]:
    return {record.name.partition("/")[2]: record for record in read_directory(file)}


def _tree(file: OpenFile, by_name: dict[str, Record]) -> object:
    if "data.pkl" not in by_name:
        raise RefusedCheckpoint("it is a zip file, but not one that torch.save wrote (it has no data.pkl)")
    if "constants.pkl" in by_name:
        raise RefusedCheckpoint("it is a TorchScript archive; save the model's state_dict instead")
    for name in ("data.pkl", "byteorder"):
        _check_record(file, by_name.get(name))
    if "byteorder" in by_name and _payload(file, by_name["byteorder"]) != b"little":
        raise RefusedCheckpoint("it was written on a big-endian machine; save it again on a little-endian one")
    try:
        return safe_pickle.load(_payload(file, by_name["data.pkl"]))
    except ValueError as error:
        raise RefusedCheckpoint(str(error)) from error


def read_directory(file: OpenFile) -> list[Record]:
    """The records of the central directory, in its order.

    Raises:
        IncompleteCheckpoint: the directory is not there, or does not fit the file.
    """
    size = file.size_bytes
    tail_size = min(size, _END_SIZE)
    tail = file.read(size - tail_size, tail_size)
    if not (tail.startswith(_END) and tail.endswith(b"\0\0")):  # torch leaves no comment behind it
        tail_size = min(size, _END_SIZE + _COMMENT_LIMIT)
        tail = file.read(size - tail_size, tail_size)
    end = tail.rfind(_END)
    while end >= 0 and (
        end + _END_SIZE > tail_size or end + _END_SIZE + struct.unpack_from("<H", tail, end + 20)[0] != tail_size
    ):
        end = tail.rfind(_END, 0, end)
    if end < 0:
        raise IncompleteCheckpoint(f"its zip directory, written last, is not there ({size} bytes so far)")
    end_offset = size - tail_size + end
    count, length, offset = struct.unpack_from("<HII", tail, end + 10)
    if end_offset >= 20 and file.read(end_offset - 20, 4) == _LOCATOR64:
        (end_offset,) = struct.unpack("<Q", file.read(end_offset - 20 + 8, 8))
        if end_offset + 56 > size or file.read(end_offset, 4) != _END64:
            raise IncompleteCheckpoint("its zip64 directory record is not where the file says")
        count, length, offset = struct.unpack("<QQQ", file.read(end_offset + 32, 24))
    if offset + length != end_offset:
        raise IncompleteCheckpoint("its zip directory does not fit the file")
    return _parse_entries(file.read(offset, length), offset, count)


def _parse_entries(directory: bytes, base: int, count: int) -> list[Record]:
    records: list[Record] = []
    position = 0
    try:
        for _ in range(count):
            if directory[position : position + 4] != _ENTRY:
                raise IncompleteCheckpoint("an entry of its zip directory is damaged")
            flags, method = struct.unpack_from("<HH", directory, position + 8)
            crc, packed, plain = struct.unpack_from("<III", directory, position + 16)
            name_size, extra_size, comment_size = struct.unpack_from("<HHH", directory, position + 28)
            (header,) = struct.unpack_from("<I", directory, position + 42)
            start = position + 46
            name = directory[start : start + name_size].decode("utf-8", "replace")
            extra = directory[start + name_size : start + name_size + extra_size]
            plain, packed, header = _zip64_sizes(extra, plain, packed, header)
            if method == 0 and plain != packed:
                raise IncompleteCheckpoint(f"the sizes of record {name} disagree: the directory is damaged")
            records.append(
                Record(
                    name=name,
                    entry_offset=base + position,
                    header_offset=header,
                    size_bytes=packed,
                    crc=crc,
                    flags=flags,
                    method=method,
                )
            )
            position = start + name_size + extra_size + comment_size
    except struct.error as error:
        raise IncompleteCheckpoint("its zip directory is cut short") from error
    if position != len(directory):
        raise IncompleteCheckpoint("its zip directory is longer than its entries")
    return records


def _zip64_sizes(extra: bytes, plain: int, packed: int, header: int) -> tuple[int, int, int]:
    values = [plain, packed, header]
    position = 0
    while position + 4 <= len(extra):
        tag, length = struct.unpack_from("<HH", extra, position)
        if tag == 1:
            at = position + 4
            for index, value in enumerate(values):
                if value == 0xFFFFFFFF:
                    (values[index],) = struct.unpack_from("<Q", extra, at)
                    at += 8
        position += 4 + length
    return values[0], values[1], values[2]


def payload_offset(file: OpenFile, record: Record) -> int:
    """Where a record's bytes begin.

    Raises:
        RefusedCheckpoint: the record is compressed, or its header is damaged.
    """
    if record.method != 0:
        raise RefusedCheckpoint(f"record {record.name} is compressed; torch.save writes plain records")
    if record.header_offset + 30 > file.size_bytes:
        raise IncompleteCheckpoint(f"record {record.name} lies beyond the end of the file")
    header = file.read(record.header_offset, 30)
    if header[:4] != MAGIC:
        raise RefusedCheckpoint(f"the header of record {record.name} is damaged")
    name_size, extra_size = struct.unpack_from("<HH", header, 26)
    offset = record.header_offset + 30 + int(name_size) + int(extra_size)
    end = offset + record.size_bytes
    if end > file.size_bytes:
        raise IncompleteCheckpoint(f"record {record.name} lies beyond the end of the file")
    # a flipped bit in the header's lengths would shift the record: what stands before and behind it must fit too
    name = file.read(record.header_offset + 30, name_size).decode("utf-8", "replace")
    if name != record.name or (record.flags & _HAS_DESCRIPTOR and file.read(end, 4) != _DESCRIPTOR):
        raise RefusedCheckpoint(f"the header of record {record.name} is damaged")
    return offset


def _payload(file: OpenFile, record: Record) -> bytes:
    return file.read(payload_offset(file, record), record.size_bytes)


def _check_record(file: OpenFile, record: Record | None) -> None:
    if record is not None and record.crc and zlib.crc32(_payload(file, record)) != record.crc:
        raise RefusedCheckpoint(f"record {record.name} is damaged: its checksum does not match")


def _fingerprint(file: OpenFile, records: dict[str, Record]) -> str:
    """A digest of names, sizes and checksums, without the root name, which follows the file's.

    Where the writer left the checksums out, samples of the bytes stand in for them.
    """
    digest = hashlib.blake2b(digest_size=16)
    checked = any(record.crc for record in records.values())
    for name, record in sorted(records.items()):
        if name == ".data/serialization_id":
            continue
        digest.update(f"{name}|{record.size_bytes}|{record.crc}\n".encode())
        if not checked:
            for sample in file.samples(payload_offset(file, record), record.size_bytes, _SAMPLES):
                digest.update(sample)
    return digest.hexdigest()


def repair(file: OpenFile, written: dict[int, tuple[int, int]], writer: int, base: int = 0) -> None:
    """Bring the checksums of a patched clone up to date, in data descriptor, local header and central directory.

    Args:
        file: the clone, open for reading.
        written: byte offset of each patched run -> (length in bytes, its CRC-32).
        writer: a descriptor of the clone that can be written.
        base: where the clone begins in the writer's file.
    """
    starts = sorted(written)
    for record in read_directory(file):
        # a record that holds nothing that was written is left alone, also if it is damaged
        near = bisect_left(starts, record.header_offset)
        if (
            record.crc == 0
            or near == len(starts)
            or starts[near] > record.header_offset + record.size_bytes + _LONGEST_HEADER
        ):
            continue
        offset = payload_offset(file, record)
        inside = starts[bisect_left(starts, offset) : bisect_left(starts, offset + record.size_bytes)]
        if not inside:
            continue
        crc = _record_crc(file, offset, record.size_bytes, {start: written[start] for start in inside})
        field = struct.pack("<I", crc)
        os.pwrite(writer, field, base + record.entry_offset + 16)
        end = offset + record.size_bytes
        os.pwrite(writer, field, base + (end + 4 if record.flags & _HAS_DESCRIPTOR else record.header_offset + 14))


def _record_crc(file: OpenFile, offset: int, size: int, written: dict[int, tuple[int, int]]) -> int:
    """CRC-32 of a record from those of its patched runs; what lies between them is read."""
    crc, position = 0, offset
    for start, (length, run_crc) in sorted(written.items()):
        crc = _crc_of_bytes(file, position, start - position, crc)
        crc = combine_crc(crc, run_crc, length)
        position = start + length
    return _crc_of_bytes(file, position, offset + size - position, crc)


def _crc_of_bytes(file: OpenFile, offset: int, count: int, crc: int) -> int:
    while count > 0:
        part = file.read(offset, min(count, 2**20))
        crc = zlib.crc32(part, crc)
        offset, count = offset + len(part), count - len(part)
    return crc


def combine_crc(first: int, second: int, second_bytes: int) -> int:
    """CRC-32 of two joined byte strings from their CRCs and the second's length (zlib's `crc32_combine`).

    Appending n zero bytes is a linear map over GF(2), the n-th power of a 32 x 32 matrix.
    """
    if second_bytes == 0:
        return first
    if first == 0:
        return second
    return _apply(_appended_zeros(second_bytes), first) ^ second


@lru_cache(maxsize=64)  # the runs of a strided tensor are all of one length
def _appended_zeros(count: int) -> list[int]:
    """What `count` zero bytes do to a CRC: the images of its 32 bits."""
    power = [0xEDB88320] + [1 << bit for bit in range(31)]
    for _ in range(3):
        power = _square(power)
    images = [1 << bit for bit in range(32)]
    while count:
        if count & 1:
            images = [_apply(power, image) for image in images]
        power = _square(power)
        count >>= 1
    return images


def _apply(matrix: list[int], vector: int) -> int:
    total = 0
    for row in matrix:
        if vector & 1:
            total ^= row
        vector >>= 1
        if not vector:
            break
    return total


def _square(matrix: list[int]) -> list[int]:
    return [_apply(matrix, row) for row in matrix]
