"""Keeping a checkpoint's bytes while it is in a window, whatever the trainer does to its name.

A hard link costs nothing and survives an unlink or a rename, but not a rewrite in place; a reflink or a copy survives
all three.
"""

from __future__ import annotations

import contextlib
import os
import stat
from dataclasses import replace
from typing import TYPE_CHECKING

from rna_watch.errors import InputChanged
from rna_watch.formats.recorded_gradient import SUFFIX
from rna_watch.layout import disk, owned
from rna_watch.layout.identity import FileIdentity, identify
from rna_watch.layout.open_file import opened

if TYPE_CHECKING:
    from collections.abc import Callable

    from rna_watch.layout.layout import Layout

LINK, REFLINK, COPY, NONE = "link", "reflink", "copy", "none"


def pin(source: FileIdentity, destination: str, *, link: bool, proceed: Callable[[], None]) -> tuple[str, FileIdentity]:
    """Pin a file under another name; returns how, and the identity of the pinned file.

    Args:
        source: the file as it was probed.
        destination: the name in the window store, on any file system; replaced if it is there.
        link: whether a hard link will do; the file is cloned or copied if it cannot be linked.
        proceed: called now and then while copying; it raises Cancelled to stop.

    Raises:
        InputChanged: the file is gone or changed since it was probed.
        OSError: there is no room, or the store cannot be written.
    """
    try:
        with disk.replacing(destination, durable=False) as temporary:
            kind = LINK if link and _link(source.path, temporary) else _copy(source, temporary, proceed)
            if kind == LINK and not source.same_content(identify(temporary)):
                raise InputChanged(f"{source.path} changed before it could be pinned")
    except FileNotFoundError as error:
        raise InputChanged(f"{source.path} is gone") from error
    return kind, identify(destination)


def pin_checkpoint(layout: Layout, destination: str, *, link: bool, proceed: Callable[[], None]) -> tuple[str, Layout]:
    """Pin every file of a checkpoint that a window or its model needs; returns how, and the pinned layout.

    Args:
        layout: the checkpoint, a file or a folder.
        destination: its name in the window store; a recorded gradient gets that name with its own ending.
        link: whether hard links will do.
        proceed: called now and then while copying; it raises Cancelled to stop.

    Raises:
        InputChanged: a file is gone or changed since it was probed.
        OSError: there is no room, or the store cannot be written.
    """
    kinds: set[str] = set()

    def one(file: FileIdentity) -> FileIdentity:
        place = os.path.join(destination, layout.inside(file)) if layout.root else destination  # noqa: PTH118
        owned.make_folders(os.path.dirname(place))  # noqa: PTH120 - a string crosses process boundaries
        kind, identity = pin(file, place, link=link, proceed=proceed)
        kinds.add(kind)
        return identity

    unpin(destination)
    try:
        pinned = replace(
            layout,
            files=tuple(one(file) for file in layout.files),
            carried=tuple(one(file) for file in layout.carried),
            root=destination if layout.root else "",
            gradient=_pin_gradient(layout, destination, proceed),
        )
        for folder, _, _ in os.walk(destination):
            disk.sync_folder(folder)
        disk.sync_folder(os.path.dirname(destination))  # noqa: PTH120
    except BaseException:
        unpin(destination)
        raise
    return next(kind for kind in (COPY, REFLINK, LINK) if kind in kinds), pinned


def _pin_gradient(layout: Layout, destination: str, proceed: Callable[[], None]) -> Layout | None:
    """The recorded gradient of a checkpoint, pinned; None if it is gone."""
    if layout.gradient is None:
        return None
    try:
        _, identity = pin(layout.gradient.files[0], destination + SUFFIX, link=True, proceed=proceed)
    except (OSError, InputChanged):
        return None
    return replace(layout.gradient, files=(identity,))


def unpin(destination: str) -> None:
    """Remove a pinned checkpoint and its gradient, if it is there."""
    for path in (destination, destination + SUFFIX):
        disk.remove(path)


def held_bytes(destination: str) -> int:
    """Bytes that only the pin holds: those of its files that have no other name left."""
    files = [destination]
    if os.path.isdir(destination):  # noqa: PTH112 - a string crosses process boundaries
        files = [os.path.join(folder, name) for folder, _, names in os.walk(destination) for name in names]  # noqa: PTH118
    total = 0
    for file in files:
        with contextlib.suppress(FileNotFoundError):
            stat = os.lstat(file)
            total += stat.st_blocks * 512 if stat.st_nlink == 1 else 0
    return total


def _link(source: str, destination: str) -> bool:
    try:
        disk.hard_link(os.path.realpath(source), destination)
    except FileNotFoundError:
        raise
    except OSError:
        return False  # another file system, or the system forbids links to files of others
    return True


def _copy(source: FileIdentity, destination: str, proceed: Callable[[], None]) -> str:
    with opened([source]) as (reader,), disk.create(destination, 0o600) as file:
        writer = file.fileno()
        shared = disk.share_blocks(reader.descriptor, writer)
        if not shared:
            offset = 0
            for piece in reader.pieces(0, source.size_bytes):
                proceed()
                disk.write_all(writer, piece, offset)
                offset += len(piece)
        os.fchmod(
            writer, stat.S_IMODE(os.fstat(reader.descriptor).st_mode) & 0o777
        )  # models get it from their newest pin
        os.utime(writer, ns=(source.mtime_ns, source.mtime_ns))
        os.fsync(writer)  # a pin is recorded as whole; a link's bytes are the trainer's to put on the disk
    return REFLINK if shared else COPY
