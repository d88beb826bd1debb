"""Tables of windows: each method by phase, against the plain average that is best on held-out examples."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from tests.benchmarks.levers.windows import Model

PLAIN = ("last", "average", "ema")
BASE = "best average"
ROWS: dict[str, Callable[[Model], bool]] = {
    "last": lambda each: each.method == "last",
    BASE: lambda each: each.method in PLAIN,
    "RNA": lambda each: each.method == "rna",
    "layered": lambda each: each.method == "layered",
    "anneal": lambda each: each.method == "anneal",
    "best without anneal": lambda each: each.method != "anneal",
    "best of all": lambda _: True,
    "chosen": lambda each: each.chosen,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """The models of a window, and where it ends."""

    phase: str
    seed: int
    step: int
    models: Sequence[Model]

    def picked(self, row: str) -> Model | None:
        """Of a row's models the one with the lowest loss on held-out examples."""
        return min(filter(ROWS[row], self.models), key=lambda each: each.mean("held_out_loss"), default=None)


def values(windows: Sequence[Window], row: str, phase: str, kind: str) -> tuple[list[float], list[float]]:
    """For each seed the mean over a phase's windows of a row's picks, and of their differences to the best average's.

    Where a method that was tried gave no model (a fit that gained nothing keeps its start, a run that has cooled down is not
    cooled down again), the best average stands for it.
    """
    means, differences = [], []
    tried = any(each.picked(row) for each in windows)
    for seed in sorted({each.seed for each in windows}):
        own = [each for each in windows if each.seed == seed and each.phase == phase]
        bases = [base.mean(kind) for each in own if (base := each.picked(BASE))]
        mine = [pick.mean(kind) for each in own if (pick := each.picked(row) or each.picked(BASE))]
        if mine and tried:
            means.append(statistics.fmean(mine))
            differences.append(statistics.fmean(mine) - statistics.fmean(bases))
    return means, differences


def error(numbers: Sequence[float]) -> float:
    """The standard error of a mean."""
    return statistics.stdev(numbers) / math.sqrt(len(numbers)) if len(numbers) > 1 else math.nan


def cost(windows: Sequence[Window], method: str) -> tuple[float, float]:
    """Median CPU seconds and steps of the training loss that all models of a method took in a window."""
    own = [[model for model in each.models if model.method == method] for each in windows]
    own = [models for models in own if models]
    if not own:
        return math.nan, math.nan
    return (
        statistics.median(sum(model.seconds for model in models) for models in own),
        statistics.median(sum(model.steps for model in models) for models in own),
    )


def markdown(title: str, windows: Sequence[Window], phases: Sequence[str], kind: str, words: Mapping[str, str]) -> str:
    """A table with a row a method and a column a phase.

    Args:
        title: the first heading.
        windows: of all seeds.
        phases: in order.
        kind: what is shown, such as `test_error`.
        words: what each row's models took, by row.
    """
    digits = 2 if kind.endswith("error") else 4
    lines = [f"| {title} | {' | '.join(phases)} | cost a window |", "|" + "---|" * (len(phases) + 2)]
    for row in ROWS:
        cells = []
        for phase in phases:
            means, differences = values(windows, row, phase, kind)
            if means:
                shown = f"{statistics.fmean(means):.{digits}f} ± {error(means):.{digits}f}"
                paired = f" [{statistics.fmean(differences):+.{digits}f} ± {error(differences):.{digits}f}]"
                cells.append(shown + (paired if row != BASE else ""))
            else:
                cells.append("-")
        if any(cell != "-" for cell in cells):
            lines.append(f"| {row} | {' | '.join(cells)} | {words.get(row, '')} |")
    return "\n".join(lines) + "\n"
