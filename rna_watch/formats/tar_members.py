"""The members of a tar archive: their names and where their bytes lie, read with a few bounded reads.

Format: POSIX.1-1988 (ustar) with its successor's extended headers, and GNU's for long names and large numbers.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from rna_watch.errors import IncompleteCheckpoint, RefusedCheckpoint

if TYPE_CHECKING:
    from rna_watch.layout.open_file import OpenFile

MOST_MEMBERS = 20_000
_BLOCK = 512
_WRITTEN_BYTES = 20 * _BLOCK  # all writers fill the last record with zeros
_MOST_EXTRA_BYTES = 2**16  # of a header that follows another one
_CHECKSUM = slice(148, 156)
_FILES = {b"0", b"\0", b"7"}
_LONG_NAME, _EXTENDED, _FOR_ALL = b"L", b"x", b"g"
_RECORD = re.compile(rb"\d+ (path|size)=([^\n]*)\n")
Place = tuple[int, int]  # first byte, length in bytes


def read(file: OpenFile) -> dict[str, Place]:
    """The files in an archive, by name, without a leading `./`.

    Raises:
        IncompleteCheckpoint: the file ends before the archive does.
        RefusedCheckpoint: it is no tar archive, damaged, or holds a name twice or more than `MOST_MEMBERS` members.
    """
    found: dict[str, Place] = {}
    said: dict[bytes, bytes] = {}  # by the headers before a member
    position = 0
    for _ in range(MOST_MEMBERS):
        header = file.read(position, _BLOCK)
        if not header.strip(b"\0"):
            if file.size_bytes % _WRITTEN_BYTES:
                raise IncompleteCheckpoint("its archive, written in whole records, ends within one")
            return found
        _check(header)
        kind = header[156:157]
        size = int(said[b"size"]) if said.get(b"size", b"").isdigit() and kind in _FILES else _number(header[124:136])
        begin = position + _BLOCK
        position = begin + -(-size // _BLOCK) * _BLOCK
        if position > file.size_bytes:
            raise IncompleteCheckpoint(
                f"it ends within a member of its archive, {position - file.size_bytes} bytes are missing"
            )
        if kind in {_LONG_NAME, _EXTENDED, _FOR_ALL}:
            if size > _MOST_EXTRA_BYTES:
                raise RefusedCheckpoint("a header of its archive is longer than any: it is damaged")
            text = file.read(begin, size)
            said |= {b"path": text.rstrip(b"\0")} if kind == _LONG_NAME else dict(_RECORD.findall(text))
            if kind == _FOR_ALL:
                said.clear()  # what is said of all members names none
            continue
        name = said.get(b"path") or b"/".join(part for part in (_text(header[345:500]), _text(header[:100])) if part)
        said.clear()
        if kind in _FILES:
            plain = name.decode("utf-8", "replace").removeprefix("./")
            if plain in found:
                raise RefusedCheckpoint(f"its archive holds {plain} twice, of which readers take one or the other")
            found[plain] = (begin, size)
    raise RefusedCheckpoint(f"its archive has more than {MOST_MEMBERS:,} members")


def _check(header: bytes) -> None:
    blank = header[: _CHECKSUM.start] + b" " * 8 + header[_CHECKSUM.stop :]
    if _number(header[_CHECKSUM]) != sum(blank):
        raise RefusedCheckpoint("it is no tar archive, or a header in it is damaged")


def _number(text: bytes) -> int:
    """An octal number, or GNU's of base 256."""
    if text[0] == 0x80:
        return int.from_bytes(text[1:], "big")
    digits = text.strip(b" \0")
    if not re.fullmatch(b"[0-7]*", digits):
        raise RefusedCheckpoint("it is no tar archive, or a header in it is damaged")
    return int(digits or b"0", 8)


def _text(field: bytes) -> bytes:
    return field.partition(b"\0")[0]
