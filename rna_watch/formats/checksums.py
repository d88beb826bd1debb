"""Checksums: whether the bytes of torch zips, alone or inside the shards of a folder, are those that were written."""

from __future__ import annotations

import zlib
from bisect import bisect_left
from typing import TYPE_CHECKING

from rna_watch.errors import IncompleteCheckpoint, RefusedCheckpoint
from rna_watch.formats import dcp, torch_zip

if TYPE_CHECKING:
    from rna_watch.formats.torch_zip import Record
    from rna_watch.layout.open_file import OpenFile

_COPY_BYTES = 2**20
_HAS_DESCRIPTOR = 0x08


def zips(file: OpenFile, kind: str) -> list[tuple[int, OpenFile]]:
    """The torch zips in a file, each with the byte at which it begins."""
    if kind == dcp.SHARD:
        return [(window.start_bytes, window) for window in dcp.blobs(file)]
    return [(0, file)] if kind == torch_zip.NAME else []


def damage(file: OpenFile, owners: list[tuple[int, str]]) -> list[str] | None:
    """What of a torch zip does not match its checksums, given the tensors in it; None if its writer kept none."""
    records = torch_zip.read_directory(file)
    if not any(record.crc for record in records):
        return None
    problems = []
    for record in records:
        try:
            offset = torch_zip.payload_offset(file, record)
            sound = _sound(file, record, offset)
        except (RefusedCheckpoint, IncompleteCheckpoint) as error:
            problems.append(str(error))
            continue
        if not sound:
            at = bisect_left(owners, (offset, ""))
            held = at < len(owners) and owners[at][0] < offset + record.size_bytes
            what = f"{owners[at][1]} (record {record.name})" if held else f"record {record.name}"
            problems.append(f"the checksum of {what} does not match its bytes")
    return problems


def _sound(file: OpenFile, record: Record, offset: int) -> bool:
    """Whether a record's bytes have the checksum that the directory and the record's own header give."""
    _, field = checksum_fields(record, offset)
    if int.from_bytes(file.read(field, 4), "little") != record.crc:
        return False
    crc, end = 0, offset + record.size_bytes
    while offset < end:
        data = file.read(offset, min(_COPY_BYTES, end - offset))
        crc, offset = zlib.crc32(data, crc), offset + len(data)
    return crc == record.crc


def checksum_fields(record: Record, offset: int) -> tuple[int, int]:
    """Where a record's checksum stands: in the directory, and behind its bytes or in its header."""
    behind = offset + record.size_bytes + 4
    return record.entry_offset + 16, behind if record.flags & _HAS_DESCRIPTOR else record.header_offset + 14
