"""Whether two checkpoints hold the same model, byte for byte, whatever else their files hold."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from rna_watch.errors import InputChanged
from rna_watch.layout.dtypes import DTYPES
from rna_watch.layout.open_file import opened

if TYPE_CHECKING:
    from collections.abc import Callable

    from rna_watch.layout.layout import Layout, Role


def same_values(first: Layout, second: Layout, proceed: Callable[[], None], without: Role | None = None) -> bool:
    """Whether the model's bytes are the same in both; read only up to the first that differ.

    Args:
        first: a checkpoint.
        second: another.
        proceed: called now and then; it raises to give up.
        without: the role of tensors that need not be the same.
    """
    if first.structure != second.structure:
        return False
    try:
        with opened(first.files) as own, opened(second.files) as others:
            for extent, other in zip(first.extents, second.extents, strict=True):
                if extent.role is without:
                    continue
                if [chunk.count for chunk in extent.chunks] != [chunk.count for chunk in other.chunks]:
                    return False
                itemsize = DTYPES[extent.dtype].itemsize
                for a, b in zip(extent.chunks, other.chunks, strict=True):
                    size = a.count * itemsize
                    pieces = own[a.file].pieces(a.offset_bytes, size)
                    for one, same in zip(pieces, others[b.file].pieces(b.offset_bytes, size), strict=True):
                        proceed()
                        if not np.array_equal(one, same):
                            return False
    except InputChanged:
        return False
    return True
