"""The figure of networks: test error by epoch, a panel for each network and optimizer (the paper's Figs. 2 and 7)."""

from __future__ import annotations

import math
import statistics
from typing import TYPE_CHECKING, Any

from rna_watch.reproduce import style
from rna_watch.reproduce.images.results import BEST_AVERAGE, CHOSEN, LAST, LOOP, ONLINE, Task, label, tasks

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rna_watch.reproduce.images.spec import RunSpec

_LINES: dict[str, dict[str, Any]] = {
    LAST: {"color": style.GREY, "linewidth": 1.2},
    ONLINE: {"color": style.PURPLE, "linewidth": 1.2, "linestyle": style.DOTTED},
    BEST_AVERAGE: {"color": style.BLUE, "linewidth": 1.6},
    LOOP: {"color": style.VERMILION, "linewidth": 1.6},
    CHOSEN: {"color": style.GREEN, "linewidth": 1.6, "linestyle": style.DASHED},
}
_OPTIMIZERS = {"momentum": "SGD with momentum", "sgd": "SGD"}
# smaller errors are drawn at this height: a logarithmic axis has no zero
_LEAST = 0.05


def draw(runs: Sequence[RunSpec], results: Mapping[str, Any]) -> Any:
    """Means over seeds as lines, ranges over seeds as shades; without any result, a figure that says `not run`."""
    finished = tasks(runs, results)
    if not finished:
        made = style.figure(4.0, 2.0)
        made.text(0.5, 0.5, "not run", ha="center", va="center")
        return made
    optimizers = list(dict.fromkeys(optimizer for task in finished for optimizer in task.optimizers))
    made = style.figure(4.3 * len(optimizers) + 0.4, 3.3 * len(finished) + 0.5)
    grid = made.subplots(len(finished), len(optimizers), squeeze=False)
    shown: dict[str, Any] = {}
    for task, panels in zip(finished, grid, strict=True):
        for optimizer, axes in zip(optimizers, panels, strict=True):
            if optimizer not in task.optimizers:
                axes.text(0.5, 0.5, "not run", ha="center", va="center", transform=axes.transAxes)
                axes.set_axis_off()
                continue
            _panel(axes, task, optimizer, shown)
            axes.set_title(f"{task.name}, {_OPTIMIZERS.get(optimizer, optimizer)} ({_seeds(task)})")
            axes.set_xlabel("epoch")
            axes.set_ylabel("test error, %")
    made.legend(shown.values(), shown.keys(), loc="outside lower center", ncols=3 if len(optimizers) > 1 else 2)
    return made


def _seeds(task: Task) -> str:
    return f"{len(task.seeds)} seed{'s' * (len(task.seeds) != 1)}"


def _panel(axes: Any, task: Task, optimizer: str, shown: dict[str, Any]) -> None:
    top, low = 0.0, 100.0
    rows = {row.method: row for row in task.rows() if row.optimizer == optimizer}
    for method, line in _LINES.items():
        if method not in rows:
            continue
        own = [[max(value, _LEAST) for value in curve] for curve in rows[method].own.values()]
        epochs = range(1, len(own[0]) + 1)
        columns = list(zip(*own, strict=True))
        mean = [statistics.fmean(column) for column in columns]
        (drawn,) = axes.plot(epochs, mean, **line)
        if len(own) > 1:
            lowest, highest = [min(c) for c in columns], [max(c) for c in columns]
            axes.fill_between(epochs, lowest, highest, color=line["color"], alpha=0.13, linewidth=0)
        shown.setdefault(label(method, task.runs[0]), drawn)
        settled = sorted(value for value in mean[len(mean) // 10 :] if not math.isnan(value))
        top, low = max(top, settled[int(0.97 * (len(settled) - 1))]), min(low, settled[0])
    axes.set_yscale("log")
    axes.set_ylim(0.92 * low, 1.15 * top)
    _ticks(axes, 0.92 * low, 1.15 * top)
    style.grid(axes)


def _ticks(axes: Any, low: float, high: float) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    marks = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1, 1.5, 2, 3, 4, 5, 7, 10, 15, 20, 30, 40, 50, 70, 90)
    axes.yaxis.set_major_locator(FixedLocator([mark for mark in marks if low <= mark <= high]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_locator(NullLocator())
