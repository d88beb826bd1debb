"""Figure 1 as a picture: suboptimality against iterations and against evaluations, a column for each condition number."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rna_watch.reproduce import style
from rna_watch.reproduce.figure1_tables import short

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# key without condition number -> label, colour, line style, width
_LINES: dict[str, tuple[str, str, Any, float]] = {
    "gradient": ("gradient", style.SKY, "-", 1.3),
    "gradient-offline-{n}": ("gradient + offline RNA", style.SKY, style.DASHED, 1.5),
    "gradient-online-{n}": ("gradient, online RNA", style.BLUE, "-", 2.0),
    "gradient-fixed-{n}": ("gradient, online RNA, fixed 1/L", style.GREEN, style.DASHED, 1.6),
    "nesterov": ("Nesterov", style.ORANGE, "-", 1.3),
    "nesterov-offline-{n}": ("Nesterov + offline RNA", style.ORANGE, style.DASHED, 1.5),
    "nesterov-online-{n}": ("Nesterov, online RNA", style.VERMILION, "-", 2.0),
    "lbfgs-10": ("L-BFGS, m = 10", style.BLACK, style.DOTTED, 2.0),
    "lbfgs-20": ("L-BFGS, m = 20", style.BLACK, "-", 1.3),
}
_MOST_ITERATIONS = 320
_LOWEST = 1e-10
_WINDOW = 20


def draw(results: Mapping[str, Any], conditions: Sequence[float]) -> Any:
    """The figure, with RNA of the longest window."""
    made = style.figure(3.7 * max(len(conditions), 2), 6.6)
    grid = made.subplots(2, len(conditions), sharey=True, squeeze=False)
    for column, condition in enumerate(conditions):
        name = short(condition)
        for row, (what, most) in enumerate((("iterations", _MOST_ITERATIONS), ("evaluations", 2 * _MOST_ITERATIONS))):
            axes = grid[row][column]
            for key, (label, colour, dashes, width) in _LINES.items():
                found = results[f"{key.format(n=_WINDOW)}-{name}"]
                axes.semilogy(
                    [0, *found[what]],
                    [1.0, *found["suboptimality"]],
                    color=colour,
                    linestyle=dashes,
                    linewidth=width,
                    label=label,
                )
            axes.set_xlim(0, most)
            axes.set_ylim(_LOWEST, 1.5)
            axes.set_xlabel("iterations" if what == "iterations" else "evaluations (line search included)")
            if not column:
                axes.set_ylabel(r"$(f - f^*)\,/\,(f(0) - f^*)$")
            if not row:
                exponent = name.removeprefix("1e")
                axes.set_title(rf"condition number $10^{exponent}$")
            style.grid(axes)
    handles, labels = grid[0][0].get_legend_handles_labels()
    made.legend(handles, labels, loc="outside lower center", ncols=5)
    made.suptitle(
        rf"Logistic regression on Madelon, backtracking line search; RNA with N = {_WINDOW}, $\lambda$ = 1e-8",
        x=0.01,
        ha="left",
        fontsize=11,
    )
    return made
