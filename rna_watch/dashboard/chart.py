"""The chart of the deciding metric: original, best average and chosen on one scale, over the width of the screen."""

from __future__ import annotations

import math
from itertools import groupby, islice, pairwise
from operator import itemgetter
from typing import TYPE_CHECKING

from rich.text import Text

from rna_watch.dashboard.layout import Lines, fit, heading
from rna_watch.dashboard.scale import Scale, around, robust
from rna_watch.journal.metric import values_of
from rna_watch.journal.quantities import counted, number, places
from rna_watch.journal.words import DIRECTIONS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rna_watch.journal.metric import Metric
    from rna_watch.journal.replay import Checkpoint, RunState
    from rna_watch.journal.standing import Standing

Series = list[float | None]
# No screen has so many columns of dots; a frame must be drawn quickly however long the run is.
_MOST = 600
_LABELS_FROM = 70
_LOG_FROM = 4.0  # a chart of a few lines shows less than a page
# Each series has a pattern of its own along the line, so that it is told without colour: dots on, of how many.
_NAMES = ("original", "average", "chosen")
_STYLES = {"original": "yellow", "average": "magenta", "chosen": "bold cyan"}
_PATTERNS = {"original": (1, 3), "average": (3, 5), "chosen": (1, 1)}
_SAMPLES = {"original": "⠂⠂", "average": "╴╴", "chosen": "━━"}
# The bit of each dot of a braille cell, by column and row.
_BITS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))
_BRAILLE = 0x2800
_STAR, _EMPTY = ("★", "bold green"), (" ", "")


def chart(state: RunState, metric: Metric, best: Standing | None, *, width: int, rows: int) -> Lines:
    """A heading, `rows` lines of chart and a line of steps; nothing until two checkpoints have been evaluated.

    A very long run shows its newest part. The first values of a training do not flatten the others.

    Args:
        state: what the journal adds up to.
        metric: the metric that decides.
        best: the best model, which gets a star.
        width: terminal cells of a line.
        rows: the height of the chart, in lines.
    """
    shown: list[Checkpoint] = []
    series: dict[str, Series] = {name: [] for name in _NAMES}
    for checkpoint in list(islice(reversed(state.checkpoints.values()), _MOST))[::-1]:
        if not checkpoint.verdict and not checkpoint.evaluated:
            continue
        values = values_of(checkpoint, metric)
        if values.original is None and values.chosen is None:
            continue
        shown.append(checkpoint)
        for name in _NAMES:
            series[name].append(getattr(values, name))
    finite = {name: [value for value in values if _is_number(value)] for name, values in series.items()}
    every = [value for values in finite.values() for value in values if value is not None]
    if len(shown) < 2 or not every:
        return []
    originals = [value for value in finite["original"] if value is not None]
    scale = robust(originals or every, metric.mode, every, log_from=_LOG_FROM) if metric.mode else around(every)
    decimals = places([*every, scale.low, scale.high])
    labels = [number(value, decimals) for value in (scale.high, scale.low)]
    left = max(map(len, labels)) + 1
    last = _last(series, decimals) if width >= _LABELS_FROM and rows >= len(_NAMES) else {}
    right = max((len(text) for text in last.values()), default=-1) + 1
    columns = max(width - left - 1 - right, 8)
    star = _star(shown, best, scale, columns, rows)
    lines = [heading(*_title(len(shown), len(state.checkpoints) > _MOST, metric, scale, every), width)]
    cells = _cells(series, scale, columns, rows)
    beside = _beside(series, last, scale, rows)
    for row in range(rows):
        label = "" if row not in {0, rows - 1} else labels[bool(row)]
        line = Text().append(label.rjust(left - 1), "dim")
        line.append(" ┤" if row in {0, rows - 1} else " │", "dim")
        across = (_STAR if (column, row) == star else cells.get((column, row), _EMPTY) for column in range(columns))
        for style, group in groupby(across, key=itemgetter(1)):
            line.append("".join(map(itemgetter(0), group)), style)
        if row in beside:
            line.append(f" {last[beside[row]]}", _STYLES[beside[row]])
        lines.append(fit(line, width))
    return [*lines, _steps(shown, left, columns, width)]


def _is_number(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _title(count: int, newest: bool, metric: Metric, scale: Scale, every: Sequence[float]) -> tuple[str, str]:
    beyond = sum(not scale.holds(value) for value in every)
    notes = [
        ("newest " if newest else "") + counted(count, "checkpoint"),
        "log scale" if scale.log else "",
        f"{counted(beyond, 'value')} off the chart" if beyond else "",
    ]
    direction = DIRECTIONS.get(metric.mode or "", "")
    return metric.name + (f", {direction}" if direction else ""), ", ".join(filter(None, notes))


def _last(series: dict[str, Series], decimals: int | None) -> dict[str, str]:
    """The last value of each series with its name and a sample of its line, which together are the legend."""
    found = {}
    for name, values in series.items():
        last = next((value for value in reversed(values) if _is_number(value)), None)
        if last is not None:
            found[name] = f"{_SAMPLES[name]} {name} {number(last, decimals)}"
    width = max(map(len, found.values()), default=0)
    return {name: text.ljust(width) for name, text in found.items()}


def _beside(series: dict[str, Series], last: dict[str, str], scale: Scale, rows: int) -> dict[int, str]:
    """The row of each name: that of its last value, or the next free one."""
    wanted = []
    for name in last:
        value = next(value for value in reversed(series[name]) if _is_number(value))
        assert value is not None
        wanted.append((_height(scale, value, rows) // 4, name))
    found: dict[int, str] = {}
    for place, (row, name) in enumerate(sorted(wanted)):
        lowest = max(found, default=-1) + 1
        found[min(max(row, lowest), rows - len(wanted) + place)] = name
    return found


def _height(scale: Scale, value: float, rows: int) -> int:
    """The dot from the top, of four for each line."""
    return round((1.0 - min(max(scale.at(value), 0.0), 1.0)) * (4 * rows - 1))


def _across(index: int, count: int, columns: int) -> int:
    """The dot from the left, of two for each column."""
    return round(index * (2 * columns - 1) / max(count - 1, 1))


def _cells(series: dict[str, Series], scale: Scale, columns: int, rows: int) -> dict[tuple[int, int], tuple[str, str]]:
    """The characters of the lines, by column and row; the series that matters more gives a cell its colour."""
    bits: dict[tuple[int, int], int] = {}
    styles: dict[tuple[int, int], str] = {}
    for name, values in series.items():
        on, of = _PATTERNS[name]
        count = len(values)
        # of several values in one column of dots, the last one
        dots = {_across(index, count, columns): value for index, value in enumerate(values) if _is_number(value)}
        points = [(x, _height(scale, value, rows)) for x, value in dots.items() if value is not None]
        for (x0, y0), (x1, y1) in pairwise([points[0], *points] if points else []):
            steps = max(x1 - x0, abs(y1 - y0), 1)
            for step in range(steps + 1):
                x, y = x0 + (x1 - x0) * step // steps, y0 + round((y1 - y0) * step / steps)
                if step in {0, steps} or (x if x1 - x0 >= abs(y1 - y0) else y) % of < on:
                    cell = (x // 2, y // 4)
                    bits[cell] = bits.get(cell, 0) | _BITS[x % 2][y % 4]
                    styles[cell] = _STYLES[name]
    return {cell: (chr(_BRAILLE + found), styles[cell]) for cell, found in bits.items()}


def _star(
    shown: Sequence[Checkpoint], best: Standing | None, scale: Scale, columns: int, rows: int
) -> tuple[int, int] | None:
    """The cell of the best model."""
    if best is None or best.model is None or not math.isfinite(best.model.value):
        return None
    names = [checkpoint.name for checkpoint in shown]
    if best.model.checkpoint not in names:
        return None
    x = _across(names.index(best.model.checkpoint), len(names), columns)
    return x // 2, _height(scale, best.model.value, rows) // 4


def _steps(shown: Sequence[Checkpoint], left: int, columns: int, width: int) -> Text:
    """The steps of the first and the last checkpoint below their places."""
    first, last = (
        f"{each.admitted.step_kind} {each.admitted.step}" if each.admitted else each.name
        for each in (shown[0], shown[-1])
    )
    room = columns - len(first) - len(last)
    return fit(Text(" " * (left + 1) + (f"{first}{' ' * room}{last}" if room > 0 else first), "dim"), width)
