"""Publishing by clone and patch: a new file that whatever loads the original also loads, never seen half-written.

The clone stands under a temporary name in the destination's folder until it is whole, checked and on the disk.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rna_watch.checkpoints.combine import write_all
from rna_watch.checkpoints.extents import merge_runs
from rna_watch.checkpoints.opened import OpenFile
from rna_watch.checkpoints.pin import share_blocks
from rna_watch.checkpoints.probe import FORMATS
from rna_watch.errors import InputChanged, StoreError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rna_watch.checkpoints.combine import Patch
    from rna_watch.checkpoints.extents import FileIdentity, Layout
    from rna_watch.checkpoints.segments import Segment

TEMPORARY_PREFIX = ".rna-watch-"
TEMPORARY_SUFFIX = ".tmp"
_COPY_BYTES = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """Bytes of the newest checkpoint that the clone takes over as they are."""

    file: int
    offset_bytes: int
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Clone:
    """A clone in the making: its temporary files, numbered as the original's, and the gaps that still must be copied."""

    original: Layout
    temporaries: tuple[str, ...]
    gaps: tuple[Gap, ...]


def temporary_name(name: str, owner: str) -> str:
    """A name that no trainer's pattern matches: it begins with a dot and does not end like a checkpoint."""
    return f"{TEMPORARY_PREFIX}{name}.{owner}{TEMPORARY_SUFFIX}"


def begin(original: Layout, segments: Sequence[Segment], temporary: str, gap_limit: int = 2**26) -> Clone:
    """Make the temporary file, as a reflink of the original where the file system can, else of its size and empty.

    Args:
        original: the newest checkpoint.
        segments: what will be patched; the rest becomes gaps.
        temporary: path of the file to make.
        gap_limit: most bytes of one gap, so that gaps can be copied in parallel.

    Raises:
        StoreError: there is no room, or the folder cannot be written.
        InputChanged: the original is gone.
    """
    source = original.files[0]
    try:
        writer = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise StoreError(_cannot_write(temporary, error)) from error
    try:
        if _clone_start(source, writer):
            return Clone(original=original, temporaries=(temporary,), gaps=())
    except BaseException as error:
        Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise StoreError(_cannot_write(temporary, error)) from error
        raise
    finally:
        os.close(writer)
    patched = [(place[1], segment.size_bytes) for segment in segments for place in segment.places[-1]]
    return Clone(
        original=original,
        temporaries=(temporary,),
        gaps=tuple(
            Gap(file=0, offset_bytes=offset, size_bytes=size)
            for offset, size in _complement(patched, source.size_bytes, gap_limit)
        ),
    )


def _complement(runs: Iterable[tuple[int, int]], size: int, limit: int) -> list[tuple[int, int]]:
    """The parts of [0, size) outside the runs, cut to the limit."""
    gaps = []
    position = 0
    for start, count in [*merge_runs(runs), (size, 0)]:
        gaps += [(at, min(limit, start - at)) for at in range(position, start, limit)]
        position = start + count
    return gaps


def _clone_start(source: FileIdentity, writer: int) -> bool:
    """Give the new file the original's permissions, and its bytes if they can be shared, else its size."""
    try:
        file = OpenFile(source.path)
    except OSError as error:
        raise InputChanged(f"{source.path} cannot be opened any more ({error.strerror})") from error
    with file:
        if not file.identity.same_content(source):
            raise InputChanged(f"{source.path} changed before it could be cloned")
        os.fchmod(writer, os.fstat(file.descriptor).st_mode & 0o777 | 0o200)
        try:
            share_blocks(file.descriptor, writer)
        except OSError:
            os.ftruncate(writer, source.size_bytes)
            return False
    return True


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


def finish(clone: Clone, patches: Iterable[Patch], destination: str) -> None:
    """Repair checksums, put the clone on the disk and give it its name, at once and for good.

    The clone takes the original's permissions and modification time, so that plots against time stay true.

    Raises:
        StoreError: the folder cannot be written.
    """
    written = {patch.offset_bytes: (patch.size_bytes, patch.crc) for patch in patches if patch.size_bytes}
    repair = FORMATS[clone.original.format].repair
    (temporary,) = clone.temporaries
    original = clone.original.files[0]
    try:
        with OpenFile(temporary) as file:
            writer = os.open(temporary, os.O_RDWR | os.O_CLOEXEC)
            try:
                if repair is not None:
                    repair(file, written, writer)
                os.utime(writer, ns=(original.mtime_ns, original.mtime_ns))
                os.fsync(writer)
            finally:
                os.close(writer)
        os.replace(temporary, destination)  # noqa: PTH105 - atomic by specification
        sync_folder(os.path.dirname(destination) or ".")  # noqa: PTH120
    except OSError as error:
        raise StoreError(_cannot_write(destination, error)) from error


def discard(clone: Clone) -> None:
    """Remove the temporary files of a clone that was given up."""
    for temporary in clone.temporaries:
        Path(temporary).unlink(missing_ok=True)


def sync_folder(folder: str) -> None:
    """Put a folder's entries on the disk (fsync of a file does not cover its name)."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _cannot_write(path: str, error: OSError) -> str:
    return f"cannot write {path}: {error.strerror or error}; make room there, or name another folder with --output"
