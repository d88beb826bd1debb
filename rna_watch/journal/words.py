"""One event as a line for a person: in logs, without a terminal, and among the dashboard's last events."""

from __future__ import annotations

from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from rna_watch.journal import events as e
from rna_watch.journal.cooled import cooled, sentence
from rna_watch.journal.quantities import duration, gain, number, places, plain, size
from rna_watch.journal.standing import standing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from rna_watch.journal.replay import RunState
    from rna_watch.journal.standing import Standing

OUTPUT_TREE = "rna"
HOW_TO_TEST = "add --evaluator FILE.py:function"
NOISE = {True: "beyond noise", False: "within noise", None: "not compared with noise"}
DIRECTIONS = {"min": "lower is better", "max": "higher is better"}


def describe(event: e.Event, state: RunState | None = None) -> str | None:
    """One plain line for the event, or None if it is not worth one; whatever the event holds, there is a line.

    Args:
        event: what happened.
        state: what the journal adds up to, this event included. The line of an output then names the chosen candidate and
            the metric.
    """
    try:
        return _described(event, state)
    except Exception as error:  # noqa: BLE001 - a line for a person costs no act
        return f"an event of the kind {event.kind} cannot be shown ({type(error).__name__})"


def _described(event: e.Event, state: RunState | None) -> str | None:
    if isinstance(event, e.Chosen | e.Published | e.BestMoved | e.Pruned):
        text = _outcome(event, state)
    elif isinstance(event, e.Aliased) and _path_of(state, event.of) == event.checkpoint:
        return None  # a file that the trainer writes again and again, and its present version
    elif speaks := _SENTENCES.get(type(event)):
        text = speaks(event)
    else:
        # Single evaluations, intents and the store's routine are in the journal only.
        return None
    name = getattr(event, "checkpoint", "")
    return f"{plain(name)}  {plain(text)}" if name else plain(text)


def _path_of(state: RunState | None, name: str) -> str | None:
    found = state.checkpoints.get(name) if state else None
    return found.admitted.path if found and found.admitted else None


def nameless(name: str, line: str) -> str:
    """A line without the name of its checkpoint, so that equal messages can be counted."""
    shown = plain(name)
    return line.removeprefix(f"{shown}  ").replace(shown, "it") if shown else line


def output_of(state: RunState | None, output: str) -> str:
    """An output's path relative to the run directory, or in full if it lies elsewhere."""
    if state is None or state.started is None:
        return output
    path = PurePath(state.started.output) / OUTPUT_TREE / output
    return str(path.relative_to(state.started.run) if path.is_relative_to(state.started.run) else path)


def choice(chosen: e.Chosen, metric: str | None) -> str:
    """The choice and its comparison: `rna-5-1e-08 error 0.0401 (original 0.0522, best average 0.0450)`."""
    ours = chosen.metrics.get("chosen")
    if not ours:
        return f"{chosen.candidate}, not evaluated"
    name = metric if metric in ours else next(iter(ours))
    values = {key: metrics.get(name) for key, metrics in chosen.metrics.items() if metrics}
    decimals = places(values.values())
    others = [
        f"{label} {number(values[key], decimals)}"
        for key, label in (("original", "original"), ("average", "best average"))
        if values.get(key) is not None
    ]
    versus = f" ({', '.join(others)})" if others else ""
    return f"{chosen.candidate} {name} {number(values.get('chosen'), decimals)}{versus}"


def all_stand(standings: Iterable[Standing], state: RunState) -> list[str]:
    """The best model next to the best original of each series, each in a sentence; and what the run is worth cooled down."""
    first = state.series_of(state.first)
    said = (stands(each, state, "best" if each.series == first else f"best of {each.series}") for each in standings)
    branch = cooled(state)
    return [line for line in (*said, sentence(branch) if branch else "") if line]


def stands(standing: Standing, state: RunState | None, best: str = "best") -> str:
    """The best model next to the best original, in a sentence; where no model is better than that one, this comes first.

    Args:
        standing: the run's standing.
        state: what the journal adds up to; it tells where outputs lie.
        best: what the model that `best` names is called.
    """
    model, original = standing.model, standing.original
    if model is None:
        return ""
    decimals = places(each.value for each in (model, original) if each)
    name = best if standing.best else "the best model that is there"
    ours = f"{name}: {output_of(state, model.output)}, {standing.metric} {number(model.value, decimals)}"
    if original is None or standing.gain is None:
        return ours
    theirs, share = number(original.value, decimals), gain(original.value, model.value, standing.mode)
    if standing.gain <= 0.0:
        how = "as good as" if standing.gain == 0.0 else "better than"
        which = "every model" if standing.unbeaten else "the model that best names"
        return f"the original {original.checkpoint} is {how} {which}: {standing.metric} {theirs}; {ours} ({share or '0.0%'})"
    noise = NOISE[standing.significant]
    noise += f" (tested on {standing.tested_on})" if standing.tested_on not in {None, standing.metric} else ""
    amount = share or number(standing.gain, None)
    return f"{ours}; the best original, {original.checkpoint}, {theirs}; a gain of {amount}, {noise}"


def verdict(chosen: e.Chosen) -> str:
    """Whether the choice beats the original, in words; empty if that is not known."""
    if chosen.better_than_original is None:
        return ""
    if not chosen.better_than_original:
        return "not better than the original"
    return (
        "better than the original, but not beyond noise" if chosen.significant is False else "better than the original"
    )


def engine_of(event: e.Started) -> str:
    """The engine's present name; older journals call `local` `inline`."""
    return "local" if event.engine == "inline" else event.engine


def _started(event: e.Started) -> str:
    evaluation = f"evaluated by {event.evaluator}" if event.evaluator else "nothing is evaluated: add --evaluator"
    return (
        f"watching {event.run}, writing to {PurePath(event.output) / OUTPUT_TREE}; {engine_of(event)} engine; {evaluation} "
        f"(rna-watch {event.version}, {event.host}:{event.pid})"
    )


def _measured(event: e.Measured) -> str:
    rate = f" ({size(event.read_bytes / event.seconds)}/s)" if event.seconds > 0 else ""
    return f"measured: read {size(event.read_bytes)} in {duration(event.seconds)}{rate}"


_SENTENCES: dict[type[e.Event], Callable[[Any], str]] = {
    e.Started: _started,
    e.Stopped: lambda event: f"stopped: {event.reason}",
    e.Waiting: lambda event: f"not complete yet: {event.reason}",
    e.Refused: lambda event: f"cannot be used: {event.reason}",
    e.Vanished: lambda event: "gone before it could be used",
    e.Admitted: lambda event: (
        f"left out: {event.left_out}"
        if event.left_out
        else f"complete: {event.step_kind} {event.step}, {size(event.size_bytes)}, {event.format}"
    ),
    e.Aliased: lambda event: f"is another name of {event.of}",
    e.Reread: lambda event: f"is {event.step_kind} {event.step} of {event.series}, as more names show",
    e.WindowStarted: lambda event: f"starts a new window: {event.reason}",
    e.Repeated: lambda event: f"equals {event.of} bit for bit, so that they count once in a window",
    e.Measured: _measured,
    e.MetricChosen: lambda event: (
        f"models are chosen by {event.metric}, {DIRECTIONS.get(event.mode, event.mode)}"
        if event.mode
        else f"the metric is {event.metric}, whose direction is not known"
    ),
    e.EvaluationFailed: lambda event: f"evaluation of {event.candidate} failed: {event.reason}",
    e.TakenUp: lambda event: f"taken up again: {event.reason}",
    e.Left: lambda event: f"left as it was: {event.reason}",
    e.BestWithdrawn: lambda event: f"{event.output} is not called the best any more: {event.reason}",
    e.Finished: lambda event: f"no output: {event.reason}",
    e.Skipped: lambda event: f"left out: {event.reason}",
    e.Failed: lambda event: f"failed: {event.reason}; {'it is tried again' if event.will_retry else 'given up'}",
    e.Problem: lambda event: f"problem: {event.what}; {event.remedy}",
    e.Solved: lambda event: f"solved: {event.key}",
    e.Noted: lambda event: event.text,
    e.Hooked: lambda event: (
        f"{event.hook} failed: {event.reason}"
        if event.reason
        else f"{event.hook} was called: {duration(event.seconds)}"
    ),
}


def _outcome(event: e.Chosen | e.Published | e.BestMoved | e.Pruned, state: RunState | None) -> str:
    checkpoint = state.checkpoints.get(event.checkpoint) if state else None
    metric = state.metric.metric if state and state.metric else None
    if isinstance(event, e.Chosen):
        if state:
            return f"chose {event.candidate}: {event.reason}"
        return f"chose {choice(event, metric)}" + (f": {words}" if (words := verdict(event)) else "")
    output = output_of(state, event.output)
    if isinstance(event, e.Pruned):
        return f"no longer kept: {output}"
    if isinstance(event, e.BestMoved):
        now = standing(state, series=state.series_of(event.checkpoint)) if state else None
        now = now if state and state.best_of(event.checkpoint) is event else None
        plainly = f"best so far: {output}, {metric or 'metric'} {number(event.value, places([event.value]))}"
        return stands(now, state, "best so far") if now else plainly
    made = f" ({size(event.written_bytes)} in {duration(event.seconds)})"
    told = f": {choice(checkpoint.chosen, metric)}" if checkpoint and checkpoint.chosen else made
    return f"found {output}, which no journal told of" if event.found else f"published {output}{told}"
