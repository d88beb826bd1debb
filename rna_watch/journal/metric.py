"""The metric that decides, as far as the journal names it: its name, its direction, its values, and the best of them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rna_watch.acceleration.methods import AVERAGES, LAST, SOLUTIONS, kind_of
from rna_watch.acceleration.significance import Mode, gain
from rna_watch.journal.replay import Stage

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rna_watch.journal.events import Metrics
    from rna_watch.journal.replay import Checkpoint, RunState


_MODES: dict[str, Mode] = {"min": "min", "max": "max"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """The evaluator's metric that decides; `mode` is min, max, or None if it is not known."""

    name: str
    mode: Mode | None

    def best(self, values: Iterable[float | None]) -> float | None:
        """The best of these values, None if the direction is not known; a value that is no number never wins."""
        finite = [value for value in values if value is not None and math.isfinite(value)]
        return (min if self.mode == "min" else max)(finite, default=None) if self.mode else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Values:
    """The deciding metric at a checkpoint: the values of the original, the best average, the best solution, the choice."""

    original: float | None = None
    average: float | None = None
    rna: float | None = None
    chosen: float | None = None


def mode_of(state: RunState) -> Mode | None:
    """The direction of the metric by which models are chosen, as the journal names it; None if it is not known."""
    return _MODES.get(state.metric.mode) if state.metric else None


def metric_of(state: RunState) -> Metric | None:
    """The metric that the journal names or, if it names none, the first one of its newest evaluation, or None."""
    if state.metric:
        return Metric(name=state.metric.metric, mode=mode_of(state))
    for checkpoint in reversed(state.checkpoints.values()):
        if not checkpoint.evaluated:
            continue
        chosen = checkpoint.chosen.metrics.get("chosen") if checkpoint.chosen else None
        for metrics in (chosen, *checkpoint.evaluations.values()):
            if metrics:
                return Metric(name=next(iter(metrics)), mode=None)
    return None


def best_so_far(state: RunState, name: str) -> float | None:
    """The value of a checkpoint's model if it beats its original, every original and model before, and `best`; else None.

    What is before was saved before, whenever it was made. Only values of one evaluator and of one model in the files are
    compared.
    """
    current, settled = state.checkpoints[name], state.metric
    mode = mode_of(state)
    if settled is None or mode is None or current.chosen is None or not current.chosen.better_than_original:
        return None
    key = current.chosen_by[0] if current.chosen_by else current.key
    said: list[Metrics | None] = [
        metrics for other, metrics in state.replaced if other[:2] == key[:2] and other[2] in {key[2], ""}
    ]
    before = state.checkpoints.of_series(key[2]).earlier(current.age)
    for other in (current, *(state.checkpoints[each] for each in before)):  # thousands of them
        if other.judge == key[0] and other.admitted and other.admitted.source == key[1]:
            said.append(other.original)
        if other.stage is Stage.PUBLISHED and other.chosen_by and other.chosen_by[0] == key and other is not current:
            said.append(other.verdict.metrics.get("chosen") if other.verdict else None)
    values = [value_in(metrics, settled.metric) for metrics in said if metrics]
    best = state.bests.get(current.series)
    if best is not None and best.by == (key, (settled.metric, settled.mode)):
        values.append(best.moved.value)
    value = value_in(current.chosen.metrics.get("chosen"), settled.metric)
    others = Metric(name=settled.metric, mode=mode).best(values)
    beats = value is not None and math.isfinite(value) and (others is None or gain(value, others, mode) > 0)
    return value if beats else None


def as_good_as_best(state: RunState, name: str) -> bool:
    """Whether a checkpoint's model is at least as good as its series' best, by the evaluator and metric that say so of it."""
    current, settled = state.checkpoints[name], state.metric
    best = state.bests.get(current.series)
    if best is None or settled is None or current.chosen is None or best.by != current.chosen_by:
        return False
    value, mode = value_in(current.chosen.metrics.get("chosen"), settled.metric), mode_of(state)
    return value is not None and mode is not None and gain(value, best.moved.value, mode) >= 0


def values_of(checkpoint: Checkpoint, metric: Metric) -> Values:
    """The known values of a checkpoint: those of the choice, or those evaluated so far."""
    if checkpoint.verdict:
        known = checkpoint.verdict.metrics
        original, average, rna, chosen = (
            value_in(known.get(key), metric.name) for key in ("original", "average", "rna", "chosen")
        )
        return Values(original=original, average=average, rna=rna, chosen=chosen)
    if not checkpoint.evaluated:
        return Values()
    by_name = {name: value_in(metrics, metric.name) for name, metrics in checkpoint.evaluations.items()}
    kinds = {name: kind_of(checkpoint.recipes[name].method) for name in by_name}
    return Values(
        original=by_name.get(LAST),
        average=metric.best(value for name, value in by_name.items() if kinds[name] == AVERAGES),
        rna=metric.best(value for name, value in by_name.items() if kinds[name] == SOLUTIONS),
    )


def value_in(metrics: Metrics | None, name: str) -> float | None:
    """The value of a metric among others; None if it is not there."""
    value = metrics.get(name) if metrics else None
    return float(value) if isinstance(value, (int, float)) else None
