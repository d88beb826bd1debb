"""The central directory of a zip file: its records, where their entries, headers and bytes lie, read with a few bounded reads.

Records of torch are stored uncompressed, aligned to 64 bytes, with a data descriptor behind each.
Format: https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT, sections 4.3 and 4.5.3.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rna_watch.errors import IncompleteCheckpoint, RefusedCheckpoint

if TYPE_CHECKING:
    from rna_watch.layout.open_file import OpenFile

MAGIC = b"PK\x03\x04"
_END = b"PK\x05\x06"
_END64 = b"PK\x06\x06"
_LOCATOR64 = b"PK\x06\x07"
_ENTRY = b"PK\x01\x02"
# signature, flags, method, CRC-32, sizes packed and plain, lengths of name, extra and comment, the header's offset
_FIELDS = struct.Struct("<4s4xHH4xIIIHHH8xI")
_DESCRIPTOR = b"PK\x07\x08"
_END_SIZE = 22
_COMMENT_LIMIT = 65535
_HAS_DESCRIPTOR = 0x08
MOST_RECORDS = 500_000  # a storage is one, and seldom has two tensors


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

    @property
    def described(self) -> bool:
        """Whether a data descriptor follows its bytes."""
        return bool(self.flags & _HAS_DESCRIPTOR)


def read_directory(file: OpenFile) -> list[Record]:
    """The records of the central directory, in its order.

    Raises:
        IncompleteCheckpoint: the directory is not there, or does not fit the file.
        RefusedCheckpoint: it has more than `MOST_RECORDS` records.
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
    if count > MOST_RECORDS and count * _FIELDS.size <= length:
        raise RefusedCheckpoint(f"it holds more than {MOST_RECORDS:,} records; save the model's state dict alone")
    return _parse_entries(file.read(offset, length), offset, count)


def _parse_entries(directory: bytes, base: int, count: int) -> list[Record]:
    records: list[Record] = []
    position = 0
    try:
        for _ in range(count):
            fields = _FIELDS.unpack_from(directory, position)
            signature, flags, method, crc, packed, plain, name_size, extra_size, comment_size, header = fields
            if signature != _ENTRY:
                raise IncompleteCheckpoint("an entry of its zip directory is damaged")
            start = position + _FIELDS.size
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
    expected = 30 + len(record.name.encode())
    header = file.read(record.header_offset, min(expected, file.size_bytes - record.header_offset))
    if header[:4] != MAGIC:
        raise RefusedCheckpoint(f"the header of record {record.name} is damaged")
    name_size, extra_size = struct.unpack_from("<HH", header, 26)
    offset = record.header_offset + 30 + int(name_size) + int(extra_size)
    end = offset + record.size_bytes
    if end > file.size_bytes:
        raise IncompleteCheckpoint(f"record {record.name} lies beyond the end of the file")
    # a flipped bit in the header's lengths would shift the record: what lies before and behind it must fit too
    written = header[30:] if 30 + name_size == expected else file.read(record.header_offset + 30, name_size)
    name = written.decode("utf-8", "replace")
    if name != record.name or (record.described and file.read(end, 4) != _DESCRIPTOR):
        raise RefusedCheckpoint(f"the header of record {record.name} is damaged")
    return offset
