"""The thread that watches: it scans, probes, admits and pins; it never waits for work, and no file or folder ends it."""

from __future__ import annotations

import os
import threading
import time
from functools import partial
from typing import TYPE_CHECKING

from rna_watch.daemon.acts import Acts, in_words
from rna_watch.daemon.probes import StillReading
from rna_watch.daemon.setup import rested_s
from rna_watch.daemon.shared import TICK_S
from rna_watch.errors import IncompleteCheckpoint, RnaWatchError, StoreAway, Unreadable
from rna_watch.journal import events as e
from rna_watch.journal.replay import Stage
from rna_watch.watching.discovery import several_runs
from rna_watch.watching.hints import Hints
from rna_watch.watching.readiness import KEPT_PLACE_S, Readiness
from rna_watch.watching.scan import candidate, scan

if TYPE_CHECKING:
    from collections.abc import Callable

    from rna_watch.config import RunConfig
    from rna_watch.daemon.admission import Admission
    from rna_watch.daemon.backlog import Backlog
    from rna_watch.daemon.pins import Pins
    from rna_watch.daemon.rebuilt import Rebuilt
    from rna_watch.daemon.recorder import Recorder
    from rna_watch.daemon.sequences import Sequences
    from rna_watch.daemon.setup import Timing
    from rna_watch.journal.run_paths import RunPaths
    from rna_watch.layout.identity import FileIdentity
    from rna_watch.watching.scan import Found

_POLL_S = 0.25
_EVENTS = "events and scans"
_LEAST_PAUSE_S = 0.05
# a look at thousands of files takes long: where events tell of changes, looks without one take this part of a core
_IDLE_SHARE = 0.0002
_DUE_SHARE = 0.05  # and those at a new file that is due this part
_FRESH_S = 0.2
_LONGEST_SCAN_S = 60.0
_MISSED_S = 1.0  # after this it is told what went unread: an event may say by then that it was renamed


class Watcher:
    """Watches one run.

    Args:
        config: the settings.
        paths: where the run and its outputs lie.
        recorder: journal and state.
        timing: how long files rest, and how often the folder is scanned.
        sequences: which checkpoints follow each other.
        pins: the window store.
        backlog: what waits.
        admission: takes files to checkpoints.
        rebuilt: models that no journal records.
        proceed: called now and then; it raises Cancelled to end the thread.
        until_done: whether one scan is enough to begin with (`once`).
        on_admitted: called when something was admitted.
        on_late: called with a checkpoint that was admitted after its successors, also those of an earlier start.
        on_round: called after the first look, and when all that is there was taken, or is no longer.
    """

    def __init__(
        self,
        config: RunConfig,
        paths: RunPaths,
        recorder: Recorder,
        *,
        timing: Timing,
        sequences: Sequences,
        pins: Pins,
        backlog: Backlog,
        admission: Admission,
        rebuilt: Rebuilt,
        proceed: Callable[[], None],
        until_done: bool,
        on_admitted: Callable[[], None],
        on_late: Callable[[str], None],
        on_round: Callable[[], None],
    ) -> None:
        self._config = config
        self._paths = paths
        self._recorder = recorder
        self._timing = timing
        self._sequences = sequences
        self._pins = pins
        self._backlog = backlog
        self._admission = admission
        self._rebuilt = rebuilt
        self._proceed = proceed
        self._until_done = until_done
        self._on_admitted = on_admitted
        self._on_late = on_late
        self._on_round = on_round
        self._acts = Acts(recorder)
        self.wake = threading.Event()
        self._hints = Hints(paths.run, self.wake.set, [paths.models, paths.state])
        rested = (lambda _: 0.0) if timing.network else rested_s
        self._readiness = Readiness(timing.quiet_s, rested, reading=sequences.reading, at_once=until_done)
        self._next_scan = 0.0
        self._missing: dict[str, float] = {}  # what went before it was read, and since when
        self._looked, self._cost_s = 0.0, 0.0  # when the last look was, and the CPU time that it took
        self._begun, self._rest_s = time.monotonic(), 2 * timing.quiet_s + _POLL_S
        self._ending = until_done  # what is incomplete is waited for no longer than a short while
        self._hurried = True  # since the end of the training: what is incomplete was made due
        self._scanned = self._idle_since = self._begun  # when the folder was listed last, and since when nothing came
        self._place: tuple[int, int] | None = None  # device and inode of the run directory when events were asked for,
        self._mounted: tuple[int, int] | None = None  # and when there was something in it
        self.rounds = 0
        self._names: tuple[str, ...] = ()
        self._several: tuple[str, str] | None = None
        self.caught_up = False  # what was there at the begin was taken, or was waited for long enough
        self.settled = False  # after the last look, all that is there was taken, or was waited for long enough (`once`)
        self.by = "scans"
        self.away = False
        self._admitted = False
        self._announcement = -1  # when the training announced a checkpoint, ns; not looked at yet
        self.step_begun = time.monotonic()

    def run(self) -> None:
        """Watch until `proceed` ends it.

        Raises:
            Cancelled: `proceed` did.
            StoreError: our own store is lost.
        """
        try:
            while True:
                self._proceed()
                self.step_begun = time.monotonic()
                before = self.settled, self.rounds > 0
                try:
                    self._round()
                    self.caught_up = self.caught_up or self._all_taken(time.monotonic() - self._begun >= self._rest_s)
                    self.settled = self._is_settled()
                except StoreAway:
                    self.settled = False
                if before != (self.settled, self.rounds > 0):
                    self._on_round()
                self.wake.wait(self._pause_s())
        finally:
            self._hints.stop()

    def end(self) -> None:
        """The training has ended: look once more, and do not wait for what is incomplete; called by another thread."""
        self.settled = False
        self._begun = time.monotonic()
        self._ending = True
        self._hurried = False
        self._next_scan = 0.0
        self.wake.set()

    def idle_s(self) -> float:
        """How long nothing came or changed, up to the last look at the folder; time in which it was away does not count."""
        return self._scanned - self._idle_since

    def knows(self, path: str) -> bool:
        """Whether a file was there at the last look."""
        return self._readiness.knows(path)

    def _is_settled(self) -> bool:
        """Whether all that is there was taken, or was waited for long enough.

        Network file systems show what was written last only after a while. A file that still grows is waited for.
        """
        now = time.monotonic()
        waited = now - self._begun >= self._rest_s
        if not self._until_done:
            if not self._ending or self._scanned < self._begun or (self._timing.network and not waited):
                return False
            waited = waited and now - self._idle_since >= self._rest_s
        return self._all_taken(waited)

    def _all_taken(self, waited: bool) -> bool:
        if self._readiness.waiting or self._readiness.unread():  # however long the looks took, on a busy machine
            return False
        return self._readiness.unsettled() == 0 or waited

    def _pause_s(self) -> float:
        now = time.monotonic()
        due = now if self._readiness.due(now) else self._readiness.next_due(now)
        busy = self._ending or self.away or not self.caught_up or self._readiness.unsettled() > 0
        tick_s = _POLL_S if busy else TICK_S
        rest = tick_s if due is None else due - now
        return max(min(self._next_scan - now, tick_s, rest), _LEAST_PAUSE_S)

    def _round(self) -> None:
        now = time.monotonic()
        if self._announced():
            self._next_scan, self._hurried = 0.0, False
        if not self._hurried:
            self._hurried = True
            self._readiness.hurry(now)
        if self._may_have_grown(now) or now >= self._next_scan or self.wake.is_set():
            self.wake.clear()
            began = time.thread_time()
            self._acts.do("scan", f"{self._paths.run} cannot be scanned", partial(self._scan, now))
            self._looked, self._cost_s = now, time.thread_time() - began
            self._next_scan = now + self._interval_s(_IDLE_SHARE)
            self._acts.do("room", "room on the disk cannot be kept free", self._pins.keep_room)
            self._acts.do("events", "events of the file system cannot be watched", self._follow)
        self._acts.do("probe", "files cannot be taken", self._probe)
        self.rounds += 1

    def _may_have_grown(self, now: float) -> bool:
        """Whether a file that was never read is due, and no look told lately whether it still grows: no event of a write does."""
        if self.by != _EVENTS or self._config.scan_interval is not None:
            return False
        return now - self._looked >= max(_FRESH_S, self._cost_s / _DUE_SHARE) and self._readiness.rested(now)

    def _interval_s(self, share: float) -> float:
        """How long after a look the next one is, if no event wants it sooner; longer where looks take much, and events come."""
        if self._config.scan_interval is not None or self.by != _EVENTS:
            return self._timing.scan_s
        if self._missing:
            return min(self._timing.scan_s, _MISSED_S)
        return max(self._timing.scan_s, min(self._cost_s / share, _LONGEST_SCAN_S))

    def _announced(self) -> bool:
        """Whether the training has announced a checkpoint since the last look (`integrations/announcement.py`)."""
        before, self._announcement = self._announcement, _changed_ns(self._paths.announced)
        return self._announcement > before >= 0

    # -- events of the file system

    def _follow(self) -> None:
        """Watch for events; anew when the watch ended, or when the folder is another one (it was mounted anew)."""
        if self._until_done:
            self.by = "one scan"
        elif self._timing.network:
            self.by = f"scans every {self._timing.scan_s:g} s ({self._timing.network})"
        else:
            place = _place(self._paths.run)
            if place is None or (place == self._place and (self.by != _EVENTS or self._hints.alive())):
                return
            self._place = place
            self._hints.stop()
            refused = self._hints.start()
            self.by = f"scans every {self._timing.scan_s:g} s" if refused else _EVENTS
            if refused:
                limits = "fs.inotify.max_user_watches and fs.inotify.max_user_instances"
                self._recorder.problem("hints", refused, f"raise {limits} for faster notice")
            else:
                self._recorder.solved("hints")

    # -- scans

    def _scan(self, now: float) -> None:
        back = self.away or bool(self._recorder.state.problems.get("scan"))
        unlisted: set[str] = set()
        # before the look: what is closed meanwhile counts at the next one
        written, moved = self._hints.pop_written(), self._hints.pop_moved()
        try:
            found, problems = scan(
                self._paths.run,
                patterns=self._config.patterns,
                exclude=(self._paths.models, self._paths.state),
                unlisted=unlisted,
            )
        except (RnaWatchError, OSError) as error:
            said = str(error) if isinstance(error, RnaWatchError) else in_words(error)
            self._gone(f"the run directory cannot be scanned: {said}" if isinstance(error, OSError) else said)
            return
        if not found and self._readiness.any() and not self._until_done and self._other_place():
            self._gone(f"the run directory {self._paths.run} is empty: its file system is not mounted")
            return
        self.away = False
        self._mounted = _place(self._paths.run) if found else self._mounted
        self._recorder.solved("run")
        if problems:
            self._recorder.problem(
                "folders", "; ".join(problems), "give this user read access; check the disk or mount"
            )
        else:
            self._recorder.solved("folders")
        names = tuple(each.name for each in found)
        if names != self._names:
            self._names = names
            self._several = None if self._config.patterns else several_runs(names, self._paths.run)
        several = self._several
        if several is not None:
            self._recorder.problem("runs", *several)
        else:
            self._recorder.solved("runs")
        times = {each.name: each.identity.mtime_ns for each in found if each.identity is not None}
        if not self.rounds:
            self._backlog.there_before(times)
        self._sequences.update(times)
        self._admission.reread()
        self._readiness.update(found, now, unlisted)
        for name in written if self._config.quiet is None else ():
            self._readiness.written(name, now)
        self._idle_since = now if back else max(self._idle_since, self._readiness.changed)
        self._scanned = now
        for name in self._missed(found, written, moved):
            known = self._recorder.checkpoint(name)
            if known is None or known.stage is Stage.WAITING:
                self._recorder.record(e.Vanished(checkpoint=name))

    def _missed(self, found: list[Found], written: set[str], moved: set[str]) -> list[str]:
        """What was whole for a moment and is gone, by what scans and events tell; not what has another name by now."""
        now, names = time.monotonic(), {each.name for each in found}
        there = {each.identity.inode for each in found if each.identity is not None}
        for name, inode in self._readiness.pop_lost():
            if inode not in there or self._recorder.checkpoint(name) is not None:
                self._missing.setdefault(name, now)
        for name in written - names:
            if candidate(name, self._config.patterns) and not os.path.lexists(self._paths.run / name):
                self._missing.setdefault(name, now)
        for name in [each for each in self._missing if _renamed(each, moved) or each in names]:
            if self._recorder.checkpoint(name) is None or name in names:
                del self._missing[name]
        missed = sorted(name for name, since in self._missing.items() if now - since >= _MISSED_S)
        for name in missed:
            del self._missing[name]
        return missed

    def _gone(self, what: str) -> None:
        self.away = not self._until_done
        self._recorder.problem("run", what, "watching goes on when it is back")

    def _other_place(self) -> bool:
        """Whether another file system lies at the run directory than before."""
        place = _place(self._paths.run)
        return place is not None and self._mounted is not None and place[0] != self._mounted[0]

    # -- probes

    def _probe(self) -> None:
        due = self._readiness.due(time.monotonic())
        for name in self._readiness.pop_let_by():
            text = f"it cannot be read for {KEPT_PLACE_S:g} s: what was saved after it goes on without it"
            self._recorder.record(e.Noted(checkpoint=name, text=text))
        self._admitted = False
        allowed = {name for name, _ in due}
        try:
            for name, identity in self._admission.in_order(due):
                self._proceed()
                if name not in allowed:
                    continue  # one before it in its series could not be read just now
                taken = self._acts.do(
                    f"file {name}", f"{name} cannot be taken", partial(self._consider, name, identity)
                )
                if not taken or self._readiness.waiting_for(name):
                    if not taken:
                        self._readiness.postpone(name, "", time.monotonic(), unreadable=True)
                    allowed &= {each for each, _ in self._readiness.due(time.monotonic())}
        finally:
            if self._admitted:
                self._backlog.tidy()
                self._on_admitted()
        if self._readiness.resting() == 0:
            self._rebuilt.enter_gone()
            if due:
                self._admission.report_unmatched()

    def _consider(self, name: str, identity: FileIdentity) -> None:
        late = self._readiness.passed(name)
        try:
            whole = self._admission.consider(name, identity, patient=not late)
        except StillReading:
            self._readiness.hold(name, time.monotonic())
        except IncompleteCheckpoint as error:
            unreadable = isinstance(error, Unreadable)
            if self._readiness.postpone(name, str(error), time.monotonic(), unreadable=unreadable):
                self._recorder.record(e.Waiting(checkpoint=name, reason=str(error)))
        else:
            self._admitted = True
            self._readiness.settle(name, whole=whole)
            checkpoint = self._recorder.checkpoint(name) if whole else None
            if checkpoint is not None and checkpoint.admitted and self._sequences.overtaken(checkpoint):
                self._on_late(name)


def _renamed(name: str, moved: set[str]) -> bool:
    """Whether a path, or a folder that it lies in, is among these."""
    parts = name.split("/")
    return any("/".join(parts[:count]) in moved for count in range(1, len(parts) + 1))


def _place(folder: object) -> tuple[int, int] | None:
    try:
        stat = os.stat(str(folder))
    except OSError:
        return None
    return stat.st_dev, stat.st_ino


def _changed_ns(path: object) -> int:
    try:
        return os.stat(str(path)).st_mtime_ns
    except OSError:
        return 0
