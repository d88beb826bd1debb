"""The kept results of the measurements as one table: what each method gains over the best plain average, and what it costs."""

from __future__ import annotations

import json
import statistics
from typing import TYPE_CHECKING, Any

from tests.benchmarks.levers.tables import BASE, error
from tests.benchmarks.levers.tasks import TRAININGS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

_ROWS = {
    "last": "last checkpoint",
    BASE: BASE,
    "RNA": "RNA",
    "layered": "layered",
    "anneal": "anneal",
    "chosen": "chosen",
}
_COSTLY = {BASE: ("average",), "RNA": ("rna",), "layered": ("layered",), "anneal": ("anneal",)}
# of each training: its words, its phases and what they are called here
_SHOWN = {
    "digits": (
        "digits, test error in %, {} seeds",
        {"early": "epochs 5-7", "middle": "16-24", "late": "36-40"},
    ),
    "images": (
        "CIFAR-10, 20,000 images, a small ResNet, test error in %, {} seeds",
        {"early": "epochs 4-6", "middle": "8-12", "late": "14-16"},
    ),
    "text": (
        "byte-level transformer, AdamW, test nats, {} seeds",
        {"constant rate, step 600": "constant rate, step 600", "step 1000": "step 1000", "end": "cosine, its end"},
    ),
}


def rows(folder: Path) -> Iterator[tuple[str, ...]]:
    """The rows of the table, from the JSON files that `--record` wrote."""
    for name, (title, phases) in _SHOWN.items():
        windows = json.loads((folder / f"{name}.json").read_text())["windows"]
        seeds = sorted({each["seed"] for each in windows})
        yield f"**{title.format(len(seeds))}**", *phases.values(), ""
        kind, digits = ("test_loss", 3) if name == "text" else ("test_error", 2)
        for row, words in _ROWS.items():
            cells = [_cell(windows, seeds, row, phase, kind, digits) for phase in phases]
            yield words, *cells, _cost(name, windows, row)


def _cell(
    windows: Sequence[Mapping[str, Any]], seeds: Sequence[int], row: str, phase: str, kind: str, digits: int
) -> str:
    own = [[each for each in windows if (each["seed"], each["phase"]) == (seed, phase)] for seed in seeds]
    found = [statistics.fmean(_value(each, row, kind) for each in of) for of in own]
    bases = [statistics.fmean(_value(each, BASE, kind) for each in of) for of in own]
    shown = found if row == BASE else [a - b for a, b in zip(found, bases, strict=True)]
    sign = "" if row == BASE else "+"
    return f"{statistics.fmean(shown):{sign}.{digits}f} ± {error(shown):.{digits}f}"


def _value(window: Mapping[str, Any], row: str, kind: str) -> float:
    """That of a row's pick, or of the best average where the method gave no model."""
    return float(window["models"][window["picked"].get(row, window["picked"][BASE])][kind])


def _cost(name: str, windows: Sequence[Mapping[str, Any]], row: str) -> str:
    """What all models of a row's methods took in a window: CPU seconds, and batches of the training."""
    own = [[m for n, m in each["models"].items() if n.split("-")[0] in _COSTLY.get(row, ())] for each in windows]
    own = [models for models in own if models]
    if not own:
        return ""
    seconds = statistics.median(sum(model["seconds"] for model in models) for models in own)
    steps = statistics.median(sum(model["steps"] for model in models) for models in own)
    batch = f", {steps:.0f} batches of {TRAININGS[name].loss_batch}" if steps else ""
    return f"{seconds:.1f} s{batch}"
