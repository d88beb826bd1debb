"""A line chart in SVG: curves over steps, marks on them, values out of range shown at the edge."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rna_watch.dashboard.scale import Scale
from rna_watch.exporters.hints import hints
from rna_watch.exporters.markup import Markup, join, tag
from rna_watch.exporters.style import WIDE

if TYPE_CHECKING:
    from collections.abc import Sequence

TAKEN, SAVED, BEST = "taken", "saved", "best"
_MANY = 80  # marks that would hide the lines are drawn smaller
_LEFT, _RIGHT, _TOP, _BOTTOM = 62.0, 14.0, 14.0, 40.0
_EDGE = 5.0
_SIGNS = "\N{MINUS SIGN}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """(step, value) at each checkpoint, None where there is none; `style` is a class of the style sheet."""

    label: str
    style: str
    points: Sequence[tuple[int, float | None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """A mark at a step and a value: a model that was taken, one that is saved too, or the best."""

    kind: str
    step: int
    value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """What is drawn: curves and marks, on a scale of values; `told` has the words for each step, which a pointer brings up."""

    title: str
    curves: Sequence[Curve]
    scale: Scale
    step_kind: str
    unit: str = ""
    marks: Sequence[Mark] = ()
    told: Sequence[tuple[int, str]] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """The place of the plot in a picture of so many units; `steps` is the scale of its horizontal axis."""

    width: float
    height: float
    steps: Scale

    def x(self, step: float) -> float:
        """The horizontal place of a step."""
        return _LEFT + self.steps.at(step) * (self.width - _LEFT - _RIGHT)

    def y(self, place: float) -> float:
        """The vertical place of a value that is at `place` of its scale."""
        return self.height - _BOTTOM - min(max(place, -1.0), 2.0) * (self.height - _BOTTOM - _TOP)


def draw(chart: Chart, *, width: float, height: float, style: str) -> Markup:
    """The picture.

    Args:
        chart: what is drawn.
        width: of the picture, in its own units; fonts have 12.
        height: likewise.
        style: a class of the style sheet that says where it is shown.
    """
    found = [step for curve in chart.curves for step, _ in curve.points]
    frame = Frame(width=width, height=height, steps=_of_steps(found))
    return tag(
        "svg",
        tag("title", chart.title),
        _axes(chart, frame),
        *(
            tag("path", d=path, class_=f"line {c.style}")
            for c in chart.curves
            if (path := _path(c, chart.scale, frame))
        ),
        *(
            tag("path", d=dots, class_=f"dot {c.style}")
            for c in chart.curves
            if (dots := _alone(c, chart.scale, frame))
        ),
        *_marks(chart, frame),
        *_beyond(chart, frame),
        hints(
            [words for _, words in chart.told],
            [frame.x(step) for step, _ in chart.told],
            (_LEFT, width - _RIGHT),
            (_TOP, height - _BOTTOM),
        )
        if style == WIDE
        else None,
        class_=f"chart {style}" + (" many" if len(set(found)) > _MANY else ""),
        viewBox=f"0 0 {width:g} {height:g}",
        role="img",
    )


def beyond(chart: Chart) -> list[tuple[int, str, float]]:
    """(step, curve, value) of what is out of range, in the order of steps."""
    found = [
        (step, curve.label, value)
        for curve in chart.curves
        for step, value in curve.points
        if value is not None and math.isfinite(value) and not chart.scale.holds(value)
    ]
    return sorted(found)


def _of_steps(steps: Sequence[int]) -> Scale:
    low, high = (min(steps), max(steps)) if steps else (0, 1)
    margin = (high - low) * 0.01 or 0.5
    return Scale(low=low - margin, high=high + margin)


def tick_text(value: float) -> str:
    """A round number as an axis shows it."""
    shown = f"{value:,.0f}" if value == round(value) and 1e3 <= abs(value) < 1e7 else f"{value:.6g}"
    return shown.replace("-", _SIGNS)


def _axes(chart: Chart, frame: Frame) -> Markup:
    right, bottom = frame.width - _RIGHT, frame.height - _BOTTOM
    parts: list[Markup] = []
    for value in chart.scale.ticks(5):
        y = frame.y(chart.scale.at(value))
        parts.append(tag("line", x1=_LEFT, x2=right, y1=y, y2=y, class_="grid"))
        parts.append(tag("text", tick_text(value), x=_LEFT - 7, y=y + 4, class_="end"))
    for value in frame.steps.ticks(8 if frame.width > 500 else 4, whole=True):
        x = frame.x(value)
        parts.append(tag("line", x1=x, x2=x, y1=bottom, y2=bottom + 4, class_="axis"))
        parts.append(tag("text", tick_text(value), x=x, y=bottom + 17, class_="middle"))
    parts.append(tag("line", x1=_LEFT, x2=right, y1=bottom, y2=bottom, class_="axis"))
    parts.append(tag("text", chart.step_kind, x=(_LEFT + right) / 2, y=bottom + 33, class_="middle"))
    return join(*parts)


def _place(step: int, value: float, scale: Scale, frame: Frame) -> str:
    return f"{frame.x(step):.1f} {frame.y(scale.at(value)):.1f}"


def _path(curve: Curve, scale: Scale, frame: Frame) -> str:
    """The lines between neighbouring values; a line to a value out of range ends at the edge."""
    parts: list[str] = []
    before: tuple[float, float] | None = None
    for step, value in curve.points:
        if value is None or not math.isfinite(value):
            before = None
            continue
        if before is not None and (ends := _clipped(before, (float(step), value), scale)):
            (a, p), (b, q) = ends
            start = f"M{frame.x(a):.1f} {frame.y(p):.1f}"
            end = f"L{frame.x(b):.1f} {frame.y(q):.1f}"
            joined = bool(parts) and parts[-1] == "L" + start[1:]
            parts += [end] if joined else [start, end]
        before = (float(step), value)
    return "".join(parts)


def _clipped(
    one: tuple[float, float], other: tuple[float, float], scale: Scale
) -> tuple[tuple[float, float], tuple[float, float]] | None:
    """The part of a line that is within the scale, as (step, place); None if there is none."""
    (a, p), (b, q) = (one[0], scale.at(one[1])), (other[0], scale.at(other[1]))
    if max(p, q) < 0.0 or min(p, q) > 1.0:
        return None

    def cut(step: float, place: float) -> tuple[float, float]:
        edge = min(max(place, 0.0), 1.0)
        return (step, place) if edge == place else (a + (b - a) * (edge - p) / (q - p), edge)

    return cut(a, p), cut(b, q)


def _alone(curve: Curve, scale: Scale, frame: Frame) -> str:
    """Dots for values with gaps on both sides, which a line alone would not show."""
    values = [value if value is not None and math.isfinite(value) else None for _, value in curve.points]
    around = [None, *values, None]
    return "".join(
        f"M{_place(step, value, scale, frame)}h0"
        for k, (step, _) in enumerate(curve.points)
        if (value := values[k]) is not None and around[k] is None and around[k + 2] is None and scale.holds(value)
    )


def _marks(chart: Chart, frame: Frame) -> list[Markup]:
    size = 4.5 if len(chart.marks) <= _MANY else 2.2
    drawn = []
    for mark in chart.marks:
        if not chart.scale.holds(mark.value):
            continue
        x, y = frame.x(mark.step), frame.y(chart.scale.at(mark.value))
        if mark.kind == BEST:
            drawn.append(tag("line", x1=x, x2=x, y1=_TOP, y2=frame.height - _BOTTOM, class_="best-line"))
            left = frame.steps.at(mark.step) > 0.5
            side, place = ("best end", x - 4) if left else ("best", x + 4)
            drawn.append(tag("text", "best", x=place, y=_TOP + 9, class_=side))
        else:
            drawn.append(tag("circle", cx=x, cy=y, r=size, class_=mark.kind))
    return drawn


def _beyond(chart: Chart, frame: Frame) -> list[Markup]:
    """A triangle at the edge for each value out of range."""
    drawn = []
    for curve in chart.curves:
        path = ""
        for step, value in curve.points:
            if value is None or not math.isfinite(value) or chart.scale.holds(value):
                continue
            above = value > chart.scale.high
            x, y = frame.x(step), frame.y(1.0 if above else 0.0)
            tip = -_EDGE if above else _EDGE
            path += f"M{x - _EDGE / 2:.1f} {y:.1f}h{_EDGE:.1f}l{-_EDGE / 2:.1f} {tip:.1f}z"
        if path:
            drawn.append(tag("path", d=path, class_=f"beyond {curve.style}"))
    return drawn
