"""The scale of an axis: a range in which most values can be told apart, and round numbers on it."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rna_watch.acceleration.significance import Mode

_FENCE = 1.5  # interquartile ranges, as in a box plot (Tukey 1977)
_FEWEST = 8
_MARGIN = 0.05
_ROUND = (1.0, 2.0, 5.0, 10.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """From `low` to `high`, in the units of the axis; `log`: equal distances are equal ratios."""

    low: float
    high: float
    log: bool = False

    def at(self, value: float) -> float:
        """The place of a value, 0 at `low`, 1 at `high`; values beyond them are beyond 0 and 1."""
        if self.log:
            if value <= 0.0:
                return -1.0
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low) if self.high > self.low else 0.5

    def holds(self, value: float) -> bool:
        """Whether a value is within the range."""
        return self.low <= value <= self.high

    def ticks(self, count: int, *, whole: bool = False) -> list[float]:
        """Round values within the range, about so many; `whole`: integers alone."""
        if self.log:
            first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
            steps = (1.0, 2.0, 5.0) if last - first <= 3 else (1.0,)
            every = max(1, math.ceil((last - first) / count))
            found = [each * 10.0**power for power in range(first, last + 1, every) for each in steps]
            inside = [value for value in found if self.holds(value)]
            if len(inside) > 1:
                return inside
        raw = (self.high - self.low) / count
        unit = 10.0 ** math.floor(math.log10(raw))
        step = next(each * unit for each in _ROUND if each * unit >= raw * 0.999)
        step = max(1.0, step) if whole else step
        start = math.ceil(self.low / step - 1e-9)
        return [k * step for k in range(start, math.floor(self.high / step + 1e-9) + 1)]


def around(values: Iterable[float], *, log: bool = False) -> Scale:
    """A scale with all finite values, and a margin; with `log`, all positive ones."""
    found = [value for value in values if math.isfinite(value) and (value > 0.0 or not log)]
    low, high = (min(found), max(found)) if found else (0.0, 1.0)
    return _with_margin(low, high, log=log and bool(found))


def robust(values: Iterable[float], mode: Mode, others: Iterable[float] = (), *, log_from: float = 10.0) -> Scale:
    """A scale whose worse end is moved in where a few values, as the first of a training, would flatten all others.

    The better end has all of them. A minimized metric has a logarithmic scale if its range spans a large factor.

    Args:
        values: those that decide about the worse end.
        mode: whether they are minimized or maximized.
        others: values of which the better ones are to be seen too.
        log_from: that factor.
    """
    found = sorted(value for value in values if math.isfinite(value))
    if not found:
        return Scale(low=0.0, high=1.0)
    low, high = found[0], found[-1]
    if len(found) >= _FEWEST:
        first, _, third = statistics.quantiles(found, n=4, method="inclusive")
        reach = _FENCE * (third - first)
        if mode == "min" and reach > 0.0:
            high = max(value for value in found if value <= third + reach)
        elif reach > 0.0:
            low = min(value for value in found if value >= first - reach)
    beside = [value for value in others if math.isfinite(value)]
    low, high = (min([low, *beside]), high) if mode == "min" else (low, max([high, *beside]))
    return _with_margin(low, high, log=mode == "min" and low > 0.0 and high > log_from * low)


def _with_margin(low: float, high: float, *, log: bool) -> Scale:
    if log:
        factor = max(high / low, 1.1) ** _MARGIN
        return Scale(low=low / factor, high=high * factor, log=True)
    size = high - low or abs(high) or 1.0
    if not math.isfinite(size):
        return Scale(low=low / 2.0, high=high / 2.0)  # beyond the range of floats, one end is at the edge
    return Scale(low=low - size * _MARGIN, high=high + size * _MARGIN)
