"""The head of a frame: problems first, then the run, what watches it, and how far it has come."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from rna_watch.dashboard.layout import Lines, fit, pack, spread, tail_of, wrap
from rna_watch.journal.cooled import cooled, sentence
from rna_watch.journal.quantities import age, duration, number, places, plain

if TYPE_CHECKING:
    from rna_watch.journal.metric import Metric
    from rna_watch.journal.replay import Best, RunState
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
        what = wrap(problem.what, width - 3, style="bold red", most=4 if len(todo) == 1 else 2)
        remedy = wrap(problem.remedy, width - 5, style="yellow", most=3)
        block = [Text(" ! " if not row else "   ", "bold red").append_text(line) for row, line in enumerate(what)] + [
            Text("   → " if not row else "     ", "yellow").append_text(line) for row, line in enumerate(remedy)
        ]
        more = index < len(todo) - 1
        if lines and len(lines) + len(block) + more > most:
            return [*lines, Text(f"   and {len(todo) - index} more: rna-watch status", "yellow")]
        lines += block
    return lines[:most]


def state_mark(state: RunState, status: Status) -> tuple[str, str]:
    """The glyph of a run's status, and its style; the glyphs differ without colour."""
    if status.alive:
        return _STATUS_STYLES.get(status.state, ("●", "green"))
    return _NEVER if state.started is None else _ENDED if status.ended else _STATUS_STYLES["not running"]


def header(state: RunState, status: Status, metric: Metric | None, *, now: float, width: int) -> Lines:
    """The run and its status, then what judges it, how far it helps and its newest checkpoint.

    Args:
        state: what the journal adds up to.
        status: whether the run is watched, and the work at hand.
        metric: the metric that decides, if it is known.
        now: seconds since 1970.
        width: terminal cells of a line.
    """
    started = state.started
    glyph, style = state_mark(state, status)
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
    lines += pack([*_facts(state, metric, now), *_of_others(state)], width)
    branch = cooled(state)
    return lines + (wrap(plain(sentence(branch)), width, style="", most=2) if branch else [])


def _facts(state: RunState, metric: Metric | None, now: float) -> Lines:
    assert state.started is not None
    facts: Lines = []
    if state.started.evaluator:
        facts.append(Text(f"judged by {tail_of(plain(state.started.evaluator), 40)}"))
    newest = next(state.checkpoints.newest_first(), None)
    if newest and newest.admitted:
        it = newest.admitted
        written = it.mtime_ns / 1e9 or newest.seen_time
        text = f"newest {tail_of(plain(newest.name), 32)}, {plain(it.step_kind)} {it.step}, {age(now - written)} ago"
        facts.append(Text(text, "dim"))
    compared, better, beyond, _ = state.checkpoints.better()
    if compared and metric is not None:
        facts.append(Text(f"better than the original at {better} of {compared}, beyond noise at {beyond}"))
    return facts


def _uptime(state: RunState, status: Status, now: float) -> str:
    """How long the daemon is up or ran, or how long ago it started if it ended without recording that."""
    assert state.started is not None
    until = state.stopped.time if state.stopped and not status.alive else now
    text = duration(round(max(until - (status.since or state.started.time), 0.0)))
    return f"up {text}" if status.alive else f"ran {text}" if state.stopped else f"started {text} ago"


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
