"""What a window of a large model, or a sweep of many runs, costs by measured constants: the tables of the page of arithmetic."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.manual import measured

if TYPE_CHECKING:
    from collections.abc import Iterator

_WINDOW = 5
_MODELS = {"7B": 7e9, "70B": 70e9, "405B": 405e9}
_BYTES = 2  # of a weight in bfloat16
_RUNS = (100, 1_000, 10_000)
_MINUTE_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where work is done: cores, memory for the page cache (GB), rates of the storage (GB/s)."""

    name: str
    cores: int
    memory_gb: float
    read_gb_per_s: float
    write_gb_per_s: float


# what is taken for granted, and not measured
PLACES = (
    Place(name="one node", cores=32, memory_gb=256, read_gb_per_s=5, write_gb_per_s=2),
    Place(name="eight nodes", cores=256, memory_gb=2048, read_gb_per_s=40, write_gb_per_s=16),
)


def _seconds(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 180 else f"{seconds / 60:.0f} min"


def steps(parameters: float, cpu_s_per_gb: float, place: Place) -> dict[str, float]:
    """Seconds of each part of a window in the steady state, where all of them overlap, by what bounds it.

    A window that fits into memory is read from the storage once, when its newest checkpoint comes; one that does not is read
    twice: for the Gram matrix and for the combination.
    """
    model_gb = parameters * _BYTES / 1e9
    window_gb = (_WINDOW + 1) * model_gb
    read_gb = model_gb if window_gb < place.memory_gb else 2 * window_gb
    return {
        "processors": window_gb * cpu_s_per_gb / place.cores,
        "reading": read_gb / place.read_gb_per_s,
        "writing": model_gb / place.write_gb_per_s,
    }


def windows() -> Iterator[tuple[str, ...]]:
    """For each model and place: the size of its window, CPU seconds, and the time with what bounds it, before and now."""
    constants = measured.kept("arithmetic")
    for name, parameters in _MODELS.items():
        for place in PLACES:
            cells = [f"{name}, {place.name}", f"{(_WINDOW + 1) * parameters * _BYTES / 1e9:,.0f} GB"]
            for when in ("before", "now"):
                per_gb = constants[when]["cpu_s_per_gb"]
                found = steps(parameters, per_gb, place)
                bound = max(found, key=lambda each: found[each])
                cpu_s = found["processors"] * place.cores
                cells += [f"{cpu_s:,.0f}", f"{_seconds(found[bound])}, {bound}"]
            yield tuple(cells)


def runs() -> Iterator[tuple[str, ...]]:
    """For each number of runs: cores and memory, before (a process for each) and now (one process)."""
    constants = measured.kept("arithmetic")
    for count in _RUNS:
        cells = [f"{count:,}"]
        for when in ("before", "now"):
            own = constants[when]
            cores = count * (own["idle_core_a_run"] + own["cpu_s_a_checkpoint"] / _MINUTE_S)
            memory_gb = (own["process_mb"] + count * own["run_mb"]) / 1000
            cells += [f"{cores:.1f} cores", f"{memory_gb:.1f} GB"]
        yield tuple(cells)


def constants() -> Iterator[tuple[str, ...]]:
    """The constants, and how each was measured."""
    kept = measured.kept("arithmetic")
    for key, (words, unit) in _WORDS.items():
        yield words, *(f"{kept[when][key]:g} {unit}" for when in ("before", "now")), kept["commands"][key]


_WORDS = {
    "cpu_s_per_gb": ("Gram matrix and combination, for each GB of the window", "CPU s"),
    "cpu_s_a_checkpoint": ("a small checkpoint, from event to model", "CPU s"),
    "idle_core_a_run": ("a further idle run", "of a core"),
    "run_mb": ("memory of a further run", "MB"),
    "process_mb": ("memory of the process itself", "MB"),
}
