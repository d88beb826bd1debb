"""The sweep: one process that watches many runs, takes up new ones as they appear, and lets go of those that end."""

from __future__ import annotations

import contextlib
import logging
import signal
import time
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from rna_watch.daemon import log_file, run_watch, sign_of_life, signals
from rna_watch.daemon.shared import Shared
from rna_watch.errors import RnaWatchError, RunIsWatched, StoreError
from rna_watch.journal import heartbeat, service
from rna_watch.journal import sweep as record
from rna_watch.journal.owner import begun, lives
from rna_watch.journal.quantities import printable
from rna_watch.layout import disk

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Sequence

    from rna_watch.config import RunConfig
    from rna_watch.daemon.loop import Daemon
    from rna_watch.journal.lock import RunLock
    from rna_watch.journal.run_paths import RunPaths

    Find = Callable[[], list["Found"]]

_LOG = logging.getLogger("rna_watch")
_TICK_S = 0.25
_BEAT_S = 1.0
_LOOK_S = 5.0  # between two looks for new runs; more where a look takes long
_SHARE = 40  # of the time, at most one in so many goes to looks
_BEGIN_LIMIT_S = 120.0
_END_LIMIT_S = 25.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 30.0, 600.0
_AT_ONCE = 8  # runs that begin at a time


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A run, and when one of its checkpoints last changed (ns)."""

    paths: RunPaths
    changed_ns: int = 0


class _Watched:
    """A run, the thread that watches it, and what became of it."""

    def __init__(self, found: Found) -> None:
        self.found = found
        self.thread: threading.Thread | None = None
        self.daemon: Daemon | None = None
        self.ready = False
        self.left = ""  # why it is not watched
        self.error: RnaWatchError | None = None
        self.again_at = 0.0
        self.pause_s = _FIRST_PAUSE_S
        self.for_good = False

    def begins(self) -> bool:
        """Whether it is on its way to being watched."""
        return self.thread is not None and self.thread.is_alive() and not self.ready

    def lives(self) -> bool:
        """Whether it is watched, or about to be."""
        return self.thread is not None and self.thread.is_alive()


class Sweep:
    """Watches many runs until a signal or a request to stop, or until there is none to watch any more.

    Args:
        config: the settings of all runs.
        runs: the runs to begin with.
        find: looks for runs, now and then; None: there are no others. It may take as long as it likes.
        home: the folder of the process itself, below which runs appear; None where they were named one by one.
        lock: the lock of that folder.
        say: shows a line.
        on_ready: called once the first runs are watched.

    Raises:
        RnaWatchError: no run could be watched; the first one's reason.
    """

    def __init__(
        self,
        config: RunConfig,
        runs: Sequence[Found],
        *,
        find: Find | None = None,
        home: RunPaths | None = None,
        lock: RunLock | None = None,
        say: Callable[[str], None] = lambda _: None,
        on_ready: Callable[[], None] = lambda: None,
    ) -> None:
        self._config = config
        self._find = find
        self._home = home
        self._lock = lock
        self._say = say
        self._on_ready = on_ready
        self._announced = False
        self._said: set[str] = set()
        self.shared = Shared(many=True)
        self._runs = {each.paths: _Watched(each) for each in runs}
        self._looking: threading.Thread | None = None
        self._new: list[Found] = []
        self._next_look = 0.0
        self._looked = find is None
        self._last_beat = 0.0
        self._recorded: list[record.Entry] = []
        self.stop_reason = ""
        self._with_pid = None if config.with_pid is None else begun(config.with_pid)

    def run(self) -> None:
        """Watch to the end."""
        before = signals.handlers()
        since = time.monotonic()
        try:
            while not self.stop_reason:
                signals.take(self._on_signal)
                self._look()
                self._begin()
                self._collect()
                if not self._announced and (self._have_begun() or time.monotonic() - since > _BEGIN_LIMIT_S):
                    self._announce()
                self._second()
                if self._is_over():
                    self.stop_reason = "done"
                    break
                time.sleep(_TICK_S)
        finally:
            self._end()
            signals.restore(before)
        if lost := self._lock.lost() if self._lock is not None else "":
            raise StoreError(f"{lost}; nothing more was published, start again")

    def _on_signal(self, number: int, _frame: object) -> None:
        self.stop_reason = f"signal {signal.Signals(number).name}"

    # -- which runs there are

    def _look(self) -> None:
        """Have a thread look for runs, and take what it found."""
        if self._find is None or (self._looking is not None and self._looking.is_alive()):
            return
        if self._looking is not None:
            self._looking, found = None, self._new
            for each in found:
                self._take(each)
            self._looked = True
        if time.monotonic() >= self._next_look:
            self._looking = log_file.thread(partial(self._search, self._find), name="rna-watch-runs")
            self._looking.start()

    def _search(self, find: Find) -> None:
        since = time.monotonic()
        self._new = []
        try:
            self._new = find()
            self._said.discard("runs")
        except (RnaWatchError, OSError) as error:
            self._tell(f"problem: runs cannot be looked for: {error}", once="runs")
        now = time.monotonic()
        self._next_look = now + max(_LOOK_S, _SHARE * (now - since))

    def _take(self, found: Found) -> None:
        """A run that was found: new, or ended before and written to since."""
        known = self._runs.get(found.paths)
        if known is None or (
            not known.lives() and not known.for_good and not known.error and found.changed_ns > known.found.changed_ns
        ):
            self._runs[found.paths] = _Watched(found)
        elif known.lives():
            known.found = found

    def _begin(self) -> None:
        """Begin with runs that are due, a few at a time."""
        now, busy = time.monotonic(), sum(each.begins() for each in self._runs.values())
        for each in self._runs.values():
            if busy >= _AT_ONCE:
                return
            if each.lives() or each.for_good or (each.left and not each.error) or now < each.again_at:
                continue
            busy += 1
            each.ready, each.error = False, None
            each.thread = log_file.thread(self._watch, name=f"rna-watch {each.found.paths.run.name}", args=(each,))
            try:
                each.thread.start()
            except RuntimeError as error:  # too many threads
                each.thread = None
                self._failed(each, RnaWatchError(f"no thread can be started for it ({error})"))

    def _watch(self, each: _Watched) -> None:
        """The thread of a run; whatever happens in it costs this run alone."""
        paths = each.found.paths

        def ready() -> None:
            each.ready, each.left, each.pause_s = True, "", _FIRST_PAUSE_S

        try:
            if not paths.run.exists():
                each.left = "its folder is gone"
                return
            run_watch.watch(
                self._config,
                paths,
                partial(log_file.log_of, paths),
                shared=self.shared,
                on_ready=ready,
                say=lambda line: self._tell(line, once=line, log=False),
                on_daemon=partial(self._begun, each),
            )
            reason = each.daemon.stop_reason if each.daemon is not None else ""
            each.left = reason or "ended"
            each.for_good = not reason.startswith("done")
        except RunIsWatched as error:
            each.left, each.for_good = str(error), True
        except RnaWatchError as error:
            self._failed(each, error)
        except Exception as error:  # noqa: BLE001 - it costs this run alone
            _LOG.exception("a defect in rna-watch ended the watch over %s", paths.run)
            self._failed(each, RnaWatchError(f"a defect in rna-watch ended it: {error!r}"))

    def _begun(self, each: _Watched, daemon: Daemon) -> None:
        each.daemon = daemon
        if self.stop_reason:
            daemon.stop(self.stop_reason)

    def _failed(self, each: _Watched, error: RnaWatchError) -> None:
        each.left, each.error = str(error), error
        each.again_at = time.monotonic() + each.pause_s
        each.pause_s = min(2 * each.pause_s, _LONGEST_PAUSE_S)

    def _collect(self) -> None:
        """Say what changed, and record it."""
        entries = []
        for paths, each in self._runs.items():
            left = each.left if not each.lives() else ""
            entries.append(record.Entry(run=str(paths.run), output=str(paths.output), left=left))
            if each.thread is not None and not each.thread.is_alive():
                each.thread = None
                again = "; it is tried again by itself" if each.error else ""
                self._tell(f"left     {paths.run}: {each.left}{again}", once=f"{paths.run}{each.left}")
            elif each.ready:
                self._tell(f"watching {paths.run}", once=f"{paths.run}")
        if entries != self._recorded:
            self._recorded = entries
            if self._home is not None:
                record.write(self._home, entries)

    def _tell(self, line: str, *, once: str, log: bool = True) -> None:
        if once in self._said:
            return
        self._said.add(once)
        if log:
            _LOG.info("%s", printable(line))
        if not self._announced:
            self._say(printable(line))

    # -- begin and end

    def _have_begun(self) -> bool:
        return self._looked and all(each.ready or (each.left and not each.lives()) for each in self._runs.values())

    def _announce(self) -> None:
        errors = [each.error for each in self._runs.values() if each.error]
        refused = [each.left for each in self._runs.values() if each.left and not each.error]
        if errors and not any(each.lives() for each in self._runs.values()):
            raise errors[0]
        if refused and self._find is None and not any(each.lives() for each in self._runs.values()):
            raise RunIsWatched(refused[0])
        self._on_ready()
        self._announced = True

    def _is_over(self) -> bool:
        """Whether there is no run to watch any more, and none will come."""
        if not self._announced or any(each.lives() for each in self._runs.values()):
            return False
        return self._find is None or (
            self._config.with_pid is not None
            and self._with_pid is not None
            and lives(self._config.with_pid, self._with_pid) is False
        )

    def _second(self) -> None:
        """The signs of life of the process, and requests to stop it."""
        now = time.monotonic()
        if now - self._last_beat < _BEAT_S:
            return
        self._last_beat = now
        if self._home is None or self._lock is None:
            service.tell("watching" if self._announced else "starting")
            return
        if lost := self._lock.lost():
            self.stop_reason = lost
            return
        with contextlib.suppress(OSError, RnaWatchError):
            if self._home.stop_request.exists():
                self.stop_reason = "rna-watch stop"
            self._beat("watching" if self._announced else "starting")

    def _beat(self, state: str) -> None:
        assert self._home is not None
        count = sum(each.ready and each.lives() for each in self._runs.values())
        beat = replace(sign_of_life.sign(state), watching=f"{count} {'run' if count == 1 else 'runs'}")
        heartbeat.write(self._home.heartbeat, beat)

    def _end(self) -> None:
        """End all runs, together."""
        reason = self.stop_reason or "failed"
        for each in self._runs.values():
            if each.daemon is not None:
                each.daemon.stop(reason)
        until = time.monotonic() + _END_LIMIT_S
        for each in self._runs.values():
            if each.thread is not None:
                each.thread.join(max(0.0, until - time.monotonic()))
        if self._home is None:
            service.tell("stopped")
        elif self._lock is not None and not self._lock.lost():
            with contextlib.suppress(OSError, RnaWatchError):
                self._beat("stopped")
                disk.remove(self._home.stop_request)
