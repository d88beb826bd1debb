"""Acts on the disk: whole writes, shared blocks, fsync, temporary names, removal."""

from __future__ import annotations

import fcntl
import os
import shutil
from pathlib import Path

_FICLONE = 0x40049409


def share_blocks(reader: int, writer: int) -> None:
    """Make a file's content that of another, sharing its blocks (reflink).

    Raises:
        OSError: the file system cannot (most cannot), or the two lie on different ones.
    """
    fcntl.ioctl(writer, _FICLONE, reader)


def write_all(descriptor: int, data: memoryview, offset: int) -> None:
    """Write all bytes at an offset, however the system splits them."""
    while data:
        count = os.pwrite(descriptor, data, offset)
        data, offset = data[count:], offset + count


TEMPORARY_PREFIX = ".rna-watch-"


TEMPORARY_SUFFIX = ".tmp"


def temporary_name(name: str, owner: str) -> str:
    """A name that no trainer's pattern matches: it begins with a dot and does not end like a checkpoint."""
    return f"{TEMPORARY_PREFIX}{name}.{owner}{TEMPORARY_SUFFIX}"


def settle(path: str, mtime_ns: int) -> None:
    """Give a file that was written its time, and put it on the disk."""
    writer = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        os.utime(writer, ns=(mtime_ns, mtime_ns))
        os.fsync(writer)
    finally:
        os.close(writer)


def remove(path: str) -> None:
    """Remove a file or a folder of ours, if it is there."""
    if os.path.isdir(path) and not os.path.islink(path):  # noqa: PTH112, PTH114
        shutil.rmtree(path, ignore_errors=True)
    else:
        Path(path).unlink(missing_ok=True)


def sync_folder(folder: str) -> None:
    """Put a folder's entries on the disk (fsync of a file does not cover its name)."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
