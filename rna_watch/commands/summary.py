"""The summary of one call of `rna-watch once`: what it made, or the one reason why it made nothing, then the counted details."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rna_watch.errors import NothingToDo, RnaWatchError
from rna_watch.journal import events as e
from rna_watch.journal.command_line import command
from rna_watch.journal.replay import PENDING, Stage
from rna_watch.journal.standing import standings
from rna_watch.journal.words import all_stand, describe, nameless

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rna_watch.journal.replay import RunState
    from rna_watch.journal.run_paths import RunPaths

_TROUBLES = (e.EvaluationFailed, e.Failed, e.Skipped, e.WindowStarted, e.Finished, e.Left, e.Refused, e.Waiting)
_WORK = (
    e.Admitted,
    e.Measured,
    e.Evaluated,
    e.EvaluationFailed,
    e.Published,
    e.TakenUp,
    e.Finished,
    e.Skipped,
    e.Failed,
)
_MOST_DETAILS = 12
# what became of checkpoints, after their number
_NOW = {
    Stage.PUBLISHED: "with a model",
    Stage.FINISHED: "done without a model",
    Stage.SKIPPED: "left out",
    Stage.FAILED: "failed",
    Stage.REFUSED: "not usable",
    Stage.WAITING: "not complete",
} | dict.fromkeys(PENDING, "in work")


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """The lines for a person, the result first, and the error that the command ends with, if any."""

    lines: tuple[str, ...]
    error: RnaWatchError | None = None


def of_last_call(events: Iterable[e.Event]) -> list[e.Event]:
    """The events of the last start."""
    found: list[e.Event] = []
    for event in events:
        if isinstance(event, e.Started):
            found = []
        found.append(event)
    return found


def summarize(call: Sequence[e.Event], state: RunState, paths: RunPaths) -> Summary:
    """What a call did.

    Args:
        call: its events.
        state: what the journal adds up to, these included.
        paths: the run's paths.
    """
    counts = Counter(line for event in call if isinstance(event, _TROUBLES) and (line := _nameless(event, state)))
    failed = [event for event in call if isinstance(event, e.EvaluationFailed)]
    unjudged = bool(failed) and not any(isinstance(event, e.Evaluated) for event in call)
    made = _made(call, state)
    error: RnaWatchError | None = None
    if unjudged:
        result = f"{made or 'nothing was made'}; every evaluation failed: {failed[0].reason}"
        error = RnaWatchError(f"every evaluation failed: {failed[0].reason}")
    elif made:
        result = made
    elif any(isinstance(event, _WORK) for event in call):
        result = f"nothing was published: {_reason(call, state)}"
        # the beginning of a sequence, say, that was left when the run's models were made: nothing is wrong
        wrong = not state.outputs or any(isinstance(event, e.Failed | e.Skipped) for event in call)
        error = RnaWatchError(result) if wrong else NothingToDo(result)
    else:
        result = _nothing_to_do(state)
        error = NothingToDo(result)
    lines = [result]
    lines += all_stand(standings(state, paths.there), state)
    stages = Counter(checkpoint.stage for checkpoint in state.checkpoints.values())
    total = stages.total() - stages[Stage.ALIAS] - stages[Stage.VANISHED]
    told = (f"{count} {_NOW[stage]}" for stage, count in stages.items() if stage in _NOW)
    lines.append(f"{total} {'checkpoint' if total == 1 else 'checkpoints'}: " + "; ".join(told))
    shown = counts.most_common(_MOST_DETAILS)
    lines += [f"{count:6} x  {text}" for text, count in shown]
    if len(counts) > len(shown):
        lines.append(
            f"          and {len(counts) - len(shown)} other messages: {command('logs', paths.run, paths.output)}"
        )
    return Summary(lines=tuple(lines), error=error)


def _made(call: Sequence[e.Event], state: RunState) -> str:
    """What was published, in words; "" if nothing was."""
    of_call = [event for event in call if isinstance(event, e.Published)]
    published = {event.checkpoint: event for event in of_call if not event.found}
    if not published:
        found = sum(event.found for event in of_call)
        return f"{found} {'model' if found == 1 else 'models'} found and entered in a new journal" if found else ""
    chosen = [checkpoint.chosen for name in published if (checkpoint := state.checkpoints[name]) and checkpoint.chosen]
    better = sum(each.better_than_original is True for each in chosen)
    beyond = sum(each.better_than_original is True and each.significant is True for each in chosen)
    unevaluated = sum(not each.metrics.get("chosen") for each in chosen)
    unknown = sum(each.better_than_original is None for each in chosen) - unevaluated
    count = len(published)
    said = f"{count} {'model was' if count == 1 else 'models were'} published"
    if unevaluated == count:
        return f"{said}, not evaluated"
    parts = {
        f"{better} better than the original, {beyond} of them beyond noise": count - unknown - unevaluated,
        f"{unknown} not comparable with the original": unknown,
        f"{unevaluated} not evaluated": unevaluated,
    }
    return f"{said}: {', '.join(part for part, number in parts.items() if number)}"


def _reason(call: Sequence[e.Event], state: RunState) -> str:
    """The reason that most often kept a checkpoint from a model: failures before decisions."""
    for kinds in (e.Failed, e.Skipped, e.WindowStarted, e.Finished | e.Left, e.Refused | e.Waiting):
        found = Counter(line for event in call if isinstance(event, kinds) and (line := _nameless(event, state)))
        if found:
            ((line, count),) = found.most_common(1)
            return line if count == 1 else f"{line} ({count} times)"
    return "no checkpoint came to an end"


def _nothing_to_do(state: RunState) -> str:
    done = sum(checkpoint.done_time > 0 for checkpoint in state.checkpoints.values())
    if done:
        which = f"the {done} checkpoints that can be used were" if done > 1 else "the checkpoint that can be used was"
        return f"nothing to do: {which} done before"
    reasons = Counter(nameless(checkpoint.name, checkpoint.reason) for checkpoint in state.checkpoints.values())
    ((reason, count),) = reasons.most_common(1)
    return f"no checkpoint could be used: {reason}" + (f" ({count} times)" if count > 1 else "")


def _nameless(event: e.Event, state: RunState) -> str:
    line = describe(event, state)
    return nameless(getattr(event, "checkpoint", ""), line) if line else ""
