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


def cost(layouts: Sequence[Layout], new: int, rounds: int) -> list[tuple[float, float]]:
    """CPU seconds of the pass without the sums and with them, in each round.

    Args:
        layouts: the K checkpoints, oldest first.
        new: how many rows of the Gram matrix are made.
        rounds: how often both run, in turn, after one that warms the page cache.
    """
    work = tasks_plan.gram_tasks(layouts, new, tasks_plan.BUDGET_MIB)
    bare = _without(work)
    return [(_seconds(bare), _seconds(work)) for _ in range(rounds + 1)][1:]


def show(options: Options) -> None:
    """Print what they add where all rows are made, and where the newest alone is."""
    count, base = _COUNT[options.small], _BASE[options.small]
    tasks.single_thread()
    layouts = [probe(str(path)) for path in resnet152.write(options.folder / f"resnet152-{base}", count, base)]
    print(
        f"\nsums over weight matrices in the Gram pass, N = {count - 1}, ResNet-152 "
        f"({resnet152.parameters(base):,} parameters); fastest and median of {2 * options.rounds} rounds"
    )
    print(f"{'rows':<8}{'pass, CPU s':>12}{'added %, fastest':>18}{'median':>9}")
    for new in (count - 1, 1):
        taken = cost(layouts, new, 2 * options.rounds)
        fastest = [min(each) for each in zip(*taken, strict=True)]
        added = statistics.median(after / before for before, after in taken)
        print(f"{new:<8}{fastest[0]:>12.3f}{100 * (fastest[1] / fastest[0] - 1):>18.2f}{100 * (added - 1):>9.2f}")
