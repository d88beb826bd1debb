"""The rows that trackers get: for each checkpoint of a run, in the order of steps, its numbers by name, from the journal."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rna_watch.journal.metric import mode_of
from rna_watch.journal.replay import PENDING, Stage

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rna_watch.journal.replay import Checkpoint, RunState

_SETTLED = frozenset({Stage.PUBLISHED, Stage.FINISHED})


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A checkpoint that is done.

    `prefix` stands before the names where a run has several series ("" else), and `saved` is when the training wrote it, `done`
    when its model was there (seconds since 1970). `method` is the candidate that was chosen, `output` the model's path in the
    output tree. `values` has `original/error`, `average/error`, `chosen/error` for each metric, the `gain` of the chosen
    model over the original (positive: better), `significant` (1 or 0), `window`, `regularization`.
    """

    checkpoint: str
    series: str
    prefix: str
    step: int
    saved: float
    done: float
    method: str = ""
    output: str = ""
    values: dict[str, float] = field(default_factory=dict)


def rows(state: RunState, *, live: bool) -> list[Row]:
    """The rows of a run: its series one after the other, each in the order of steps.

    Args:
        state: what the journal adds up to.
        live: leave out what comes after a checkpoint that is still in work, so that later calls only add at the end (but for
            what is made anew).
    """
    series = state.series()
    found = []
    for name in series:
        prefix = f"{name.replace('/', '_')}/" if len(series) > 1 else ""
        members = [each for each in list(state.checkpoints.values()) if each.admitted and each.series == name]
        members.sort(key=lambda each: (each.step or 0, each.admitted.seq if each.admitted else 0))
        found += list(_of_series(state, members, prefix, live=live))
    return found


def _of_series(state: RunState, members: list[Checkpoint], prefix: str, *, live: bool) -> Iterator[Row]:
    for each in members:
        if each.stage in PENDING:
            if live:
                return
            continue
        if each.stage not in _SETTLED or each.admitted is None:
            continue
        yield Row(
            checkpoint=each.name,
            series=each.series,
            prefix=prefix,
            step=each.admitted.step,
            saved=each.admitted.mtime_ns / 1e9,
            done=each.done_time,
            method=each.chosen.candidate if each.chosen else "",
            output=each.output or "",
            values=_values(state, each),
        )


def _values(state: RunState, checkpoint: Checkpoint) -> dict[str, float]:
    chosen = checkpoint.chosen
    metrics = chosen.metrics if chosen else {"original": checkpoint.evaluations.get("last")}
    values = {
        f"{who}/{metric}": float(value)
        for who in ("original", "average", "chosen")
        for metric, value in (metrics.get(who) or {}).items()
        if isinstance(value, int | float)
    }
    if chosen is None:
        return values
    mode = mode_of(state)
    if state.metric is not None and mode is not None:
        original, ours = (values.get(f"{who}/{state.metric.metric}") for who in ("original", "chosen"))
        if original is not None and ours is not None:
            values["gain"] = original - ours if mode == "min" else ours - original
    if chosen.significant is not None:
        values["significant"] = float(chosen.significant)
    recipe = checkpoint.recipes.get(chosen.candidate)
    for name in ("window", "regularization") if recipe is not None else ():
        if (value := getattr(recipe, name)) is not None:
            values[name] = float(value)
    return values
