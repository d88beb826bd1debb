"""The state that a run's events add up to: the daemon restarts from it, and every view shows it."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING

from rna_watch.journal import events as e
from rna_watch.journal.kept import stale, still_meant
from rna_watch.journal.recipe import Recipe, read

if TYPE_CHECKING:
    from collections.abc import Iterable, Set

RECENT_EVENTS = 200


class Stage(StrEnum):
    """The stages of a checkpoint on its way from a file to a model."""

    WAITING = "waiting"
    REFUSED = "refused"
    VANISHED = "vanished"
    ALIAS = "alias"
    READY = "ready"
    MEASURED = "measured"
    EVALUATING = "evaluating"
    CHOSEN = "chosen"
    PUBLISHING = "publishing"
    PUBLISHED = "published"
    FINISHED = "finished"
    SKIPPED = "skipped"
    FAILED = "failed"


PENDING = frozenset({Stage.READY, Stage.MEASURED, Stage.EVALUATING, Stage.CHOSEN, Stage.PUBLISHING})
DONE = frozenset({Stage.PUBLISHED, Stage.FINISHED})


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """One checkpoint of the run, as far as the journal tells; `judge` is the one that evaluated it, as `RunState` counts them.

    `apart_from`: checkpoints of smaller step that are of other trainings, and why.
    What was said of candidates is kept by their names; `models` tells which model of that name was evaluated ("": unknown).
    """

    name: str
    stage: Stage
    reason: str = ""
    seen_time: float = 0.0
    done_time: float = 0.0
    admitted: e.Admitted | None = None
    starts_window: bool = False
    apart_from: dict[str, str] = field(default_factory=dict)
    measured: e.Measured | None = None
    searched: e.Searched | None = None
    screened: dict[str, e.Screened] = field(default_factory=dict)
    evaluations: dict[str, e.Metrics] = field(default_factory=dict)
    examples: dict[str, int] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    recipes: dict[str, Recipe] = field(default_factory=dict)
    models: dict[str, str] = field(default_factory=dict)
    chosen: e.Chosen | None = None
    publishing: e.Publishing | None = None
    output: str | None = None
    pinned: bool = False
    attempts: int = 0
    judge: int = 0

    @property
    def step(self) -> int | None:
        """The step or epoch, once known."""
        return self.admitted.step if self.admitted else None

    @property
    def usable(self) -> bool:
        """Whether the checkpoint may be an input of a window."""
        return self.admitted is not None and self.stage in PENDING | DONE | {Stage.FAILED}


@dataclass(slots=True, kw_only=True)
class RunState:
    """The sum of a run's events; `apply` adds one. Checkpoints keep the order in which they were first seen.

    `outputs` are the outputs that are kept, by path, the newest last. `replaced` holds the metrics of originals and of
    published models whose checkpoint was written again since, each with its judge: they still count for `best`. `judges`
    are all evaluators so far, and `judge` is the number of the present one.
    """

    started: e.Started | None = None
    stopped: e.Stopped | None = None
    checkpoints: dict[str, Checkpoint] = field(default_factory=dict)
    problems: dict[str, e.Problem] = field(default_factory=dict)
    metric: e.MetricChosen | None = None
    best: e.BestMoved | None = None
    outputs: dict[str, e.Published] = field(default_factory=dict)
    replaced: list[tuple[int, e.Metrics]] = field(default_factory=list)
    judges: list[tuple[object, ...]] = field(default_factory=list)
    judge: int = 0
    recent: deque[e.Event] = field(default_factory=lambda: deque(maxlen=RECENT_EVENTS))
    read_bytes: int = 0
    written_bytes: int = 0

    def apply(self, event: e.Event) -> None:
        """Add one event."""
        self.recent.append(event)
        match event:
            case e.Started():
                before = self.started or event
                if _judge(before) != _judge(event) or stale(before, event):
                    self._forget_evaluations()
                if _judge(event) not in self.judges:
                    self.judges.append(_judge(event))
                self.judge = self.judges.index(_judge(event))
                self.started, self.stopped, self.problems = event, None, {}
            case e.Stopped():
                self.stopped = event
            case e.Problem():
                self.problems[event.key] = event
            case e.Solved():
                self.problems.pop(event.key, None)
            case e.BestMoved():
                self.best = event
            case e.MetricChosen():
                self.metric = event
            case e.Admitted():
                old = self.checkpoints.get(event.checkpoint)
                seen_time = old.seen_time if old and not old.admitted else event.time
                self.replaced += _reached(old) if old else []
                self.checkpoints[event.checkpoint] = Checkpoint(
                    name=event.checkpoint,
                    stage=Stage.READY,
                    seen_time=seen_time,
                    admitted=event,
                    pinned=event.pin != "none",
                )
            case _ if hasattr(event, "checkpoint") and event.checkpoint:
                self._apply_to_checkpoint(event, event.checkpoint)
            case _:
                pass

    def _forget_evaluations(self) -> None:
        """Drop the evaluations of unfinished checkpoints, which are evaluated again."""
        for name, checkpoint in self.checkpoints.items():
            if checkpoint.stage in PENDING | {Stage.FAILED}:
                self.checkpoints[name] = _with_only(checkpoint, frozenset())

    def _apply_to_checkpoint(self, event: e.Event, name: str) -> None:
        old = self.checkpoints.get(name) or Checkpoint(name=name, stage=Stage.WAITING, seen_time=event.time)
        match event:
            case e.Waiting():
                new = replace(old, stage=Stage.WAITING, reason=event.reason)
            case e.Refused():
                new = replace(old, stage=Stage.REFUSED, reason=event.reason)
            case e.Vanished():
                new = replace(old, stage=Stage.VANISHED, reason="gone before it could be used")
            case e.Aliased():
                new = replace(old, stage=Stage.ALIAS, reason=f"another name of {event.of}")
            case e.WindowStarted():
                new = _apart(old, event)
            case e.Measured():
                self.read_bytes += event.read_bytes
                new = replace(old, stage=Stage.MEASURED, measured=event)
                if old.measured is not None and old.measured.residuals != event.residuals:
                    new = _with_only(new, still_meant(old.measured, event, old.models, old.recipes))
            case e.Searched():
                new = replace(old, searched=event, recipes=old.recipes | _recipes(event))
            case e.Screened():
                new = replace(old, stage=Stage.EVALUATING, screened=old.screened | {event.candidate: event})
            case e.Evaluated():
                recipe = {event.candidate: read(event.candidate, event.recipe)}
                new = replace(
                    old,
                    stage=Stage.EVALUATING,
                    evaluations=old.evaluations | {event.candidate: event.metrics},
                    examples=old.examples | {event.candidate: event.examples},
                    models=old.models | {event.candidate: event.model},
                    recipes=old.recipes | recipe if event.recipe else recipe | old.recipes,
                    judge=self.judge,
                )
            case e.EvaluationFailed():
                new = replace(old, stage=Stage.EVALUATING, failures=old.failures | {event.candidate: event.reason})
            case e.Chosen():
                new = replace(old, stage=Stage.CHOSEN, chosen=event, reason=event.reason)
            case e.Publishing():
                new = replace(old, stage=Stage.PUBLISHING, publishing=event)
            case e.Published():
                self.written_bytes += event.written_bytes
                self.outputs.pop(event.output, None)
                self.outputs[event.output] = event
                if old.publishing is None:
                    return  # of a version that was written again meanwhile
                new = replace(old, stage=Stage.PUBLISHED, output=event.output, done_time=event.time)
            case e.Finished():
                new = replace(old, stage=Stage.FINISHED, reason=event.reason, done_time=event.time)
            case e.Skipped():
                new = replace(old, stage=Stage.SKIPPED, reason=event.reason, done_time=event.time)
            case e.Failed():
                stage = Stage.READY if event.will_retry else Stage.FAILED
                new = replace(old, stage=stage, reason=event.reason, attempts=old.attempts + 1)
            case e.Pruned():
                self.outputs.pop(event.output, None)
                new = replace(old, output=None) if old.output == event.output else old
            case e.Unpinned():
                new = replace(old, pinned=False)
            case _:
                return
        self.checkpoints[name] = new


def _apart(checkpoint: Checkpoint, event: e.WindowStarted) -> Checkpoint:
    """A checkpoint with which the history before it, or the checkpoint before it, cannot be used."""
    if not event.after:
        return replace(checkpoint, starts_window=True, reason=event.reason)
    return replace(checkpoint, apart_from=checkpoint.apart_from | {event.after: event.reason}, reason=event.reason)


def _recipes(searched: e.Searched) -> dict[str, Recipe]:
    """The recipes of a family's members, twins too."""
    recorded = {str(each.get("name")): each for each in [*searched.twins, *searched.candidates]}
    return {name: read(name, recorded.get(name, {})) for name in [*searched.duplicates, *recorded]}


def _with_only(checkpoint: Checkpoint, names: Set[str]) -> Checkpoint:
    """A checkpoint of which no other candidates' evaluations are known than these."""
    return replace(
        checkpoint,
        evaluations={name: metrics for name, metrics in checkpoint.evaluations.items() if name in names},
        examples={name: count for name, count in checkpoint.examples.items() if name in names},
        models={name: model for name, model in checkpoint.models.items() if name in names},
        screened={name: event for name, event in checkpoint.screened.items() if name in names},
        failures={},
    )


def _reached(checkpoint: Checkpoint) -> list[tuple[int, e.Metrics]]:
    """The metrics of a checkpoint's original and of its model, if that was written."""
    original = checkpoint.evaluations.get("last")
    chosen = checkpoint.chosen.metrics.get("chosen") if checkpoint.chosen and checkpoint.publishing else None
    return [(checkpoint.judge, metrics) for metrics in (original, chosen) if metrics is not None]


def _judge(started: e.Started) -> tuple[object, ...]:
    """What must be equal for evaluations to be comparable: the user's evaluator, and its file."""
    return started.evaluator, started.evaluator_digest


def replay(events: Iterable[e.Event]) -> RunState:
    """The state after all these events."""
    state = RunState()
    for event in events:
        state.apply(event)
    return state
