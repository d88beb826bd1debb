"""The head of a frame: problems first, then which run this is, what watches it, and how far it has come."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from rna_watch.dashboard.layout import Lines, fit, pack, spread, tail_of, wrap
from rna_watch.journal.quantities import age, duration, number, places, plain, size
from rna_watch.journal.words import DIRECTIONS, output_of

if TYPE_CHECKING:
    from rna_watch.dashboard.status import Status
    from rna_watch.journal.heartbeat import Heartbeat
    from rna_watch.journal.metric import Metric
    from rna_watch.journal.replay import RunState

_STATUS_STYLES = {
    "starting": ("◌", "cyan"),
    "watching": ("●", "green"),
    "working": ("●", "green"),
    "stopping": ("◌", "yellow"),
    "stopped": ("■", "bold"),
    "not running": ("✗", "bold red"),
    "not started": ("○", "yellow"),
}


def problems(state: RunState, *, width: int, most: int) -> Lines:
    """What a person should mend, newest last, each with its remedy; nothing if all is well."""
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
    state: RunState, heartbeat: Heartbeat | None, status: Status, metric: Metric | None, *, now: float, width: int
) -> Lines:
    """The run and its status on the first line, then what it works with, then the newest and the best checkpoint."""
    started = state.started
    glyph, style = _STATUS_STYLES.get(status.word, ("●", "green"))
    left = Text.assemble(("rna-watch", "bold cyan"), "  ", (f"{glyph} {status.word}", style))
    if started is None:
        return [fit(left, width)]
    until = state.stopped.time if state.stopped else now
    verb = "up" if status.alive else "ran" if state.stopped else "started"
    uptime = f"{verb} {duration(round(max(until - started.time, 0.0)))}" + (" ago" if verb == "started" else "")
    right = Text(f"{plain(started.host)}:{started.pid}  {uptime}", "dim")
    if status.detail:
        left.append(f"  {status.detail}")
    first = spread(left, right, width)
    run = Text(tail_of(plain(started.run), width))
    # The run's folder shares the first line where there is room, so that a small screen keeps a row for a checkpoint.
    if left.cell_len + run.cell_len + right.cell_len + 4 <= width:
        lines = [spread(left.append("  ").append_text(run), right, width)]
    else:
        lines = [first, run]
    facts = [_evaluation(state, metric), Text(f"{plain(started.engine)} engine")]
    if heartbeat is not None and status.alive and heartbeat.watching:
        facts.append(Text(f"watches by {plain(heartbeat.watching)}"))
    return lines + pack(facts, width) + pack(_landmarks(state, metric, now=now), width, separator="   ")


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
