"""Publishing by clone and patch: a new file that whatever loads the original also loads, never seen half-written.

The clone stands under a temporary name in the destination's folder until it is whole, checked and on the disk.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from rna_watch.errors import InputChanged, StoreError
from rna_watch.formats.probe import FORMATS
from rna_watch.layout.disk import TEMPORARY_SUFFIX, remove, share_blocks, sync_folder
from rna_watch.layout.open_file import OpenFile
from rna_watch.layout.strides import merge_runs
from rna_watch.window.copying import Gap

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rna_watch.layout.identity import FileIdentity
    from rna_watch.layout.layout import Layout
    from rna_watch.window.combine import Patch
    from rna_watch.window.segments import Segment


@dataclass(frozen=True, slots=True, kw_only=True)
class Clone:
    """A clone in the making: its temporary files, numbered as `sources`, and the gaps that still must be copied.

    `sources` are the original's files, then those that it carries. `temporary` is the file itself, or a folder of them.
    """

    original: Layout
    temporary: str
    temporaries: tuple[str, ...]
    gaps: tuple[Gap, ...]

    @property
    def sources(self) -> tuple[FileIdentity, ...]:
        """What each of `temporaries` is a clone of."""
        return self.original.files + self.original.carried


def begin(original: Layout, segments: Sequence[Segment], temporary: str, gap_limit: int = 2**26) -> Clone:
    """Make the temporary files, each a reflink of the original's where the file system can, else of its size and empty.

    Args:
        original: the newest checkpoint.
        segments: what will be patched; the rest becomes gaps.
        temporary: path of the file or folder to make.
        gap_limit: most bytes of one gap, so that gaps can be copied in parallel.

    Raises:
        StoreError: there is no room, or the folder cannot be written.
        InputChanged: the original is gone.
    """
    sources = original.files + original.carried
    patched: list[list[tuple[int, int]]] = [[] for _ in sources]
    for segment in segments:
        for file, offset, count in segment.places[-1]:
            patched[file].append((offset, count * segment.size_bytes // segment.count))
    places = [os.path.join(temporary, original.inside(each)) if original.root else temporary for each in sources]  # noqa: PTH118
    clone = Clone(original=original, temporary=temporary, temporaries=tuple(places), gaps=())
    gaps: list[Gap] = []
    try:
        if original.root:
            remove(temporary)
        for number, (source, place) in enumerate(zip(sources, places, strict=True)):
            if original.root:
                Path(place).parent.mkdir(parents=True, exist_ok=True)
            if not _begin_file(source, place):
                gaps += [
                    Gap(file=number, offset_bytes=offset, size_bytes=size)
                    for offset, size in _complement(patched[number], source.size_bytes, gap_limit)
                ]
    except BaseException as error:
        discard(clone)
        if isinstance(error, OSError):
            raise StoreError(_cannot_write(temporary, error)) from error
        raise
    return replace(clone, gaps=tuple(gaps))


def _begin_file(source: FileIdentity, temporary: str) -> bool:
    """Make one file; whether it shares the original's bytes already."""
    writer = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
    try:
        return _clone_start(source, writer)
    finally:
        os.close(writer)


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


def finish(clone: Clone, patches: Iterable[Patch], destination: str) -> None:
    """Repair checksums, put the clone on the disk and give it its name, at once and for good.

    The clone takes the original's permissions and modification times, so that plots against time stay true.

    Raises:
        StoreError: the folder cannot be written.
    """
    written: list[dict[int, tuple[int, int]]] = [{} for _ in clone.temporaries]
    for patch in patches:
        if patch.size_bytes:
            written[patch.file][patch.offset_bytes] = (patch.size_bytes, patch.crc)
    try:
        for number, (source, temporary) in enumerate(zip(clone.sources, clone.temporaries, strict=True)):
            kind = clone.original.kind(number) if number < len(clone.original.files) else ""
            _finish_file(source, temporary, kind, written[number])
        give_name(clone.original, clone.temporary, destination)
    except OSError as error:
        raise StoreError(_cannot_write(destination, error)) from error


def give_name(original: Layout, temporary: str, destination: str) -> None:
    """Give what was made of an original its name, at once; the name is on the disk then."""
    if original.root:
        _finish_folder(original, temporary, destination)
    else:
        os.replace(temporary, destination)  # noqa: PTH105 - atomic by specification
    sync_folder(os.path.dirname(destination) or ".")  # noqa: PTH120


def _finish_file(source: FileIdentity, temporary: str, kind: str, written: dict[int, tuple[int, int]]) -> None:
    repair = FORMATS[kind].repair if kind in FORMATS else None
    with OpenFile(temporary) as file:
        writer = os.open(temporary, os.O_RDWR | os.O_CLOEXEC)
        try:
            if repair is not None:
                repair(file, written, writer)
            os.utime(writer, ns=(source.mtime_ns, source.mtime_ns))
            os.fsync(writer)
        finally:
            os.close(writer)


def _finish_folder(original: Layout, temporary: str, destination: str) -> None:
    """Give a folder its name; a full one that has it is swapped out and removed, as it cannot be replaced."""
    for folder, _, _ in os.walk(temporary):
        sync_folder(folder)
    latest = max(source.mtime_ns for source in original.files + original.carried)
    os.utime(temporary, ns=(latest, latest))
    old = f"{temporary}.old{TEMPORARY_SUFFIX}"
    replaced = os.path.lexists(destination)
    if replaced:
        os.rename(destination, old)  # noqa: PTH104
    try:
        os.rename(temporary, destination)  # noqa: PTH104
    except OSError:
        if replaced:
            os.rename(old, destination)  # noqa: PTH104
        raise
    remove(old)


def discard(clone: Clone) -> None:
    """Remove what is left of a clone that was given up."""
    remove(clone.temporary)


def _cannot_write(path: str, error: OSError) -> str:
    return f"cannot write {path}: {error.strerror or error}; make room there, or name another folder with --output"
