"""A sparkline: a series of numbers as a strip of bars, on a scale that several strips can share."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

BARS = " ▁▂▃▄▅▆▇█"
BROKEN = "\N{MULTIPLICATION SIGN}"
_LOG_FROM = 8.0
_STRETCH = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """The values of the lowest and the highest bar."""

    low: float
    high: float
    log: bool

    def height(self, value: float, levels: int) -> int:
        """The height of the bar for a value, from 1 to `levels`."""
        low, high, value = (
            (math.log(self.low), math.log(self.high), math.log(value)) if self.log else (self.low, self.high, value)
        )
        # high - low itself may overflow
        span = high / 2 - low / 2
        share = (value / 2 - low / 2) / span if span > 0 else 0.5
        return 1 + round(min(max(share, 0.0), 1.0) * (levels - 1))


def common_scale(*series: Sequence[float | None]) -> Scale | None:
    """One scale for all these series, logarithmic if they span more than a factor of 8; None if no number is finite."""
    finite = [value for values in series for value in values if value is not None and math.isfinite(value)]
    if not finite:
        return None
    low, high = min(finite), max(finite)
    return Scale(low=low, high=high, log=low > 0 and high / low >= _LOG_FROM)


def resample(values: Sequence[float | None], width: int) -> list[float | None]:
    """The values for `width` columns: each is repeated at most four times, or neighbours are averaged."""
    count = len(values)
    if not count or width <= 0:
        return []
    if count <= width:
        repeat = min(width // count, _STRETCH)
        return [value for value in values for _ in range(repeat)]
    bounds = [index * count // width for index in range(width + 1)]
    return [_mean(values[start:end]) for start, end in pairwise(bounds)]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    finite = [value for value in known if math.isfinite(value)]
    if finite:
        return sum(value / len(finite) for value in finite)
    return known[-1] if known else None


def sparkline(values: Sequence[float | None], *, scale: Scale, width: int, rows: int = 1) -> list[str]:
    """The strip, top row first: no bar for a missing number, a cross for one that is not finite.

    Args:
        values: the series.
        scale: the values of the lowest and the highest bar.
        width: columns.
        rows: lines.
    """
    columns = resample(values, width)
    strip = []
    for row in reversed(range(rows)):
        cells = []
        for value in columns:
            if value is None:
                cells.append(" ")
            elif not math.isfinite(value):
                cells.append(" " if row else BROKEN)
            else:
                cells.append(BARS[min(max(scale.height(value, 8 * rows) - 8 * row, 0), 8)])
        strip.append("".join(cells))
    return strip
