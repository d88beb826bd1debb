"""The one way to change what is known: an event goes to the journal, then into the state, then to the log."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

from rna_watch.dashboard.lines import describe
from rna_watch.journal import events as e
from rna_watch.journal.log import Journal, read
from rna_watch.journal.replay import RunState, replay

if TYPE_CHECKING:
    from pathlib import Path

    from rna_watch.journal.replay import Checkpoint

_LOG = logging.getLogger("rna_watch")
# what must survive a crash of the machine before the act that follows it
_DURABLE = (e.Publishing, e.Published, e.Admitted, e.BestMoved)


class Recorder:
    """Appends events to a run's journal and keeps the state they add up to; safe from several threads."""

    def __init__(self, journal: Path) -> None:
        self._lock = threading.RLock()
        self.state: RunState = replay(read(journal))
        self._journal = Journal(journal)

    def record(self, event: e.Event) -> None:
        """Add one event.

        Raises:
            StoreError: the journal cannot be written.
        """
        with self._lock:
            written = self._journal.append(event, durable=isinstance(event, _DURABLE))
            self.state.apply(written)
            line = describe(written, self.state)
        if line:
            _LOG.log(logging.WARNING if isinstance(event, e.Problem | e.Failed) else logging.INFO, "%s", line)

    def problem(self, key: str, what: str, remedy: str) -> None:
        """Report a problem, once until it is solved or changes."""
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

    def close(self) -> None:
        """Close the journal."""
        self._journal.close()
