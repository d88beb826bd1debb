"""Following a journal: its events as they come, even if the file is replaced; public, for dashboards and exporters."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from rna_watch.journal import snapshot
from rna_watch.journal.log import decode, lines
from rna_watch.journal.replay import RunState

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from rna_watch.journal.events import Event


class Follower:
    """A reader of a journal that remembers how far it read.

    `state` is what the events so far add up to, those up to `after` included. `caught_up` says whether the last call of
    `new` reached the end of the file.

    Args:
        path: the journal; it need not be there yet.
        after: number (`seq`) of the last known event: only later ones are yielded. A new journal in the place of this one
            is yielded from its beginning.
        history: whether all events are yielded; else those of a snapshot are in the state alone, which is much faster.
    """

    def __init__(self, path: Path, *, after: int = 0, history: bool = True) -> None:
        self.path = path
        self._begin(after)
        self._history = history

    def _begin(self, after: int) -> None:
        self.state = RunState()
        self.caught_up = False
        self._after = after
        self._offset = 0
        self._identity: tuple[int, int] | None = None

    def new(self) -> Iterator[Event]:
        """The sound events since the last call, each already part of `state`; an unfinished line is left for the next.

        A file that was replaced, or cut to less than what was read, is another run's: `state` starts from nothing then.
        """
        self.caught_up = False
        if not self._history:
            self._history = True
            if (found := snapshot.load(self.path)) is not None:
                self.state, self._offset = found.state, found.length
        try:
            file = self.path.open("rb")
        except OSError:
            return
        with file:
            stat = os.fstat(file.fileno())
            identity = (stat.st_dev, stat.st_ino)
            if self._identity not in {None, identity} or stat.st_size < self._offset:
                self._begin(0)
            self._identity = identity
            file.seek(self._offset)
            for line in lines(file):
                if not line.endswith(b"\n"):
                    break
                self._offset += len(line)
                event = decode(line)
                if event is not None:
                    self.state.apply(event)
                    if event.seq > self._after:
                        yield event
            self.caught_up = True
