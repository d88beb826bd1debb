"""Probes in threads of their own: a file that takes too long to be read, or a file system that hangs, holds up nothing else."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rna_watch.errors import Unreadable
from rna_watch.formats.probe import probe
from rna_watch.layout.identity import identify_any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rna_watch.layout.identity import FileIdentity
    from rna_watch.layout.layout import Layout

LIMIT_S = 60.0  # the headers of 250,000 tensors take a few seconds; a hard-mounted server may never answer
_AT_HAND_S = 0.25
_MOST = 8


class StillReading(Unreadable):
    """The file is being read: ask again soon."""


@dataclass(slots=True)
class _Reading:
    begun: float
    done: threading.Event = field(default_factory=threading.Event)
    identity: FileIdentity | None = None
    layout: Layout | None = None
    error: Exception | None = None


class Probes:
    """Probes files as `probe` does, each in a thread, and waits only a moment for the answer; keeps the last few answers.

    Args:
        limit_s: after which time a file counts as unreadable; its answer is taken all the same if it comes.
        at_hand_s: how long to wait for the answer before it is to be asked for again.
    """

    def __init__(self, limit_s: float = LIMIT_S, at_hand_s: float = _AT_HAND_S) -> None:
        self._limit_s = limit_s
        self._at_hand_s = at_hand_s
        self._readings: dict[str, _Reading] = {}

    def layout(self, path: str, source: str | None = None, ignore: Sequence[str] = ()) -> Layout:
        """The layout of a checkpoint, as `probe` gives it.

        Raises:
            StillReading: there is no answer yet.
            Unreadable: there is none for too long, or too many files wait for one.
            RnaWatchError, OSError: what `probe` raises.
        """
        reading = self._readings.get(path)
        if reading is not None and reading.done.is_set() and not self._current(reading, path):
            reading = None
        at_hand_s = 0.0 if reading is not None else self._at_hand_s
        if reading is None:
            self._make_room()
            reading = self._readings[path] = _Reading(time.monotonic())
            work = (reading, path, source, ignore)
            threading.Thread(target=self._work, args=work, name="rna-watch-probe", daemon=True).start()
        if not reading.done.wait(at_hand_s):
            if time.monotonic() - reading.begun < self._limit_s:
                raise StillReading("it is being read")
            raise Unreadable(f"reading it takes longer than {self._limit_s:g} s; check the disk or mount")
        if reading.layout is None:
            del self._readings[path]
            assert reading.error is not None
            raise reading.error
        return reading.layout

    def _make_room(self) -> None:
        done = [path for path, reading in self._readings.items() if reading.done.is_set()]
        for path in done[: max(0, len(self._readings) - _MOST + 1)]:
            del self._readings[path]
        if len(self._readings) >= _MOST:
            raise Unreadable("it waits for other files, which take too long to be read; check the disk or mount")

    def _current(self, reading: _Reading, path: str) -> bool:
        """Whether an answer is of the file as it is now."""
        return reading.identity is None or identify_any(path).same_content(reading.identity)

    def _work(self, reading: _Reading, path: str, source: str | None, ignore: Sequence[str]) -> None:
        try:
            reading.identity = identify_any(path)
            reading.layout = probe(path, source, ignore)
        except Exception as error:  # noqa: BLE001 - it is raised where the file is asked for
            reading.error = error
        finally:
            reading.done.set()
