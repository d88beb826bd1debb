"""The window of one checkpoint, and its Gram matrix put together from what the journal knows and what must be read."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from rna_watch.checkpoints.combine import Combination

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import numpy.typing as npt

    from rna_watch.acceleration.family import Candidate
    from rna_watch.checkpoints.extents import Layout
    from rna_watch.journal.events import Measured
    from rna_watch.journal.replay import Checkpoint

    Float64 = npt.NDArray[np.float64]

Pair = tuple[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """K = N + 1 checkpoints, oldest first, with their layouts."""

    members: tuple[Checkpoint, ...]
    layouts: tuple[Layout, ...]

    @property
    def names(self) -> list[str]:
        """Their names."""
        return [member.name for member in self.members]

    @property
    def residuals(self) -> list[Pair]:
        """The N residuals, as (older, newer)."""
        return list(pairwise(self.names))

    def combination(self, candidate: Candidate) -> Combination:
        """A candidate as a recipe; of a window of one, that one itself."""
        weights = candidate.weights if len(self.layouts) > 1 else (1.0,)
        return Combination(layouts=self.layouts, weights=weights)


def known_products(measurements: Iterable[Measured]) -> dict[tuple[Pair, Pair], float]:
    """All inner products of residuals that were measured, under both orders."""
    products: dict[tuple[Pair, Pair], float] = {}
    for measured in measurements:
        pairs = [(older, newer) for older, newer in measured.residuals]
        for row, pair in zip(measured.rows, pairs[len(pairs) - len(measured.rows) :], strict=True):
            for other, value in zip(pairs, row, strict=True):
                products[pair, other] = products[other, pair] = value
    return products


def missing_rows(residuals: Sequence[Pair], products: dict[tuple[Pair, Pair], float]) -> int:
    """How many of the newest rows must be measured; the others, all of them, are known."""
    kept = 0
    while kept < len(residuals) and all((residuals[kept], other) in products for other in residuals[: kept + 1]):
        kept += 1
    return len(residuals) - kept


def assemble(residuals: Sequence[Pair], products: dict[tuple[Pair, Pair], float]) -> Float64:
    """The Gram matrix (N, N) of these residuals."""
    return np.array([[products[a, b] for b in residuals] for a in residuals], dtype=np.float64)
