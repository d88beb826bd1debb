"""The daemon: one thread watches, one works; the main thread gives the sign of life, takes signals and ends them.

Watching never waits for work: retention may delete a checkpoint as soon as the next one is saved. The main thread waits
for neither, nor for a file system.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import time
from functools import partial
from typing import TYPE_CHECKING

import rna_watch
from rna_watch.config import as_json
from rna_watch.daemon import sign_of_life, signals
from rna_watch.daemon.acts import Acts, in_words
from rna_watch.daemon.admission import Admission
from rna_watch.daemon.backlog import Backlog
from rna_watch.daemon.bell import Bell
from rna_watch.daemon.disk_reserve import DiskReserve
from rna_watch.daemon.ends import Ends
from rna_watch.daemon.hooks import Hooks
from rna_watch.daemon.log_file import thread
from rna_watch.daemon.pins import Pins
from rna_watch.daemon.probes import LIMIT_S, Probes
from rna_watch.daemon.publication import Publication
from rna_watch.daemon.rebuilt import Rebuilt
from rna_watch.daemon.sequences import Sequences
from rna_watch.daemon.setup import Timing, evaluator_digest, evaluator_spec
from rna_watch.daemon.shared import TICK_S, Shared
from rna_watch.daemon.watcher import Watcher
from rna_watch.daemon.worker import Worker
from rna_watch.errors import Cancelled, RnaWatchError, StoreAway, StoreError
from rna_watch.journal import events as e
from rna_watch.journal import heartbeat
from rna_watch.journal.replay import PENDING
from rna_watch.layout import disk
from rna_watch.layout.memory import return_memory
from rna_watch.publishing import output_tree

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterator

    from rna_watch.config import RunConfig
    from rna_watch.daemon.recorder import Recorder
    from rna_watch.journal.heartbeat import Work
    from rna_watch.journal.replay import RunState
    from rna_watch.journal.run_paths import RunPaths

_LOG = logging.getLogger("rna_watch")
_POLL_S = 0.25  # while the end may be near, or our folder come back
_IDLE_BEAT_S = 5.0  # between two signs of life that say the same
_JOIN_S = 15.0
_AWAY_LIMIT_S = 600.0  # as long as a server takes to start anew


class Daemon:
    """Watches one run until it is stopped (or, with `until_done`, until nothing is left to do).

    Args:
        config: the settings.
        paths: where the run and its outputs lie; the caller holds the run's lock.
        recorder: journal and state.
        shared: what it has in common with the other runs of this process; by default there are none.
        until_done: process what is there, then end (`once`).
        again: make every model anew whose inputs are there.
        on_ready: called once the engine is up and the folder is watched.
        say: shows a line about how it begins.
        on_second: called a few times a second with the state and the work at hand.
        lost: why the run is no longer ours, "" if it is; the daemon ends then, and touches nothing more.
        away: why our own folder cannot be reached at the moment, "" if it can; the daemon waits, and touches nothing.

    Raises:
        UsageError: the evaluator's file, or the process to end with, does not exist.
    """

    def __init__(
        self,
        config: RunConfig,
        paths: RunPaths,
        recorder: Recorder,
        *,
        shared: Shared | None = None,
        until_done: bool = False,
        again: bool = False,
        on_ready: Callable[[], None] = lambda: None,
        say: Callable[[str], None] = lambda _: None,
        on_second: Callable[[RunState, Work | None], None] = lambda _state, _work: None,
        lost: Callable[[], str] = lambda: "",
        away: Callable[[], str] = lambda: "",
    ) -> None:
        self._config = config
        self._paths = paths
        self._recorder = recorder
        self._shared = shared or Shared()
        self._until_done = until_done
        self._again = again
        self._on_ready = on_ready
        self._say = say
        self._on_second = on_second
        self._lost = lost
        self._away = away
        self.stop_reason = ""
        self._done = False
        self._ends = None if until_done else Ends(config)
        self._ended = ""  # why the training has ended
        self._error: RnaWatchError | None = None
        self._announced = False
        self._looked = self._last_beat = 0.0  # when the main thread looked after all, and when it gave a sign of life
        self._state = ""  # what that said
        self._away_since: float | None = None
        self._acts = Acts(recorder)
        self._bell = Bell()  # wakes the main thread
        self._timing = Timing.of(paths.run, config.quiet, config.scan_interval)
        self._evaluator_spec = evaluator_spec(config, paths.scratch)
        self._publication = Publication(config, paths, recorder)
        self._rebuilt = Rebuilt(recorder, paths)
        self._sequences = Sequences(recorder, config.step)
        self._disk_reserve = DiskReserve(config, paths.output, recorder)
        self._pins = Pins(config, paths, recorder, self._disk_reserve, self._proceed)
        self._backlog = Backlog(config, recorder, self._sequences, self._pins, self._disk_reserve, thins=not until_done)
        self._admission = Admission(
            config, recorder, self._sequences, self._pins, self._proceed, self._rebuilt, Probes().layout
        )
        self._hooks = Hooks(
            config, paths, recorder, proceed=self._proceed, pauses=self._is_away, on_idle=self._bell.ring
        )
        self._watcher: Watcher | None = None
        self._worker: Worker | None = None
        recorder.proceed = self._proceed

    # -- the main thread

    def run(self) -> None:
        """Run to the end.

        Raises:
            RnaWatchError: the engine cannot start, or our own store cannot be written.
        """
        previous = signals.handlers()
        self._take_signals()
        threads: list[threading.Thread] = []
        try:
            foreign = self._begin()
            self._make(foreign)
            for part in (self._watcher, self._worker, self._hooks):
                assert part is not None
                name = f"rna-watch-{type(part).__name__.lower()}"
                threads.append(thread(self._guarded, name=name, args=(part.run,)))
                threads[-1].start()
            self._supervise()
        finally:
            self.stop_reason = self.stop_reason or "failed"
            worker = self._worker
            if worker is not None:
                worker.wake.set()
                if not self._done:
                    worker.cancel()
            if self._watcher is not None:
                self._watcher.wake.set()
            until = time.monotonic() + _JOIN_S
            for each in threads[::-1]:
                each.join(max(0.0, until - time.monotonic()))
            if lost := self._lost():  # what lies there now is not ours
                _LOG.error("%s", lost)
                self._error = self._error or RnaWatchError(f"{lost}; nothing more was published, start again")
            else:
                with contextlib.suppress(Exception):
                    self._beat("stopped")
                with contextlib.suppress(RnaWatchError, OSError):
                    self._publication.reconcile()
                with contextlib.suppress(RnaWatchError):
                    self._recorder.record(e.Stopped(reason=self.stop_reason))
            if worker is not None:
                worker.close()  # last of all: everything is on the disk by now
            if not self._shared.many:
                signals.restore(previous)
        if self._error is not None:
            raise self._error

    def _guarded(self, run: Callable[[], None]) -> None:
        """A thread's work; what ends it ends the daemon."""
        try:
            run()
        except Cancelled:
            pass
        except RnaWatchError as error:
            self._error = self._error or error
        except BaseException as error:  # noqa: BLE001 - it must not end in silence: the daemon ends with the reason
            _LOG.exception("a defect in rna-watch ended a thread")
            self._error = self._error or RnaWatchError(f"a defect in rna-watch ended it: {error!r}; see the log")

    def _make(self, foreign: set[str]) -> None:
        self._worker = worker = Worker(
            self._config,
            self._paths,
            self._recorder,
            shared=self._shared,
            spec=self._evaluator_spec,
            publication=self._publication,
            sequences=self._sequences,
            pins=self._pins,
            disk_reserve=self._disk_reserve,
            backlog=self._backlog,
            proceed=self._proceed,
            pauses=lambda: self._is_away() or (self._watcher is not None and self._watcher.away),
            caught_up=lambda: self._watcher is not None and self._watcher.caught_up,
            again=self._again,
            foreign=foreign,
            on_change=self._bell.ring,
            say=self._say,
        )
        self._watcher = Watcher(
            self._config,
            self._paths,
            self._recorder,
            timing=self._timing,
            sequences=self._sequences,
            pins=self._pins,
            backlog=self._backlog,
            admission=self._admission,
            rebuilt=self._rebuilt,
            proceed=self._proceed,
            until_done=self._until_done,
            on_admitted=worker.wake.set,
            on_late=worker.came_late,
            on_round=self._bell.ring,
        )

    def _take_signals(self) -> None:
        if not self._shared.many:
            signals.take(self._on_signal)

    def stop(self, reason: str) -> None:
        """Have it end; called by another thread."""
        self.stop_reason = self.stop_reason or reason
        self._bell.ring()

    def _on_signal(self, number: int, _frame: object) -> None:
        # no lock may be taken here: the main thread may hold it
        self.stop_reason = f"signal {signal.Signals(number).name}"
        self._bell.ring()

    def _begin(self) -> set[str]:
        """What comes before watching; returns the checkpoints that hold another model than the settings name."""
        with self._contained("the sign of life cannot be given"):
            self._beat("starting")
        for what, act in (
            ("a former request to stop cannot be removed", partial(disk.remove, self._paths.stop_request)),
            ("the output tree cannot be swept", partial(output_tree.sweep, self._paths.models)),
            ("the state folder cannot be swept", partial(output_tree.sweep, self._paths.state)),
            ("the window store cannot be swept", self._pins.sweep),
            ("the scratch folder cannot be swept", partial(disk.sweep, self._paths.scratch)),
        ):
            with self._contained(what):
                act()
        self._recorder.record(
            e.Started(
                host=socket.gethostname(),
                pid=os.getpid(),
                version=rna_watch.__version__,
                run=str(self._paths.run),
                output=str(self._paths.output),
                engine="ray" if self._config.engine == "ray" else "local",  # where work begins
                evaluator=self._config.evaluator or self._config.evaluate_command,
                settings=as_json(self._config),
                evaluator_digest=evaluator_digest(self._config.evaluator, self._config.evaluate_command),
            )
        )
        foreign: set[str] = set()
        self._acts.do("outputs", "the links to outputs cannot be brought up to date", self._publication.settle)
        self._acts.do("source", "checkpoints cannot be read anew", lambda: foreign.update(self._admission.readmit()))
        self._acts.do("best", "best cannot be looked at", partial(self._publication.settle_source, foreign))
        return foreign

    @contextlib.contextmanager
    def _contained(self, what: str) -> Iterator[None]:
        """An act before the journal tells of this start: its failure is logged."""
        try:
            yield
        except RnaWatchError:
            raise
        except Exception as error:  # noqa: BLE001 - it costs this act alone
            _LOG.warning("%s: %s", what, in_words(error))

    def _supervise(self) -> None:
        """Give signs of life until there is a reason to end."""
        while not self._stopping():
            with contextlib.suppress(StoreAway):
                self._acts.do("supervision", "the daemon cannot look after itself", self._second)
            if (self._until_done or self._ended) and self._nothing_left():
                self._done = True
                self._announce()
                self.stop_reason = self.stop_reason or (f"done: {self._ended}" if self._ended else "done")
                break
            self._bell.wait(_POLL_S if self._until_done or self._ended or self._is_away() else TICK_S)

    def _second(self) -> None:
        worker, watcher = self._worker, self._watcher
        assert worker is not None
        assert watcher is not None
        if worker.ready and watcher.rounds:
            self._announce()
        if self._away_since is None:
            self._acts.do("stop", "a request to stop cannot be looked for", self._look_for_stop)
        self._on_second(self._recorder.state, worker.progress.work)
        if time.monotonic() - self._looked < TICK_S / 2:
            return
        self._looked = time.monotonic()
        if lost := self._lost():  # first: a process that was suspended may have a successor
            self.stop_reason = lost
            return
        self._look_away()
        state = "working" if worker.progress.work else "watching" if worker.ready else "starting"
        if worker.progress.work or state != self._state or self._looked - self._last_beat >= _IDLE_BEAT_S:
            self._acts.do("heartbeat", "the sign of life cannot be given", partial(self._beat, state))
        if self._away_since is None:
            self._acts.do("end", "the end of the training cannot be looked for", self._look_for_end)
            self._recorder.flush()
            self._say_stuck(time.monotonic() - watcher.step_begun)

    def _announce(self) -> None:
        if not self._announced:
            self._announced = True
            self._on_ready()
            return_memory()  # what imports took for a moment

    def _look_away(self) -> None:
        """Wait while our own folder cannot be reached, and give up where it does not come back."""
        reason = self._away()
        if not reason:
            if self._away_since is not None:
                _LOG.info("%s is back", self._paths.state)
            self._away_since = None
        elif self._away_since is None:
            self._away_since = time.monotonic()
            _LOG.warning("problem: %s; nothing is published until it is back", reason)
        elif time.monotonic() - self._away_since > _AWAY_LIMIT_S:
            self._error = StoreError(f"{reason}, and did not come back within {_AWAY_LIMIT_S:g} s")

    def _say_stuck(self, since_s: float) -> None:
        """Report that the folder does not answer: the thread that watches waits for it."""
        if since_s > LIMIT_S:
            what = f"{self._paths.run} does not answer for {LIMIT_S:g} s"
            self._recorder.problem("stuck", what, "check the disk or mount; watching goes on when it answers")
        else:
            self._recorder.solved("stuck")

    def _look_for_stop(self) -> None:
        if self._paths.stop_request.exists():
            self.stop_reason = self.stop_reason or "rna-watch stop"

    def _look_for_end(self) -> None:
        """Whether the training has ended; where a checkpoint came all the same, it goes on."""
        watcher = self._watcher
        assert watcher is not None
        before = self._ended
        self._ended = self._ends.reached(self._recorder, watcher) if self._ends and watcher.rounds else ""
        if self._ended and not before:
            self._recorder.record(e.Noted(text=f"{self._ended}: what is there is done, then the daemon ends"))
            self._backlog.thin_no_more()
            watcher.end()

    def _is_away(self) -> bool:
        return self._away_since is not None

    def _stopping(self) -> bool:
        return bool(self.stop_reason) or self._error is not None

    def _proceed(self) -> None:
        """Called now and then by the other threads.

        Raises:
            Cancelled: the daemon is stopping.
        """
        if self._stopping():
            raise Cancelled("stopping")

    def _nothing_left(self) -> bool:
        worker, watcher = self._worker, self._watcher
        assert worker is not None
        assert watcher is not None
        return watcher.settled and worker.nothing_left() and self._hooks.nothing_left()

    def _beat(self, state: str) -> None:
        self._last_beat, self._state = time.monotonic(), state
        queue = self._recorder.state.checkpoints.count(PENDING)
        beat = sign_of_life.sign(state, worker=self._worker, watcher=self._watcher, queue=queue)
        heartbeat.write(self._paths.heartbeat, beat, manager=not self._shared.many)
