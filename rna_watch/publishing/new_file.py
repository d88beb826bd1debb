"""New files: a model that is published in a file of another make than its newest input's, where that cannot be patched."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from rna_watch.layout import disk, owned
from rna_watch.layout.dtypes import DTYPES
from rna_watch.layout.layout import Role
from rna_watch.layout.open_file import opened
from rna_watch.publishing.draft import Draft, begin_files, paths
from rna_watch.window import copies

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rna_watch.formats.format import FileFormat
    from rna_watch.layout.identity import FileIdentity
    from rna_watch.layout.layout import Layout
    from rna_watch.window.combine import Combination
    from rna_watch.window.copies import Copy
    from rna_watch.window.segments import Segment


@dataclass(frozen=True, slots=True, kw_only=True)
class Skeleton:
    """A file to be made: its size, what is known of its bytes, and the offset at which each part of the model goes.

    `parts` are (offset, bytes); `offsets` are by name.
    """

    size_bytes: int
    parts: tuple[tuple[int, bytes], ...]
    offsets: dict[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewriting:
    """The file to be made, its format, and the byte offset in it of the storage of each of the layout's extents.

    `name` is its name in a folder, where the checkpoint is one.
    """

    format: FileFormat
    name: str
    skeleton: Skeleton
    bases: tuple[int, ...]


def make(skeleton: Skeleton, path: str, like: FileIdentity) -> None:
    """Make a file of its full size.

    Args:
        skeleton: its size, and what is known of its bytes.
        path: its path.
        like: the file whose permissions it gets.

    Raises:
        InputChanged: the other is gone or changed.
        OSError: there is no room, or the folder cannot be written.
    """
    with opened([like]) as (file,), disk.create(path) as writer:
        os.fchmod(writer.fileno(), os.fstat(file.descriptor).st_mode & 0o777 | 0o200)
        os.ftruncate(writer.fileno(), skeleton.size_bytes)
        for offset, data in skeleton.parts:
            disk.write_all(writer.fileno(), memoryview(data), offset)


def begin(rewriting: Rewriting, combination: Combination, temporary: str, limit: int) -> Draft:
    """Make the file, in a folder if the newest checkpoint is one, and those that it carries.

    Args:
        rewriting: the file.
        combination: the model.
        temporary: path of the file or folder to make.
        limit: most elements of a segment.

    Raises:
        InputChanged: the newest checkpoint is gone or changed.
        OSError: there is no room, or the folder cannot be written.
    """
    newest = combination.layouts[-1]
    target = _target(rewriting, newest)
    carried = paths(newest, newest.carried, temporary)
    if newest.root:
        owned.make_folders(temporary)
    path = str(Path(temporary, rewriting.name))
    make(rewriting.skeleton, path, newest.files[0])
    copied = [
        copies.of_bytes(len(newest.files) + number, 0, source.size_bytes, 1 + number)
        for number, (source, made) in enumerate(zip(newest.carried, begin_files(newest.carried, carried), strict=True))
        if not made
    ]
    return Draft(
        outputs=(path, *carried),
        checksums=(rewriting.format.checksums, *(None for _ in carried)),
        mtimes_ns=(max(file.mtime_ns for file in newest.files), *(file.mtime_ns for file in newest.carried)),
        size_bytes=rewriting.skeleton.size_bytes + sum(file.size_bytes for file in newest.carried),
        segments=tuple(_segments(combination, target, limit)),
        copies=(*_integers(newest, target), *copied),
        target=target,
    )


def _target(rewriting: Rewriting, layout: Layout) -> Layout:
    """The layout with its chunks where they lie in the new file."""
    return replace(
        layout,
        extents=tuple(
            replace(
                extent,
                chunks=tuple(
                    replace(chunk, file=0, offset_bytes=base + chunk.start * DTYPES[extent.dtype].itemsize)
                    for chunk in extent.chunks
                ),
            )
            for extent, base in zip(layout.extents, rewriting.bases, strict=True)
        ),
    )


def _segments(combination: Combination, target: Layout, limit: int) -> list[Segment]:
    """What is combined, cut as for a clone, with the places in the new file."""
    segments = combination.behind(target).segments(limit)
    return [replace(each, target=each.places[0][0], places=each.places[1:]) for each in segments]


def _integers(newest: Layout, target: Layout) -> Iterator[Copy]:
    """Integers and flags, which are copied."""
    for extent, new in zip(newest.extents, target.extents, strict=True):
        if extent.role is Role.COPIED:
            for chunk in new.chunks:
                yield from copies.of_view(extent, (chunk.count,), (1,), chunk.start, 0, chunk.offset_bytes)
