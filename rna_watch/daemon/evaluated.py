"""What the evaluation of one checkpoint gave: its candidates, and what is at hand of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from rna_watch.acceleration.candidate import Candidate
    from rna_watch.acceleration.family import Family
    from rna_watch.daemon.window import Window
    from rna_watch.layout.dtypes import Array
    from rna_watch.publishing.made import Made
    from rna_watch.window.combine import Combination


@dataclass(slots=True)
class Evaluated:
    """What the evaluation of one checkpoint gave: candidates, their per-example values, re-estimated statistics; by name.

    `evaluated` names the candidates whose metrics in the journal are of exactly these models, and whose values and
    statistics are at hand; the others count as not evaluated. `losses` are per-example values of the loss that ranks them in
    the metric's place, and `loss` is its name ("": the metric ranks them). `made` are the models that are no combinations,
    whose files are removed when they are not needed any more.
    """

    family: Family
    evaluated: set[str] = field(default_factory=set)
    examples: dict[str, npt.NDArray[np.float64]] = field(default_factory=dict)
    losses: dict[str, npt.NDArray[np.float64]] = field(default_factory=dict)
    loss: str = ""
    statistics: dict[str, dict[str, Array]] = field(default_factory=dict)
    made: dict[str, Made] = field(default_factory=dict)

    def combination(self, candidate: Candidate, window: Window) -> Combination:
        """A candidate of this checkpoint's as a recipe."""
        statistics = self.statistics.get(candidate.name)
        made = self.made.get(candidate.name)
        if made is None:
            return window.combination(candidate, statistics)
        return made.combination.with_values(statistics) if statistics else made.combination
