"""CPU time of the family's search and of the choice, for one checkpoint beyond the Gram pass."""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING

import numpy as np

from rna_watch.acceleration.family import family
from rna_watch.acceleration.methods import COMPUTED, LAST
from rna_watch.acceleration.residuals import Residuals
from rna_watch.acceleration.selection import Evidence, choose
from rna_watch.config import RunConfig

if TYPE_CHECKING:
    from tests.benchmarks.options import Options

_ROUNDS = 15
_EXAMPLES = 10_000


def measure(n: int, rounds: int) -> tuple[list[float], int]:
    """Milliseconds of CPU per checkpoint at window length n with the default settings, and the number of members."""
    rng = np.random.default_rng(0)
    steps = 0.9 ** np.arange(n)[:, None] * rng.standard_normal((1, 500)) + 0.05 * rng.standard_normal((n, 500))
    residuals = Residuals.of_differences(steps @ steps.T)
    settings = RunConfig(window=n)
    search = settings.search(methods=COMPUTED)
    found = family(residuals, search)
    examples = {each.name: rng.standard_normal(_EXAMPLES) for each in found.candidates}
    evidence = Evidence(
        values={name: float(values.mean()) for name, values in examples.items()}, mode="min", examples=examples
    )
    assert found.candidates[0].name == LAST
    taken = []
    for _ in range(rounds):
        begun = time.process_time()
        choose(family(residuals, search).candidates, evidence)
        taken.append(1000 * (time.process_time() - begun))
    return taken, len(found.candidates) + len(found.duplicates) + len(found.left_out)


def show(options: Options) -> None:
    """Print the medians."""
    rounds = 2 if options.small else _ROUNDS
    print(f"\nsearch and choice, CPU milliseconds a checkpoint, median (min-max) of {rounds}")
    for n in (5, 10, 20):
        taken, members = measure(n, rounds)
        print(f"N = {n:<3} {members:>3} members  {statistics.median(taken):6.1f} ({min(taken):.1f}-{max(taken):.1f})")
