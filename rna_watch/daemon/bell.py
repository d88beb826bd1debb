"""A bell: wakes a thread that waits; the handler of a signal may ring it, in that thread too."""

from __future__ import annotations

import contextlib
from queue import Empty, SimpleQueue


class Bell:
    """Rings in one thread; unlike `threading.Event`, it takes no lock that a handler could find taken by its own thread."""

    def __init__(self) -> None:
        self._rings: SimpleQueue[None] = SimpleQueue()  # its `put` may interrupt its `get`

    def ring(self) -> None:
        """Wake the thread that waits, or have its next wait end at once."""
        self._rings.put(None)

    def wait(self, seconds: float) -> None:
        """Until it rings, at most so long."""
        with contextlib.suppress(Empty):
            self._rings.get(timeout=seconds)
            while True:
                self._rings.get_nowait()
