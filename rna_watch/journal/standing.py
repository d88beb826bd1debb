"""The standing of a run: its best model next to its best original, by the metric that decides, as one evaluator judged both."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rna_watch.acceleration.significance import Mode, gain
from rna_watch.journal.metric import mode_of, value_in
from rna_watch.journal.replay import Stage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from rna_watch.journal.events import Metrics
    from rna_watch.journal.replay import Best, Checkpoint, RunState


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """A model or an original, with its checkpoint, its output ("" for an original) and its value."""

    checkpoint: str
    value: float
    output: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """The best model and the best original of a series.

    `best` is the model that the link `best` names, None if it names none or one that is gone. `model` is the same, or,
    where there is none, the best model that is there. `gain` is that of the model over the original, positive if the model
    is better, and None if they cannot be compared. `significant` says whether a gain is beyond noise, by the metric or the
    loss that `tested_on` names; None: it is not known, as between two checkpoints without `minimum_gain`. `unbeaten` says
    whether no model that is there is better than the original.
    """

    series: str
    metric: str
    mode: Mode | None
    best: Scored | None
    model: Scored | None
    original: Scored | None
    gain: float | None = field(default=None)
    significant: bool | None = field(default=None)
    tested_on: str | None = field(default=None)
    unbeaten: bool = field(default=False)


def standings(state: RunState, there: Callable[[str], bool] = lambda _: True) -> list[Standing]:
    """The standing of each series in which something was evaluated, the first series first.

    Args:
        state: what the journal adds up to.
        there: whether an output is in the output tree; one that is gone is not named.
    """
    found = (standing(state, there, series) for series in state.series())
    return [each for each in found if each is not None and (each.best or each.model or each.original)]


def standing(
    state: RunState, there: Callable[[str], bool] = lambda _: True, series: str | None = None
) -> Standing | None:
    """The standing of a series, by default of the first; None while nothing was evaluated.

    Args:
        state: what the journal adds up to.
        there: whether an output is in the output tree; one that is gone is not named.
        series: the series.
    """
    if state.metric is None:
        return None
    series = state.series_of(state.first) if series is None else series
    metric, mode = state.metric.metric, mode_of(state)
    named = state.bests.get(series)
    by = named.by if named else None
    best, comparable = _best(state, named, metric, there)
    if mode is None or (best is not None and not comparable):
        metric = by[1][0] if best and by and by[1] else metric
        return Standing(series=series, metric=metric, mode=mode, best=best, model=best, original=None)
    key = by[0] if best and by else (*state.judged[:2], series) if state.judged else None
    members = list(state.checkpoints.of_series(key[2] if key else series).steps)
    among = (state.checkpoints[name] for _, _, name, _ in members)
    judged = [each for each in among if each.key == key and each.evaluated]
    original = _top(judged, _of_original, metric, mode)
    made = [each for each in judged if each.output and each.verdict and each.stage is Stage.PUBLISHED]
    while (top := _top(made, _of_model, metric, mode)) and not there(top.output):
        made = [each for each in made if each.output != top.output]
    model = best or top
    if model is None or original is None:
        return Standing(
            series=series, metric=metric, mode=mode, best=best, model=model, original=original, unbeaten=model is None
        )
    by_how_much = gain(model.value, original.value, mode)
    significant, tested_on = _significant(state, model, original, by_how_much)
    beaten = any(gain(each.value, original.value, mode) > 0.0 for each in (model, top) if each)
    return Standing(
        series=series,
        metric=metric,
        mode=mode,
        best=best,
        model=model,
        original=original,
        gain=by_how_much,
        significant=significant,
        tested_on=None if significant is None else tested_on or metric,
        unbeaten=not beaten,
    )


def _best(state: RunState, best: Best | None, metric: str, there: Callable[[str], bool]) -> tuple[Scored | None, bool]:
    """What `best` names, if it is there, and whether its value is by the metric that decides now."""
    if best is None or not there(best.moved.output):
        return None, False
    named, by = best
    current = state.checkpoints.get(named.checkpoint)
    value = None
    if current is not None and current.output == named.output and current.verdict:
        value = _finite(current.verdict.metrics.get("chosen"), metric)
    comparable = value is not None or by is None or by[1] is None or by[1][0] == metric
    scored = Scored(checkpoint=named.checkpoint, value=named.value if value is None else value, output=named.output)
    return scored, comparable


def _finite(metrics: Metrics | None, metric: str) -> float | None:
    value = value_in(metrics, metric)
    return value if value is not None and math.isfinite(value) else None


def _of_original(checkpoint: Checkpoint) -> Metrics | None:
    return checkpoint.original


def _of_model(checkpoint: Checkpoint) -> Metrics | None:
    return checkpoint.verdict.metrics.get("chosen") if checkpoint.verdict else None


def _top(
    checkpoints: Iterable[Checkpoint], said: Callable[[Checkpoint], Metrics | None], metric: str, mode: Mode
) -> Scored | None:
    """The best of these by what was said of each; of equal ones the first."""
    top, found = math.inf if mode == "min" else -math.inf, None
    for each in checkpoints:  # over thousands of them in each frame of a dashboard
        metrics = said(each)
        value = metrics.get(metric) if metrics else None
        if value is not None and (value < top if mode == "min" else value > top) and math.isfinite(value):
            top, found = value, each
    if found is None:
        return None
    return Scored(checkpoint=found.name, value=top, output="" if said is _of_original else found.output or "")


def _significant(state: RunState, model: Scored, original: Scored, by_how_much: float) -> tuple[bool | None, str]:
    """Whether a gain is beyond noise: as the choice found if both are of one checkpoint, else by `minimum_gain` alone.

    The second is what the choice tested it on ("": the metric).
    """
    if by_how_much <= 0.0:
        return None, ""
    current = state.checkpoints.get(model.checkpoint)
    if model.checkpoint == original.checkpoint and current and current.output == model.output and current.verdict:
        return current.verdict.significant, current.verdict.tested_on
    least = state.started.settings.get("minimum_gain") if state.started else None
    return by_how_much > least if isinstance(least, (int, float)) and math.isfinite(least) else None, ""
