"""The coefficients of a combination, drawn: one mark for each input, oldest first."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Sequence

MOST = 12
BROKEN = "\N{MULTIPLICATION SIGN}"
# The full block is not used: it would touch the bars of the row above.
_POSITIVE = "▁▂▃▄▅▆▇"
# Triangles that point down, small and large, differ from bars in their form, not only in their colour.
_NEGATIVE = "▾▼"
_ZERO = "·"
NEGATIVE_STYLE = "magenta"


def bars(weights: Sequence[float]) -> Text:
    """Marks as large as the weights: a bar for a positive one, a triangle for a negative one, a dot for zero."""
    text = Text()
    if len(weights) > MOST:
        text.append("…", "dim")
    shown = weights[-MOST:]
    largest = max((abs(weight) for weight in shown if math.isfinite(weight)), default=0.0)
    for weight in shown:
        if not math.isfinite(weight):
            text.append(BROKEN, "red")
        elif weight == 0 or largest == 0:
            text.append(_ZERO, "dim")
        elif weight > 0:
            text.append(_POSITIVE[min(int(weight / largest * 7), 6)], "dim")
        else:
            text.append(_NEGATIVE[abs(weight) * 2 >= largest], NEGATIVE_STYLE)
    return text


def numbers(weights: Sequence[float], spread: Sequence[float] = ()) -> Text:
    """The weights in digits, without the inputs of weight 0 at the beginning.

    Args:
        weights: one for each input, oldest first.
        spread: their standard deviations over the tensors, if they differ; the largest is shown.
    """
    first = next((index for index, weight in enumerate(weights) if weight), len(weights))
    text = Text()
    for index, weight in enumerate(weights[first:]):
        digits = f"{weight:.2f}" if abs(weight) < 99.995 else f"{weight:.0e}"
        text.append((" " if index else "") + digits.rjust(5), NEGATIVE_STYLE if weight < 0 else "")
    if spread:
        text.append(f" ±{max(spread):.2f}", "dim")
    return text


def signed(weight: float, largest: float, width: int) -> Text:
    """A bar from the middle of its place: to the right for a positive weight, to the left for a negative one.

    Args:
        weight: the weight.
        largest: the largest absolute weight, whose bar fills its side.
        width: terminal cells, an odd number.
    """
    side = width // 2
    if not math.isfinite(weight):
        return Text(BROKEN.center(width), "red")
    share = min(abs(weight) / largest, 1.0) if largest else 0.0
    bar = "━" * max(round(share * side), 1 if weight else 0)
    if weight < 0:
        return Text.assemble((bar.rjust(side), NEGATIVE_STYLE), ("│", "dim"), " " * side)
    return Text.assemble(" " * side, ("│", "dim"), (bar.ljust(side), "cyan"))
