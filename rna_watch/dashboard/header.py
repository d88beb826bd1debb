"""The head of a frame: problems first, then the run, what watches it, and how far it has come."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from rna_watch.dashboard.layout import Lines, fit, pack, spread, tail_of, wrap
from rna_watch.journal.cooled import cooled, sentence
from rna_watch.journal.quantities import age, duration, gain, number, places, plain, size
from rna_watch.journal.words import DIRECTIONS, engine_of, output_of

if TYPE_CHECKING:
    from rna_watch.journal.metric import Metric
    from rna_watch.journal.replay import Best, RunState
    from rna_watch.journal.standing import Standing
    from rna_watch.journal.status import Status

_STATUS_STYLES = {
    "starting": ("◌", "cyan"),
    "watching": ("●", "green"),
    "working": ("●", "green"),
    "stopping": ("◌", "yellow"),
    "silent": ("✗", "bold red"),
    "not running": ("✗", "bold red"),
}
_MOST_SERIES = 2  # of which the best is shown, besides the first
_ENDED = ("■", "bold")
_NEVER = ("○", "yellow")


def problems(state: RunState, *, width: int, most: int) -> Lines:
    """The problems that a person should solve, newest last, each with its remedy; nothing if there are none.

    Args:
        state: what the journal adds up to.
        width: terminal cells of a line.
        most: the most lines.
    """
    lines: Lines = []
    todo = list(state.problems.values())
    for index, problem in enumerate(todo):
        what = wrap(problem.what, width - 3, style="bold red", most=2)
        remedy = wrap(problem.remedy, width - 5, style="yellow", most=3)
        block = [Text(" ! " if not row else "   ", "bold red").append_text(line) for row, line in enumerate(what)] + [
            Text("   → " if not row else "     ", "yellow").append_text(line) for row, line in enumerate(remedy)
        ]
        more = index < len(todo) - 1
        if lines and len(lines) + len(block) + more > most:
            return [*lines, Text(f"   and {len(todo) - index} more: rna-watch status", "yellow")]
        lines += block
    return lines[:most]


def header(
    state: RunState, status: Status, metric: Metric | None, best: Standing | None, *, now: float, width: int
) -> Lines:
    """The run and its status on the first line, then its settings, then the newest checkpoint, the best model and original.

    Args:
        state: what the journal adds up to.
        status: whether the run is watched, and the work at hand.
        metric: the metric that decides, if it is known.
        best: the best model and the best original.
        now: seconds since 1970.
        width: terminal cells of a line.
    """
    started = state.started
    glyph, style = _STATUS_STYLES.get(status.state, ("●", "green"))
    if not status.alive:
        glyph, style = _NEVER if started is None else _ENDED if status.ended else (glyph, style)
    left = Text.assemble(("rna-watch", "bold cyan"), "  ", (f"{glyph} {plain(status.state)}", style))
    if started is None:
        return [fit(left, width)]
    right = Text(f"{plain(started.host)}:{started.pid}  {_uptime(state, status, now)}", "dim")
    if detail := status.detail(now):
        left.append(f"  {detail}")
    first = spread(left, right, width)
    run = Text(tail_of(plain(started.run), width))
    # The run's folder shares the first line if it fits, so that a small screen keeps a row for a checkpoint.
    if left.cell_len + run.cell_len + right.cell_len + 4 <= width:
        lines = [spread(left.append("  ").append_text(run), right, width)]
    else:
        lines = [first, run]
    facts = [_evaluation(state, metric), Text(f"{plain(engine_of(started))} engine")]
    if status.watching:
        facts.append(Text(f"watches by {plain(status.watching)}"))
    lines += pack(facts, width) + pack(_landmarks(state, best, now=now), width, separator="   ")
    branch = cooled(state)
    return lines + (wrap(plain(sentence(branch)), width, style="", most=2) if branch else [])


def _uptime(state: RunState, status: Status, now: float) -> str:
    """How long the daemon is up or ran, or how long ago it started if it ended without recording that."""
    assert state.started is not None
    until = state.stopped.time if state.stopped and not status.alive else now
    text = duration(round(max(until - (status.since or state.started.time), 0.0)))
    return f"up {text}" if status.alive else f"ran {text}" if state.stopped else f"started {text} ago"


def _evaluation(state: RunState, metric: Metric | None) -> Text:
    started = state.started
    if started is None or not started.evaluator:
        return Text("nothing is evaluated: add --evaluator", "yellow")
    evaluator = tail_of(plain(started.evaluator), 40)
    if metric is None:
        return Text(f"evaluated by {evaluator}")
    direction = DIRECTIONS.get(metric.mode or "", "")
    name = plain(metric.name)
    return Text.assemble((name, "bold"), f", {direction}," if direction else "", f" by {evaluator}")


def _landmarks(state: RunState, best: Standing | None, *, now: float) -> Lines:
    marks = _unbeaten(best)
    newest = next((c for c in reversed(state.checkpoints.values()) if c.admitted), None)
    if newest and newest.admitted:
        it = newest.admitted
        written = it.mtime_ns / 1e9 or newest.seen_time
        facts = f"  {plain(it.step_kind)} {it.step}, {size(it.size_bytes)}, {age(now - written)} ago"
        marks.append(Text.assemble(("newest ", "dim"), tail_of(plain(newest.name), 32), (facts, "dim")))
    return marks + _of_first(state, best) + _of_others(state)


def others(state: RunState) -> list[Best]:
    """The best models of the series after the first, as far as they are kept."""
    first = state.series_of(state.first)
    return [
        best for series, best in list(state.bests.items()) if series != first and best.moved.output in state.outputs
    ]


def _of_others(state: RunState) -> Lines:
    marks = []
    for best in others(state)[:_MOST_SERIES]:
        series = tail_of(plain(state.series_of(best.moved.checkpoint)), 24)
        value = number(best.moved.value, places([best.moved.value]))
        output = tail_of(plain(best.moved.output), 32)
        marks.append(Text.assemble((f"best of {series} ★ ", "dim"), (output, "green"), f"  {value}"))
    return marks


def _of_first(state: RunState, best: Standing | None) -> Lines:
    if best is None or best.best is None:
        return []
    marks: Lines = []
    decimals = places(each.value for each in (best.best, best.original) if each)
    output = tail_of(plain(output_of(state, best.best.output)), 32)
    value = f"  {plain(best.metric)} {number(best.best.value, decimals)}"
    marks.append(Text.assemble(("best ★ ", "dim"), (output, "green"), value))
    if best.original is not None and not best.unbeaten:
        share = gain(best.original.value, best.best.value, best.mode)
        mark, style = {True: ("▲", "green"), False: ("~", "dim"), None: ("", "")}[best.significant]
        name, theirs = tail_of(plain(best.original.checkpoint), 32), number(best.original.value, decimals)
        marks.append(Text.assemble(("original ", "dim"), name, f"  {theirs}  {share} ", (mark, style)))
    return marks


def _unbeaten(best: Standing | None) -> Lines:
    """That no model is better than the best original, where that is so."""
    if best is None or best.original is None or best.model is None or not best.unbeaten:
        return []
    name, value = (
        tail_of(plain(best.original.checkpoint), 32),
        number(best.original.value, places([best.original.value])),
    )
    how = "as good as" if best.gain == 0.0 else "better than"
    return [Text.assemble((f"original {name} is {how} every model", "yellow"), f"  {plain(best.metric)} {value}")]
