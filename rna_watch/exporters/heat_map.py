"""A heat map in SVG: numbers of both signs in columns and rows, by the depth of two colours that everybody can tell apart."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from rna_watch.exporters.hints import hints
from rna_watch.exporters.markup import Markup, tag
from rna_watch.exporters.style import WIDE

if TYPE_CHECKING:
    from collections.abc import Sequence

_SHADES = 10
_NONE = "none"
_LEFT, _RIGHT, _TOP, _BOTTOM = 62.0, 14.0, 6.0, 40.0


@dataclass(frozen=True, slots=True, kw_only=True)
class HeatMap:
    """Columns of numbers, the first at the top; an empty column is grey, None is left blank.

    `labels` stand under the columns, `rows` beside the rows; `told` are the words for each column, which a pointer brings up.
    """

    title: str
    columns: Sequence[Sequence[float | None]]
    labels: Sequence[str]
    rows: Sequence[str]
    axis: str
    told: Sequence[str]

    @property
    def top(self) -> float:
        """The largest absolute number, which has the deepest colour."""
        found = [abs(v) for column in self.columns for v in column if v is not None and math.isfinite(v)]
        return max(found, default=0.0)


def draw(heat: HeatMap, *, width: float, style: str) -> Markup:
    """The picture.

    Args:
        heat: what is drawn.
        width: of the picture, in its own units; fonts have 12.
        style: a class of the style sheet that says where it is shown.
    """
    tall = 20.0 if len(heat.rows) <= 12 else 11.0
    height = _TOP + tall * len(heat.rows) + _BOTTOM
    wide = (width - _LEFT - _RIGHT) / max(len(heat.columns), 1)
    return tag(
        "svg",
        tag("title", heat.title),
        *_cells(heat, wide, tall),
        *_words(heat, wide, tall, width, height),
        hints(
            heat.told,
            [_LEFT + (k + 0.5) * wide for k in range(len(heat.told))],
            (_LEFT, width - _RIGHT),
            (_TOP, height - _BOTTOM),
        )
        if style == WIDE
        else None,
        class_=f"heat {style}",
        viewBox=f"0 0 {width:g} {height:g}",
        role="img",
    )


def _cells(heat: HeatMap, wide: float, tall: float) -> list[Markup]:
    """One path for each shade, and one rectangle for equal neighbours, so that thousands of cells take little room."""
    shades: dict[str, list[str]] = {}
    top = heat.top or 1.0
    empty = [_NONE if not column else "" for column in heat.columns]
    lines = [(0.0, tall * len(heat.rows), empty)]
    for row in range(len(heat.rows)):
        values = [column[row] if row < len(column) else None for column in heat.columns]
        lines.append((row * tall, tall, [_shade(value, top) for value in values]))
    for y, height, found in lines:
        first = 0
        for shade, group in groupby(found):
            count = len(list(group))
            if shade:
                rectangle = (
                    f"M{_LEFT + first * wide:.1f} {_TOP + y:g}h{count * wide:.2f}v{height:g}h{-count * wide:.2f}z"
                )
                shades.setdefault(shade, []).append(rectangle)
            first += count
    return [tag("path", d="".join(parts), class_=f"cell {shade}") for shade, parts in sorted(shades.items())]


def _shade(value: float | None, top: float) -> str:
    if value is None or not math.isfinite(value):
        return ""
    depth = math.ceil(abs(value) / top * _SHADES - 1e-9)
    return "zero" if not depth else f"{'minus' if value < 0.0 else 'plus'} d{depth}"


def _words(heat: HeatMap, wide: float, tall: float, width: float, height: float) -> list[Markup]:
    every = max(1, -(-len(heat.rows) * 14 // int(tall * len(heat.rows) or 1)))
    drawn = [
        tag("text", name, x=_LEFT - 7, y=_TOP + (row + 0.5) * tall + 4, class_="end")
        for row, name in enumerate(heat.rows)
        if row % every == 0
    ]
    step = max(1, math.ceil(len(heat.labels) / (10 if width > 500 else 5)))
    drawn += [
        tag("text", heat.labels[k], x=_LEFT + (k + 0.5) * wide, y=height - _BOTTOM + 16, class_="middle")
        for k in range(0, len(heat.labels), step)
    ]
    drawn.append(tag("text", heat.axis, x=(_LEFT + width - _RIGHT) / 2, y=height - _BOTTOM + 33, class_="middle"))
    return drawn


def key(heat: HeatMap) -> Markup:
    """The meaning of the colours."""
    steps = [*(f"minus d{d}" for d in (10, 7, 4, 1)), "zero", *(f"plus d{d}" for d in (1, 4, 7, 10))]
    swatches = [tag("span", "", class_=f"swatch {step}") for step in steps]
    top = f"{heat.top:.3g}"
    return tag("p", f"\N{MINUS SIGN}{top} ", *swatches, f" +{top}", class_="key")
