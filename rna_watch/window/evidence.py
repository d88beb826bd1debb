"""Evidence: what a combination's own pass finds out of its window, for methods that need no Gram matrix.

These are values that are not finite, and the products of the steps that tell trainings apart: of all parameters of a small
model, of the first elements of each weight matrix of a larger one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from rna_watch import kernels
from rna_watch.acceleration.gram import GramRows, block_rows, merge
from rna_watch.layout.layout import Role
from rna_watch.window.reader import still_infinities
from rna_watch.window.segments import matrix_columns, matrix_elements

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rna_watch.layout.dtypes import Float64
    from rna_watch.layout.layout import Layout
    from rna_watch.window.reader import Block
    from rna_watch.window.segments import Segment

_ALL = 2**22  # parameters, up to which all of them are looked at
_MERGED = 64
MATRICES, PARAMETERS = "matrices", "parameters"


def looked_at(layout: Layout) -> str:
    """Which elements of a model the products are taken of."""
    return MATRICES if layout.parameters > _ALL and matrix_elements(layout) else PARAMETERS


class Evidence:
    """Gathers it, block by block.

    Args:
        segments: what is combined.
        checkpoints: K.
        elements: `MATRICES` or `PARAMETERS`.
    """

    def __init__(self, segments: Sequence[Segment], checkpoints: int, elements: str) -> None:
        self._segments = segments
        self._elements = elements
        n = checkpoints - 1
        self._parts = [GramRows(rows=np.zeros((n, n)), rounding_energy=0.0, non_finite=frozenset())]
        self._bad: set[int] = set()
        self.damaged = False  # some of the combination is not finite

    def before(self, block: Block, weights: Sequence[float]) -> None:
        """Look at the values of a block; those of weight 0 do not show in the combination."""
        unused = [k for k, weight in enumerate(weights) if not weight]
        parameters = self._segments[block.pieces[0].segment].role is Role.PARAMETER
        for step in block.steps():
            if not all(_finite(step, k) for k in unused):
                self._bad |= _not_finite(step.values, unused)
            if parameters:
                self._add_products(step)
        if len(self._parts) >= _MERGED:
            self._parts = [merge(self._parts)]

    def _add_products(self, block: Block) -> None:
        matrices = matrix_columns(block.pieces, self._segments)
        whole = [slice(0, block.size)] if self._elements == PARAMETERS else matrices
        for part in whole:
            values = block.widened(part)
            still = still_infinities(values)
            if still is not None:
                values[:, still] = 0.0
            with np.errstate(over="ignore", invalid="ignore"):
                inside = matrices if self._elements == PARAMETERS else [slice(None)]
                self._parts.append(block_rows(values, len(values) - 1, 0.0, matrices=inside))

    def look(self, block: Block, weights: Sequence[float]) -> None:
        """Note whose values are not finite, among those that show in a combination."""
        self._bad |= _not_finite(block.values, [k for k, weight in enumerate(weights) if weight])

    def found(self) -> GramRows:
        """The rows of the steps' products, with the numbers of the checkpoints that are not finite."""
        return merge(
            [
                *self._parts,
                GramRows(rows=np.zeros_like(self._parts[0].rows), rounding_energy=0.0, non_finite=frozenset(self._bad)),
            ]
        )


def _finite(block: Block, k: int) -> bool:
    """Whether the values of a checkpoint are finite; squares of float64 may not be where they are."""
    if not kernels.COMPILED:
        return bool(np.isfinite(block.values[k]).all())
    bits, dtype = block.stored
    square = np.zeros(1)
    kernels.add_squares(bits[k : k + 1], dtype, square)
    return bool(np.isfinite(square[0]))


def _not_finite(values_kn: Float64, numbers: Sequence[int]) -> set[int]:
    """Which of these checkpoints have values that are not finite and no constants."""
    still = still_infinities(values_kn)
    good = np.isfinite(values_kn) | (False if still is None else still)
    return {k for k in numbers if not good[k].all()}
