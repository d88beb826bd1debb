"""Acts on the disk: replacement at once, whole writes, shared blocks, temporary names, removal."""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from rna_watch.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator

TEMPORARY_PREFIX = ".rna-watch-"
TEMPORARY_SUFFIX = ".tmp"
_FICLONE = 0x40049409
_PROCESS = secrets.token_hex(3)  # containers have the same process ids


def temporary_path(path: str) -> str:
    """This process's temporary path for another, in the same folder: a dot begins its name, no checkpoint's ending ends it."""
    folder, name = os.path.split(path)
    return os.path.join(folder, f"{TEMPORARY_PREFIX}{name}.{os.getpid()}-{_PROCESS}{TEMPORARY_SUFFIX}")  # noqa: PTH118


@contextmanager
def replacing(path: str | Path, *, durable: bool) -> Iterator[str]:
    """A temporary path; what was made there takes the name when the context ends, at once, in place of what had it.

    Args:
        path: the name of a file, a folder or a link; its folder exists.
        durable: put what was made on the disk before it takes the name, and then the name: even when the machine stops, the
            old one or the new one is there, whole.

    Raises:
        OSError: it cannot be written; then the old one stays, and nothing of the new one.
    """
    temporary = temporary_path(str(path))
    remove(temporary)
    try:
        yield temporary
        if durable:
            _sync(temporary)
        _take_name(temporary, str(path))
        if durable:
            _sync_entry(os.path.dirname(path) or ".")  # noqa: PTH120
    finally:
        with suppress(OSError):
            remove(temporary)


@contextmanager
def writing(path: str | Path, option: str = "--output") -> Iterator[None]:
    """Errors of the disk in words.

    Args:
        path: what is written.
        option: the option that names another folder for it.

    Raises:
        StoreError: there is no room, or the folder cannot be written.
    """
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"cannot write {path}: {error.strerror or error}; make room there, or name another folder with {option}"
        ) from error


def _take_name(temporary: str, path: str) -> None:
    """Rename; a full folder cannot be renamed over, so it is swapped out and removed."""
    if not os.path.isdir(temporary) or os.path.islink(temporary):  # noqa: PTH112, PTH114
        os.replace(temporary, path)  # noqa: PTH105 - atomic by specification
        return
    old = f"{temporary}.old{TEMPORARY_SUFFIX}"
    replaced = os.path.lexists(path)
    if replaced:
        os.rename(path, old)  # noqa: PTH104
    try:
        os.rename(temporary, path)  # noqa: PTH104
    except OSError:
        if replaced:
            os.rename(old, path)  # noqa: PTH104
        raise
    remove(old)


def _sync(path: str) -> None:
    """Put a file on the disk, or a folder with all that is in it."""
    for folder, _, names in os.walk(path):
        for name in (*names, "."):
            _sync_entry(os.path.join(folder, name))  # noqa: PTH118
    if not os.path.isdir(path):  # noqa: PTH112
        _sync_entry(path)


def _sync_entry(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def share_blocks(reader: int, writer: int) -> bool:
    """Make a file's content that of another, sharing its blocks (reflink); False where the file systems cannot (most)."""
    try:
        fcntl.ioctl(writer, _FICLONE, reader)
    except OSError:
        return False
    return True


def write_all(descriptor: int, data: memoryview, offset: int) -> None:
    """Write all bytes at an offset, however the system splits them.

    Args:
        descriptor: of the file.
        data: bytes.
        offset: where the first one goes.
    """
    while data:
        count = os.pwrite(descriptor, data, offset)
        data, offset = data[count:], offset + count


def remove(path: str) -> None:
    """Remove a file or a folder of ours, if it is there."""
    if os.path.isdir(path) and not os.path.islink(path):  # noqa: PTH112, PTH114
        shutil.rmtree(path, ignore_errors=True)
    else:
        Path(path).unlink(missing_ok=True)
