"""Clone and patch: a copy of the newest checkpoint, with the combination where its model is: what loads one loads the other."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rna_watch.formats.registry import file_format
from rna_watch.layout.strides import merge_runs
from rna_watch.publishing.draft import Draft, begin_files, paths
from rna_watch.window import copies
from rna_watch.window.tasks_plan import COPY_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rna_watch.window.combine import Combination
    from rna_watch.window.copies import Copy


def begin(combination: Combination, temporary: str, limit: int) -> Draft:
    """Make the temporary files: with the newest checkpoint's bytes if those are few or blocks can be shared, else empty.

    Args:
        combination: the model.
        temporary: path of the file or folder to make.
        limit: most elements of a segment.

    Raises:
        InputChanged: the newest checkpoint is gone or changed.
        OSError: there is no room, or the folder cannot be written.
    """
    original = combination.layouts[-1]
    sources = original.files + original.carried
    outputs = paths(original, sources, temporary)
    segments = combination.segments(limit)
    patched: list[list[tuple[int, int]]] = [[] for _ in sources]
    for segment in segments:
        for file, offset, count in segment.places[-1]:
            patched[file].append((offset, count * segment.size_bytes // segment.count))
    copied: list[Copy] = []
    for number, (source, made) in enumerate(zip(sources, begin_files(sources, outputs), strict=True)):
        if not made:
            rest = _complement(patched[number], source.size_bytes, COPY_BYTES)
            copied += [copies.of_bytes(number, offset, size, number) for offset, size in rest]
    return Draft(
        outputs=tuple(outputs),
        checksums=(
            *(file_format(original.kind(number)).checksums for number in range(len(original.files))),
            *(None for _ in original.carried),
        ),
        mtimes_ns=tuple(source.mtime_ns for source in sources),
        size_bytes=original.size_bytes,
        segments=tuple(segments),
        copies=tuple(copied),
        target=original,
    )


def _complement(runs: Iterable[tuple[int, int]], size: int, limit: int) -> list[tuple[int, int]]:
    """The parts of [0, size) outside the runs, cut to the limit."""
    parts = []
    position = 0
    for start, count in [*merge_runs(runs), (size, 0)]:
        parts += [(at, min(limit, start - at)) for at in range(position, start, limit)]
        position = start + count
    return parts
