"""The head of a frame: problems first, then the run, what watches it, and how far it has come."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from rna_watch.dashboard.layout import Lines, fit, pack, spread, tail_of, wrap
from rna_watch.journal.quantities import age, duration, number, places, plain, size
from rna_watch.journal.words import DIRECTIONS, output_of

if TYPE_CHECKING:
    from rna_watch.journal.metric import Metric
    from rna_watch.journal.replay import RunState
    from rna_watch.journal.status import Status

_STATUS_STYLES = {
    "starting": ("◌", "cyan"),
    "watching": ("●", "green"),
    "working": ("●", "green"),
    "stopping": ("◌", "yellow"),
    "silent": ("✗", "bold red"),
    "not running": ("✗", "bold red"),
}
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


def header(state: RunState, status: Status, metric: Metric | None, *, now: float, width: int) -> Lines:
    """The run and its status on the first line, then its settings, then the newest and the best checkpoint.

    Args:
        state: what the journal adds up to.
        status: whether the run is watched, and the work at hand.
        metric: the metric that decides, if it is known.
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
    facts = [_evaluation(state, metric), Text(f"{plain(started.engine_name)} engine")]
    if status.watching:
        facts.append(Text(f"watches by {plain(status.watching)}"))
    return lines + pack(facts, width) + pack(_landmarks(state, metric, now=now), width, separator="   ")


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


def _landmarks(state: RunState, metric: Metric | None, *, now: float) -> Lines:
    marks: Lines = []
    newest = next((c for c in reversed(state.checkpoints.values()) if c.admitted), None)
    if newest and newest.admitted:
        it = newest.admitted
        written = it.mtime_ns / 1e9 or newest.seen_time
        facts = f"  {plain(it.step_kind)} {it.step}, {size(it.size_bytes)}, {age(now - written)} ago"
        marks.append(Text.assemble(("newest ", "dim"), tail_of(plain(newest.name), 32), (facts, "dim")))
    if state.best:
        output = tail_of(plain(output_of(state, state.best.output)), 32)
        value = number(state.best.value, places([state.best.value]))
        marks.append(
            Text.assemble(
                ("best ★ ", "dim"), (output, "green"), f"  {plain(metric.name) if metric else ''} {value}".rstrip()
            )
        )
    return marks
