"""The cooldown branches of a run in numbers: their gain for free, and with the batches charged that they drew."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from rna_watch.acceleration.methods import ANNEAL
from rna_watch.acceleration.significance import gain
from rna_watch.comparison.comparison import ORIGINAL

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rna_watch.comparison.comparison import Comparison, Row


@dataclass(frozen=True, slots=True, kw_only=True)
class Cooling:
    """Mean gains of the branches, in the metric's units: `free` over the original that each began at, at `count` checkpoints.

    `charged` is over what the original itself became within as many batches as a branch drew, at `charged_count`
    checkpoints: None where its curve does not reach so far, or its steps are not known.
    """

    count: int
    free: float
    charged_count: int
    charged: float | None


def cooling(comparison: Comparison) -> Cooling | None:
    """The gains of the branches of a run; None where there are none."""
    c = comparison
    curve = [(float(row.step), value) for row in c.rows if (value := row.value(ORIGINAL)) is not None]
    free: list[float] = []
    charged: list[float] = []
    for row in c.rows:
        branch, original = row.value(ANNEAL), row.value(ORIGINAL)
        if branch is None or original is None:
            continue
        free.append(gain(branch, original, c.mode))
        later = _at(curve, row.step + row.batches) if row.batches else None
        if later is not None:
            charged.append(gain(branch, later, c.mode))
    if not free:
        return None
    return Cooling(
        count=len(free),
        free=statistics.fmean(free),
        charged_count=len(charged),
        charged=statistics.fmean(charged) if charged else None,
    )


def _at(curve: Sequence[tuple[float, float]], step: float) -> float | None:
    """The value of the original at a step, between checkpoints on a straight line; None beyond them."""
    for (before, low), (after, high) in pairwise(curve):
        if before <= step <= after and before < after:
            return low + (high - low) * (step - before) / (after - before)
    return None


def in_words(found: Cooling, row: Row | None, step_kind: str) -> str:
    """The gains in a sentence.

    Args:
        found: the gains.
        row: a checkpoint with a branch.
        step_kind: what the run's steps count.
    """
    told = (
        f"Cooled down on the side (anneal: training, counted neither as RNA nor as an average), the run gained {found.free:+.3g} "
        f"over the original in the mean of {found.count} checkpoints, if those batches are free"
    )
    if found.charged is not None:
        return (
            f"{told}; with them charged, {found.charged:+.3g} over what the original itself became within as many batches "
            f"({found.charged_count} checkpoints)."
        )
    why = "its curve does not reach so far"
    if row is not None and not row.batches:
        why = f"how many batches one {step_kind} has is not known"
    return f"{told}; what the original itself became within as many batches is not known ({why})."
