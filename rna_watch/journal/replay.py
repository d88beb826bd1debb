"""The state that a run's events add up to: the daemon restarts from it, and every view shows it."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

from rna_watch.journal import events as e
from rna_watch.journal import hooks
from rna_watch.journal.ages import Age, age
from rna_watch.journal.checkpoint import DONE as DONE  # noqa: PLC0414 - part of what is replayed
from rna_watch.journal.checkpoint import PENDING as PENDING  # noqa: PLC0414
from rna_watch.journal.checkpoint import Checkpoint as Checkpoint  # noqa: PLC0414
from rna_watch.journal.checkpoint import Decision as Decision  # noqa: PLC0414
from rna_watch.journal.checkpoint import Key as Key  # noqa: PLC0414
from rna_watch.journal.checkpoint import Stage as Stage  # noqa: PLC0414
from rna_watch.journal.checkpoint import changed
from rna_watch.journal.checkpoints import Checkpoints
from rna_watch.journal.kept import input_keys, judge, remade, stale, still_meant
from rna_watch.journal.recipe import Recipe, read
from rna_watch.journal.told import Told

if TYPE_CHECKING:
    from collections.abc import Iterable, Set

RECENT_EVENTS = 200


class Best(NamedTuple):
    """What `best` names in a series, and what moved it."""

    moved: e.BestMoved
    by: Decision | None


@dataclass(slots=True, kw_only=True)
class RunState:
    """The sum of a run's events; `apply` adds one. Checkpoints keep the order in which they were first seen.

    `outputs` are the outputs that are kept, by path, that of the newest checkpoint last; `ages` are their ages.
    `replaced` holds the metrics of originals and of published models whose checkpoint was written again since, each with its
    key: they still count for `best`. `judges` are all evaluators so far; `judge` is the number of the present one, and
    `judged` the key of the newest evaluation. `bests` are the best models of the series. `first` is a checkpoint of the
    series whose best and latest have no series in their names. `failed_work` and `failed_evaluations` are how many failed in
    a row, in the present start. `due` are the calls of hooks that are to be made.
    `told` are all admissions and aliases, from which names are read, and `seq` is the number of the last event.
    `explained` is the checkpoint with the newest choice that has diagnostics.
    """

    started: e.Started | None = None
    stopped: e.Stopped | None = None
    checkpoints: Checkpoints = field(default_factory=Checkpoints)
    problems: dict[str, e.Problem] = field(default_factory=dict)
    metric: e.MetricChosen | None = None
    bests: dict[str, Best] = field(default_factory=dict)
    first: str = ""
    outputs: dict[str, e.Published] = field(default_factory=dict)
    ages: dict[str, Age] = field(default_factory=dict)
    replaced: list[tuple[Key, e.Metrics]] = field(default_factory=list)
    judges: list[tuple[str, ...]] = field(default_factory=list)
    judge: int = 0
    judged: Key | None = None
    failed_work: int = 0
    failed_evaluations: int = 0
    due: tuple[hooks.Due, ...] = ()
    recent: deque[e.Event] = field(default_factory=lambda: deque(maxlen=RECENT_EVENTS))
    told: Told = field(default_factory=Told)
    explained: str = ""
    seq: int = 0
    read_bytes: int = 0
    written_bytes: int = 0

    def series_of(self, name: str) -> str:
        """The series of a checkpoint; "" if it is not known."""
        found = self.checkpoints.get(name)
        return found.series if found else ""

    @property
    def best(self) -> e.BestMoved | None:
        """What the link `best` names: the best model of the first series."""
        found = self.bests.get(self.series_of(self.first))
        return found.moved if found else None

    def best_of(self, name: str) -> e.BestMoved | None:
        """The best model of a checkpoint's series."""
        found = self.bests.get(self.series_of(name))
        return found.moved if found else None

    def series(self) -> list[str]:
        """The series of all admitted checkpoints, the first first."""
        found = self.checkpoints.series()
        return list(dict.fromkeys([self.series_of(self.first), *found])) if found else []

    def apply(self, event: e.Event) -> None:
        """Add one event."""
        self.recent.append(event)
        self.seq = max(self.seq, event.seq)
        if isinstance(event, e.Admitted | e.Aliased):
            self.told.append(event)
        self._count_failures(event)
        self.due = hooks.after(self.due, event, self.started)
        match event:
            case e.Started():
                before, by = self.started or event, judge(event)
                if stale(before, event):
                    self._forget_evaluations()
                if by not in self.judges:
                    self.judges.append(by)
                self.judge = self.judges.index(by)
                self.started, self.stopped, self.problems = event, None, {}
            case e.Stopped():
                self.stopped = event
            case e.Problem():
                self.problems[event.key] = event
            case e.Solved():
                self.problems.pop(event.key, None)
            case e.BestMoved():
                moved = self.checkpoints.get(event.checkpoint)
                series = self.series_of(event.checkpoint)
                self.bests[series] = Best(event, moved.chosen_by if moved else None)
                self.first = self.first if series else event.checkpoint
            case e.BestWithdrawn():
                self.bests = {key: best for key, best in self.bests.items() if best.moved.output != event.output}
            case e.MetricChosen():
                self.metric = event
            case e.Admitted():
                old = self.checkpoints.get(event.checkpoint)
                self.first = self.first or event.checkpoint
                seen_time = old.seen_time if old and not old.admitted else event.time
                self.replaced += _reached(old) if old else []
                for each in [other for other in self.checkpoints.values() if other.repeats == old.name] if old else ():
                    self.checkpoints[each.name] = changed(each, repeats="")
                self.checkpoints[event.checkpoint] = Checkpoint(
                    name=event.checkpoint,
                    stage=Stage.SKIPPED if event.left_out else Stage.READY,
                    reason=event.left_out,
                    seen_time=seen_time,
                    admitted=event,
                    age=self._age(event),
                    pinned=event.pin != "none",
                    under=self.started,
                )
            case e.Repeated() if event.checkpoint in self.checkpoints:
                self.checkpoints[event.checkpoint] = changed(self.checkpoints[event.checkpoint], repeats=event.of)
            case _ if hasattr(event, "checkpoint") and event.checkpoint:
                self._apply_to_checkpoint(event, event.checkpoint)
            case _:
                pass

    def _count_failures(self, event: e.Event) -> None:
        match event:
            case e.Failed():
                self.failed_work += 1
            case e.EvaluationFailed():
                self.failed_evaluations += 1
            case e.Published() | e.Finished():
                self.failed_work = 0
            case e.Evaluated() | e.Screened():
                self.failed_evaluations = 0
            case e.Started():
                self.failed_work = self.failed_evaluations = 0

    def _forget_evaluations(self) -> None:
        """Drop the evaluations of unfinished checkpoints, which are evaluated again."""
        for checkpoint in self.checkpoints.of_stages(PENDING | {Stage.FAILED}):
            self.checkpoints[checkpoint.name] = _with_only(checkpoint, frozenset())

    def _reread(self, event: e.Reread, old: Checkpoint) -> Checkpoint:
        """A checkpoint with another series: what chose its model, and `best` if it names that, are of it too."""
        by = old.chosen_by and ((*old.chosen_by[0][:2], event.series), old.chosen_by[1])
        named = self.bests.get(old.series)
        if named is not None and named.moved.checkpoint == old.name:
            del self.bests[old.series]
            self.bests[event.series] = Best(named.moved, named.by and ((*named.by[0][:2], event.series), named.by[1]))
        told = {key: getattr(event, key) for key in ("series", "step_kind", "step", "told")}
        admitted = replace(old.admitted, **told) if old.admitted else None
        now = self._age(admitted) if admitted else old.age
        return changed(old, admitted=admitted, age=now, starts_window=False, chosen_by=by)

    def _age(self, admitted: e.Admitted) -> Age:
        above = self.checkpoints.of_series(admitted.series).above(admitted.step)
        return age(admitted, (other for name in above if (other := self.checkpoints[name].admitted)))

    def _keyed(self, event: e.Measured) -> e.Measured:
        """A measurement with the keys of its models, which records of 0.1.0 lack."""
        known = (self.checkpoints.get(name) for name in chain(*event.residuals))
        admitted = {each.name: each.admitted for each in known if each}
        return event if event.inputs else replace(event, inputs=input_keys(event, admitted))

    def _evaluated(self, event: e.Evaluated, old: Checkpoint) -> Checkpoint:
        recipe = {event.candidate: read(event.candidate, event.recipe)}
        if old.judge != self.judge and old.evaluations:
            old = _with_only(old, frozenset())  # what another evaluator said cannot be compared
        new = changed(
            old,
            stage=Stage.EVALUATING,
            evaluations=old.evaluations | {event.candidate: event.metrics},
            examples=old.examples | {event.candidate: event.examples},
            losses=old.losses | {event.candidate: event.loss},
            models=old.models | {event.candidate: event.model},
            training=old.training | ({event.candidate: event.training} if event.training else {}),
            recipes=old.recipes | recipe if event.recipe else recipe | old.recipes,
            judge=self.judge,
        )
        self.judged = new.key
        return new

    def _still_true(self, old: Checkpoint) -> Checkpoint:
        """A checkpoint that is taken up, with the evaluations that are of the same models under the present settings."""
        other = old.judge == self.judge and old.under and self.started and remade(old.under, self.started)
        return _with_only(old, frozenset()) if other else changed(old, failures={})

    def _of_output(self, event: e.Publishing | e.Published | e.Pruned, old: Checkpoint) -> Checkpoint:
        """Outputs are in the order of their checkpoints; one that was made anew keeps its place."""
        if isinstance(event, e.Publishing):
            return changed(old, stage=Stage.PUBLISHING, publishing=event)
        if isinstance(event, e.Pruned):
            self.outputs.pop(event.output, None)
            self.ages.pop(event.output, None)
            return changed(old, output=None) if old.output == event.output else old
        self.written_bytes += event.written_bytes
        self.ages[event.output] = old.age if old.admitted and old.publishing else (event.seq, 0)
        found = self.outputs | {event.output: event}
        self.outputs = {output: found[output] for output in sorted(found, key=self.ages.__getitem__)}
        if old.publishing is None:
            return old  # it is of a version that was written again meanwhile
        return changed(old, stage=Stage.PUBLISHED, output=event.output, done_time=event.time)

    def _apply_to_checkpoint(self, event: e.Event, name: str) -> None:
        old = self.checkpoints.get(name) or Checkpoint(name=name, stage=Stage.WAITING, seen_time=event.time)
        match event:
            case e.Waiting() | e.Refused():
                new = changed(old, stage=Stage(event.kind), reason=event.reason)
            case e.Vanished():
                new = changed(old, stage=Stage.VANISHED, reason="gone before it could be used")
            case e.Aliased():
                self.first = event.of if name == self.first else self.first
                new = changed(old, stage=Stage.ALIAS, reason=f"another name of {event.of}")
            case e.Reread():
                new = self._reread(event, old)
            case e.WindowStarted():
                new = _apart(old, event)
            case e.Measured():
                self.read_bytes += event.read_bytes
                new = changed(old, stage=Stage.MEASURED, measured=self._keyed(event))
                if old.measured is not None and old.measured.residuals != event.residuals:
                    new = _with_only(new, still_meant(old.measured, event, old.models, old.recipes))
            case e.Searched():
                new = changed(old, searched=event, recipes=old.recipes | _recipes(event))
            case e.Screened():
                new = changed(old, stage=Stage.EVALUATING, screened=old.screened | {event.candidate: event})
            case e.Evaluated():
                new = self._evaluated(event, old)
            case e.EvaluationFailed():
                new = changed(old, stage=Stage.EVALUATING, failures=old.failures | {event.candidate: event.reason})
            case e.Chosen():
                self.explained = name if event.diagnostics else self.explained
                by = (old.key, (self.metric.metric, self.metric.mode) if self.metric else None)
                new = changed(
                    old, stage=Stage.CHOSEN, chosen=event, chosen_by=by, under=self.started, reason=event.reason
                )
            case e.Publishing() | e.Published() | e.Pruned():
                new = self._of_output(event, old)
            case e.TakenUp():
                kept = self._still_true(old)
                new = changed(kept, stage=Stage.READY, taken_up=event, before=old.stage, publishing=None, attempts=0)
            case e.Left():
                new = changed(old, stage=old.before or old.stage)
            case e.Finished() | e.Skipped():
                under = self.started if old.chosen is None and isinstance(event, e.Finished) else old.under
                stage = Stage(event.kind)
                for_now = isinstance(event, e.Skipped) and event.for_now
                new = changed(old, stage=stage, reason=event.reason, done_time=event.time, under=under, for_now=for_now)
            case e.Failed():
                stage = Stage.READY if event.will_retry else Stage.FAILED
                new = changed(old, stage=stage, reason=event.reason, attempts=old.attempts + 1)
            case e.Unpinned():
                new = changed(old, pinned=False)
            case _:
                return
        self.checkpoints[name] = new


def _apart(checkpoint: Checkpoint, event: e.WindowStarted) -> Checkpoint:
    """A checkpoint with which the history before it, or the checkpoint before it, cannot be used."""
    if not event.after:
        return changed(checkpoint, starts_window=True, reason=event.reason)
    return changed(checkpoint, apart_from=checkpoint.apart_from | {event.after: event.reason}, reason=event.reason)


def _recipes(searched: e.Searched) -> dict[str, Recipe]:
    """The recipes of a family's members, twins too."""
    recorded = {str(each.get("name")): each for each in [*searched.twins, *searched.candidates]}
    return {name: read(name, recorded.get(name, {})) for name in [*searched.duplicates, *recorded]}


def _with_only(checkpoint: Checkpoint, names: Set[str]) -> Checkpoint:
    """A checkpoint of which no other candidates' evaluations are known than these."""
    return changed(
        checkpoint,
        evaluations={name: metrics for name, metrics in checkpoint.evaluations.items() if name in names},
        examples={name: count for name, count in checkpoint.examples.items() if name in names},
        models={name: model for name, model in checkpoint.models.items() if name in names},
        screened={name: event for name, event in checkpoint.screened.items() if name in names},
        failures={},
    )


def _reached(checkpoint: Checkpoint) -> list[tuple[Key, e.Metrics]]:
    """The metrics of a checkpoint's original and of its model, if that was written."""
    original = checkpoint.evaluations.get("last")
    found = [(checkpoint.key, original)] if original is not None else []
    written = checkpoint.publishing or checkpoint.output
    chosen = checkpoint.chosen.metrics.get("chosen") if checkpoint.chosen and written else None
    if chosen is not None and checkpoint.chosen_by is not None:
        found.append((checkpoint.chosen_by[0], chosen))
    return found


def replay(events: Iterable[e.Event | None]) -> RunState:
    """The state after all these events."""
    state = RunState()
    for event in events:
        if event is not None:  # a line that could not be read
            state.apply(event)
    return state
