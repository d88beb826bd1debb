"""What a run would be worth if it were cooled down now: the best of the branches that were trained from its newest checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rna_watch.acceleration.significance import ranked
from rna_watch.journal.metric import mode_of, value_in
from rna_watch.journal.quantities import duration, gain, number, places

if TYPE_CHECKING:
    from rna_watch.acceleration.significance import Mode
    from rna_watch.journal.replay import Checkpoint, RunState


@dataclass(frozen=True, slots=True, kw_only=True)
class Cooled:
    """The best branch of a checkpoint, next to the original there; `now`: no newer checkpoint was evaluated.

    `steps` and `seconds` are what this branch cost, 0 if that is not known.
    """

    checkpoint: str
    candidate: str
    metric: str
    mode: Mode
    value: float
    original: float | None
    steps: int
    seconds: float
    now: bool


def cooled(state: RunState) -> Cooled | None:
    """The newest checkpoint's branches, of the first series; None where there are none.

    Args:
        state: what the journal adds up to.
    """
    mode = mode_of(state)
    if state.metric is None or mode is None:
        return None
    metric, series = state.metric.metric, state.series_of(state.first)
    of_series = state.checkpoints.of_series(series)
    branched = [state.checkpoints[each] for each in list(state.checkpoints.trained)]
    for checkpoint in sorted(branched, key=lambda each: each.age, reverse=True):
        if checkpoint.series != series or checkpoint.judge != state.judge or checkpoint.step is None:
            continue
        if (best := _best(checkpoint, metric, mode)) is not None:
            training = checkpoint.training[best]
            value = value_in(checkpoint.evaluations[best], metric)
            assert value is not None
            return Cooled(
                checkpoint=checkpoint.name,
                candidate=best,
                metric=metric,
                mode=mode,
                value=value,
                original=value_in(checkpoint.original, metric),
                steps=int(training.get("steps", 0)),
                seconds=float(training.get("seconds", 0.0)),
                now=not any(state.checkpoints[name].evaluated for name in of_series.above(checkpoint.step)),
            )
    return None


def _best(checkpoint: Checkpoint, metric: str, mode: Mode) -> str | None:
    branches = [name for name in checkpoint.training if value_in(checkpoint.evaluations.get(name), metric) is not None]
    return next(iter(ranked(branches, lambda name: value_in(checkpoint.evaluations[name], metric), mode)), None)


def sentence(found: Cooled) -> str:
    """The answer to the question what this run would be worth if it were cooled down now.

    Args:
        found: the best branch.
    """
    decimals = places([found.value, found.original])
    when = "now" if found.now else f"at {found.checkpoint}"
    worth = "would be worth" if found.now else "would have been worth"
    instead = ""
    if found.original is not None:
        share = gain(found.original, found.value, found.mode)
        instead = f" instead of {number(found.original, decimals)}" + (f" ({share})" if share else "")
    where = f" at {found.checkpoint}" if found.now else ""
    cost = f": {found.steps} steps of training, {duration(found.seconds)}" if found.steps else ""
    return (
        f"cooled down {when}, this run {worth} {found.metric} {number(found.value, decimals)}{instead}; "
        f"{found.candidate}{where}{cost}, not RNA"
    )
