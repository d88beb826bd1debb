"""JSON that others may have written: read within limits of bytes and values, so that no text takes memory or time without end."""

from __future__ import annotations

import json
import os
import re
import stat
from typing import Any

MOST_VALUES = 4_000_000  # a tensor of a safetensors header takes 11
MOST_STATE_BYTES = 64 * 2**20  # of a file that is read whole: an index, a manifest, a state
_PART_BYTES = 2**16
# an end is not asked for, so that a string without one is not looked for again from each of its quotes
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)


class NotRegular(OSError):  # noqa: N818 - it states the fact
    """What is read is no regular file: a pipe, a device, a folder."""


def parse(data: bytes, *, strict: bool = False) -> Any:
    """The value of a JSON text; Python's NaN and Infinity are taken, unless it is to be strict.

    Raises:
        ValueError: it is none, names a key twice in one object, is nested too deeply, or has more than `MOST_VALUES` values.
    """
    if _values(data) > MOST_VALUES and (
        data.count(b'"') > 2 * MOST_VALUES or _values(_STRING.sub(b"", data)) > MOST_VALUES
    ):
        raise ValueError(f"it has more than {MOST_VALUES:,} values")
    try:
        return json.loads(str(data, "utf-8"), object_pairs_hook=_once, parse_constant=_refused if strict else None)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def read(path: str | os.PathLike[str]) -> Any:
    """The value of a JSON file.

    Raises:
        NotRegular: it is no regular file.
        OSError: it cannot be read.
        ValueError: as `parse`, or it is longer than `MOST_STATE_BYTES`.
    """
    return parse(read_bytes(path))


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """A small file, whole; a pipe is not waited for.

    Raises:
        NotRegular: it is no regular file.
        OSError: it cannot be read.
        ValueError: it is longer than `MOST_STATE_BYTES`.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise NotRegular(f"{os.fspath(path)} is not a regular file")
        data = bytearray()
        while part := os.read(descriptor, _PART_BYTES):
            data += part
            if len(data) > MOST_STATE_BYTES:
                raise ValueError(f"it is longer than {MOST_STATE_BYTES:,} bytes")
    finally:
        os.close(descriptor)
    return bytes(data)


def _values(data: bytes) -> int:
    """At least the number of values: each but the first follows one of these, which strings hold too."""
    return sum(map(data.count, (b",", b"[", b"{")))


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("it names a key twice")
    return found


def _refused(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")
