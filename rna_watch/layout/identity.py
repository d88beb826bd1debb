"""Which content a file or folder holds: inode, size and times, compared before and after every use."""

from __future__ import annotations

import os
from dataclasses import dataclass

from rna_watch.errors import InputChanged


@dataclass(frozen=True, slots=True, kw_only=True)
class FileIdentity:
    """Which content of which file: `os.stat` of it. ctime is left out of comparisons, as links and unlinks change it."""

    path: str
    inode: int
    size_bytes: int
    mtime_ns: int
    ctime_ns: int

    def same_content(self, other: FileIdentity) -> bool:
        """Whether both describe the same bytes, under whatever name."""
        return (self.inode, self.size_bytes, self.mtime_ns) == (other.inode, other.size_bytes, other.mtime_ns)


def identify(path: str, descriptor: int | None = None) -> FileIdentity:
    """The identity of the file behind a path, or behind an open descriptor of it.

    Raises:
        OSError: there is no such file.
    """
    stat = os.stat(path) if descriptor is None else os.fstat(descriptor)
    return FileIdentity(
        path=path,
        inode=stat.st_ino,
        size_bytes=stat.st_size,
        mtime_ns=stat.st_mtime_ns,
        ctime_ns=stat.st_ctime_ns,
    )


def identify_folder(path: str) -> FileIdentity:
    """The identity of a folder as a whole: its inode, the sum of its files' sizes, the latest of their times.

    Raises:
        OSError: there is no such folder, or a file went while it was looked at.
    """
    size, times, changes = 0, [0], [0]
    for folder, _, names in os.walk(path):
        for name in names:
            stat = os.lstat(os.path.join(folder, name))  # noqa: PTH118 - a string crosses process boundaries
            size += stat.st_size
            times.append(stat.st_mtime_ns)
            changes.append(stat.st_ctime_ns)
    return FileIdentity(
        path=path,
        inode=os.stat(path).st_ino,
        size_bytes=size,
        mtime_ns=max(times),
        ctime_ns=max(changes),
    )


def identify_any(path: str) -> FileIdentity:
    """The identity of a file or of a folder as a whole.

    Raises:
        OSError: there is none.
    """
    return identify_folder(path) if os.path.isdir(path) else identify(path)  # noqa: PTH112


def check_unchanged(identity: FileIdentity, descriptor: int) -> None:
    """Compare an open file with what it was when it was planned.

    Raises:
        InputChanged: size, modification time or inode differ.
    """
    if not identity.same_content(identify(identity.path, descriptor)):
        raise InputChanged(f"{identity.path} changed while it was being read; the result was thrown away")
