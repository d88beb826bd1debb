"""The work of the daemon: the work at hand, the stage of each checkpoint, and what the workers use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from rna_watch.dashboard.layout import Lines, fit, pack, padded, tail_of
from rna_watch.dashboard.summary import idle
from rna_watch.journal.backfill import backfill
from rna_watch.journal.quantities import duration, plain, size
from rna_watch.journal.replay import PENDING, Stage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rna_watch.journal.heartbeat import Work, Worker
    from rna_watch.journal.replay import Checkpoint, RunState
    from rna_watch.journal.status import Status

_STEPS = ("complete", "measured", "evaluated", "chosen", "published")
_REACHED = {Stage.READY: 1, Stage.MEASURED: 2, Stage.EVALUATING: 2, Stage.CHOSEN: 4, Stage.PUBLISHING: 4}
_DOING = ("waiting", "measuring", "evaluating", "choosing", "publishing")
_FEWEST = 3  # checkpoints that wait, from which on there is a bar over all


def bar(share: float, width: int) -> Text:
    """A progress bar that can be read without colour: thick for what is done, thin for the rest."""
    halves = round(min(max(share, 0.0), 1.0) * width * 2)
    done = "━" * (halves // 2) + ("╸" if halves % 2 else "")
    return Text.assemble((done, "cyan"), ("─" * (width - len(done)), "dim"))


def work_now(state: RunState, status: Status, *, now: float, width: int, most: int) -> Lines:
    """The work at hand with its progress and a line for each checkpoint in work, or what is waited for.

    Args:
        state: what the journal adds up to.
        status: whether the run is watched, and the work at hand.
        now: seconds since 1970.
        width: terminal cells of a line.
        most: the most lines.
    """
    pending = sorted(state.checkpoints.of_stages(PENDING), key=lambda c: c.admitted.seq if c.admitted else 0)
    lines = [_progress(status.work, now=now, width=width)] if status.work else []
    if not status.alive:
        if not pending:
            return [fit(Text("nothing is left in work; rna-watch start watches on", "dim"), width)]
        count = f"{len(pending)} checkpoint{'s are' if len(pending) > 1 else ' is'}"
        return [fit(Text(f"{count} not finished; rna-watch start continues there", "yellow"), width)]
    if len(pending) >= _FEWEST:
        lines.append(_over_all(state, now=now, width=width))
        pending = [c for c in pending if c.stage is not Stage.READY]
    room = most - len(lines)
    shown = pending[: room if len(pending) <= room else max(room - 1, 1)]
    name_width = max((min(len(plain(c.name)), 24) for c in shown), default=0)
    lines += [_pipeline(c, name_width=name_width, width=width) for c in shown]
    if len(pending) > len(shown):
        lines.append(Text(f"and {len(pending) - len(shown)} more", "dim"))
    return lines[:most] or [fit(Text(idle(state, now), "dim"), width)]


def _over_all(state: RunState, *, now: float, width: int) -> Text:
    """A bar over all checkpoints that are there, and the time that the rest takes."""
    far = backfill(state, now)
    left = f", {duration(round(far.left_s))} left" if far.left_s is not None else ""
    head = Text().append("all checkpoints  ", "bold cyan")
    tail = f" {far.done / max(far.total, 1):4.0%}  {far.done} of {far.total} done{left}"
    room = width - head.cell_len - len(tail)
    return fit(head.append_text(bar(far.done / max(far.total, 1), max(min(room, 60), 4))).append(tail, "dim"), width)


def _progress(work: Work, *, now: float, width: int) -> Text:
    elapsed = max(now - work.since, 0.0)
    line = Text.assemble((plain(work.stage), "bold cyan"), "  ", tail_of(plain(work.checkpoint), 28), "  ")
    if work.total <= 0:
        return fit(line.append(f"for {duration(elapsed)}", "dim"), width)
    share = min(max(work.done / work.total, 0.0), 1.0)
    if work.unit == "bytes":
        facts = [f"{size(work.done)} of {size(work.total)}"]
        if elapsed > 1 and work.done:
            facts.append(f"{size(work.done / elapsed)}/s")
    else:
        facts = [f"{work.done} of {work.total} {plain(work.unit)}"]
    # An estimate from the first instants is too rough.
    if elapsed > 3 and 0 < share < 1:
        facts.append(f"{duration(round(elapsed / share - elapsed))} left")
    room = width - line.cell_len - 6
    while facts and room - sum(len(fact) + 2 for fact in facts) < 10:
        facts.pop()
    tail = "".join(f"  {fact}" for fact in facts)
    line.append_text(bar(share, min(max(room - len(tail), 4), 48)))
    return fit(line.append(f" {share:4.0%}").append(tail, "dim"), width)


def _pipeline(checkpoint: Checkpoint, *, name_width: int, width: int) -> Text:
    reached = _REACHED.get(checkpoint.stage, 0)
    line = Text(padded(tail_of(plain(checkpoint.name), name_width), name_width) + "  ")
    for index, step in enumerate(_STEPS):
        line.append(" " if index else "")
        if index < reached:
            line.append(f"✓ {step}", "green")
        elif index == reached:
            line.append(f"▸ {_DOING[index]}", "bold cyan")
            count = len(checkpoint.evaluations) + len(checkpoint.failures)
            line.append(f" {count}" if index == 2 and count else "", "cyan")
        else:
            line.append(f"· {step}", "dim")
    if checkpoint.attempts:
        line.append(f"  attempt {checkpoint.attempts + 1}", "yellow")
    return fit(line, width)


def resources(state: RunState, status: Status, *, width: int) -> Lines:
    """Workers, memory and bytes on as few lines of `width` terminal cells as possible."""
    facts = []
    team = status.workers
    if team:
        busy = sum(worker.busy for worker in team)
        count = f"{len(team)} worker{'s' if len(team) > 1 else ''}, {busy} busy"
        facts += [Text(count), Text(f"memory {size(sum(worker.memory_bytes for worker in team))}")]
    if status.read_bytes_per_s > 0:
        facts.append(Text(f"{size(status.read_bytes_per_s)}/s"))
    facts += [Text(f"read {size(state.read_bytes)}"), Text(f"wrote {size(state.written_bytes)}")]
    return pack(facts, width)


def workers(team: Sequence[Worker], *, width: int, most: int) -> Lines:
    """A line for each worker: its purpose, whether it is busy, and its memory relative to the largest.

    Args:
        team: the workers.
        width: terminal cells of a line.
        most: the most lines.
    """
    shown = team if len(team) <= most else team[: most - 1]
    largest = max((worker.memory_bytes for worker in team), default=0) or 1
    name_width = max((min(len(plain(worker.name)), 18) for worker in shown), default=0)
    lines = [_worker(worker, largest=largest, name_width=name_width, width=width) for worker in shown]
    if len(team) > len(shown):
        lines.append(Text(f"and {len(team) - len(shown)} more", "dim"))
    return lines


def _worker(worker: Worker, *, largest: int, name_width: int, width: int) -> Text:
    mark = ("● busy", "cyan") if worker.busy else ("○ idle", "dim")
    line = Text.assemble(mark, "  ", padded(tail_of(plain(worker.name), name_width), name_width))
    line.append(f"  {worker.pid:>7}  ", "dim").append(size(worker.memory_bytes).rjust(7)).append("  ")
    room = min(width - line.cell_len, 24)
    return fit(line.append_text(bar(worker.memory_bytes / largest, room)) if room >= 6 else line, width)
