"""Copying byte ranges of a checkpoint into its clone."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rna_watch.errors import InputChanged
from rna_watch.layout.disk import write_all
from rna_watch.layout.open_file import OpenFile

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rna_watch.layout.identity import FileIdentity

_COPY_BYTES = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """Bytes of the newest checkpoint that the clone takes over as they are."""

    file: int
    offset_bytes: int
    size_bytes: int


def copy_gaps(files: Sequence[FileIdentity], gaps: Sequence[Gap], outputs: Sequence[str]) -> int:
    """Copy gaps from the newest checkpoint into the clone; returns the number of bytes.

    Raises:
        InputChanged: the original changed meanwhile.
        OSError: the clone cannot be written.
    """
    total = 0
    for number, (source, output) in enumerate(zip(files, outputs, strict=True)):
        own = [gap for gap in gaps if gap.file == number]
        if not own:
            continue
        writer = os.open(output, os.O_WRONLY | os.O_CLOEXEC)
        try:
            with OpenFile(source.path) as reader:
                if not reader.identity.same_content(source):
                    raise InputChanged(f"{source.path} changed while it was being copied")
                for gap in own:
                    _copy(reader.descriptor, writer, gap.offset_bytes, gap.size_bytes)
                    total += gap.size_bytes
                reader.check_unchanged()
        except FileNotFoundError as error:
            raise InputChanged(f"{source.path} is gone") from error
        finally:
            os.close(writer)
    return total


def _copy(reader: int, writer: int, offset: int, count: int) -> None:
    while count:
        data = os.pread(reader, min(count, _COPY_BYTES), offset)
        if not data:
            raise InputChanged("the checkpoint became shorter while it was being copied")
        write_all(writer, memoryview(data), offset)
        offset, count = offset + len(data), count - len(data)
