"""The TensorBoard exporter: scalars in a run of their own, in TensorBoard's event files, written without its library.

A file is records of TFRecord: length (8 bytes), its masked CRC-32C, the content, and that one's. A content is the protobuf
message `Event` (https://github.com/tensorflow/tensorboard, compat/proto/event.proto): 1 wall_time (double), 2 step (int64),
3 file_version (string), 5 summary; a `Summary` has 1 value, whose 1 is the tag and 2 the simple_value (float).
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import time
from typing import TYPE_CHECKING

from rna_watch.layout import disk

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from rna_watch.exporters.rows import Row
    from rna_watch.exporters.target import Target

_PREFIX, _SUFFIX = "events.out.tfevents.", ".rna-watch"
_POLYNOMIAL = 0x82F63B78


def _table() -> Iterator[int]:
    for value in range(256):
        for _ in range(8):
            value = (value >> 1) ^ (_POLYNOMIAL if value & 1 else 0)  # noqa: PLW2901
        yield value


_CRC = tuple(_table())


def _masked(data: bytes) -> bytes:
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _CRC[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    crc ^= 0xFFFFFFFF
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def _record(content: bytes) -> bytes:
    length = struct.pack("<Q", len(content))
    return length + _masked(length) + content + _masked(content)


def _varint(value: int) -> bytes:
    out = b""
    value &= 2**64 - 1
    while value > 0x7F:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def _field(number: int, data: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def _event(wall_time: float, step: int, body: bytes) -> bytes:
    return _record(b"\x09" + struct.pack("<d", wall_time) + b"\x10" + _varint(step) + body)


def scalar(wall_time: float, step: int, tag: str, value: float) -> bytes:
    """The record of one scalar.

    Args:
        wall_time: seconds since 1970.
        step: its step.
        tag: its name.
        value: its value, kept in float32.
    """
    with contextlib.suppress(OverflowError):
        number = struct.pack("<f", value)
        named = _field(1, tag.encode(errors="replace")) + b"\x15" + number
        return _event(wall_time, step, _field(5, _field(1, named)))
    return b""


class TensorBoard:
    """Writes an event file to FOLDER; TensorBoard shows the folder as a run beside those of the training below one `--logdir`.

    TensorBoard drops points whose step goes back: where rows change that were written, a new file takes the old one's place.

    Args:
        target: where it goes.
    """

    def __init__(self, target: Target) -> None:
        self._folder: Path = target.folder
        self._written: list[Row] = []
        self._file: Path | None = None

    def write(self, rows: Sequence[Row]) -> None:
        """Append what is new, or begin anew.

        Raises:
            OSError: it cannot be written.
        """
        if self._file is None or list(rows[: len(self._written)]) != self._written:
            self._begin()
        data = b"".join(
            scalar(row.saved, row.step, row.prefix + name, value)
            for row in rows[len(self._written) :]
            for name, value in row.values.items()
        )
        assert self._file is not None
        with disk.appending(self._file) as file:
            file.write(data)
        self._written = list(rows)

    def _begin(self) -> None:
        for old in self._folder.glob(f"{_PREFIX}*{_SUFFIX}"):
            old.unlink(missing_ok=True)  # its ending is our own
        begun = time.time()
        self._file = (
            self._folder / f"{_PREFIX}{int(begun)}.{socket.gethostname()}.{os.getpid()}.{time.time_ns()}{_SUFFIX}"
        )
        disk.write_new(self._file, _event(begun, 0, _field(3, b"brain.Event:2")))
        self._written = []

    def close(self) -> None:
        """Nothing is open."""
