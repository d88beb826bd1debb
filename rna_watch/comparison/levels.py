"""Levels of a metric: which ones are shown, when a model reached them, and how much sooner than the original."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeGuard

from rna_watch.acceleration.direction import words_of
from rna_watch.acceleration.significance import gain, ranked

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rna_watch.acceleration.significance import Mode

    Curve = Sequence[tuple[int, float | None]]

# the tolerances of the paper's Tables 2-4, in percentage points
POINTS = (5.0, 2.0, 1.0, 0.5, 0.2)
# for other metrics: parts of the original's whole gain
SHARES = (0.5, 0.2, 0.1, 0.05, 0.02)
_IN_PERCENT = frozenset({"err", "error", "errors", "acc", "accuracy", "inaccuracy", "top"})
_NOT_IN_PERCENT = frozenset({"squared", "absolute", "mean", "mse", "mae", "loss", "logloss", "relative", "l1", "l2"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Speedup:
    """The original's step divided by a model's; a lower bound if the original never reached the level."""

    factor: float
    at_least: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """The step at which each curve first was as good as `value` (None: never), and its speed-up over the original.

    `tolerance` is the distance of the level from the original's best; None for a level that a person named.
    """

    value: float
    tolerance: float | None
    reached: Mapping[str, int | None]
    speedups: Mapping[str, Speedup]


def same(one: float, other: float) -> bool:
    """Whether two metrics differ by no more than the rounding of a mean."""
    return math.isclose(one, other, rel_tol=1e-9)


def better(one: float, other: float, mode: Mode) -> bool:
    """Whether one metric is strictly better than another, beyond rounding.

    Args:
        one: a metric.
        other: the metric to compare it with.
        mode: whether the metric is minimized or maximized.
    """
    return gain(one, other, mode) > 0 and not same(one, other)


def known(value: float | None) -> TypeGuard[float]:
    """Whether a value is a finite number."""
    return value is not None and math.isfinite(value)


def first_step(curve: Curve, level: float, mode: Mode) -> int | None:
    """The first step at which a curve is as good as a level; None if it never is.

    Args:
        curve: (step, value), by step; None for a value that was not evaluated.
        level: a value of the metric.
        mode: whether the metric is minimized or maximized.
    """
    for step, value in curve:
        if known(value) and not better(level, value, mode):
            return step
    return None


def default_tolerances(metric: str, values: Sequence[float], mode: Mode) -> list[float]:
    """Tolerances around the original's best, widest first: points for error rates and accuracies, else parts of its gain.

    Args:
        metric: the name of the metric, which shows whether it is a rate.
        values: the original's finite values, by step.
        mode: whether the metric is minimized or maximized.
    """
    if not values:
        return []
    named = {form for word in words_of(metric) for form in (word, word.rstrip("0123456789"))}
    rate = not named.isdisjoint(_IN_PERCENT) and named.isdisjoint(_NOT_IN_PERCENT)
    if rate and all(0 <= value <= 100 for value in values):
        unit = 1.0 if max(values) > 1.0 else 0.01
        return [points * unit for points in POINTS]
    improvement = gain(ranked(values, float, mode)[0], values[0], mode)
    return [share * improvement for share in SHARES] if improvement > 0 else []


def levels(
    curves: Mapping[str, Curve], original: str, metric: str, mode: Mode, given: Sequence[float] | None = None
) -> list[Level]:
    """The levels with the steps and the speed-ups of all curves; those around the original's best are sorted, easiest first.

    Levels around the original's best that its first value meets already are left out, because they say nothing.

    Args:
        curves: (step, value) of each model, by step.
        original: the key of the original.
        metric: the name of the metric.
        mode: whether it is minimized or maximized.
        given: the levels that a person named; None for levels around the original's best.
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
