"""The comparison as tables: every kind at every checkpoint, and when each reached given levels."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rna_watch.comparison.comparison import CHOSEN
from rna_watch.comparison.tables import NOT_EVALUATED, decimals_of, is_best, legend, reached, thinned
from rna_watch.exporters.curves import name_of
from rna_watch.exporters.markup import Markup, tag
from rna_watch.journal.quantities import number, plain

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rna_watch.comparison.comparison import Comparison, Row


def section(c: Comparison) -> Markup:
    """The tables; of a long run a part first, and all of it folded behind."""
    decimals = decimals_of([row.value(key) for row in c.rows for key in (*c.kinds, CHOSEN, *c.fixed)])
    shown = thinned(c.rows)
    parts = [_values(c, shown, decimals)]
    if len(shown) < len(c.rows):
        said = f"All {len(c.rows)} checkpoints"
        parts.append(tag("details", tag("summary", said), _values(c, c.rows, decimals)))
    return tag(
        "section",
        tag("h2", f"{plain(c.metric)} at each {plain(c.step_kind)}"),
        tag("p", f"The best of a row is bold and has a star. {legend(c)}", class_="soft"),
        *parts,
        *_levels(c, decimals),
    )


def _values(c: Comparison, rows: Sequence[Row], decimals: int | None) -> Markup:
    rivals = (*c.kinds, *c.fixed)
    keys = (*rivals, CHOSEN)
    titles = [plain(c.step_kind), *(name_of(key) for key in keys), "which"]
    body = []
    for row in rows:
        cells = [tag("td", str(row.step))]
        for key in keys:
            point = row.points.get(key)
            best = is_best(c, row, key, rivals)
            known = point is not None and point.value is not None
            text = number(point.value, decimals) if point is not None and known else NOT_EVALUATED
            cells.append(tag("td", f"{text}*" if best else text, class_="top" if best else None))
        which = row.points[CHOSEN].candidate if CHOSEN in row.points else NOT_EVALUATED
        body.append(tag("tr", *cells, tag("td", plain(which), class_="left")))
    return _table(titles, body, last_left=True)


def _table(
    titles: Sequence[str], body: Sequence[Markup], *, last_left: bool = False, first_left: bool = False
) -> Markup:
    heads = [
        tag("th", title, class_="left" if (k == len(titles) - 1 and last_left) or (not k and first_left) else None)
        for k, title in enumerate(titles)
    ]
    table = tag("table", tag("thead", tag("tr", *heads)), tag("tbody", *body))
    return tag("div", table, class_="scroll")


def _levels(c: Comparison, decimals: int | None) -> list[Markup]:
    if not c.levels:
        return []
    sign = "\N{LESS-THAN OR EQUAL TO}" if c.mode == "min" else "\N{GREATER-THAN OR EQUAL TO}"
    titles = ["", *(number(level.value, decimals) for level in c.levels)]
    body = [
        tag("tr", tag("td", name_of(key), class_="left"), *(tag("td", reached(level, key)) for level in c.levels))
        for key in (*c.kinds, *c.fixed, CHOSEN)
    ]
    head = f"First {plain(c.step_kind)} with {plain(c.metric)} {sign} (speed-up over the original)"
    return [tag("h3", head), _table(titles, body, first_left=True)]
