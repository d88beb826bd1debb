"""The status of a run's daemon: one word for what it does, and whether it can be believed to live."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rna_watch.journal.heartbeat import STALE_AFTER_S
from rna_watch.journal.quantities import age, plain

if TYPE_CHECKING:
    from rna_watch.journal.heartbeat import Heartbeat
    from rna_watch.journal.replay import RunState


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """`word` is starting, watching, working, stopping, stopped, not running or not started; `detail` says more."""

    word: str
    detail: str
    alive: bool


def status_of(state: RunState, heartbeat: Heartbeat | None, *, now: float) -> Status:
    """The daemon's status: what its journal ended with, else what its heartbeat says while that is fresh."""
    started = state.started
    if started is None:
        alive = heartbeat is not None and heartbeat.fresh(now)
        return Status(word="starting" if alive else "not started", detail="", alive=alive)
    if state.stopped:
        return Status(word="stopped", detail=plain(state.stopped.reason), alive=False)
    # A heartbeat from before the start is the one of the daemon before this one.
    if heartbeat is None or heartbeat.time < started.time - STALE_AFTER_S:
        if now - started.time < STALE_AFTER_S:
            return Status(word="starting", detail="", alive=True)
        last = max(started.time, state.recent[-1].time if state.recent else 0.0)
    elif heartbeat.fresh(now):
        busy = heartbeat.work is not None and heartbeat.state == "watching"
        return Status(word="working" if busy else plain(heartbeat.state), detail="", alive=True)
    else:
        last = heartbeat.time
    return Status(word="not running", detail=f"last sign of life {age(now - last)} ago", alive=False)
