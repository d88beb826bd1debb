"""The daemon: the main thread watches, probes and pins; one other thread takes checkpoints to models.

Watching never waits for work: retention may delete a checkpoint as soon as the next one is saved.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import socket
import threading
import time
from functools import partial
from typing import TYPE_CHECKING

import rna_watch
from rna_watch.daemon.admission import Admission
from rna_watch.daemon.disk_reserve import DiskReserve
from rna_watch.daemon.evaluators import failed
from rna_watch.daemon.order import next_in_line
from rna_watch.daemon.pins import Pins
from rna_watch.daemon.pipeline import Pipeline, Progress
from rna_watch.daemon.publication import Publication
from rna_watch.daemon.second_pass import SecondPass
from rna_watch.daemon.sequences import Sequences
from rna_watch.daemon.setup import Timing, evaluator_digest, evaluator_spec, private_bytes, rested_s, start_engine
from rna_watch.engine.contract import Process
from rna_watch.errors import Cancelled, EvaluationFailed, IncompleteCheckpoint, RnaWatchError
from rna_watch.journal import events as e
from rna_watch.journal import heartbeat
from rna_watch.journal.replay import PENDING, Stage
from rna_watch.layout import disk
from rna_watch.publishing import output_tree
from rna_watch.watching.discovery import several_runs
from rna_watch.watching.hints import Hints
from rna_watch.watching.readiness import Readiness
from rna_watch.watching.scan import scan

if TYPE_CHECKING:
    from collections.abc import Callable

    from rna_watch.config import RunConfig
    from rna_watch.daemon.recorder import Recorder
    from rna_watch.engine.contract import Engine
    from rna_watch.journal.run_paths import RunPaths

_LOG = logging.getLogger("rna_watch")
_TICK_S = 0.25
_BEAT_S = 1.0
_JOIN_S = 15.0
_SIGNALS = (signal.SIGTERM, signal.SIGINT)

class Daemon:
    """Watches one run until it is stopped (or, with `until_done`, until nothing is left to do).

    Args:
        config: the settings.
        paths: where the run and its outputs lie; the caller holds the run's lock.
        recorder: journal and state.
        until_done: process what is there, then end (`once`).
        again: make every model anew whose inputs are there.
        on_ready: called once the engine is up and the folder is watched.
        lost: why the run is no longer ours, "" if it is; the daemon ends then, and touches nothing more.

    Raises:
        UsageError: the evaluator's file does not exist.
    """

    def __init__(
        self,
        config: RunConfig,
        paths: RunPaths,
        recorder: Recorder,
        *,
        until_done: bool = False,
        again: bool = False,
        on_ready: Callable[[], None] = lambda: None,
        lost: Callable[[], str] = lambda: "",
    ) -> None:
        self._config = config
        self._paths = paths
        self._recorder = recorder
        self._until_done = until_done
        self._again = again
        self._foreign: set[str] = set()
        self._on_ready = on_ready
        self._lost = lost
        self._timing = Timing.of(paths.run, config.quiet, config.scan_interval)
        self._evaluator_spec = evaluator_spec(config, paths.scratch)
        self._stop_reason = ""
        self._wake = threading.Event()
        self._work_ready = threading.Event()
        self._engine: Engine | None = None
        self._handled_for: Engine | None = None
        self._error: RnaWatchError | None = None
        self._pipeline: Pipeline | None = None
        self._publication = Publication(config, paths, recorder)
        self._sequences = Sequences(recorder, paths.journal, config.step)
        self._disk_reserve = DiskReserve(config, paths.output, recorder)
        self._pins = Pins(config, paths, recorder, self._disk_reserve, self._proceed)
        self._admission = Admission(config, recorder, self._sequences, self._pins, self._proceed)
        self._attempted: set[str] = set()
        self._idle = False
        self._ready = False
        self._announced = False
        self._last_beat = 0.0
        self._watching_by = "scans"

    # -- the main thread

    def run(self) -> None:
        """Run to the end.

        Raises:
            RnaWatchError: the engine cannot start, or our own store cannot be written.
        """
        previous = {number: signal.getsignal(number) for number in _SIGNALS}
        self._take_signals()
        worker = threading.Thread(target=self._work, name="rna-watch-pipeline", daemon=True)
        hints = Hints(self._paths.run, self._wake.set, [self._paths.models, self._paths.state])
        try:
            self._begin()
            self._start_hints(hints)
            worker.start()
            self._watch(hints)
        finally:
            hints.stop()
            self._work_ready.set()
            if self._pipeline is not None and self._stop_reason != "done":
                self._pipeline.cancel()
            if worker.is_alive():
                worker.join(_JOIN_S)
            if lost := self._lost():  # what lies there now is not ours
                _LOG.error("%s", lost)
            else:
                self._beat("stopped")
                with contextlib.suppress(RnaWatchError):
                    self._recorder.record(e.Stopped(reason=self._stop_reason or "failed"))
            self._close_engine()
            for number, handler in previous.items():
                signal.signal(number, handler)
        if self._error is not None:
            raise self._error

    def _close_engine(self) -> None:
        """Close the engine, last of all: everything is on the disk by now, whatever a broken cluster does when it ends."""
        if self._engine is None:
            return
        try:
            self._engine.close()
        except Exception:  # noqa: BLE001 - whatever it is, it changes nothing of what was done
            _LOG.exception("the engine did not end in order")

    def _take_signals(self) -> None:
        for number in _SIGNALS:
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, _frame: object) -> None:
        # no lock may be taken here: the main thread may hold it
        self._stop_reason = f"signal {signal.Signals(number).name}"

    def _begin(self) -> None:
        self._beat("starting")
        self._paths.stop_request.unlink(missing_ok=True)
        output_tree.sweep(self._paths.models)
        self._pins.sweep()
        for leftover in self._paths.scratch.glob("*"):
            disk.remove(str(leftover))
        self._recorder.record(
            e.Started(
                host=socket.gethostname(),
                pid=os.getpid(),
                version=rna_watch.__version__,
                run=str(self._paths.run),
                output=str(self._paths.output),
                engine=self._config.engine,
                evaluator=self._config.evaluator or self._config.evaluate_command,
                settings=json.loads(self._config.model_dump_json()),  # an infinity becomes null
                evaluator_digest=evaluator_digest(self._config.evaluator, self._config.evaluate_command),
            )
        )
        self._publication.settle()
        self._foreign = self._admission.readmit()
        self._publication.settle_source(self._foreign)

    def _start_hints(self, hints: Hints) -> None:
        if self._until_done:
            self._watching_by = "one scan"
        elif self._timing.network:
            self._watching_by = f"scans every {self._timing.scan_s:g} s ({self._timing.network})"
        else:
            refused = hints.start()
            self._watching_by = f"scans every {self._timing.scan_s:g} s" if refused else "events and scans"
            if refused:
                self._recorder.problem("hints", refused, "raise fs.inotify.max_user_watches for faster notice")

    def _watch(self, hints: Hints) -> None:
        rested = (lambda _: 0.0) if self._timing.network else rested_s
        reading = self._sequences.reading
        readiness = Readiness(self._timing.quiet_s, rested, reading=reading, at_once=self._until_done)
        next_scan = 0.0
        begun = time.monotonic()
        while True:
            self._beat_if_due()  # first: a process that was suspended may have a successor
            if self._stopping():
                break
            now = time.monotonic()
            if now >= next_scan or self._wake.is_set():
                self._wake.clear()
                next_scan = now + self._timing.scan_s
                self._scan(readiness, now)
                self._pins.keep_room()  # the training fills the disk between our acts
                if self._watching_by == "events and scans" and not hints.alive():
                    hints.stop()
                    self._start_hints(hints)
            self._probe(readiness)
            if self._handled_for is not self._engine:
                self._handled_for = self._engine
                self._take_signals()  # Ray replaces them whenever it starts
            if self._ready and not self._announced:
                self._announced = True
                self._on_ready()
            if self._until_done and self._nothing_left(readiness, begun):
                self._stop_reason = "done"
                break
            due = readiness.next_due()
            pause = min(next_scan - time.monotonic(), _TICK_S, (due - time.monotonic()) if due is not None else _TICK_S)
            if pause > 0:
                self._wake.wait(pause)

    def _stopping(self) -> bool:
        if not self._stop_reason and self._paths.stop_request.exists():
            self._stop_reason = "rna-watch stop"
        return bool(self._stop_reason) or self._error is not None

    def _proceed(self) -> None:
        """Called now and then during long copies: beats if that is due, and ends them when the daemon stops.

        Raises:
            Cancelled: the daemon is stopping.
        """
        self._beat_if_due()
        if self._stop_reason:
            raise Cancelled("stopping")

    def _beat_if_due(self) -> None:
        if time.monotonic() - self._last_beat >= _BEAT_S:
            if lost := self._lost():
                self._stop_reason = lost
                return
            self._beat("working" if self._progress().work else "watching" if self._ready else "starting")

    def _scan(self, readiness: Readiness, now: float) -> None:
        try:
            found, problems = scan(
                self._paths.run, patterns=self._config.patterns, exclude=(self._paths.models, self._paths.state)
            )
        except RnaWatchError as error:
            self._recorder.problem("run", str(error), "watching goes on when it is back")
            return
        self._recorder.solved("run")
        if problems:
            self._recorder.problem("folders", "; ".join(problems), "give this user read access")
        else:
            self._recorder.solved("folders")
        several = None if self._config.patterns else several_runs(tuple(each.name for each in found), self._paths.run)
        if several is not None:
            self._recorder.problem("runs", *several)
        else:
            self._recorder.solved("runs")
        self._sequences.update({each.name: each.identity.mtime_ns for each in found})
        self._admission.reread()
        for name in readiness.update(found, now):
            known = self._recorder.checkpoint(name)
            if known is not None and known.stage is Stage.WAITING:
                self._recorder.record(e.Vanished(checkpoint=name))

    def _probe(self, readiness: Readiness) -> None:
        due = readiness.due(time.monotonic())
        admitted = False
        with contextlib.suppress(Cancelled):
            for name, identity in self._admission.in_order(due):
                try:
                    whole = self._admission.consider(name, identity)
                    readiness.settle(name, whole=whole)
                    admitted = True
                except IncompleteCheckpoint as error:
                    if readiness.postpone(name, str(error), time.monotonic()):
                        self._recorder.record(e.Waiting(checkpoint=name, reason=str(error)))
                if self._stop_reason:
                    return
        if due and readiness.resting() == 0:
            self._admission.report_unmatched()
        if admitted:
            self._work_ready.set()

    def _nothing_left(self, readiness: Readiness, begun: float) -> bool:
        waited = time.monotonic() - begun >= 2 * self._timing.quiet_s + _TICK_S
        return (readiness.unsettled() == 0 or waited) and self._ready and self._idle and self._next() is None

    def _progress(self) -> Progress:
        return self._pipeline.progress if self._pipeline else Progress()

    def _beat(self, state: str) -> None:
        self._last_beat = time.monotonic()
        progress = self._progress()
        engine = self._engine if state != "stopped" else None
        own = Process(name="daemon", pids=(os.getpid(),), busy=False)
        processes = engine.processes() if engine else [own]
        with contextlib.suppress(OSError):
            heartbeat.write(
                self._paths.heartbeat,
                heartbeat.Heartbeat(
                    host=socket.gethostname(),
                    pid=os.getpid(),
                    time=time.time(),
                    state=state,
                    watching=self._watching_by,
                    queue=sum(c.stage in PENDING for c in self._recorder.checkpoints()),
                    work=progress.work,
                    workers=tuple(
                        heartbeat.Worker(
                            name=process.name,
                            pid=process.pids[0],
                            memory_bytes=sum(private_bytes(pid) for pid in process.pids),
                            busy=process.busy,
                        )
                        for process in processes
                    ),
                    read_bytes_per_s=progress.read_bytes_per_s,
                ),
            )

    # -- the pipeline's thread

    def _work(self) -> None:
        try:
            pipeline = self._set_up()
            second = SecondPass(
                self._config,
                self._publication,
                self._recorder,
                self._sequences,
                self._pins,
                again=self._again,
                foreign=self._foreign,
            )
            self._ready = True
            while not self._stopping():
                if pipeline.engine_lost:
                    assert self._engine is not None
                    self._engine.close()
                    pipeline = self._set_up()
                name = self._next() or second.next()
                self._idle = name is None
                if name is None:
                    self._work_ready.wait(_TICK_S)
                    self._work_ready.clear()
                    continue
                self._attempted.add(name)
                pipeline.process(name)
                second.ended(name)
                self._pins.release(partial(self._sequences.needed, self._config.window))
        except Cancelled:
            pass
        except RnaWatchError as error:
            self._error = error
        except Exception as error:  # noqa: BLE001 - it must not end in silence: the daemon ends with the reason
            _LOG.exception("a defect in rna-watch ended the pipeline")
            self._error = RnaWatchError(f"a defect in rna-watch ended it: {error!r}; see the log")

    def _set_up(self) -> Pipeline:
        """Start the engine and a pipeline on it; called again if the engine is lost (a node, or Ray itself, died)."""
        self._engine = start_engine(self._config)
        spec = self._evaluator_spec
        count = self._config.evaluators if spec else 0
        evaluators = [self._engine.evaluator(spec) for _ in range(count) if spec is not None]
        for evaluator in evaluators[:1]:  # the others start when there is more than one model to evaluate
            try:
                evaluator.warm_up()
            except EvaluationFailed as error:
                failed(self._recorder, error, loaded=False)
        self._pipeline = Pipeline(
            self._config,
            self._paths,
            self._recorder,
            sequences=self._sequences,
            pins=self._pins,
            disk_reserve=self._disk_reserve,
            engine=self._engine,
            evaluators=evaluators,
        )
        return self._pipeline

    def _next(self) -> str | None:
        since_error_s = time.monotonic() - self._progress().last_error_time
        return next_in_line(self._recorder.checkpoints(), self._attempted, since_error_s, self._disk_reserve.holds)
