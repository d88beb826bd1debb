"""A model in the making: its temporary files, what is still to be written into them, and their finish."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rna_watch.layout import disk, owned
from rna_watch.layout.disk import share_blocks
from rna_watch.layout.open_file import OpenFile, opened

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rna_watch.formats.format import Checksums, Written
    from rna_watch.layout.identity import FileIdentity
    from rna_watch.layout.layout import Layout
    from rna_watch.window.combine import Patch
    from rna_watch.window.copies import Copy
    from rna_watch.window.segments import Segment

_SMALL_BYTES = 2**22
_SMALL_IN_ALL_BYTES = 2**25


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """Temporary files of a model, each with the checksums that its format keeps and its modification time.

    Still to be written are `segments`, which are combined, and `copies` of the newest checkpoint's files and those that it
    carries. `target` is the model's layout with its chunks in `outputs`.
    """

    outputs: tuple[str, ...]
    checksums: tuple[Checksums | None, ...]
    mtimes_ns: tuple[int, ...]
    size_bytes: int
    segments: tuple[Segment, ...]
    copies: tuple[Copy, ...]
    target: Layout


def paths(newest: Layout, files: Iterable[FileIdentity], temporary: str) -> list[str]:
    """Where files of a checkpoint are made; for a checkpoint that is a folder, the folders in it are made too.

    Args:
        newest: the checkpoint.
        files: of it.
        temporary: path of the file or folder that is made.
    """
    if not newest.root:
        return [temporary for _ in files]
    made = [Path(temporary, newest.inside(file)) for file in files]
    for path in made:
        owned.make_folders(path.parent)
    return [str(path) for path in made]


def begin_files(sources: Sequence[FileIdentity], outputs: Sequence[str]) -> list[bool]:
    """Make files with others' permissions and, where blocks can be shared or are few, their bytes (True), else their sizes.

    A small file is copied here, all of it: that costs less than a copy of each header between its tensors. Of many, only the
    first are: the others are work for an engine.

    Raises:
        InputChanged: the other is gone or changed.
        OSError: there is no room, or the folder cannot be written.
    """
    made, room = [], _SMALL_IN_ALL_BYTES
    for source, output in zip(sources, outputs, strict=True):
        small = source.size_bytes <= min(_SMALL_BYTES, room)
        room -= source.size_bytes if small else 0
        made.append(_begin_file(source, output, small=small))
    return made


def _begin_file(source: FileIdentity, path: str, *, small: bool) -> bool:
    with opened([source]) as (file,), disk.create(path) as writer:
        os.fchmod(writer.fileno(), os.fstat(file.descriptor).st_mode & 0o777 | 0o200)
        shared = share_blocks(file.descriptor, writer.fileno())
        if not shared and not small:
            os.ftruncate(writer.fileno(), source.size_bytes)
            return False
        if not shared:
            done = 0
            for piece in file.pieces(0, source.size_bytes):
                disk.write_all(writer.fileno(), piece, done)
                done += len(piece)
    return True


def finish(draft: Draft, temporary: str, patches: Iterable[Patch]) -> None:
    """Repair checksums and set times, so that plots against time stay true.

    Args:
        draft: all is written.
        temporary: its file, or its folder.
        patches: what was written of tensors.

    Raises:
        OSError: the disk failed.
    """
    written: list[Written] = [{} for _ in draft.outputs]
    for patch in patches:
        if patch.size_bytes:
            written[patch.file][patch.offset_bytes] = (patch.size_bytes, patch.crc)
    for path, checksums, mtime_ns, own in zip(draft.outputs, draft.checksums, draft.mtimes_ns, written, strict=True):
        if checksums is not None:
            with OpenFile(path) as file, disk.patching(path) as writer:
                checksums.repair(file, own, writer.fileno())
        os.utime(path, ns=(mtime_ns, mtime_ns))
    os.utime(temporary, ns=(max(draft.mtimes_ns),) * 2)
