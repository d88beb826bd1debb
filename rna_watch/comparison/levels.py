"""Levels of a metric: which ones are worth asking for, when a model reached them, and how much sooner than the original."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeGuard

from rna_watch.acceleration.significance import gain, ranked

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rna_watch.acceleration.significance import Mode

    Curve = Sequence[tuple[int, float | None]]

# The tolerances of the paper's Tables 2-4, in percentage points.
POINTS = (5.0, 2.0, 1.0, 0.5, 0.2)
# For other metrics: shares of all that the original ever gained.
SHARES = (0.5, 0.2, 0.1, 0.05, 0.02)
_IN_PERCENT = re.compile(r"err|acc|top[-_]?[15]")
_NOT_IN_PERCENT = re.compile(r"squared|absolute|mean|mse|mae|loss|relative|l[12]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Speedup:
    """The original's step over a model's; a lower bound where the original never got there."""

    factor: float
    at_least: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """When each curve first was as good as `value` (None: never), and its speed-up over the original.

    `tolerance` says how far the level is from the original's best: None for a level that a person named.
    """

    value: float
    tolerance: float | None
    reached: Mapping[str, int | None]
    speedups: Mapping[str, Speedup]


def same(one: float, other: float) -> bool:
    """Whether two metrics differ by no more than the rounding of a mean."""
    return math.isclose(one, other, rel_tol=1e-9)


def better(one: float, other: float, mode: Mode) -> bool:
    """Whether `one` is strictly better than `other`, beyond rounding."""
    return gain(one, other, mode) > 0 and not same(one, other)


def known(value: float | None) -> TypeGuard[float]:
    """Whether there is a number to compare."""
    return value is not None and math.isfinite(value)


def first_step(curve: Curve, level: float, mode: Mode) -> int | None:
    """The first step at which the curve is as good as the level; what was not evaluated never is."""
    for step, value in curve:
        if known(value) and not better(level, value, mode):
            return step
    return None


def default_tolerances(metric: str, values: Sequence[float], mode: Mode) -> list[float]:
    """Tolerances around the original's best, widest first: points for error rates and accuracies, else shares of its gain.

    Args:
        metric: its name, which tells whether it is a rate.
        values: the original's, by step; finite.
        mode: whether the metric is minimized or maximized.
    """
    if not values:
        return []
    name = metric.lower()
    rate = _IN_PERCENT.search(name) and not _NOT_IN_PERCENT.search(name)
    if rate and all(0 <= value <= 100 for value in values):
        unit = 1.0 if max(values) > 1.0 else 0.01
        return [points * unit for points in POINTS]
    improvement = gain(ranked(values, float, mode)[0], values[0], mode)
    return [share * improvement for share in SHARES] if improvement > 0 else []


def levels(
    curves: Mapping[str, Curve], original: str, metric: str, mode: Mode, given: Sequence[float] | None = None
) -> list[Level]:
    """Each level with the steps and the speed-ups of all curves, easiest first where none were given.

    Levels that nobody asked for and that the original's first value meets already are left out: they tell nothing.

    Args:
        curves: for each model, its metric at each step, by step.
        original: which of them is the original.
        metric: the name of the metric.
        mode: whether it is minimized or maximized.
        given: the levels a person named.
    """
    values = [value for _, value in curves[original] if known(value)]
    wanted: list[tuple[float, float | None]] = [(level, None) for level in given or ()]
    if given is None and values:
        best = ranked(values, float, mode)[0]
        for tolerance in default_tolerances(metric, values, mode):
            level = best + tolerance if mode == "min" else best - tolerance
            if better(level, values[0], mode):
                wanted.append((level, tolerance))
    return [_level(curves, original, mode, level, tolerance) for level, tolerance in dict(wanted).items()]


def _level(curves: Mapping[str, Curve], original: str, mode: Mode, level: float, tolerance: float | None) -> Level:
    reached = {name: first_step(curve, level, mode) for name, curve in curves.items()}
    start = reached[original]
    last = max((step for step, value in curves[original] if known(value)), default=None)
    speedups = {}
    for name, step in reached.items():
        if name == original or not step or last is None:
            continue
        if start is not None:
            speedups[name] = Speedup(factor=start / step)
        elif step <= last:
            speedups[name] = Speedup(factor=last / step, at_least=True)
    return Level(value=level, tolerance=tolerance, reached=reached, speedups=speedups)
