"""The metric against the step: every kind of model, what was taken, what is saved, where the best is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rna_watch.acceleration.methods import ANNEAL, AVERAGE, LAYERED, RNA, TRAINED
from rna_watch.comparison.comparison import CHOSEN, ORIGINAL
from rna_watch.comparison.findings import NAMES
from rna_watch.comparison.levels import known
from rna_watch.dashboard.scale import robust
from rna_watch.exporters import chart
from rna_watch.exporters.markup import Markup, join, tag
from rna_watch.exporters.style import CURVES, NARROW, WIDE
from rna_watch.journal.quantities import number, places, plain
from rna_watch.journal.words import DIRECTIONS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rna_watch.comparison.comparison import Comparison, Row
    from rna_watch.journal.replay import RunState

_STYLES = {
    ORIGINAL: "original",
    AVERAGE: "average",
    RNA: "rna",
    LAYERED: "layered",
    ANNEAL: "anneal",
    TRAINED: "trained",
}
_ANCHORS = (ORIGINAL, AVERAGE, CHOSEN)  # what is to be told apart; worse values of others may lie beyond


def name_of(kind: str) -> str:
    """A kind as a legend and a table name it."""
    return "anneal (training)" if kind == ANNEAL else NAMES.get(kind, plain(kind))


def figure(c: Comparison, state: RunState) -> Markup:
    """The picture of a metric with its legend, for wide and narrow screens.

    Args:
        c: the comparison that shows this metric.
        state: what the journal adds up to; it tells which models are saved.
    """
    marks = _marks(c, state)
    values = [value for row in c.rows for key in _ANCHORS if (value := row.value(key)) is not None]
    others = [value for row in c.rows for kind in c.kinds if (value := row.value(kind)) is not None]
    drawn = chart.Chart(
        title=f"{plain(c.metric)} at each {plain(c.step_kind)}",
        curves=[
            chart.Curve(label=name_of(kind), style=_STYLES.get(kind, CURVES[-1]), points=c.curve(kind))
            for kind in c.kinds
        ],
        scale=robust(values, c.mode, [*others, *(mark.value for mark in marks)]),
        step_kind=plain(c.step_kind),
        marks=marks,
        told=[(row.step, _told(c, row)) for row in c.rows],
    )
    how = ", logarithmic" if drawn.scale.log else ""
    return tag(
        "figure",
        tag("h3", f"{plain(c.metric)} ({DIRECTIONS[c.mode]}{how})"),
        _legend(drawn),
        chart.draw(drawn, width=760, height=340, style=WIDE),
        chart.draw(drawn, width=380, height=300, style=NARROW),
        tag("figcaption", " ".join(_caption(c, drawn))),
    )


def _marks(c: Comparison, state: RunState) -> list[chart.Mark]:
    """Rings where a model was taken instead of the original, dots where one is saved, a line where the best is."""
    marks = []
    saved = {published.checkpoint for published in state.outputs.values()}
    best = c.standing.model.checkpoint if c.standing and c.standing.model else None
    for row in c.rows:
        checkpoint = state.checkpoints[row.checkpoint]
        ours = (checkpoint.verdict.metrics.get("chosen") or {}).get(c.metric) if checkpoint.verdict else None
        taken = row.points.get(CHOSEN)
        if row.checkpoint in saved and known(ours):
            marks.append(chart.Mark(kind=chart.SAVED, step=row.step, value=ours))
        elif taken and taken.candidate != ORIGINAL and known(taken.value):
            marks.append(chart.Mark(kind=chart.TAKEN, step=row.step, value=taken.value))
        if row.checkpoint == best and known(ours):
            marks.append(chart.Mark(kind=chart.BEST, step=row.step, value=ours))
    return marks


def _told(c: Comparison, row: Row) -> str:
    decimals = places([row.value(kind) for kind in c.kinds])
    lines = [f"{plain(c.step_kind)} {row.step}, {plain(row.checkpoint)}"]
    for key in (*c.kinds, CHOSEN):
        point = row.points.get(key)
        if point and point.value is not None:
            which = "" if key == ORIGINAL else f" ({plain(point.candidate)})"
            lines.append(f"{name_of(key)} {number(point.value, decimals)}{which}")
    return "\n".join(lines)


def _swatch(*drawn: Markup) -> Markup:
    return tag("svg", *drawn, viewBox="0 0 30 12", aria_hidden="true")


def _legend(drawn: chart.Chart) -> Markup:
    entries = [
        tag("li", _swatch(tag("path", d="M0 6H30", class_=f"line {curve.style}")), curve.label)
        for curve in drawn.curves
    ]
    words = {chart.SAVED: "chosen, and saved", chart.TAKEN: "chosen, no longer kept"}
    there = {mark.kind for mark in drawn.marks}
    entries += [
        tag("li", _swatch(tag("circle", cx=15, cy=6, r=4.5, class_=kind)), said)
        for kind, said in words.items()
        if kind in there
    ]
    return tag("ul", *entries, class_="legend")


def _caption(c: Comparison, drawn: chart.Chart) -> list[str]:
    told = []
    if c.metric == c.choosing:
        told.append("Models were chosen by this metric, so that its values are flattered.")
    outside = chart.beyond(drawn)
    if outside:
        worst = max if c.mode == "min" else min
        step, curve, value = worst(outside, key=lambda each: each[2])
        count = f"{len(outside)} values are" if len(outside) > 1 else "1 value is"
        told.append(
            f"{count} out of range and marked at the edge; the farthest is {number(value, places([value]))} "
            f"({curve}, {plain(c.step_kind)} {step})."
        )
    missing = _not_finite(c.rows)
    if missing:
        told.append(f"{missing} {'values are' if missing > 1 else 'value is'} no finite number and not drawn.")
    return told


def _not_finite(rows: Sequence[Row]) -> int:
    return sum(
        point.value is not None and not known(point.value)
        for row in rows
        for key, point in row.points.items()
        if key in _STYLES
    )


def all_figures(c: Comparison, others: Sequence[Comparison], state: RunState) -> Markup:
    """The choosing metric first, then the others."""
    return join(figure(c, state), *(figure(each, state) for each in others))
