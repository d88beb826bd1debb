"""A comparison as a picture: the metric against the step, one line for each kind."""

from __future__ import annotations

import math
import statistics
from io import BytesIO
from typing import TYPE_CHECKING, Any

from rna_watch.acceleration.methods import AVERAGE, RNA
from rna_watch.comparison.comparison import CHOSEN, ORIGINAL
from rna_watch.dashboard.scale import robust
from rna_watch.errors import StoreError, UsageError
from rna_watch.journal.quantities import plain
from rna_watch.journal.words import DIRECTIONS
from rna_watch.layout import disk

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from rna_watch.acceleration.significance import Mode
    from rna_watch.comparison.comparison import Comparison

FORMATS = (".svg", ".png", ".pdf")
# Okabe and Ito's colours, which every kind of colour vision can distinguish; line styles do in grey
_STYLES: dict[str, dict[str, Any]] = {
    ORIGINAL: {"color": "#888888", "linewidth": 1.4, "label": "original"},
    AVERAGE: {"color": "#0072B2", "linewidth": 1.8, "label": "best average"},
    RNA: {"color": "#D55E00", "linewidth": 1.8, "linestyle": (0, (4, 1.5)), "label": "best RNA"},
    CHOSEN: {
        "color": "black",
        "linestyle": "none",
        "marker": "o",
        "markersize": 5.5,
        "markerfacecolor": "none",
        "markeredgewidth": 0.9,
        "label": "chosen",
    },
}
_OTHERS = ("#009E73", "#CC79A7", "#56B4E9", "#E69F00")
# more rings would hide the lines that they mark
_MOST_RINGS = 45
_LEGEND_COLUMNS = 4
# with more checkpoints, lines would hide each other: running medians are drawn over them, about so many
_DENSE_FROM, _MEDIANS = 100, 20


def check(path: Path) -> None:
    """Check that the picture can be drawn, before anything else is done.

    Raises:
        UsageError: the ending is unknown, or matplotlib is missing.
    """
    if path.suffix.lower() not in FORMATS:
        raise UsageError(f"cannot draw {path}: the name must end in {', '.join(FORMATS)}")
    try:
        import matplotlib as mpl  # noqa: F401 - only its presence matters here
    except ImportError as error:
        raise UsageError("--plot needs matplotlib: pip install 'rna-watch[report]'") from error


def plot(comparison: Comparison, path: Path, *, force: bool = False) -> None:
    """Draw the picture; equal comparisons give equal files.

    Args:
        comparison: what is drawn.
        path: the file.
        force: replace what has the name.

    Raises:
        UsageError: as for `check`, something has the name, or the file cannot be written.
    """
    check(path)
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    c = comparison
    with mpl.rc_context({"svg.hashsalt": "rna-watch", "font.size": 10, "axes.linewidth": 0.8}):
        figure = Figure(figsize=(7.2, 4.3), dpi=150, layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        values, notes = _curves(axes, c)
        notes += _show_most(axes, [v for _, v in c.curve(ORIGINAL) if v is not None], values, c.mode)
        low = c.mode == "max"
        corner, across = (0.99, 0.02 if low else 0.98), "bottom" if low else "top"
        axes.annotate("\n".join(notes), corner, xycoords="axes fraction", ha="right", va=across, fontsize=8)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel(plain(c.step_kind))
        axes.set_ylabel(f"{plain(c.metric)} ({DIRECTIONS[c.mode]})")
        axes.grid(axis="y", color="#e6e6e6", linewidth=0.7)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        told = ", by which models were chosen" if c.metric == c.choosing else ""
        name = f"{plain(c.name)}: " if c.run else ""
        labelled = sum(not str(line.get_label()).startswith("_") for line in axes.get_lines())
        rows = math.ceil(labelled / _LEGEND_COLUMNS)
        axes.set_title(f"{name}{plain(c.metric)}{told}", loc="left", x=-0.01, fontsize=11, pad=8 + 16 * rows)
        axes.legend(loc="lower left", bbox_to_anchor=(-0.02, 0.99), ncols=_LEGEND_COLUMNS, frameon=False)
        metadata = {"Date": None} if path.suffix.lower() == ".svg" else None
        drawn = BytesIO()
        figure.savefig(drawn, format=path.suffix.lower().removeprefix("."), metadata=metadata)
    try:
        with disk.writing(path, "--plot"), disk.replacing(path, durable=False, new=not force) as temporary:
            disk.write_new(temporary, drawn.getvalue())
    except StoreError as error:
        raise UsageError(str(error)) from error


def _has_isolated(values: Sequence[float]) -> bool:
    """Whether a value has gaps on both sides, so that a line alone would not show it."""
    around = [math.nan, *values, math.nan]
    return any(
        math.isfinite(b) and not math.isfinite(a) and not math.isfinite(c)
        for a, b, c in zip(around, around[1:], around[2:], strict=False)
    )


def _curves(axes: Any, c: Comparison) -> tuple[list[float], list[str]]:
    """Draw a line for each kind; returns the values, and what a reader should know of the lines."""
    values: list[float] = []
    notes: list[str] = []
    others = iter(_OTHERS * len(c.kinds))
    for key in (*c.kinds, CHOSEN):
        style = _STYLES.get(key) or {"color": next(others), "linewidth": 1.4, "linestyle": ":", "label": plain(key)}
        steps, heights = zip(*((step, math.nan if v is None else v) for step, v in c.curve(key)), strict=True)
        if key == CHOSEN and len(steps) > _MOST_RINGS:
            style = style | {"markersize": 2.2, "markerfacecolor": "black"}
        elif key != CHOSEN and _has_isolated(heights):
            style = style | {"marker": ".", "markersize": 4}
        finite = [value for value in heights if math.isfinite(value)]
        if finite and key != CHOSEN and len(steps) > _DENSE_FROM:
            width = len(steps) // _MEDIANS
            axes.plot(steps, heights, color=style["color"], linewidth=0.5, alpha=0.3)
            heights, notes = tuple(running_median(heights, width)), [f"thick lines are running medians of {width}"]
        if finite:
            values += finite
            axes.plot(steps, heights, **style)
    return values, notes


def _show_most(axes: Any, originals: Sequence[float], values: Sequence[float], mode: Mode) -> list[str]:
    """Set the range in which most values can be told apart; returns how many, as the first of a training, are beyond it."""
    if not values:
        return []
    scale = robust(originals or values, mode, values)
    shown = [value for value in values if scale.holds(value)]
    if logarithmic(shown):
        _log_axis(axes, decades=math.log10(max(shown) / min(shown)))
    beyond = len(values) - len(shown)
    if not beyond:
        return []
    axes.set_ylim(scale.low if scale.low > 0.0 or not logarithmic(shown) else min(shown), scale.high)
    return [f"{beyond} {'value lies' if beyond == 1 else 'values lie'} beyond this range"]


def running_median(values: Sequence[float], width: int) -> list[float]:
    """The median of the values around each one, about `width` of them; NaN where none is finite."""
    half = max(width // 2, 1)
    around = ([v for v in values[max(i - half, 0) : i + half + 1] if math.isfinite(v)] for i in range(len(values)))
    return [statistics.median(found) if found else math.nan for found in around]


def logarithmic(values: Sequence[float]) -> bool:
    """Whether a logarithmic axis suits the values: all are positive, and they span more than a decade."""
    return bool(values) and min(values) > 0 and max(values) > 10 * min(values)


def _log_axis(axes: Any, *, decades: float) -> None:
    """A logarithmic axis with plain numbers instead of powers of ten; few decades have marks at 1, 2 and 5."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if decades < 3 else (1.0,)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_locator(NullLocator())
