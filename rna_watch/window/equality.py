"""Whether two checkpoints hold the same model, byte for byte, whatever else their files hold."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

from rna_watch.errors import IncompleteCheckpoint
from rna_watch.layout.dtypes import DTYPES
from rna_watch.layout.open_file import OpenFile

if TYPE_CHECKING:
    from collections.abc import Callable

    from rna_watch.layout.layout import Layout

_PIECE_BYTES = 2**22


def same_values(first: Layout, second: Layout, proceed: Callable[[], None]) -> bool:
    """Whether the model's bytes are the same in both; read only up to the first that differ."""
    if first.architecture != second.architecture:
        return False
    try:
        with ExitStack() as opened:
            files = [[opened.enter_context(OpenFile(file.path)) for file in each.files] for each in (first, second)]
            for own, each in zip(files, (first, second), strict=True):
                if not all(a.identity.same_content(b) for a, b in zip(own, each.files, strict=True)):
                    return False
            for pair in zip(first.extents, second.extents, strict=True):
                if [chunk.count for chunk in pair[0].chunks] != [chunk.count for chunk in pair[1].chunks]:
                    return False
                itemsize = DTYPES[pair[0].dtype].itemsize
                for one, other in zip(pair[0].chunks, pair[1].chunks, strict=True):
                    for start in range(0, one.count * itemsize, _PIECE_BYTES):
                        proceed()
                        size = min(_PIECE_BYTES, one.count * itemsize - start)
                        a, b = (
                            own[chunk.file].read(chunk.offset_bytes + start, size)
                            for own, chunk in zip(files, (one, other), strict=True)
                        )
                        if a != b:
                            return False
    except (OSError, IncompleteCheckpoint):
        return False
    return True
