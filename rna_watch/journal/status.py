"""The status of a run: whether a daemon watches it, which one, and what it does; the one answer for every command."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from rna_watch.journal import heartbeat, snapshot
from rna_watch.journal.owner import look
from rna_watch.journal.quantities import age, plain
from rna_watch.journal.replay import RunState

if TYPE_CHECKING:
    from collections.abc import Callable

    from rna_watch.journal.heartbeat import Heartbeat, Work, Worker
    from rna_watch.journal.owner import Owner
    from rna_watch.journal.run_paths import RunPaths

_POLL_S = 0.2
STARTING, STOPPING, SILENT, NOT_RUNNING = "starting", "stopping", "silent", "not running"


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """Whether a run is watched, and the work at hand; times are seconds since 1970, or 0 if there is none.

    `state` is starting, watching, working, stopping, silent (its process has the run and gives no sign of life: a full
    disk, a stuck file system, a suspended process) or not running. `owner` is the process that has the run: None if there
    is none, or if it cannot be named. `since` is the time when the owner took the run, `last_sign` that of the last sign
    of life, and `ended` the reason why the last daemon stopped. The other fields are those of the owner's heartbeat while
    that is fresh. `certain` is False as long as the owner is on another machine, or cannot be seen from here otherwise,
    and its heartbeat was watched for too short a time to tell: it is taken for alive until then.
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
    certain: bool = True

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
        return str(self.owner) if self.owner else "another process"


def load(paths: RunPaths, say: Callable[[str], None] = lambda _: None) -> tuple[RunState, Status]:
    """The state that a run's journal adds up to, and the run's status once it is certain; see `settled`."""
    status = settled(paths, say)
    state = snapshot.fold(paths.journal).state
    return state, status_of(paths, state) if status.certain else status


def settled(paths: RunPaths, say: Callable[[str], None] = lambda _: None) -> Status:
    """The status of a run as soon as it is certain: at once, or when its heartbeat was watched for long enough.

    Args:
        paths: the run's paths.
        say: shows a line if that takes longer than a living daemon lets one wait.
    """
    begun, said = time.monotonic(), False
    while not (status := status_of(paths)).certain:
        if not said and time.monotonic() - begun > heartbeat.STALE_AFTER_S / 10:
            limit = f"{heartbeat.STALE_AFTER_S:g} s"
            say(f"waiting  for a sign of life of {status.who()}, at most {limit}: without one it counts as gone")
            said = True
        time.sleep(_POLL_S)
    return status


def status_of(paths: RunPaths, state: RunState | None = None) -> Status:
    """The status of a run at this moment, as far as this process can tell by now.

    Lock and process decide where they can. Elsewhere the heartbeat does: a daemon is alive while its heartbeat changes as
    this process watches, from call to call, and gone after 30 s without a change. Times that the owner wrote are compared
    with our clock only if the owner runs on our kernel.

    Args:
        paths: the run's paths.
        state: what the journal adds up to, for the end of the last daemon; not needed to know whether one lives.
    """
    seen = look(paths.lock, paths.owner)
    watched = heartbeat.watch(paths.heartbeat, paths.lock, paths.owner)
    beat = heartbeat.read(paths.heartbeat)
    owner, proof, now = seen.owner, seen.proof(), time.time()
    if owner is not None and proof and owner.lives() is False:
        owner = None  # its successor holds the lock, and has not written its record yet
    ours = beat is not None and owner is not None and _is_of(beat, owner)
    began = owner.since if owner else now
    last_sign = beat.time if beat is not None and ours else began
    silent_s = watched.silent_s
    same_clock = owner is not None and owner.shares_clock()
    if same_clock and (proof or not watched.changed):
        silent_s = max(silent_s, now - last_sign)
    silent = silent_s >= heartbeat.STALE_AFTER_S
    if proof is False or (proof is None and silent):
        return _of_nobody(state, beat)
    status = Status(
        state=SILENT if silent else STARTING,
        owner=owner,
        since=began,
        last_sign=last_sign if same_clock else now - silent_s,
        certain=watched.changed or silent or (bool(proof) and (same_clock or owner is None)),
    )
    if silent or beat is None or not ours:
        return status
    return replace(
        status,
        state=STOPPING if beat.state == "stopped" else beat.state,
        watching=beat.watching,
        work=beat.work,
        workers=beat.workers,
        read_bytes_per_s=beat.read_bytes_per_s,
    )


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
