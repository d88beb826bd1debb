"""The figure of networks: test error by epoch, a panel for each network and optimizer (the paper's Figs. 2 and 7)."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any

from rna_watch.reproduce import style
from rna_watch.reproduce.images.results import BEST_AVERAGE, CHOSEN, LAST, LOOP, METHODS, ONLINE, curves

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


def draw(runs: Sequence[RunSpec], results: Mapping[str, Any]) -> Any:
    """Means over seeds as lines, and the range over seeds as a shade."""
    done = [run for run in runs if run.key in results]
    tasks = list(dict.fromkeys((run.dataset, run.network) for run in done))
    optimizers = list(dict.fromkeys(run.optimizer for run in done))
    made = style.figure(4.3 * len(optimizers) + 0.4, 3.3 * len(tasks) + 0.5)
    grid = made.subplots(len(tasks), len(optimizers), squeeze=False)
    shown: dict[str, Any] = {}
    for i, task in enumerate(tasks):
        for j, optimizer in enumerate(optimizers):
            axes = grid[i][j]
            own = [run for run in done if (run.dataset, run.network) == task and run.optimizer == optimizer]
            _panel(axes, [curves(results[run.key]) for run in own], shown)
            seeds = len({run.seed for run in own})
            axes.set_title(
                f"{task[1]} on {task[0]}, {_OPTIMIZERS.get(optimizer, optimizer)} ({seeds} seed{'s' * (seeds != 1)})"
            )
            axes.set_xlabel("epoch")
            axes.set_ylabel("test error, %")
    made.legend(
        shown.values(), shown.keys(), loc="outside lower center", ncols=len(shown) if len(optimizers) > 1 else 2
    )
    return made


def _panel(axes: Any, found: Sequence[Mapping[str, Sequence[float]]], shown: dict[str, Any]) -> None:
    top, low = 0.0, 100.0
    for method, line in _LINES.items():
        own = [curve[method] for curve in found if method in curve]
        if not own:
            continue
        epochs = range(1, len(own[0]) + 1)
        columns = list(zip(*own, strict=True))
        mean = [statistics.fmean(column) for column in columns]
        (drawn,) = axes.plot(epochs, mean, **line)
        if len(own) > 1:
            axes.fill_between(
                epochs,
                [min(c) for c in columns],
                [max(c) for c in columns],
                color=line["color"],
                alpha=0.13,
                linewidth=0,
            )
        shown.setdefault(METHODS[method], drawn)
        settled = sorted(mean[len(mean) // 10 :])
        top, low = max(top, settled[int(0.97 * (len(settled) - 1))]), min(low, settled[0])
    axes.set_yscale("log")
    axes.set_ylim(0.92 * low, 1.15 * top)
    _ticks(axes, 0.92 * low, 1.15 * top)
    style.grid(axes)


def _ticks(axes: Any, low: float, high: float) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    marks = (0.5, 0.7, 1, 1.5, 2, 3, 4, 5, 7, 10, 15, 20, 30, 40, 50, 70, 90)
    axes.yaxis.set_major_locator(FixedLocator([mark for mark in marks if low <= mark <= high]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_locator(NullLocator())
