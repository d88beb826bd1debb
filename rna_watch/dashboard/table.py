"""The table of checkpoints, newest at the bottom: the stage of each, the scores of its models, and their weights."""

from __future__ import annotations

import math
import posixpath
from typing import TYPE_CHECKING

from rich.text import Text

from rna_watch.dashboard import coefficients
from rna_watch.dashboard.layout import Column, Lines, grid
from rna_watch.dashboard.look import START, Look
from rna_watch.journal.metric import Values, values_of
from rna_watch.journal.quantities import NOTHING, gain, number, places, plain
from rna_watch.journal.replay import DONE, PENDING, Stage

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from rna_watch.journal.events import Chosen
    from rna_watch.journal.metric import Metric
    from rna_watch.journal.replay import Checkpoint, RunState

STAGES: dict[Stage, tuple[str, str]] = {
    Stage.WAITING: ("…", "dim"),
    Stage.REFUSED: ("✗", "yellow"),
    Stage.VANISHED: (NOTHING, "dim"),
    Stage.ALIAS: (NOTHING, "dim"),
    Stage.READY: ("○", "cyan"),
    Stage.MEASURED: ("◔", "cyan"),
    Stage.EVALUATING: ("◑", "cyan"),
    Stage.CHOSEN: ("◕", "cyan"),
    Stage.PUBLISHING: ("◕", "cyan"),
    Stage.PUBLISHED: ("✓", "green"),
    Stage.FINISHED: ("✓", "dim"),
    Stage.SKIPPED: (NOTHING, "yellow"),
    Stage.FAILED: ("✗", "red"),
}
_HIDDEN = frozenset({Stage.ALIAS, Stage.VANISHED})
_MOST_REFUSED = 3
_SHORTEST_NAME = 14
_MOST_WAITING = 2  # rows of what waits for work


def newest(state: RunState, count: float = math.inf) -> list[Checkpoint]:
    """The newest checkpoints worth a row, oldest first.

    Of files that are no checkpoints and of checkpoints that only wait for work there are a few: a back-fill shows what is
    finished.
    """
    rows: list[Checkpoint] = []
    refused, waiting = 0, state.checkpoints.count([Stage.READY])
    for checkpoint in reversed(state.checkpoints.values()):
        if len(rows) >= count:
            break
        refused += checkpoint.stage is Stage.REFUSED
        waiting -= checkpoint.stage is Stage.READY
        if checkpoint.stage in _HIDDEN or (checkpoint.stage is Stage.REFUSED and refused > _MOST_REFUSED):
            continue
        if checkpoint.stage is Stage.READY and waiting >= _MOST_WAITING:
            continue
        rows.append(checkpoint)
    return rows[::-1]


def ordered(state: RunState, metric: Metric | None, look: Look) -> list[Checkpoint]:
    """All rows in the order that is looked at, the newest or the best one last."""
    rows = newest(state)
    if look.order == "step" or metric is None or metric.mode is None:
        return rows
    sign = 1.0 if metric.mode == "max" else -1.0

    def key(row: Checkpoint) -> float:
        values = values_of(row, metric)
        value = values.chosen if values.chosen is not None else values.original
        if look.order == "gain":
            value = _relative(values.original, values.chosen)
        return sign * value if value is not None and math.isfinite(value) else -math.inf

    return sorted(rows, key=key)


def _relative(original: float | None, ours: float | None) -> float | None:
    return (ours - original) / abs(original) if ours is not None and original else None


def table(
    state: RunState, metric: Metric | None, best: Collection[str], *, width: int, most: int, look: Look = START
) -> Lines:
    """A line of titles and the rows; columns that do not fit are left out, the least useful first.

    Args:
        state: what the journal adds up to.
        metric: the metric that decides, if it is known.
        best: the checkpoints of the best models of the series.
        width: terminal cells of a line.
        most: the most rows.
        look: the row that is picked, and the order.
    """
    picked: Checkpoint | None = None
    if look.row is None and look.order == "step":
        rows = newest(state, most)
    else:
        every = ordered(state, metric, look)
        place = len(every) - 1 - min(look.row or 0, len(every) - 1)
        picked = every[place] if every and look.row is not None else None
        last = min(max(place + most // 2, most), len(every))
        rows = every[max(last - most, 0) : last]
    folder = common_folder([row.name for row in rows])
    values = [values_of(row, metric) if metric else Values() for row in rows]
    pairs = list(zip(rows, values, strict=True))
    decimals = places(value for v in values for value in (v.original, v.average, v.rna, v.chosen))
    columns = [
        Column(title="", cells=[Text("▸" if row is picked else "", "bold cyan") for row in rows]),
        Column(title="step", gap=int(picked is None), cells=[_step(row) for row in rows], right=True),
        Column(title="", cells=[Text(*STAGES[row.stage]) for row in rows]),
        Column(
            title="checkpoint",
            cells=[Text(plain(row.name[len(folder) :]), "reverse" if row is picked else "") for row in rows],
            least=_SHORTEST_NAME,
            gap=1,
        ),
        Column(title="stage", cells=[_stage(row) for row in rows], drop=6),
    ]
    leading = len(columns)
    columns += _scores(values, decimals)
    columns += [
        Column(title="", cells=[_mark(row, best=best) for row in rows], gap=1),
        Column(title="gain", cells=[_gain(row, v, metric) for row, v in pairs], drop=5, right=True, gap=1),
        Column(title="model", cells=[Text(plain(row.chosen.candidate) if row.chosen else "") for row in rows], drop=7),
        Column(title="weights", cells=[coefficients.bars(_weights(row)) for row in rows], drop=4, right=True),
        Column(title="", cells=[coefficients.numbers(_weights(row), _spread(row)) for row in rows], drop=8, right=True),
    ]
    spans = [_span(row, v, leading) for row, v in pairs]
    return grid(columns, width, spans=spans)


def common_folder(names: Sequence[str]) -> str:
    """The folder that all names lie in, with a slash at its end; "" if there is none."""
    folder = posixpath.commonprefix(list(names)).rpartition("/")[0]
    return f"{folder}/" if folder else ""


def _stage(row: Checkpoint) -> Text:
    # The mark of a finished row has the colour already.
    return Text(row.stage.value, "dim" if row.stage in DONE else STAGES[row.stage][1])


def _scores(values: Sequence[Values], decimals: int | None) -> list[Column]:
    columns = []
    for key, title, drop in (
        ("original", "original", 0),
        ("average", "average", 3),
        ("rna", "RNA", 2),
        ("chosen", "chosen", 0),
    ):
        cells = [getattr(v, key) for v in values]
        style = "bold" if key == "chosen" else ""
        texts = [Text(number(cell, decimals), style if cell is not None else "dim") for cell in cells]
        empty = all(cell is None for cell in cells)
        columns.append(Column(title=title, cells=[Text() for _ in cells] if empty else texts, drop=drop, right=True))
    return columns


def _step(row: Checkpoint) -> Text:
    return Text(str(row.step) if row.step is not None else "")


def _mark(row: Checkpoint, *, best: Collection[str]) -> Text:
    chosen = row.chosen
    mark = Text()
    if chosen and chosen.better_than_original is not None:
        mark.append(*_verdict(chosen))
    return mark.append("★", "green") if row.name in best else mark


def _verdict(chosen: Chosen) -> tuple[str, str]:
    if not chosen.better_than_original:
        return "=", "dim"
    return ("~", "dim") if chosen.significant is False else ("▲", "green")


def _gain(row: Checkpoint, values: Values, metric: Metric | None) -> Text:
    text = gain(values.original, values.chosen, metric.mode if metric else None)
    return Text(text, _verdict(row.chosen)[1] if row.chosen else "")


def _weights(row: Checkpoint) -> list[float]:
    return row.chosen.weights if row.chosen else []


def _spread(row: Checkpoint) -> list[float]:
    return row.chosen.spread if row.chosen else []


def _span(row: Checkpoint, values: Values, leading: int) -> tuple[int, Text] | None:
    """The reason, in a row that has no numbers."""
    if row.chosen or values != Values():
        return None
    style = "dim" if row.stage in DONE | PENDING | {Stage.WAITING} else STAGES[row.stage][1]
    return leading, Text(plain(row.reason), style)
