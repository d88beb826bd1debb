"""Rewriting: a model that is published in a file of another make than its newest input's, where that cannot be patched."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from rna_watch.errors import InputChanged, StoreError
from rna_watch.formats import torch_zip
from rna_watch.layout import disk
from rna_watch.layout.dtypes import DTYPES
from rna_watch.layout.layout import Role
from rna_watch.layout.open_file import OpenFile
from rna_watch.publishing import clone, safetensors_writer
from rna_watch.window.copies import strips

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rna_watch.layout.layout import Layout
    from rna_watch.publishing.safetensors_writer import Skeleton
    from rna_watch.window.combine import Combination, Patch
    from rna_watch.window.copies import Strip
    from rna_watch.window.segments import Segment


_COPY_BYTES = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewriting:
    """The file to be made, of a known kind, and the byte offset in it of the storage of each of the layout's extents.

    `name` is its name in a folder, where the checkpoint is one.
    """

    kind: str
    name: str
    skeleton: Skeleton
    bases: tuple[int, ...]

    def target(self, layout: Layout) -> Layout:
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
                for extent, base in zip(layout.extents, self.bases, strict=True)
            ),
        )

    def segments(self, combination: Combination, limit: int) -> list[Segment]:
        """What is combined, cut as for a clone, with the places in the new file."""
        newest = combination.layouts[-1]
        both = replace(
            combination, layouts=(self.target(newest), *combination.layouts), weights=(0.0, *combination.weights)
        )
        return [replace(each, target=each.places[0][0], places=each.places[1:]) for each in both.segments(limit)]

    def strips(self, layout: Layout) -> list[Strip]:
        """What is copied: integers and flags."""
        return [
            strip
            for extent, base in zip(layout.extents, self.bases, strict=True)
            if extent.role is Role.COPIED
            for chunk in extent.chunks
            for strip in strips(
                extent, (chunk.count,), (1,), chunk.start, 0, base + chunk.start * DTYPES[extent.dtype].itemsize
            )
        ]


def begin(rewriting: Rewriting, original: Layout, temporary: str) -> str:
    """Make the file, in a folder if the original is one, and with the files that it carries; returns its path.

    Raises:
        StoreError: there is no room, or the folder cannot be written.
        InputChanged: the original is gone.
    """
    try:
        mode = Path(original.files[0].path).stat().st_mode
    except OSError as error:
        raise InputChanged(f"{original.files[0].path} is gone ({error.strerror})") from error
    if not original.root:
        safetensors_writer.make(rewriting.skeleton, temporary, mode)
        return temporary
    disk.remove(temporary)
    try:
        Path(temporary).mkdir(parents=True)
        for file in original.carried:
            place = Path(temporary, original.inside(file))
            place.parent.mkdir(parents=True, exist_ok=True)
            with OpenFile(file.path) as reader:
                if not reader.identity.same_content(file):
                    raise InputChanged(f"{file.path} changed before it could be copied")
                with place.open("wb") as copy:
                    for offset in range(0, file.size_bytes, _COPY_BYTES):
                        copy.write(reader.read(offset, min(_COPY_BYTES, file.size_bytes - offset)))
            disk.settle(str(place), file.mtime_ns)
    except OSError as error:
        raise StoreError(safetensors_writer.cannot_write(temporary, error)) from error
    path = str(Path(temporary, rewriting.name))
    safetensors_writer.make(rewriting.skeleton, path, mode)
    return path


def finish(
    rewriting: Rewriting, original: Layout, temporary: str, path: str, patches: Iterable[Patch], destination: str
) -> None:
    """Repair checksums, put all on the disk and give it its name, at once and for good.

    Raises:
        StoreError: the folder cannot be written.
    """
    written = {patch.offset_bytes: (patch.size_bytes, patch.crc) for patch in patches if patch.size_bytes}
    try:
        if rewriting.kind == torch_zip.NAME:
            with OpenFile(path) as file:
                writer = os.open(path, os.O_RDWR | os.O_CLOEXEC)
                try:
                    torch_zip.repair(file, written, writer)
                finally:
                    os.close(writer)
        disk.settle(path, max(file.mtime_ns for file in original.files))
        clone.give_name(original, temporary, destination)
    except OSError as error:
        raise StoreError(safetensors_writer.cannot_write(destination, error)) from error
