"""What a Gram matrix for each tensor, which `layered` needs, costs more than one for the whole model.

Both kinds of products are taken of the same block, one right after the other and first in turn, so that other work on the
machine falls on both alike.
"""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING

from rna_watch.acceleration.gram import differences, products
from rna_watch.evaluation.materialize import span
from rna_watch.formats.probe import probe
from rna_watch.layout.layout import Role
from rna_watch.window import tasks, tasks_plan
from rna_watch.window.combine import Combination
from rna_watch.window.reader import WindowReader
from tests.benchmarks import resnet152

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rna_watch.layout.dtypes import Float64
    from rna_watch.layout.layout import Layout
    from rna_watch.window.reader import Block
    from tests.benchmarks.options import Options

_COUNTS = {False: (11, 6), True: (4,)}  # checkpoints: N = 10 and 5
_BASE = {False: 64, True: 2}


def _seconds_of_products(layouts: Sequence[Layout]) -> tuple[float, float]:
    """CPU seconds of the products of a whole window: of the model, and of each of its tensors."""
    kernel = tasks_plan.window_kernel(len(layouts))
    taken = [0.0, 0.0]

    def whole(residuals: Float64, _: Block) -> None:
        products(residuals, kernel)

    def by_tensor(residuals: Float64, block: Block) -> None:
        for piece in block.pieces:
            products(residuals[:, piece.column : piece.column + piece.count], kernel)

    segments = [
        segment
        for task in tasks_plan.gram_tasks(layouts, len(layouts) - 1, tasks_plan.BUDGET_MIB)
        for segment in task.segments
        if segment.role is Role.PARAMETER
    ]
    with WindowReader([layout.files for layout in layouts]) as reader:
        for number, block in enumerate(reader.steps(segments)):
            residuals = differences(block.values)
            for kind in (0, 1) if number % 2 else (1, 0):
                begun = time.process_time()
                (whole, by_tensor)[kind](residuals, block)
                taken[kind] += time.process_time() - begun
    return taken[0], taken[1]


def cost(layouts: Sequence[Layout], rounds: int) -> list[tuple[float, float, float, float]]:
    """CPU seconds in each round: the Gram pass, its products, products by tensor, and the load of the window for a fit.

    Args:
        layouts: the K checkpoints, oldest first.
        rounds: how often, after one that warms the page cache.
    """
    count = len(layouts)
    combination = Combination(layouts=tuple(layouts), weights=(0.0,) * (count - 1) + (1.0,))
    work = tasks_plan.gram_tasks(layouts, count - 1, tasks_plan.BUDGET_MIB)
    found = []
    for _ in range(rounds + 1):
        start = time.process_time()
        tasks.run_all(work)
        passed = time.process_time()
        span(combination)
        loaded = time.process_time()
        found.append((passed - start, *_seconds_of_products(layouts), loaded - passed))
    return found[1:]


def show(options: Options) -> None:
    """Print what they add, in the median of the rounds."""
    base = _BASE[options.small]
    tasks.single_thread()
    paths = resnet152.write(options.folder / f"resnet152-{base}", max(_COUNTS[options.small]), base)
    layouts = [probe(str(path)) for path in paths]
    print(
        f"\nGram matrices of each tensor, ResNet-152 ({resnet152.parameters(base):,} parameters, "
        f"{len(layouts[0].extents)} tensors); medians of {options.rounds} rounds"
    )
    print(f"{'':<8}{'pass, CPU s':>12}{'products':>10}{'by tensor':>11}{'load':>8}{'added % of the pass':>21}")
    for count in _COUNTS[options.small]:
        rounds = cost(layouts[-count:], options.rounds)
        gram, whole, tensors, load = (statistics.median(each) for each in zip(*rounds, strict=True))
        added = statistics.median(100 * (mine - its) / total for total, its, mine, _ in rounds)
        print(f"N = {count - 1:<4}{gram:>12.2f}{whole:>10.2f}{tensors:>11.2f}{load:>8.2f}{added:>21.1f}")
