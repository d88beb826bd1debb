"""The curves of finished runs: test error by epoch of the last iterate, of RNA in its forms, and of plain averages."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rna_watch.reproduce.images.judge import TEST

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from rna_watch.reproduce.images.spec import RunSpec

Curve = list[float]

LAST, LOOP, ONLINE, CHOSEN, UNIFORM, BEST_AVERAGE = "last", "loop", "online", "chosen", "uniform", "average"
DAEMON_RNA, BEST_RNA, AVERAGE_5, EMA = "rna-5-1e-08", "rna", "average-5", "ema"
# method -> its name in tables; {} is the setting of the run's own RNA, while the daemon's N and lambdas are fixed
_METHODS = {
    LAST: "last iterate",
    LOOP: "RNA in the loop, {}",
    DAEMON_RNA: "RNA from checkpoints, N = 5, 1e-08",
    BEST_RNA: "best RNA of N = 5, 10 and 1e-08, 1e-02",
    AVERAGE_5: "uniform average of 5",
    UNIFORM: "best uniform average of 3, 5, 10",
    EMA: "exponential average",
    BEST_AVERAGE: "best plain average",
    CHOSEN: "chosen",
    ONLINE: "online RNA, {}",
}
METHODS = tuple(_METHODS)
_RESET_AFTER = 2  # as `training.Rna` does
_NAMES = {"momentum": "momentum", "sgd": "SGD"}


def label(method: str, run: RunSpec) -> str:
    """The name of a method in tables."""
    return _METHODS[method].format(f"N = {run.n}, {run.reg:.0e}")


def optimizer_name(optimizer: str) -> str:
    """The name of an optimizer in the paper's tables."""
    return _NAMES.get(optimizer, optimizer)


def curves(result: Mapping[str, Any], metric: str = TEST) -> dict[str, Curve]:
    """Error in percent by epoch of every method in the result of a run; the daemon's are test errors.

    A user has the last iterate until a method has its first model, for which it may need several epochs. The error is NaN at
    later epochs without a model.
    """
    rows = result["curve"]
    last = [row["network"][metric] for row in rows]
    if rows[-1]["extrapolated"] is None:
        return {ONLINE: last}
    found = {LAST: last, LOOP: [row["extrapolated"][metric] for row in rows]}
    if any(row.get("averaged") for row in rows):
        found[AVERAGE_5] = [(row["averaged"] or row["network"])[metric] for row in rows]
    daemon = result.get("daemon")
    if daemon is None:
        return found
    place = {epoch: i for i, epoch in enumerate(daemon["epochs"])}
    for method in METHODS:
        key = next((r for r in daemon["recipes"] if r.startswith("ema-")), "") if method == EMA else method
        values = daemon["values"].get(key)
        if method not in found and values and any(value is not None for value in values):
            picked = [values[place[row["epoch"]]] if row["epoch"] in place else None for row in rows]
            first = next(i for i, value in enumerate(picked) if value is not None)
            found[method] = last[:first] + [math.nan if value is None else value for value in picked[first:]]
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A method with one optimizer: its curves by seed."""

    optimizer: str
    method: str
    own: Mapping[int, Curve]


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """All runs of one network on one dataset, and their results so far; curves by (optimizer, seed), then by method.

    Levels are compared within a seed. `seeds` are those that are finished with every optimizer that has a finished run.
    """

    runs: Sequence[RunSpec]
    finished: Sequence[Mapping[str, Any]]
    missing: Sequence[str]
    offline: Mapping[tuple[str, int], Mapping[str, Curve]]
    online: Mapping[tuple[str, int], Mapping[str, Curve]]

    @property
    def name(self) -> str:
        """The network and the dataset in words."""
        return f"{self.runs[0].network.removeprefix('imagenet-')} on {self.runs[0].dataset}"

    @property
    def optimizers(self) -> list[str]:
        """The optimizers with a finished run."""
        return list(dict.fromkeys(optimizer for optimizer, _ in self.offline))

    @property
    def seeds(self) -> list[int]:
        """The seeds that are finished with every optimizer."""
        return sorted({s for _, s in self.offline if all((o, s) in self.offline for o in self.optimizers)})

    @property
    def reference(self) -> str:
        """The optimizer whose last iterate speed-ups are relative to: momentum, as in the paper, or the first one."""
        return "momentum" if "momentum" in self.optimizers else self.optimizers[0]

    def best(self, seed: int) -> float:
        """The lowest test error of a last iterate, at any epoch, of all optimizers."""
        return min(min(self.offline[optimizer, seed][LAST]) for optimizer in self.optimizers)

    def rows(self) -> Iterator[Row]:
        """Every method, optimizer by optimizer, over the task's seeds; online RNA over the seeds that it was run with."""
        for optimizer in self.optimizers:
            for method in METHODS:
                found = self.online if method == ONLINE else self.offline
                own = {s: found[optimizer, s][method] for s in self.seeds if method in found.get((optimizer, s), {})}
                if own and (method == ONLINE or len(own) == len(self.seeds)):
                    yield Row(optimizer=optimizer, method=method, own=own)

    def title(self, row: Row) -> str:
        """The first cell of a row; it names the seeds if they are not the task's."""
        seeds = "" if list(row.own) == self.seeds else f" (seed {', '.join(map(str, row.own))})"
        return f"{optimizer_name(row.optimizer)}: {label(row.method, self.runs[0])}{seeds}"


def tasks(runs: Sequence[RunSpec], results: Mapping[str, Any]) -> list[Task]:
    """The tasks with a finished offline run."""
    made = []
    for name in dict.fromkeys((run.dataset, run.network) for run in runs):
        own = [run for run in runs if (run.dataset, run.network) == name]
        done = {run: curves(results[run.key]) for run in own if run.key in results}
        task = Task(
            runs=own,
            finished=[results[run.key] for run in done],
            missing=[run.key for run in own if run not in done],
            offline={(run.optimizer, run.seed): found for run, found in done.items() if not run.online},
            online={(run.optimizer, run.seed): found for run, found in done.items() if run.online},
        )
        if task.offline and task.seeds:
            made.append(task)
    return made


def first_epoch(curve: Sequence[float], level: float) -> int | None:
    """The first epoch, from 1, at or below a level."""
    return next((epoch for epoch, value in enumerate(curve, start=1) if value <= level + 1e-9), None)


def rise(curve: Sequence[float]) -> float:
    """How far the error rises from one epoch to the next, in points: the mean of max(0, e_k - e_{k-1}).

    It is 0 for a curve that only falls, however fast. It counts from the seventh epoch on (from the middle of short runs),
    where RNA in the loop has a full window.
    """
    start = min(7, len(curve) // 2)
    pairs = list(zip(curve[start - 1 :], curve[start:], strict=False)) if start else []
    return statistics.fmean(max(0.0, b - a) for a, b in pairs) if pairs else math.nan


def written(values: Sequence[float], *, sign: bool = False) -> str:
    """`mean ± standard error` with two digits, or the only value; `-` if one is NaN."""
    if not values or any(math.isnan(value) for value in values):
        return "-"
    number = f"{statistics.fmean(values):{'+' if sign else ''}.2f}"
    if len(values) == 1:
        return number
    return f"{number} ± {statistics.stdev(values) / math.sqrt(len(values)):.2f}"


def difference_of_coefficients(result: Mapping[str, Any], run: RunSpec) -> tuple[int, float] | None:
    """The number of epochs at which the training and the daemon solved for the same window, and the largest |difference| of c.

    The training forgets its history after the second epoch and combines the N epochs after it. The daemon's weights begin
    with an oldest point of weight zero. Windows of the same epochs are compared.
    """
    if "daemon" not in result:
        return None
    worst, count = 0.0, 0
    for row in result["curve"]:
        ours = row["c"]
        theirs = result["daemon"]["weights"].get(str(row["epoch"]), {}).get(f"rna-{len(ours)}-{run.reg:.0e}")
        if row["epoch"] > _RESET_AFTER + 1 and len(ours) > 1 and theirs is not None and len(theirs) >= len(ours):
            worst = max(worst, *(abs(a - b) for a, b in zip(ours, theirs[-len(ours) :], strict=True)))
            count += 1
    return (count, worst) if count else None
