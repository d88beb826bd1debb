"""The second pass: checkpoints that were done before and are taken up, because something else decides now or by request."""

from __future__ import annotations

from collections import deque
from itertools import chain, islice
from typing import TYPE_CHECKING, NamedTuple

from rna_watch.acceleration.methods import LAST
from rna_watch.daemon.order import by_age
from rna_watch.daemon.publication import within
from rna_watch.daemon.window_break import joined
from rna_watch.journal import events as e
from rna_watch.journal.command_line import command
from rna_watch.journal.kept import ADMITTING, without_effect
from rna_watch.journal.replay import DONE, Stage

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

    from rna_watch.config import RunConfig
    from rna_watch.daemon.pins import Pins
    from rna_watch.daemon.publication import Publication
    from rna_watch.daemon.recorder import Recorder
    from rna_watch.daemon.sequences import Sequences
    from rna_watch.journal.replay import Checkpoint, RunState

MAKE, EVALUATE = "make", "evaluate"
_FAILURES = 3  # in a row: an evaluator that fails on these fails on the rest
_REQUESTED = "--again"
_MADE_UP = "there is time for it now"


class _Due(NamedTuple):
    name: str
    how: str
    reason: str
    late: str = ""  # the checkpoint that it lacks


class SecondPass:
    """Says, one after another, which checkpoints that were done are to be worked on once more; each is recorded first.

    Args:
        config: the settings.
        publication: what became of outputs.
        recorder: journal and state, with the present start in it.
        sequences: which checkpoints follow each other.
        pins: the window store.
        again: make every model anew whose inputs are there.
        foreign: checkpoints that hold another model than the setting `source` names.
        late: checkpoints that came after what was saved after them; another thread adds to it.
    """

    def __init__(
        self,
        config: RunConfig,
        publication: Publication,
        recorder: Recorder,
        sequences: Sequences,
        pins: Pins,
        *,
        again: bool = False,
        foreign: Collection[str] = (),
        late: deque[str] | None = None,
    ) -> None:
        self._config = config
        self._publication = publication
        self._recorder = recorder
        self._sequences = sequences
        self._pins = pins
        self._again = again
        self._evaluating = bool(config.evaluator or config.evaluate_command)
        self._failed = 0
        self._stay = 0
        self._ended = False
        done = [c for c in by_age(recorder.checkpoints()) if c.stage in DONE and c.name not in foreign]
        self._queue = deque(self._due(done))
        self._late = deque[str]() if late is None else late
        self._tried: set[str] = set()  # of those left out for lack of time
        # those that were taken up, perhaps by an earlier start: windows went on without them
        self._made_up = [c.name for c in done if c.taken_up is not None and c.taken_up.reason == _MADE_UP]
        for line in () if again else without_effect_on(recorder.state, done):
            recorder.record(e.Noted(text=line))

    def _due(self, done: list[Checkpoint]) -> list[_Due]:
        bests = {(each.moved.checkpoint, each.moved.output) for each in self._recorder.state.bests.values()}
        found = [_Due(c.name, MAKE, reason) for c in done if (reason := self._reason(c))]
        # what `best` names comes first, as it is: the others are to beat it
        first = [c for c in done if (c.name, c.output) in bests]
        judged_again = [_Due(c.name, EVALUATE, reason) for c in first if (reason := self._unjudged(c))]
        return [*judged_again, *found]

    def _reason(self, checkpoint: Checkpoint) -> str:
        if self._again:
            return _REQUESTED
        if reason := self._unjudged(checkpoint):
            return reason
        return "its model is gone" if self._gone(checkpoint) else ""

    def _unjudged(self, checkpoint: Checkpoint) -> str:
        """Why the present evaluator or metric has not decided on a checkpoint ("" if it has)."""
        state, chosen = self._recorder.state, checkpoint.verdict
        if self._evaluating and (
            checkpoint.judge != state.judge
            or checkpoint.original is None
            or (chosen is not None and not chosen.metrics.get("chosen"))
        ):
            return "this evaluator has not evaluated it" if checkpoint.evaluations else "it was not evaluated"
        by = checkpoint.chosen_by[1] if checkpoint.chosen_by else None
        if by is None or chosen is None or not chosen.metrics.get("chosen"):
            return ""
        metric = self._config.metric or (state.metric.metric if state.metric else by[0])
        if by == (metric, self._config.mode or by[1]):
            return ""
        known = self._evaluating or metric in checkpoint.evaluations.get(chosen.candidate, {})
        return f"models are chosen by {metric} now" if known else ""

    def _gone(self, checkpoint: Checkpoint) -> bool:
        """Whether a model that is to be kept is not there."""
        if checkpoint.stage is not Stage.PUBLISHED:
            return False
        state = self._recorder.state
        best = state.bests.get(checkpoint.series)
        is_best = best is not None and best.moved.checkpoint == checkpoint.name
        # what is cheap to tell first: there may be ten thousand
        if not (is_best or within(self._config.keep, state, checkpoint)) or self._publication.exists(checkpoint.output):
            return False
        if is_best:
            return True
        newer = [
            output
            for output, published in state.outputs.items()
            if self._publication.exists(output)
            and state.ages[output] > checkpoint.age
            and state.series_of(published.checkpoint) == checkpoint.series
        ]
        return len(newer) < self._config.keep

    def next(self) -> str | None:
        """The next checkpoint to work on, which is pending now; None if there is no more."""
        self._queue += self._without_late()
        while self._queue or self._left_behind() or self._without_made_up():
            due = self._queue.popleft()
            checkpoint = self._recorder.checkpoint(due.name)
            if checkpoint is None or not (checkpoint.stage in DONE or checkpoint.left_behind):
                continue  # it is in work, or was written again meanwhile
            if due.late and not self._lacks(checkpoint, due.late):
                continue  # it was made with it meanwhile
            if self._failing():
                self._recorder.record(
                    e.Noted(text=f"{len(self._queue) + 1} more are not tried with an evaluator that fails on each")
                )
                self._queue.clear()
                return None
            how = due.how if due.how == EVALUATE or self._inputs_there(checkpoint) else EVALUATE
            if how == EVALUATE and not self._left_to_evaluate(checkpoint):
                self._stay += self._again
                continue
            self._recorder.record(e.TakenUp(checkpoint=due.name, how=how, reason=due.reason))
            return due.name
        if not self._ended:
            self._ended = True
            self._end()
        return None

    def _without_late(self) -> list[_Due]:
        """The checkpoints that were done without one that came late and stands before them now."""
        found: dict[str, _Due] = {}
        while self._late:
            late = self._late.popleft()
            came, checkpoints = self._recorder.checkpoint(late), self._recorder.state.checkpoints
            later = checkpoints.of_series(came.series).above(came.step) if came and came.step is not None else ()
            members = (each for name in later if (each := checkpoints[name]).usable and not each.repeats)
            for checkpoint in by_age(islice(members, self._config.window + 1)):  # no window of others goes back so far
                after = (
                    came is not None and came.stage in DONE and came.done_time < checkpoint.done_time
                )  # it was there
                if checkpoint.stage in DONE and not after and self._lacks(checkpoint, late):
                    reason = f"{late}, which was saved before it and came late, is there now"
                    found.setdefault(checkpoint.name, _Due(checkpoint.name, MAKE, reason, late))
        return list(found.values())

    def _lacks(self, checkpoint: Checkpoint, late: str) -> bool:
        """Whether a checkpoint was done without one that belongs into its window."""
        if checkpoint.admitted is None or late == checkpoint.name:
            return False
        measured = chain(*checkpoint.measured.residuals) if checkpoint.measured else ()
        if late in {*measured, *(checkpoint.chosen.inputs if checkpoint.chosen else ())}:
            return False
        return late in {each.name for each in self._sequences.history(checkpoint, self._config.window)}

    def _left_behind(self) -> bool:
        """Queue the oldest checkpoint that was left out for lack of time and whose bytes are there; whether there is one."""
        checkpoints = self._recorder.state.checkpoints
        left = [checkpoints[name] for name in list(checkpoints.left_behind) if name not in self._tried]
        for checkpoint in by_age(left) if not self._failing() else ():
            if checkpoint.left_behind:
                self._tried.add(checkpoint.name)
                if self._pins.layout(checkpoint) is not None:
                    self._made_up.append(checkpoint.name)
                    self._queue.append(_Due(checkpoint.name, MAKE, _MADE_UP))
                    return True
        return False

    def _without_made_up(self) -> bool:
        """Queue what was done without checkpoints that were left out, now that all of these are made up for."""
        self._late.extend(self._made_up)
        self._made_up.clear()
        self._queue += self._without_late()
        return bool(self._queue)

    def _end(self) -> None:
        for series, best in list(self._recorder.state.bests.items()):
            if not self._publication.exists(best.moved.output):
                self._publication.withdraw_best(series, "its file is gone, and so are its inputs")
        if self._stay:
            self._recorder.record(e.Noted(text=f"{self._stay} stay as they are: the inputs of their models are gone"))

    def ended(self, name: str) -> None:
        """Take note of how the work on a checkpoint ended."""
        checkpoint = self._recorder.checkpoint(name)
        if checkpoint is not None and checkpoint.failures:
            known = checkpoint.evaluations if checkpoint.judge == self._recorder.state.judge else {}
            self._failed = 0 if known.keys() - {LAST} else self._failed + 1

    def _failing(self) -> bool:
        return self._evaluating and self._failed >= _FAILURES

    def _inputs_there(self, checkpoint: Checkpoint) -> bool:
        members = [*self._sequences.history(checkpoint, self._config.window), checkpoint]
        least = min(inputs_of(checkpoint, self._config), len(members))
        return len(joined([self._pins.layout(member) for member in members])) >= least

    def _left_to_evaluate(self, checkpoint: Checkpoint) -> bool:
        """Whether the original or the model can be evaluated, or decided on by what is known of them, as they are."""
        if not self._unjudged(checkpoint):
            return False
        known = checkpoint.evaluations if checkpoint.judge == self._recorder.state.judge else {}
        if self._evaluating and LAST not in known and self._pins.layout(checkpoint) is not None:
            return True
        if checkpoint.chosen is None or not self._publication.exists(checkpoint.output):
            return False
        return checkpoint.chosen.candidate not in known or not self._evaluating or bool(self._config.metric)


def inputs_of(checkpoint: Checkpoint, config: RunConfig) -> int:
    """How many checkpoints a window must have so that what was made before of a checkpoint can be made anew."""
    if checkpoint.chosen is not None:
        return min(len(checkpoint.chosen.inputs), config.window + 1)
    return min(len(checkpoint.measured.residuals) if checkpoint.measured else 0, config.window) + 1


def without_effect_on(state: RunState, done: Iterable[Checkpoint]) -> Iterator[str]:
    """Lines for settings that changed and have no effect on what was made before: the models, or which checkpoints are taken."""
    if state.started is None:
        return
    run, output = state.started.run, state.started.output
    made = [c.under for c in done if c.output is not None and c.under is not None]
    each_start = {id(under): without_effect(under, state.started) for under in {id(u): u for u in made}.values()}
    found = [each_start[id(under)] for under in made]
    changed = {name: values for each in found for name, values in each.items()}
    models = sum(bool(each.keys() - ADMITTING) for each in found)
    if models:
        were = "model was" if models == 1 else "models were"
        settings = _shown({name: changed[name] for name in changed.keys() - ADMITTING})
        yield (
            f"{models} {were} made with other settings ({settings}) and not made anew: "
            f"{command('once', run, output, '--again')} makes anew what can be"
        )
    if taken := changed.keys() & ADMITTING:
        yield (
            f"{_shown({name: changed[name] for name in taken})}: that holds for new checkpoints; what was taken or left out "
            f"before stays so: {command('once', run, 'OTHER')} begins anew"
        )


def _shown(changed: Mapping[str, tuple[object, object]]) -> str:
    """Settings with their former and their present values."""
    return ", ".join(f"{name} {_value(old)}, now {_value(new)}" for name, (old, new) in sorted(changed.items()))


def _value(value: object) -> str:
    return ",".join(map(str, value)) or "none" if isinstance(value, list) else "none" if value is None else str(value)
