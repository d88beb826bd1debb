"""The status of a run: whether a daemon watches it, which one, and what it does; the one answer for every command."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rna_watch.journal import heartbeat, log
from rna_watch.journal.owner import look
from rna_watch.journal.quantities import age, plain
from rna_watch.journal.replay import RunState, replay

if TYPE_CHECKING:
    from rna_watch.journal.heartbeat import Heartbeat, Work, Worker
    from rna_watch.journal.owner import Owner
    from rna_watch.journal.run_paths import RunPaths

STARTING, STOPPING, SILENT, NOT_RUNNING = "starting", "stopping", "silent", "not running"


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """Whether a run is watched, and the work at hand; times are seconds since 1970, or 0 if there is none.

    `state` is starting, watching, working, stopping, silent (its process has the run and gives no sign of life: a full
    disk, a stuck file system, a suspended process) or not running. `owner` is the process that has the run: None if there
    is none, or if it cannot be named. `since` is the time when the owner took the run, `last_sign` that of the last sign
    of life, and `ended` the reason why the last daemon stopped. The other fields are those of the owner's heartbeat while
    that is fresh.
    """

    state: str = NOT_RUNNING
    owner: Owner | None = None
    since: float = 0.0
    last_sign: float = 0.0
    ended: str = ""
    watching: str = ""
    work: Work | None = None
    workers: tuple[Worker, ...] = ()
    read_bytes_per_s: float = 0.0

    @property
    def alive(self) -> bool:
        """Whether a process has the run."""
        return self.state != NOT_RUNNING

    @property
    def responds(self) -> bool:
        """Whether a process has the run and gives signs of life."""
        return self.state not in {NOT_RUNNING, SILENT}

    def detail(self, now: float) -> str:
        """Why the daemon ended, or how long ago its last sign of life was; "" for a daemon that responds."""
        if self.responds:
            return ""
        if self.alive:
            return f"no sign of life for {age(now - self.last_sign)}"
        if self.ended:
            return f"stopped: {plain(self.ended)}"
        return f"last sign of life {age(now - self.last_sign)} ago" if self.last_sign else ""

    def who(self) -> str:
        """The process that has the run."""
        return f"process {self.owner.pid} on {self.owner.host}" if self.owner else "another process"


def load(paths: RunPaths) -> tuple[RunState, Status]:
    """The state that a run's journal adds up to, and the run's status."""
    state = replay(log.read(paths.journal))
    return state, status_of(paths, state)


def status_of(paths: RunPaths, state: RunState | None = None) -> Status:
    """The status of a run at this moment.

    A lock that is held is proof of life. A lock that is free proves that a process of this host is gone. The process itself
    decides if the lock cannot be tried. The age of the heartbeat decides for a process of another host.

    Args:
        paths: the run's paths.
        state: what the journal adds up to, for the end of the last daemon; not needed to know whether one lives.
    """
    owner, held = look(paths.lock)
    beat = heartbeat.read(paths.heartbeat)
    now = time.time()
    if not _alive(owner, held, beat, now):
        return _of_nobody(state, beat)
    if owner is not None and owner.is_here() and not owner.lives_here():
        owner = None  # its successor holds the lock, and has not written its record yet
    began = owner.since if owner else now
    if beat is not None and (owner is None or _is_of(beat, owner)) and beat.fresh(now):
        return Status(
            state=STOPPING if beat.state == "stopped" else beat.state,
            owner=owner,
            since=began,
            last_sign=beat.time,
            watching=beat.watching,
            work=beat.work,
            workers=beat.workers,
            read_bytes_per_s=beat.read_bytes_per_s,
        )
    word = STARTING if now - began < heartbeat.STALE_AFTER_S else SILENT
    return Status(state=word, owner=owner, since=began, last_sign=max(began, beat.time if beat else 0.0))


def _alive(owner: Owner | None, held: bool | None, beat: Heartbeat | None, now: float) -> bool:
    if held:
        return True
    fresh = beat is not None and beat.fresh(now)
    if owner is None:
        return held is None and fresh
    if owner.is_here():
        return held is None and owner.lives_here()
    return (fresh and beat is not None and beat.host == owner.host) or now - owner.since < heartbeat.STALE_AFTER_S


def _is_of(beat: Heartbeat, owner: Owner) -> bool:
    """Whether a heartbeat is the owner's, not an earlier daemon's."""
    return (beat.host, beat.pid) == (owner.host, owner.pid) and beat.time >= owner.since


def _of_nobody(state: RunState | None, beat: Heartbeat | None) -> Status:
    state = state or RunState()
    last_event = state.recent[-1].time if state.recent else 0.0
    return Status(
        last_sign=max(last_event, beat.time if beat else 0.0),
        ended=state.stopped.reason if state.stopped else "",
    )
