"""The one way to change the state: an event goes to the journal, then into the state, then to the listeners."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from typing import TYPE_CHECKING

from rna_watch.errors import RnaWatchError, StoreError, Superseded
from rna_watch.journal import events as e
from rna_watch.journal import fields, snapshot
from rna_watch.journal.log import Journal
from rna_watch.journal.words import describe
from rna_watch.layout.memory import return_memory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from rna_watch.journal.replay import Checkpoint, RunState

    Listener = Callable[[e.Event, RunState], None]

_LOG = logging.getLogger("rna_watch")
_POLL_S = 0.2
_UNWRITTEN = "journal"
SNAPSHOT_BYTES = 2**20  # of the journal, that a start reads again
_INTENTS = (e.Publishing,)  # what they announce is not begun before they are written
# these must survive a crash of the machine before the act that follows
_DURABLE = (e.Publishing, e.Published, e.Admitted, e.BestMoved, e.BestWithdrawn)
# events of work on a checkpoint; not of an output that was written, which is there whatever became of its checkpoint
_OF_WORK = (
    e.Repeated,
    e.Measured,
    e.Searched,
    e.Screened,
    e.Evaluated,
    e.EvaluationFailed,
    e.Chosen,
    e.Publishing,
    e.Left,
    e.Finished,
    e.Skipped,
    e.Failed,
)


def write_log_line(event: e.Event, state: RunState) -> None:
    """The listener that writes the log: one line for each event that is worth one."""
    line = describe(event, state)
    if line:
        _LOG.log(logging.WARNING if isinstance(event, e.Problem | e.Failed) else logging.INFO, "%s", line)


def _left_out(refused: Sequence[str]) -> e.Problem:
    are = "lines of the journal are" if len(refused) > 1 else "line of the journal is"
    return e.Problem(
        key="journal-paths",
        what=f"{len(refused)} {are} not ours and left out: {refused[0]}",
        remedy="find out who else writes to the folder; what such a line says counts as not having happened",
    )


class Recorder:
    """Appends events to a run's journal and keeps the state that they add up to; safe for several threads.

    A checkpoint may be admitted again while its old version is in work. Events give only its name, so an event of the
    old version is never written behind the new one's `Admitted`.

    Args:
        journal: the file.
        listeners: called with each event that was recorded and the state that it is part of, in the journal's order. One
            that raises is reported once, as a problem; neither the event nor the other listeners are affected.
        check: called before each event; raises if the run is no longer this process's.
    """

    def __init__(
        self,
        journal: Path,
        listeners: Sequence[Listener] = (write_log_line,),
        *,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self._lock = threading.RLock()
        known = snapshot.fold(journal)
        self.state: RunState = known.state
        self._refused = known.refused
        self.at_start: list[e.Event] = [_left_out(known.refused)] if known.refused else []  # behind the next `started`
        self.check = check
        self.proceed: Callable[[], None] = lambda: None  # raises Cancelled to end a wait for the disk
        self._path = journal
        self._journal = Journal(journal, self.state.seq)
        self._kept = known.kept
        self._listeners = tuple(listeners)
        self._in_work: dict[str, int] = {}
        self._failed: set[Listener] = set()

    def take(self, checkpoints: Iterable[Checkpoint]) -> None:
        """From now on the events of work on these names are of these versions."""
        self._in_work = {each.name: each.admitted.seq for each in checkpoints if each.admitted}

    def current(self, name: str) -> Checkpoint:
        """What is known of a checkpoint in work.

        Raises:
            Superseded: it was admitted again meanwhile.
        """
        found = self.state.checkpoints[name]
        if found.admitted is not None and found.admitted.seq != self._in_work.get(name, found.admitted.seq):
            raise Superseded(f"{name} was written again while its old version was in work")
        return found

    def record(self, event: e.Event) -> None:
        """Add one event.

        Raises:
            StoreError: the journal cannot be written, or is not there any more.
            StoreAway: the run's own folder cannot be reached at the moment; nothing was recorded.
            Cancelled: the daemon is stopping while an intent waits for the disk.
            Superseded: the event is of an older version of its checkpoint.
            RunIsWatched: another process has taken the run over.
        """
        with self._lock:
            self.check()
            if lost := self.lost():
                raise StoreError(lost)
            if isinstance(event, _OF_WORK) and event.checkpoint in self._in_work:
                self.current(event.checkpoint)
            written = self._journal.append(fields.cut(event), durable=isinstance(event, _DURABLE))
            self.state.apply(written)
            while isinstance(written, e.Started) and self.at_start:
                self.record(self.at_start.pop(0))
            for problem in [found for each in self._listeners if (found := self._inform(each, written))]:
                self.record(problem)
            self._say_unwritten()
        if isinstance(event, _INTENTS):
            while self._journal.waiting:
                self.proceed()
                time.sleep(_POLL_S)
                self.flush()

    def flush(self) -> None:
        """Write what waits for the disk, if that is possible again; called now and then.

        Raises:
            StoreError: the journal cannot be written, for longer than errors of a disk pass.
            StoreAway, RunIsWatched: nothing may be written now.
        """
        with self._lock:
            if self._journal.waiting:
                self.check()
                self._journal.flush()
            self._say_unwritten()

    def keep_snapshot(self, *, least_bytes: int = SNAPSHOT_BYTES) -> None:
        """Write a snapshot, if the journal grew by so much since the last one; what fails costs only time at the next start.

        Raises:
            RunIsWatched, StoreAway: nothing may be written now.
        """
        with self._lock:
            journal = self._journal
            if journal.length - self._kept < least_bytes or journal.waiting or not journal.alone or self.lost():
                return
            self.check()
            self._kept = self._journal.length
            folded = snapshot.Folded(state=snapshot.frozen(self.state), length=self._kept, refused=self._refused)
        with contextlib.suppress(OSError, ValueError):
            after, told = snapshot.write(self._path, folded)
            with self._lock:
                for before, new in zip(folded.state.checkpoints.values(), after, strict=True):
                    self.state.checkpoints.stored(before, new)
                told.later = self.state.told.later[len(folded.state.told.later) :]
                self.state.told = told
            del folded, after
            return_memory()

    def _say_unwritten(self) -> None:
        """Report that events wait for the disk, or that they do no longer."""
        trouble = self._journal.trouble
        if trouble and _UNWRITTEN not in self.state.problems:
            self.problem(
                _UNWRITTEN, trouble, "make room there, or name another folder with --output; work waits for it"
            )
        elif not trouble:
            self.solved(_UNWRITTEN)

    def _inform(self, listener: Listener, event: e.Event) -> e.Problem | None:
        """Call a listener; the problem to report, if this is the first time that it failed."""
        try:
            listener(event, self.state)
        except Exception as error:  # noqa: BLE001 - whatever it is, the event is recorded and the run goes on
            if listener in self._failed:
                return None
            self._failed.add(listener)
            name = getattr(listener, "__name__", type(listener).__name__)
            return e.Problem(
                key=f"listener {name}",
                what=f"the listener {name} failed at an event of the kind {event.kind}: {error!r}",
                remedy="nothing else is affected; repair the listener and start again",
            )
        return None

    def problem(self, key: str, what: str, remedy: str) -> None:
        """Report a problem, once until it is solved or changes.

        Args:
            key: what it is a problem of; a new one with the same key replaces it.
            what: the problem in words.
            remedy: what to do about it.
        """
        known = self.state.problems.get(key)
        if known is None or known.what != what:
            self.record(e.Problem(key=key, what=what, remedy=remedy))

    def solved(self, key: str) -> None:
        """Take a problem back, if it was reported."""
        if key in self.state.problems:
            self.record(e.Solved(key=key))

    def checkpoints(self) -> list[Checkpoint]:
        """All checkpoints, in the order in which they were first seen."""
        with self._lock:
            return list(self.state.checkpoints.values())

    def checkpoint(self, name: str) -> Checkpoint | None:
        """One checkpoint."""
        return self.state.checkpoints.get(name)

    def lost(self) -> str:
        """Why the journal is no longer the one that this process writes; "" if it is."""
        return self._journal.lost()

    def close(self) -> None:
        """Close the journal, after a last snapshot if it grew much."""
        with contextlib.suppress(RnaWatchError):
            self.keep_snapshot(least_bytes=SNAPSHOT_BYTES // 8)
        self._journal.close()
