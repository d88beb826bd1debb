"""Marks: what a checkpoint says of its training besides its weights, all of it read in a few bytes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from rna_watch.layout.dtypes import DTYPES
from rna_watch.layout.open_file import opened

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rna_watch.layout.layout import Layout

_COUNTS = re.compile(r"(^|\.)num_batches_tracked$")
_MOST_LAYERS = 64
OPTIMIZER = "steps of the optimizer"


@dataclass(frozen=True, slots=True, kw_only=True)
class Marks:
    """`counters` only grow within one training, by name; `saved_to` is the folder that the trainer says it saves to."""

    counters: Mapping[str, int]
    saved_to: str = ""

    def __bool__(self) -> bool:
        return bool(self.counters or self.saved_to)


def is_clock(name: str) -> bool:
    """Whether a counter ticks with every step of the training, whatever its script counts."""
    return name == OPTIMIZER or bool(_COUNTS.search(name))


def marks_of(layout: Layout) -> Marks:
    """The step and epoch inside a checkpoint, its optimizer's steps, the batches that its normalization layers have counted.

    Raises:
        InputChanged: the checkpoint is gone or was changed.
    """
    counters = {f"{kind} inside": value for kind, value in layout.counters.items()}
    if layout.optimizer_steps is not None:
        counters[OPTIMIZER] = layout.optimizer_steps
    layers = [each for each in layout.extents if _COUNTS.search(each.name) and each.count == 1]
    with opened(layout.files) as files:
        for extent in layers[:_MOST_LAYERS]:
            (chunk,), bits = extent.chunks, DTYPES[extent.dtype].bits
            value = bytearray(bits.itemsize)
            files[chunk.file].read_into(memoryview(value), chunk.offset_bytes)
            counters[extent.name] = int(np.frombuffer(value, bits)[0])
    return Marks(counters=counters, saved_to=layout.saved_to)
