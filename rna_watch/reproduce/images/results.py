"""The curves of finished runs: test error by epoch, of the last iterate, of RNA in its forms, and of plain averages."""

from __future__ import annotations

import itertools
import math
import statistics
from typing import TYPE_CHECKING, Any

from rna_watch.reproduce.images.judge import TEST

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Curve = list[float]

LAST, LOOP, ONLINE, CHOSEN, BEST_AVERAGE = "last", "loop", "online", "chosen", "average"
# method -> its name in tables; those from `DAEMON` on are what the daemon found by watching the checkpoints
METHODS = {
    LAST: "last iterate",
    LOOP: "RNA in the loop, N = 5, 1e-8",
    "rna-5-1e-08": "RNA from checkpoints, N = 5, 1e-8",
    "rna": "best RNA of N = 5, 10 and 1e-8, 1e-2",
    "average-5": "uniform average of 5",
    "ema": "exponential average",
    BEST_AVERAGE: "best plain average",
    CHOSEN: "chosen",
    ONLINE: "online RNA, N = 5, 1e-8",
}


def curves(result: Mapping[str, Any]) -> dict[str, Curve]:
    """Test error in percent by epoch, of every method that the result of a run has.

    Where a method has no model yet (it needs more epochs than there are), a user has the last iterate.
    """
    rows = result["curve"]
    last = [row["network"][TEST] for row in rows]
    if "daemon" not in result:
        return {ONLINE: last} if rows[-1]["extrapolated"] is None else {LAST: last, **_beside(rows)}
    daemon = result["daemon"]
    place = {epoch: i for i, epoch in enumerate(daemon["epochs"])}
    found = {LAST: last, **_beside(rows)}
    for method in METHODS:
        key = next((r for r in daemon["recipes"] if r.startswith("ema-")), "") if method == "ema" else method
        values = daemon["values"].get(key)
        if method not in found and values:
            picked = [values[place[row["epoch"]]] if row["epoch"] in place else None for row in rows]
            found[method] = [original if value is None else value for value, original in zip(picked, last, strict=True)]
    return found


def _beside(rows: Sequence[Mapping[str, Any]]) -> dict[str, Curve]:
    found = {LOOP: [row["extrapolated"][TEST] for row in rows]}
    if any(row.get("averaged") for row in rows):
        found["average-5"] = [(row["averaged"] or row["network"])[TEST] for row in rows]
    return found


def first_epoch(curve: Sequence[float], level: float) -> int | None:
    """The first epoch, from 1, at or below a level."""
    return next((epoch for epoch, value in enumerate(curve, start=1) if value <= level + 1e-9), None)


def roughness(curve: Sequence[float]) -> float:
    """How far the error jumps from epoch to epoch: the mean of |e_k - e_{k-1}| in points, after the first fifth."""
    later = curve[len(curve) // 5 :]
    return statistics.fmean(abs(b - a) for a, b in itertools.pairwise(later)) if len(later) > 1 else math.nan


def spread(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard error (not a number for one value)."""
    mean = statistics.fmean(values)
    return mean, statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan


def written(values: Sequence[float], *, sign: bool = False) -> str:
    """`mean ± standard error` with two digits, or the only value."""
    mean, error = spread(values)
    number = f"{mean:+.2f}" if sign else f"{mean:.2f}"
    return number if math.isnan(error) else f"{number} ± {error:.2f}"


def difference_of_coefficients(result: Mapping[str, Any], reset_after: int = 2) -> tuple[int, float] | None:
    """Over how many epochs the training and the daemon solved for the same window, and the largest difference of a c_i.

    The training forgets its history after the second epoch and combines N epochs after it; the daemon's weights have an
    oldest point of weight zero in front. Windows of the same epochs are compared.
    """
    if "daemon" not in result:
        return None
    worst, count = 0.0, 0
    for row in result["curve"]:
        ours = row["c"]
        theirs = result["daemon"]["weights"].get(str(row["epoch"]), {}).get(f"rna-{len(ours)}-1e-08")
        if row["epoch"] > reset_after + 1 and len(ours) > 1 and theirs is not None and len(theirs) >= len(ours):
            worst = max(worst, *(abs(a - b) for a, b in zip(ours, theirs[-len(ours) :], strict=True)))
            count += 1
    return (count, worst) if count else None
