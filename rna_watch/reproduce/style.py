"""How the figures look: plain axes, and Okabe and Ito's colours, which every kind of colour vision can distinguish."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rna_watch.layout import disk

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from pathlib import Path

GREY, BLUE, VERMILION, GREEN = "#777777", "#0072B2", "#D55E00", "#009E73"
PURPLE, SKY, ORANGE, BLACK = "#CC79A7", "#56B4E9", "#E69F00", "#000000"
DASHED, DOTTED = (0, (4, 1.5)), (0, (1, 1.4))
_RC = {
    "svg.hashsalt": "rna-watch",
    "font.size": 9.5,
    "axes.linewidth": 0.8,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
}


def context() -> AbstractContextManager[None]:
    """A context in which figures are drawn in this style."""
    import matplotlib as mpl

    return mpl.rc_context(_RC)  # type: ignore[arg-type]  # its key type is a Literal of all settings


def figure(width: float, height: float) -> Any:
    """An empty figure that needs no screen; width and height in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    made = Figure(figsize=(width, height), dpi=150, layout="constrained")
    FigureCanvasAgg(made)
    return made


def grid(axes: Any) -> None:
    """Pale lines behind the curves."""
    axes.grid(color="#e6e6e6", linewidth=0.6)
    axes.set_axisbelow(True)


def save(made: Any, stem: Path) -> None:
    """Write the figure as SVG and PNG; equal figures give equal files.

    Raises:
        StoreError: the folder cannot be written.
    """
    with disk.writing(f"{stem}.svg or .png", "--out"):
        made.savefig(stem.with_suffix(".svg"), metadata={"Date": None})
        made.savefig(stem.with_suffix(".png"))
