"""A comparison as a person reads it in a terminal: two tables and the sentences under them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.console import Group
from rich.text import Text

from rna_watch.acceleration.methods import AVERAGE, LAYERED, RNA, TRAINED
from rna_watch.acceleration.significance import ranked
from rna_watch.comparison.comparison import CHOSEN, ORIGINAL
from rna_watch.comparison.findings import NAMES, findings, provenance
from rna_watch.comparison.levels import same
from rna_watch.dashboard.layout import Column, Lines, grid, heading, tail_of, wrap
from rna_watch.journal.quantities import counted, number, places, plain

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

    from rna_watch.comparison.comparison import Comparison, Row
    from rna_watch.comparison.levels import Level

NOT_EVALUATED = "-"
MOST_ROWS = 20
_BEST = "bold green"
_WIDEST_TEXT = 110
_LONGEST_NAME = 20
_TITLES = {AVERAGE: "average", RNA: "RNA"}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sheet:
    """What all cells of one comparison share; `star` marks the best where colour cannot."""

    comparison: Comparison
    width: int
    decimals: int | None
    star: bool

    def cell(self, text: str, *, best: bool) -> Text:
        mark = ("*" if best else " ") if self.star else ""
        return Text(text + mark, _BEST if best else "dim" if text == NOT_EVALUATED else "")

    def column(self, title: str, cells: Sequence[Text], drop: int) -> Column:
        # the place of the star is a gap already
        return Column(title=title + " " * self.star, cells=cells, drop=drop, right=True, gap=1 if self.star else 2)


def render(comparison: Comparison, *, width: int, members: bool = False, colour: bool = True) -> RenderableType:
    """The whole page, no line wider than `width`.

    Args:
        comparison: what to show.
        width: of the terminal, in cells.
        members: whether every fixed recipe at most checkpoints is shown too, in tables as wide as there is room.
        colour: whether green marks the best; otherwise a star does.
    """
    c = comparison
    decimals = decimals_of([row.value(key) for row in c.rows for key in (*c.kinds, CHOSEN, *c.members)])
    sheet = _Sheet(comparison=c, width=width, decimals=decimals, star=not colour)
    text_width = min(width, _WIDEST_TEXT)
    lines: Lines = [heading(c.name or "comparison", _extent(c), width)]
    for sentence in provenance(c):
        lines += wrap(sentence, text_width, style="", most=9)
    rows = thinned(c.rows)
    lines += [
        Text(),
        heading(f"{plain(c.metric)} at each {plain(c.step_kind)}", _note(rows, c.rows, star=not colour), width),
    ]
    lines += _checkpoints(sheet, rows)
    if members and c.members:
        lines += [Text(), heading("fixed recipes", "each at every checkpoint", width), *_recipes(sheet, rows)]
    lines += [Text(), *_levels(sheet, members=members), Text(), heading("findings", "", width)]
    for sentence in findings(c):
        lines += _bullet(sentence, text_width)
    for line in lines:
        line.no_wrap = True
    return Group(*lines)


def decimals_of(values: Sequence[float | None]) -> int | None:
    """The fewest decimals that show these numbers exactly, and no more than suit them: two for 1.75 and 2.5."""
    most = places(values)
    if most is None:
        return None
    finite = [value for value in values if value is not None and math.isfinite(value)]
    enough = (d for d in range(most) if all(math.isclose(round(v, d), v, rel_tol=1e-9, abs_tol=1e-12) for v in finite))
    return next(enough, most)


def thinned(rows: Sequence[Row]) -> list[Row]:
    """At most `MOST_ROWS` of the rows, evenly spaced; the last one is always there."""
    if len(rows) <= MOST_ROWS:
        return list(rows)
    step = math.ceil((len(rows) - 1) / (MOST_ROWS - 1))
    return [*rows[:-1:step], rows[-1]]


def _extent(c: Comparison) -> str:
    first, last = c.rows[0].step, c.rows[-1].step
    return f"{counted(len(c.rows), 'checkpoint')} evaluated, {c.step_kind} {first} to {last}"


def _note(shown: Sequence[Row], rows: Sequence[Row], *, star: bool) -> str:
    part = "" if len(shown) == len(rows) else f"{len(shown)} of {len(rows)}; --json has all; "
    return f"{part}best: {'*' if star else 'green'}"


def _bullet(sentence: str, width: int) -> Lines:
    return [
        Text.assemble(("  " if row else "- ", "dim"), line)
        for row, line in enumerate(wrap(sentence, width - 2, style="", most=9))
    ]


def _checkpoints(sheet: _Sheet, rows: Sequence[Row]) -> Lines:
    c = sheet.comparison
    columns = [Column(title=c.step_kind, cells=[Text(str(row.step)) for row in rows], right=True)]
    # a fixed recipe may beat what the choosing metric picked
    rivals = (*c.kinds, *c.fixed)
    # the paper's RNA and the average of its window stay on narrow screens, a longer average goes first
    drops = {ORIGINAL: 0, AVERAGE: 0, RNA: 0, LAYERED: 1, TRAINED: 2} | dict(
        zip(reversed(c.fixed), (5, 6, 8), strict=False)
    )
    columns += [_values(sheet, rows, key, rivals=rivals, drop=drops.get(key, 4)) for key in rivals]
    columns.append(_values(sheet, rows, CHOSEN, rivals=rivals))
    which = [row.points[CHOSEN].candidate if CHOSEN in row.points else NOT_EVALUATED for row in rows]
    cells = [
        Text(tail_of(plain(name), _LONGEST_NAME), "dim" if name in {ORIGINAL, NOT_EVALUATED} else "") for name in which
    ]
    columns.append(Column(title="which", cells=cells, drop=9, gap=1 if sheet.star else 2))
    return _fitted(columns, sheet.width) + wrap(legend(c), sheet.width, style="dim", most=4)


def legend(c: Comparison) -> str:
    """What the columns of a table hold, in a sentence or two."""
    picked = [_TITLES[kind] for kind in (AVERAGE, RNA) if kind in c.kinds]
    told = []
    if picked:
        told.append(
            f"{' and '.join(picked)}: the best of the kind by {c.choosing or c.metric}, picked at each checkpoint."
        )
    if c.fixed:
        told.append(f"{', '.join(c.fixed)}: always the same recipe, over all there is while windows are shorter.")
    return " ".join(told)


def _values(sheet: _Sheet, rows: Sequence[Row], key: str, *, rivals: Sequence[str], drop: int = 0) -> Column:
    cells = []
    for row in rows:
        point = row.points.get(key)
        text = number(point.value, sheet.decimals) if point and point.value is not None else NOT_EVALUATED
        cells.append(sheet.cell(text, best=is_best(sheet.comparison, row, key, rivals)))
    return sheet.column(_TITLES.get(key, plain(key)), cells, drop)


def is_best(c: Comparison, row: Row, key: str, rivals: Sequence[str]) -> bool:
    """Whether no rival at a checkpoint has a better value than this kind or recipe; False where there is none to compare."""
    value = row.value(key)
    values = [v for rival in rivals if (v := row.value(rival)) is not None]
    return value is not None and len(values) > 1 and same(value, ranked([value, *values], float, c.mode)[0])


def _fitted(columns: Sequence[Column], width: int) -> Lines:
    """The columns that fit into the width, and a line that names those left out; the least important are left out first."""
    kept = [column for column in columns if column.width]
    gone: list[str] = []
    while sum(column.width + column.gap for column in kept) - kept[0].gap > width:
        droppable = [column for column in kept if column.drop]
        if not droppable:
            break
        kept.remove(worst := max(droppable, key=lambda column: column.drop))
        gone.insert(0, worst.title.strip())
    lines = grid(kept, width, spans=[None] * len(columns[0].cells))
    if gone:
        lines += wrap(
            f"No room here for: {', '.join(gone)}; a wider terminal or --json has them.", width, style="dim", most=3
        )
    return lines


def _blocks(lead: Sequence[Column], columns: Sequence[Column], width: int) -> Lines:
    """The leading columns with all others, in as many grids as the width needs."""
    blocks: list[list[Column]] = [[]]
    for column in columns:
        if blocks[-1] and sum(x.width + x.gap for x in (*lead, *blocks[-1], column)) - lead[0].gap > width:
            blocks.append([])
        blocks[-1].append(column)
    lines: Lines = []
    for block in blocks:
        lines += [Text()] if lines else []
        lines += grid([*lead, *block], width, spans=[None] * len(lead[0].cells))
    return lines


def _recipes(sheet: _Sheet, rows: Sequence[Row]) -> Lines:
    c = sheet.comparison
    rivals = (ORIGINAL, *c.members)
    lead = [
        Column(title=c.step_kind, cells=[Text(str(row.step)) for row in rows], right=True),
        _values(sheet, rows, ORIGINAL, rivals=rivals),
    ]
    lines = _blocks(lead, [_values(sheet, rows, name, rivals=rivals) for name in c.members], sheet.width)
    return lines + wrap(
        "While a window is still shorter than a recipe asks for, its column has the same recipe over the whole window.",
        sheet.width,
        style="dim",
        most=3,
    )


def _levels(sheet: _Sheet, *, members: bool) -> Lines:
    c = sheet.comparison
    sign = "≤" if c.mode == "min" else "≥"
    lines = [
        heading(
            f"first {plain(c.step_kind)} with {plain(c.metric)} {sign}", "(speed-up over the original)", sheet.width
        )
    ]
    if not c.levels:
        return [
            *lines,
            *wrap(
                "The original never improved on its first value; name levels with --levels.",
                sheet.width,
                style="",
                most=2,
            ),
        ]
    keys = [*c.kinds, *(c.members if members else c.fixed), CHOSEN]
    lead = Column(title="", cells=[Text(NAMES.get(key, plain(key))) for key in keys])
    lines += _blocks([lead], [_level(sheet, level, keys) for level in c.levels], sheet.width)
    tolerances = [level.tolerance for level in c.levels if level.tolerance is not None]
    if tolerances:
        values = [value for row in c.rows if (value := row.value(ORIGINAL)) is not None]
        top = number(ranked(values, float, c.mode)[0], sheet.decimals)
        listed = ", ".join(f"{tolerance:.3g}" for tolerance in tolerances)
        word = "plus" if c.mode == "min" else "minus"
        lines += wrap(
            f"The levels are the best that the original ever reached, {top}, {word} {listed}.",
            sheet.width,
            style="dim",
            most=3,
        )
    return lines


def reached(level: Level, key: str) -> str:
    """The step at which a kind or a recipe reached a level, with its speed-up."""
    step, speedup = level.reached.get(key), level.speedups.get(key)
    if step is None or speedup is None:
        return "never" if step is None else str(step)
    return f"{step} ({'>' if speedup.at_least else ''}{speedup.factor:.2f})"


def _level(sheet: _Sheet, level: Level, keys: Sequence[str]) -> Column:
    steps = [step for key in keys if (step := level.reached.get(key)) is not None]
    cells = []
    for key in keys:
        step = level.reached.get(key)
        cells.append(sheet.cell(reached(level, key), best=step is not None and step == min(steps) < max(steps)))
    digits = number(level.value, sheet.decimals) if level.tolerance is not None else f"{level.value:g}"
    return sheet.column(digits, cells, 0)
