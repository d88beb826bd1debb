"""The CRC-32 of each record of a zip file: where it stands, whether it matches the record's bytes, and its repair."""

from __future__ import annotations

import struct
import zlib
from bisect import bisect_left, bisect_right
from functools import lru_cache
from typing import TYPE_CHECKING

from rna_watch.errors import IncompleteCheckpoint, RefusedCheckpoint
from rna_watch.formats.format import Checksums
from rna_watch.formats.zip_directory import payload_offset, read_directory
from rna_watch.layout import disk

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rna_watch.formats.format import Owner, Part, Written
    from rna_watch.formats.zip_directory import Record
    from rna_watch.layout.open_file import OpenFile

_PIECE_BYTES = 2**20
_LONGEST_HEADER = 30 + 2 * 65535  # of a record: its name and what else it says, before its bytes


def parts(file: OpenFile) -> list[Part]:
    """See `Checksums.parts`.

    Raises:
        IncompleteCheckpoint, RefusedCheckpoint: the directory or a record's header is damaged.
    """
    found: list[Part] = []
    for record in read_directory(file):
        offset = payload_offset(file, record)
        found += [(place, place + 4, "") for place in _places(record, offset)]
        found.append((offset, offset + record.size_bytes, f"record {record.name}"))
    return found


def damage(file: OpenFile, owners: Sequence[Owner]) -> tuple[list[str], bool]:
    """See `Checksums.damage`; a writer that kept none left zeros."""
    records = read_directory(file)
    if not any(record.crc for record in records):
        return [], False
    problems = []
    for record in records:
        try:
            offset = payload_offset(file, record)
            sound = _is_sound(file, record, offset)
        except (RefusedCheckpoint, IncompleteCheckpoint) as error:
            problems.append(str(error))
            continue
        if not sound:
            at = bisect_left(owners, (offset, ""))
            held = at < len(owners) and owners[at][0] < offset + record.size_bytes
            what = f"{owners[at][1]} (record {record.name})" if held else f"record {record.name}"
            problems.append(f"the checksum of {what} does not match its bytes")
    return problems, True


def repair(file: OpenFile, written: Written, writer: int, base: int = 0) -> None:
    """See `Checksums.repair`: in data descriptor or local header, and in the central directory.

    Args:
        file: the clone, open for reading.
        written: byte offset of each patched run -> (length in bytes, its CRC-32).
        writer: a descriptor of the clone that can be written.
        base: the byte at which the clone begins in the writer's file.
    """
    starts = sorted(written)
    entries: dict[int, bytes] = {}
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
        crc = struct.pack(
            "<I", _record_crc(file, offset, record.size_bytes, {start: written[start] for start in inside})
        )
        entry, own = _places(record, offset)
        disk.write_all(writer, memoryview(crc), base + own)
        entries[entry] = crc
    _write_entries(file, entries, writer, base)


def _write_entries(file: OpenFile, entries: dict[int, bytes], writer: int, base: int) -> None:
    """Write checksums to their places in the directory, at once."""
    if entries:
        first, last = min(entries), max(entries)
        directory = bytearray(file.read(first, last + 4 - first))
        for place, crc in entries.items():
            directory[place - first : place - first + 4] = crc
        disk.write_all(writer, memoryview(directory), base + first)


CHECKSUMS = Checksums(parts=parts, damage=damage, repair=repair)


def of_zips(zips: Callable[[OpenFile], Sequence[OpenFile]]) -> Checksums:
    """The checksums of files that hold several zips.

    Args:
        zips: those of a file, as parts of it or the file itself; one that lies in another comes before it.
    """

    def their_parts(file: OpenFile) -> list[Part]:
        return [
            (each.start_bytes + start, each.start_bytes + end, name)
            for each in zips(file)
            for start, end, name in parts(each)
        ]

    def their_damage(file: OpenFile, owners: Sequence[Owner]) -> tuple[list[str], bool]:
        problems: list[str] = []
        kept = []
        for each in zips(file):
            own = [(offset - each.start_bytes, name) for offset, name in owners if offset >= each.start_bytes]
            found, sums = damage(each, own)
            problems += found
            kept.append(sums)
        return problems, bool(kept) and all(kept)

    def repair_them(file: OpenFile, written: Written, writer: int) -> None:
        starts = sorted(written)
        for each in zips(file):
            base, end = each.start_bytes, each.start_bytes + each.size_bytes
            own = starts[bisect_left(starts, base) : bisect_right(starts, end)]
            if own:
                repair(each, {start - base: written[start] for start in own}, writer, base)

    return Checksums(parts=their_parts, damage=their_damage, repair=repair_them)


def _places(record: Record, offset: int) -> tuple[int, int]:
    """The bytes at which a record's checksum stands: in the directory, and behind its bytes or in its own header."""
    behind = offset + record.size_bytes + 4
    return record.entry_offset + 16, behind if record.described else record.header_offset + 14


def _is_sound(file: OpenFile, record: Record, offset: int) -> bool:
    """Whether a record's bytes have the checksum that the directory and the record itself give."""
    _, place = _places(record, offset)
    if int.from_bytes(file.read(place, 4), "little") != record.crc:
        return False
    return _crc_of_bytes(file, offset, record.size_bytes, 0) == record.crc


def _record_crc(file: OpenFile, offset: int, size: int, written: Written) -> int:
    """CRC-32 of a record from those of its patched runs; what lies between them is read."""
    crc, position = 0, offset
    for start, (length, run_crc) in sorted(written.items()):
        crc = _crc_of_bytes(file, position, start - position, crc)
        crc = combine_crc(crc, run_crc, length)
        position = start + length
    return _crc_of_bytes(file, position, offset + size - position, crc)


def _crc_of_bytes(file: OpenFile, offset: int, count: int, crc: int) -> int:
    while count > 0:
        piece = file.read(offset, min(count, _PIECE_BYTES))
        crc = zlib.crc32(piece, crc)
        offset, count = offset + len(piece), count - len(piece)
    return crc


def combine_crc(first: int, second: int, second_bytes: int) -> int:
    """CRC-32 of two joined byte strings, as zlib's `crc32_combine` gives it.

    Appending n zero bytes multiplies by x^(8 n), in polynomials over GF(2) modulo that of CRC-32.

    Args:
        first: CRC-32 of the first string.
        second: CRC-32 of the second.
        second_bytes: length of the second.
    """
    return _product(_appended_zeros(second_bytes), first) ^ second if first else second


@lru_cache(maxsize=64)  # the runs of a strided tensor are all of one length
def _appended_zeros(count: int) -> int:
    found, power = 1 << 31, 1 << 23  # 1 and x^8: the highest power of x is the lowest bit
    while count:
        if count & 1:
            found = _product(power, found)
        power = _product(power, power)
        count >>= 1
    return found


def _product(a: int, b: int) -> int:
    """Of two polynomials, modulo that of CRC-32."""
    found = 0
    for bit in range(31, -1, -1):
        if a >> bit & 1:
            found ^= b
        b = b >> 1 ^ (0xEDB88320 if b & 1 else 0)
    return found
