"""The rows of the page of arithmetic: what a window of a large model and a sweep of many runs cost, by the kept constants."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.benchmarks.arithmetic import CONSTANTS, WINDOW
from tests.manual import measured

if TYPE_CHECKING:
    from collections.abc import Iterator

_MODELS_GB = {"7B": 14, "70B": 140, "405B": 810}  # in bfloat16
_RUNS = (100, 1_000, 10_000)
_MINUTE_S = 60
_WHEN = ("before", "now")


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where the work is done: nodes, and of each the cores, the memory that caches files (GB), and its rates (GB/s)."""

    name: str
    nodes: int
    cores: int = 32
    memory_gb: float = 256
    read_gb_per_s: float = 5
    write_gb_per_s: float = 2


PLACES = (Place(name="one node", nodes=1), Place(name="eight nodes", nodes=8))


def parts(model_gb: float, cpu_s_per_gb: float, place: Place, when: str) -> dict[str, float]:
    """Seconds of each part of a window in the steady state; they overlap, so the longest is the window's time.

    A window that the nodes' memory holds is read from the storage once, when its newest checkpoint comes; one that it does not
    hold is read for the Gram matrix and again for the combination. So was every window of several nodes before, because tasks
    went to whichever node was free.
    """
    window_gb = (WINDOW + 1) * model_gb
    cached = window_gb < place.nodes * place.memory_gb and (when == "now" or place.nodes == 1)
    return {
        "processors": window_gb * cpu_s_per_gb / (place.nodes * place.cores),
        "reading": (model_gb if cached else 2 * window_gb) / (place.nodes * place.read_gb_per_s),
        "writing": model_gb / (place.nodes * place.write_gb_per_s),
    }


def constants() -> Iterator[tuple[str, ...]]:
    """A row for each constant: its words with the unit, and its values."""
    kept = measured.kept("arithmetic")
    for key, (words, unit) in CONSTANTS.items():
        yield f"{words}, {unit}".removesuffix(", "), *(f"{kept[when][key]:.2f}" for when in _WHEN)


def windows() -> Iterator[tuple[str, ...]]:
    """A row for each model and place: GB of the window, then for each version CPU seconds, and seconds with what bounds them."""
    kept = measured.kept("arithmetic")
    for name, model_gb in _MODELS_GB.items():
        for place in PLACES:
            cells = [f"{name}, {place.name}", f"{(WINDOW + 1) * model_gb:,}"]
            for when in _WHEN:
                per_gb = kept[when]["cpu_s_per_gb"]
                found = parts(model_gb, per_gb, place, when)
                bound = max(found, key=lambda each: found[each])
                cells += [f"{(WINDOW + 1) * model_gb * per_gb:,.0f}", f"{found[bound]:,.0f} ({bound})"]
            yield tuple(cells)


def runs() -> Iterator[tuple[str, ...]]:
    """A row for each number of runs: for each version cores, memory and processes."""
    kept = measured.kept("arithmetic")
    for count in _RUNS:
        cells = [f"{count:,}"]
        for when in _WHEN:
            own = kept[when]
            cores = count * (own["idle_ms_per_s"] + own["cpu_ms_a_checkpoint"] / _MINUTE_S) / 1000
            processes = count if when == "before" else math.ceil(cores)
            cells += [f"{cores:.1f}", f"{count * own['mb_a_run'] / 1000:.1f}", f"{processes:,}"]
        yield tuple(cells)
