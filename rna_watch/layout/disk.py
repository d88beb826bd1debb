"""Acts on the disk: whatever makes, opens, renames or removes a file of ours, each only on what `owned` says is ours."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import secrets
import shutil
import stat
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, BinaryIO

from rna_watch.errors import StoreError, UsageError
from rna_watch.layout import owned
from rna_watch.layout.artifacts import TEMPORARY_PREFIX, TEMPORARY_SUFFIX

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_SYNC_FILE_RANGE_WRITE = 2  # linux/fs.h
_FICLONE = 0x40049409
_RENAME_EXCHANGE = 2
_REMOVALS, _PAUSE_S = 10, 0.1
_PROCESS = secrets.token_hex(3)  # containers have the same process ids


class _TakenError(FileExistsError):
    """A name that was to be new has been taken meanwhile."""


def temporary_path(path: str) -> str:
    """This process's temporary path for another, in the same folder: a dot begins its name, no checkpoint's ending ends it."""
    folder, name = os.path.split(path)
    return os.path.join(folder, f"{TEMPORARY_PREFIX}{name}.{os.getpid()}-{_PROCESS}{TEMPORARY_SUFFIX}")  # noqa: PTH118


@contextmanager
def replacing(path: str | Path, *, durable: bool, new: bool = False) -> Iterator[str]:
    """A temporary path; what was made there takes the name when the context ends, at once, in place of what had it.

    Args:
        path: the name of a file, a folder or a link; its folder exists.
        durable: put what was made on the disk before it takes the name, and then the name: even when the machine stops, the
            old one or the new one is there, whole.
        new: replace nothing.

    Raises:
        FileExistsError: with `new`, something has the name by now.
        OSError: it cannot be written, or a folder has the name that is not ours; then the old one stays, and nothing of the
            new one.
    """
    temporary = temporary_path(str(path))
    remove(temporary)
    try:
        yield temporary
        with owned.at(path) as (folder, name):
            made = os.path.basename(temporary)  # noqa: PTH119
            if durable:
                _sync(folder, made)
            _take_name(folder, made, str(path), name, new=new)
            if durable:
                os.fsync(folder)
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
        UsageError: something has a name that was to be new.
        StoreError: there is no room, or the folder cannot be written.
    """
    try:
        yield
    except _TakenError as error:
        raise UsageError(f"{path} exists by now; name another file, or replace it with --force") from error
    except OSError as error:
        raise StoreError(
            f"cannot write {path}: {error.strerror or error}; make room there, or name another folder with {option}"
        ) from error


def _take_name(folder: int, made: str, path: str, name: str, *, new: bool) -> None:
    """Rename; a full folder cannot be renamed over, so the two are exchanged, at once where the system can."""
    there = _kind(folder, name)
    if new and there is not None:
        raise _TakenError(errno.EEXIST, os.strerror(errno.EEXIST), path)
    if not stat.S_ISDIR(_kind(folder, made) or 0):
        if new and _linked(folder, made, path, name):
            return
        os.replace(made, name, src_dir_fd=folder, dst_dir_fd=folder)
        return
    if there is None:
        os.rename(made, name, src_dir_fd=folder, dst_dir_fd=folder)
        return
    if stat.S_ISDIR(there):
        owned.check_removable(path, folder, name)
    if _exchanged(folder, made, name):
        os.fsync(folder)  # else a power cut may leave the old one in its place, and a part of it
        _remove(folder, made)
        return
    old = f"{made}.old{TEMPORARY_SUFFIX}"
    os.rename(name, old, src_dir_fd=folder, dst_dir_fd=folder)
    try:
        os.rename(made, name, src_dir_fd=folder, dst_dir_fd=folder)
    except OSError:
        os.rename(old, name, src_dir_fd=folder, dst_dir_fd=folder)
        raise
    os.fsync(folder)
    _remove(folder, old)


def _exchanged(folder: int, one: str, other: str) -> bool:
    """Exchange two names at once; False where the system or the file system cannot (NFS, for one)."""
    try:
        exchange = ctypes.CDLL(None, use_errno=True).renameat2
    except AttributeError:
        return False
    return bool(exchange(folder, os.fsencode(one), folder, os.fsencode(other), _RENAME_EXCHANGE) == 0)


def _kind(folder: int, name: str) -> int | None:
    """The mode of what has a name; None if nothing has."""
    try:
        return os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode
    except FileNotFoundError:
        return None


def _linked(folder: int, made: str, path: str, name: str) -> bool:
    """Give a file a name that nothing has, which a link does at once; False where the file system has none.

    Raises:
        FileExistsError: something has the name.
    """
    try:
        os.link(made, name, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
    except FileExistsError as error:
        raise _TakenError(errno.EEXIST, os.strerror(errno.EEXIST), path) from error
    except OSError:
        return False
    return True


def _sync(folder: int, name: str) -> None:
    """Put a file on the disk, or a folder with all that is in it; a link has no content of its own."""
    mode = _kind(folder, name) or 0
    if stat.S_ISDIR(mode):
        for _, _, files, inside in os.fwalk(name, dir_fd=folder, follow_symlinks=False):
            for each in files:
                _sync(inside, each)
            os.fsync(inside)
    elif stat.S_ISREG(mode):
        descriptor = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=folder)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def create(path: str | Path, mode: int = 0o666) -> BinaryIO:
    """A new file, open for writing without a buffer.

    Raises:
        OSError: it is there already, or cannot be made.
    """
    descriptor = owned.open_at(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    return open(descriptor, "wb", buffering=0)  # noqa: PTH123 - a descriptor


def patching(path: str | Path) -> BinaryIO:
    """A file that we are making, open to have parts of it written, without a buffer.

    Raises:
        OSError: it is not there, or is a link.
    """
    return open(owned.open_at(path, os.O_RDWR), "r+b", buffering=0)  # noqa: PTH123 - a descriptor


def appending(path: str | Path) -> BinaryIO:
    """A file of ours, made if it is not there, open to be appended to.

    Raises:
        OSError: it cannot be opened, or is a link or another owner's.
    """
    descriptor = owned.open_at(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    return open(descriptor, "ab")  # noqa: PTH123 - a descriptor


def write_new(path: str | Path, content: bytes) -> None:
    """Write a new file.

    Raises:
        OSError: it is there already, or cannot be written.
    """
    with create(path) as file:
        write_all(file.fileno(), memoryview(content), 0)


def hard_link(source: str, path: str | Path) -> None:
    """Give a file another name.

    Raises:
        OSError: the system does not do that.
    """
    with owned.at(path) as (folder, name):
        os.link(source, name, dst_dir_fd=folder)


def symlink(target: str, path: str | Path) -> None:
    """Make a symbolic link.

    Raises:
        OSError: the system does not do that, or something has the name.
    """
    with owned.at(path) as (folder, name):
        os.symlink(target, name, dir_fd=folder)


def rename(path: str | Path, other: str | Path) -> None:
    """Give a file or folder in the state folder another name in it.

    Raises:
        OSError: the system does not do that, or one of them is not below a folder of ours.
    """
    with owned.at(path) as (folder, name), owned.at(other) as (into, new):
        os.rename(name, new, src_dir_fd=folder, dst_dir_fd=into)


class HeldFolder:
    """A folder that this process alone uses, as long as it holds the lock on the mark in it; nobody else may enter it.

    Args:
        base: the folder to make it in.
        prefix: of its name.
        room_bytes: what must be free there.

    Raises:
        OSError: it cannot be made, or there is no room.
    """

    def __init__(self, base: Path, prefix: str, room_bytes: int) -> None:
        self._name = f"{prefix}{secrets.token_hex(4)}"
        self.path = str(base / self._name)
        self._base = owned.open_folder(base)
        try:
            os.mkdir(self._name, 0o700, dir_fd=self._base)
            try:
                self._lock = owned.hold(self._base, self._name, room_bytes)
            except BaseException:
                shutil.rmtree(self._name, ignore_errors=True, dir_fd=self._base)
                raise
        except BaseException:
            os.close(self._base)
            raise

    def remove(self) -> None:
        """Remove it with all that is in it, and let the lock go; a second time does nothing."""
        if self._lock >= 0:
            for _ in range(_REMOVALS):  # a process that is just ending may write there once more
                shutil.rmtree(self._name, ignore_errors=True, dir_fd=self._base)
                if _kind(self._base, self._name) is None:
                    break
                time.sleep(_PAUSE_S)
            os.close(self._lock)
            os.close(self._base)
            self._lock = -1


def remove_unheld(base: Path, prefix: str) -> None:
    """Remove folders of this kind that nobody holds: they are ours, carry our mark, and their lock is free.

    Args:
        base: the folder that they lie in.
        prefix: of their names.

    Raises:
        OSError: the folder cannot be looked at.
    """
    folder = owned.open_folder(base)
    try:
        with os.scandir(folder) as entries:
            names = [each.name for each in entries if each.name.startswith(prefix)]
        for name in names:
            with suppress(OSError), owned.held(folder, name):
                shutil.rmtree(name, ignore_errors=True, dir_fd=folder)
    finally:
        os.close(folder)


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


def begin_writeback(descriptor: int) -> None:
    """Have the system begin to put a file's bytes on the disk, so that less is left for an fsync to wait for; where it can."""
    import ctypes  # numpy has it; commands that only look need neither

    if begin := getattr(ctypes.CDLL(None), "sync_file_range", None):
        begin(descriptor, ctypes.c_int64(0), ctypes.c_int64(0), _SYNC_FILE_RANGE_WRITE)


def remove(path: str | Path) -> None:
    """Remove a file or a folder of ours, if it is there; no link is followed.

    Raises:
        OSError: it is not ours and stays, or it cannot be removed.
    """
    with suppress(FileNotFoundError), owned.at(path) as (folder, name):
        owned.check_removable(path, folder, name)
        _remove(folder, name)


def sync_folder(path: str | Path) -> None:
    """Put the names in a folder on the disk, removals too.

    Raises:
        OSError: the folder is not there, or the disk fails.
    """
    with owned.at(os.path.join(path, "any")) as (folder, _):  # noqa: PTH118
        os.fsync(folder)


def sweep(folder: Path) -> None:
    """Remove what is ours in a folder; what cannot be removed stays."""
    for path in folder.glob("*"):
        with suppress(OSError):
            remove(path)


def _remove(folder: int, name: str) -> None:
    """Remove a file, or a folder: its loss of a name is on the disk first, so that no crash leaves half of it under that."""
    if stat.S_ISDIR(_kind(folder, name) or 0):
        aside = name if owned.is_temporary(name) else os.path.basename(temporary_path(name))  # noqa: PTH119
        if aside != name:
            shutil.rmtree(aside, ignore_errors=True, dir_fd=folder)
            os.rename(name, aside, src_dir_fd=folder, dst_dir_fd=folder)
            os.fsync(folder)
        shutil.rmtree(aside, ignore_errors=True, dir_fd=folder)
    else:
        os.unlink(name, dir_fd=folder)


def remove_empty(path: str | Path) -> None:
    """Remove a folder that nothing is in.

    Raises:
        OSError: something is, or it cannot be removed.
    """
    with owned.at(path) as (folder, name):
        os.rmdir(name, dir_fd=folder)
