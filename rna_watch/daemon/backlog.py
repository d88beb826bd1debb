"""The backlog: what waits for work, which one is next, and what is left out for lack of time so that pins stay bounded."""

from __future__ import annotations

import math
import threading
from functools import partial
from typing import TYPE_CHECKING

from rna_watch.daemon.failures import ATTEMPTS, ENGINE
from rna_watch.daemon.order import next_in_line
from rna_watch.journal import events as e
from rna_watch.journal.command_line import command
from rna_watch.journal.replay import PENDING, Stage

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rna_watch.config import RunConfig
    from rna_watch.daemon.disk_reserve import DiskReserve
    from rna_watch.daemon.pins import Pins
    from rna_watch.daemon.recorder import Recorder
    from rna_watch.daemon.sequences import Sequences
    from rna_watch.journal.replay import Checkpoint

_BEHIND = "behind"
_REASON = "checkpoints come faster than they are evaluated"


class Backlog:
    """Chooses what is worked on, and releases what waits too long; safe for the thread that watches and the one that works.

    Pins are kept for the window in work and for the newest `window` + 1 of each series. A checkpoint that waits and falls
    behind those is left out for now, unless it was there before this process began: its original is used then, if the
    trainer keeps it.

    Args:
        config: the settings.
        recorder: journal and state.
        sequences: which checkpoints follow each other.
        pins: the window store.
        disk_reserve: which models wait for room.
        thins: whether checkpoints may be left out for lack of time (not by `once`, which has all the time).
    """

    def __init__(
        self,
        config: RunConfig,
        recorder: Recorder,
        sequences: Sequences,
        pins: Pins,
        disk_reserve: DiskReserve,
        *,
        thins: bool,
    ) -> None:
        self._config = config
        self._recorder = recorder
        self._sequences = sequences
        self._pins = pins
        self._disk_reserve = disk_reserve
        self._thins = thins
        self._lock = threading.RLock()
        self._in_work: str | None = None
        self._attempted: set[str] = set()
        self._earlier = {each.name for each in recorder.state.checkpoints.of_stages(PENDING)}
        self._files: Mapping[str, int] = {}
        self._said = 0

    def there_before(self, files: Mapping[str, int]) -> None:
        """Take note of the files that were there before this process began, by path, and when each was written (ns)."""
        self._files = files

    def thin_no_more(self) -> None:
        """The training has ended: there is time for everything."""
        self._thins = False

    def _is_earlier(self, checkpoint: Checkpoint) -> bool:
        admitted = checkpoint.admitted
        return checkpoint.name in self._earlier or (
            admitted is not None and self._files.get(admitted.path) == admitted.mtime_ns
        )

    def is_new(self, name: str) -> bool:
        """Whether a checkpoint came since this process began, and is worked on for the first time."""
        found = self._recorder.checkpoint(name)
        return found is not None and found.taken_up is None and not self._is_earlier(found)

    def next(self, since_error_s: float) -> str | None:
        """The next checkpoint to work on, which is in work from now on; None if none waits.

        Args:
            since_error_s: seconds since work failed last.
        """
        with self._lock:
            checkpoints = self._recorder.state.checkpoints
            pending = checkpoints.of_stages(PENDING)
            earlier = {
                each.name for each in (*pending, *checkpoints.of_stages([Stage.FAILED])) if self._is_earlier(each)
            }
            new = any(each.name not in earlier for each in pending)
            name = next_in_line(
                checkpoints,
                self._attempted,
                since_error_s,
                self._disk_reserve.holds,
                window=self._config.window,
                left=earlier - self._sequences.needed(self._config.window) if new and self._thins else (),
            )
            self.begin(name)
        return name

    def waits(self, since_error_s: float) -> bool:
        """Whether a checkpoint is to be worked on: now, or soon, where it failed a few times or for the engine's reason.

        What goes on failing for another reason, such as a folder that cannot be written, is not waited for.
        """
        state, held = self._recorder.state, self._disk_reserve.holds
        if next_in_line(state.checkpoints, self._attempted, since_error_s, held) is not None:
            return True
        later = next_in_line(state.checkpoints, self._attempted, math.inf, held)
        return later is not None and (state.checkpoints[later].attempts < ATTEMPTS or ENGINE in state.problems)

    def begin(self, name: str | None) -> None:
        """Take note of what is worked on from now on."""
        with self._lock:
            if name is not None:
                self._attempted.add(name)
            if name != self._in_work:
                self._in_work = name
                self.tidy()
                self._say()

    def tidy(self) -> None:
        """Leave out what fell behind, and release the pins that no window needs; called after each admission too."""
        with self._lock:
            kept = self._needed()
            for checkpoint in self._recorder.state.checkpoints.of_stages(PENDING) if self._thins else ():
                if checkpoint.taken_up is None and checkpoint.name not in kept and not self._is_earlier(checkpoint):
                    self._recorder.record(e.Skipped(checkpoint=checkpoint.name, reason=_REASON, for_now=True))
            self._pins.release(partial(self._sequences.needed, self._config.window, self._in_work))

    def _needed(self) -> set[str]:
        return self._sequences.needed(self._config.window, self._in_work)

    def _say(self) -> None:
        """Count what was left out, once for each checkpoint that is worked on."""
        count = len(self._recorder.state.checkpoints.left_behind)
        if count != self._said:
            self._said = count
            started = self._recorder.state.started
            once = command("once", started.run, started.output) if started else "rna-watch once RUN"
            what = f"{count} checkpoint{'s were' if count > 1 else ' was'} left out: {_REASON}; the newest windows go first"
            remedy = f"{once} makes up for it as far as their files are kept; a faster evaluator, --workers"
            if count:
                self._recorder.problem(_BEHIND, what, f"{remedy} or --every leave out less")
            else:
                self._recorder.solved(_BEHIND)
