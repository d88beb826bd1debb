"""The rows of the manual's tables of measurements, from the kept results."""

from __future__ import annotations

import json
import re
import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rna_watch.reproduce import networks_tables, prototyping
from rna_watch.reproduce.curves import at
from rna_watch.reproduce.figure1_tables import TOLERANCES
from rna_watch.reproduce.images.spec import RunSpec
from tests.benchmarks import whole
from tests.benchmarks.levers.tables import error

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rna_watch.reproduce.tables import Table

RESULTS = Path(__file__).parents[2] / "docs" / "results"
_FIGURE1 = {
    **{f"lbfgs-{m}": f"L-BFGS, m = {m}" for m in (5, 10, 20)},
    **{f"gradient-online-{n}": f"gradient method, online RNA, N = {n}" for n in (5, 10, 20)},
    "nesterov-online-20": "Nesterov, online RNA, N = 20",
}
CONDITIONS = ("1e3", "1e5", "1e7")
_BEST = "best plain average"
_DIGITS = {
    "average of 5": "uniform average of 5",
    "RNA N=5, 1e-8, differences": "RNA N = 5, lambda = 1e-8, plain differences",
    "RNA N=5, 1e-8, mean gradients": "RNA N = 5, lambda = 1e-8, exact mean gradients",
}
_AVERAGES = {"average": "uniform average of", "ema": "exponential average over"}
_PAIR = re.compile(r"(average|ema)-(\d+) against rna-(\d+)-1e-08 ([\d /]+?) \(first half ([\d /]+)\)")


def kept(name: str) -> dict[str, Any]:
    """What an experiment left."""
    return dict(json.loads((RESULTS / f"{name}.json").read_text()))


def experiment(name: str) -> list[Table]:
    """The tables of an experiment with networks."""
    record = kept(f"reproduce/{name}")
    if name == "prototyping":
        return prototyping.summary(record["results"])
    return networks_tables.summary(_runs(record), record["results"])


def _runs(record: dict[str, Any]) -> list[RunSpec]:
    return [RunSpec(**{**run, "data": Path()}) for run in record["settings"]["runs"]]


def one_by_one() -> Iterator[tuple[str, ...]]:
    """How often a recipe of averages was better than one of RNA: CIFAR-10, then MNIST, each whole and its first half."""
    record = kept("reproduce/networks")
    shown = networks_tables.tables(_runs(record), record["results"])
    mnist, cifar = (pairs for each in shown if (pairs := _PAIR.findall(" ".join(each.notes))))
    for (kind, length, n, *counts), (_, _, _, *others) in zip(cifar, mnist, strict=True):
        yield f"{_AVERAGES[kind]} {length}, RNA N = {n}", *counts, *others


def figure1() -> Iterator[tuple[str, ...]]:
    """Iterations to each tolerance, by the condition."""
    results = kept("reproduce/figure1")["results"]
    for key, words in _FIGURE1.items():
        reached = [results[f"{key}-{condition}"]["reached"] for condition in CONDITIONS]
        yield words, *(" / ".join(str((at(each, t) or "-")[0]) for t in TOLERANCES) for each in reached)


def digits() -> Iterator[tuple[str, ...]]:
    """Test error by phase, and the paired difference to the best plain average in brackets."""
    record = kept("digits")
    phases, results = record["settings"]["phases"], record["results"]
    yield "", *(f"{name} (epochs {first}-{last})" for name, (first, last) in phases.items())
    for name, found in results.items():
        yield _DIGITS.get(name, name), *(_digits_cell(found, results[_BEST], phase) for phase in phases)


def machine(name: str) -> str:
    """What a benchmark of speed ran on, and how often, in a line."""
    record = kept(name)
    found = record["machine"]
    return (
        f"Medians of {record['rounds']} rounds in turn on {found['cores']} cores of {found['processor']}, {found['system']}, "
        f"Python {found['python']}; load of the machine at the end: {found['load']:.1f}."
    )


def processes() -> Iterator[tuple[str, ...]]:
    """A window by whole processes: a heading for each of its forms, then a row for each contender."""
    for title, runs in kept("whole")["results"].items():
        yield f"**{title}**", *[""] * (len(whole.HEADING) - 1)
        yield from whole.rows(runs)


def _digits_cell(found: dict[str, Any], best: dict[str, Any], phase: str) -> str:
    values, others = found[phase]["seeds"], best[phase]["seeds"]
    shown = f"{statistics.fmean(values):.2f} ± {error(values):.2f}"
    paired = [mine - other for mine, other in zip(values, others, strict=True)]
    return shown if found is best else f"{shown} [{statistics.fmean(paired):+.2f} ± {error(paired):.2f}]"
