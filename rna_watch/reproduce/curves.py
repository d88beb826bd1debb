"""A run as it is kept: when it first reached each power of ten, and enough points to draw it.

Keys: `reached` has for j = 1, 2, ... the [iterations, gradients, evaluations] after which the relative suboptimality
(f - f*) / (f(0) - f*) was at most 10^-j for the first time. `iterations`, `evaluations` and `suboptimality` are those of the
points to draw. `stopped` is empty, or says why the run ended early.
"""

from __future__ import annotations

import math
from itertools import islice
from typing import TYPE_CHECKING, Any

from rna_watch.reproduce.logistic import relative

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rna_watch.reproduce.descent import Iteration

LOWEST = 1e-10
# every iteration up to the first number, every second one up to the next, ...
_DENSE = ((60, 1), (160, 2), (400, 5))
_GROWTH = 1.12


def curve(iterations: Iterator[Iteration], optimum: float, most: int, lowest: float = LOWEST) -> dict[str, Any]:
    """A run, followed until it reaches `lowest`, has made `most` iterations, or leaves the finite numbers.

    Args:
        iterations: of the run.
        optimum: f*.
        most: the most iterations.
        lowest: the relative suboptimality at which the run ends.
    """
    reached: list[list[int]] = []
    kept: list[tuple[int, int, float]] = []
    following, stopped = 1, ""
    for k, now in enumerate(islice(iterations, most), start=1):
        if not math.isfinite(now.loss):
            stopped = "the loss left the finite numbers"
            break
        gap = relative(now.loss, optimum)
        while gap <= 10.0 ** -(len(reached) + 1) * (1 + 1e-12) and len(reached) < -math.log10(lowest):
            reached.append([k, now.gradients, now.evaluations])
        ended = gap <= lowest
        if k == following or ended:
            kept.append((k, now.evaluations, float(f"{max(gap, 1e-17):.3g}")))
            following = _next(k)
        if ended:
            break
    ks, evaluations, gaps = ([point[i] for point in kept] for i in range(3))
    return {
        "reached": reached,
        "iterations": ks,
        "evaluations": evaluations,
        "suboptimality": gaps,
        "stopped": stopped,
    }


def _next(k: int) -> int:
    for until, stride in _DENSE:
        if k < until:
            return k + stride
    return max(k + 1, round(k * _GROWTH))


def at(reached: Sequence[Sequence[int]], exponent: int) -> Sequence[int] | None:
    """The [iterations, gradients, evaluations] at which 10^-exponent was reached; None if it was not."""
    return reached[exponent - 1] if len(reached) >= exponent else None
