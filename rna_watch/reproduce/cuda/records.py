"""Records of runs: a JSON header each, with arrays, appended to a few files of bounded size that can be cut off anywhere.

A record is three little-endian integers of 4 bytes (the lengths of header and arrays, the CRC-32 of both), then the header,
then the arrays one after another. `arrays` in the header has the dtype and shape of each.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from rna_watch.layout import disk

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    import numpy.typing as npt

    Array = npt.NDArray[Any]

# of two writers together: at most eight files of 16 MB, 64 MB in all
FILES, FILE_BYTES, TOTAL_BYTES = 4, 16_000_000, 32_000_000
_LENGTHS = struct.Struct("<III")
_ENDING = ".records"


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A header, and its arrays by name."""

    header: dict[str, Any]
    arrays: dict[str, Array] = field(default_factory=dict)


class Records:
    """The records of one writer, `WRITER-0.records` and so on; what a torn write left behind is cut off when it begins.

    Args:
        folder: of the files.
        writer: their name.
        files: the most files.
        file_bytes: the most bytes of one file.
        total_bytes: the most bytes of all.
    """

    def __init__(
        self,
        folder: Path,
        writer: str,
        *,
        files: int = FILES,
        file_bytes: int = FILE_BYTES,
        total_bytes: int = TOTAL_BYTES,
    ) -> None:
        self._folder, self._writer = folder, writer
        self._files, self._file_bytes, self._total_bytes = files, file_bytes, total_bytes
        with disk.writing(folder, "--out"):
            folder.mkdir(parents=True, exist_ok=True)
            self._sizes = []
            for path in _paths(folder, writer):
                whole = sum(size for _, size in _parsed(path.read_bytes()))
                os.truncate(path, whole)
                self._sizes.append(whole)

    def append(self, header: Mapping[str, Any], arrays: Mapping[str, Array] | None = None) -> bool:
        """Write a record at once; False, and nothing is written, if there is no room for it.

        Raises:
            StoreError: the file cannot be written.
        """
        content = _packed(header, arrays or {})
        number = max(len(self._sizes) - 1, 0)
        if self._sizes and self._sizes[number] + len(content) > self._file_bytes:
            number += 1
        if (
            number >= self._files
            or len(content) > self._file_bytes
            or sum(self._sizes) + len(content) > self._total_bytes
        ):
            return False
        path = self._folder / f"{self._writer}-{number}{_ENDING}"
        with disk.writing(path, "--out"), path.open("ab") as file:
            file.write(content)
        if number == len(self._sizes):
            self._sizes.append(0)
        self._sizes[number] += len(content)
        return True

    def sync(self) -> None:
        """Put on the disk what was written.

        Raises:
            StoreError: it cannot be written.
        """
        for path in _paths(self._folder, self._writer):
            with disk.writing(path, "--out"), path.open("rb") as file:
                os.fsync(file.fileno())

    def has(self, kind: str, run: str) -> bool:
        """Whether there is a record of a kind of a run."""
        return has(self._folder, self._writer, kind, run)


def writers(folder: Path) -> list[str]:
    """The names of those who wrote records into a folder."""
    return sorted({path.name.rpartition("-")[0] for path in folder.glob(f"*-*{_ENDING}")})


def has(folder: Path, writer: str, kind: str, run: str) -> bool:
    """Whether a writer has a record of a kind of a run."""
    wanted = {"kind": kind, "run": run}
    return any(wanted.items() <= record.header.items() for record in read(folder, writer))


def read(folder: Path, writer: str) -> Iterator[Record]:
    """The records of a writer in the order in which they were written; a file's torn end is left out."""
    for path in _paths(folder, writer):
        yield from (record for record, _ in _parsed(path.read_bytes()))


def _paths(folder: Path, writer: str) -> list[Path]:
    return sorted(folder.glob(f"{writer}-[0-9]{_ENDING}"))


def _packed(header: Mapping[str, Any], arrays: Mapping[str, Array]) -> bytes:
    forms = {name: [array.dtype.str, list(array.shape)] for name, array in arrays.items()}
    head = json.dumps({**header, "arrays": forms} if forms else dict(header), separators=(",", ":")).encode()
    body = b"".join(array.tobytes() for array in arrays.values())
    return _LENGTHS.pack(len(head), len(body), zlib.crc32(body, zlib.crc32(head))) + head + body


def _parsed(content: bytes) -> Iterator[tuple[Record, int]]:
    """The whole records at the beginning of a file, each with its number of bytes."""
    start = 0
    while start + _LENGTHS.size <= len(content):
        head_size, body_size, crc = _LENGTHS.unpack_from(content, start)
        middle = start + _LENGTHS.size + head_size
        end = middle + body_size
        head, body = content[start + _LENGTHS.size : middle], content[middle:end]
        if end > len(content) or zlib.crc32(body, zlib.crc32(head)) != crc:
            return
        header = json.loads(head)
        arrays, at = {}, 0
        for name, (dtype, shape) in header.pop("arrays", {}).items():
            count = int(np.prod(shape))
            arrays[name] = np.frombuffer(body, np.dtype(dtype), count, at).reshape(shape)
            at += arrays[name].nbytes
        yield Record(header=header, arrays=arrays), end - start
        start = end
