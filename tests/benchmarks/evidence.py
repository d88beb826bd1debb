"""What the sums over weight matrices, which tell trainings apart, add to the Gram pass: the same tasks with and without them."""

from __future__ import annotations

import statistics
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from rna_watch.formats.probe import probe
from rna_watch.window import tasks, tasks_plan
from tests.benchmarks import resnet152

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rna_watch.layout.layout import Layout
    from rna_watch.window.tasks_plan import GramTask
    from tests.benchmarks.options import Options

_COUNT = {False: 11, True: 4}
_BASE = {False: 64, True: 2}


def _without(work: Sequence[GramTask]) -> list[GramTask]:
    """The same tasks with no segment that is known to be of a weight matrix."""
    return [replace(task, segments=tuple(replace(each, matrix=0) for each in task.segments)) for task in work]


def _seconds(work: Sequence[GramTask]) -> float:
    begun = time.process_time()
    tasks.run_all(work)
    return time.process_time() - begun


def cost(layouts: Sequence[Layout], new: int, rounds: int) -> tuple[float, list[float]]:
    """Median CPU seconds of the pass without the sums, and what they add in each round, relative to it.

    Args:
        layouts: the K checkpoints, oldest first.
        new: how many rows of the Gram matrix are made.
        rounds: how often both run, in turn.
    """
    work = tasks_plan.gram_tasks(layouts, new, tasks_plan.BUDGET_MIB)
    bare = _without(work)
    taken: list[tuple[float, float]] = []
    for number in range(rounds + 1):  # the first warms the page cache
        pair = [_seconds(each) for each in ((bare, work) if number % 2 else (work, bare))]
        taken.append((pair[0], pair[1]) if number % 2 else (pair[1], pair[0]))
    return statistics.median(each[0] for each in taken[1:]), [after / before - 1.0 for before, after in taken[1:]]


def show(options: Options) -> None:
    """Print what they add where all rows are made, and where the newest alone is."""
    count, base = _COUNT[options.small], _BASE[options.small]
    tasks.single_thread()
    layouts = [probe(str(path)) for path in resnet152.write(options.folder / f"resnet152-{base}", count, base)]
    print(
        f"\nsums over weight matrices in the Gram pass, N = {count - 1}, ResNet-152 ({resnet152.parameters(base):,} parameters)"
    )
    print(f"{'rows':<8}{'pass, CPU s':>12}{'added %, median':>17}{'min':>8}{'max':>8}   of {2 * options.rounds} rounds")
    for new in (count - 1, 1):
        seconds, added = cost(layouts, new, 2 * options.rounds)
        figures = (statistics.median(added), min(added), max(added))
        print(
            f"{new:<8}{seconds:>12.3f}{100 * figures[0]:>17.2f}"
            + "".join(f"{100 * each:>8.2f}" for each in figures[1:])
        )
