"""The thread that works: it takes checkpoints to models, one after another, on an engine that it starts and heals."""

from __future__ import annotations

import contextlib
import logging
import math
import threading
import time
from collections import deque
from functools import partial
from typing import TYPE_CHECKING

from rna_watch.daemon.acts import Acts
from rna_watch.daemon.evaluators import failed
from rna_watch.daemon.pipeline import Pipeline, Progress
from rna_watch.daemon.ray_beside import goes_on_here
from rna_watch.daemon.second_pass import SecondPass
from rna_watch.daemon.setup import begins_on_ray, workers
from rna_watch.daemon.shared import TICK_S
from rna_watch.engine.local import LocalEngine
from rna_watch.errors import Cancelled, EngineError, EvaluationFailed, RnaWatchError, StoreAway
from rna_watch.journal import events as e

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from rna_watch.config import RunConfig
    from rna_watch.daemon.backlog import Backlog
    from rna_watch.daemon.disk_reserve import DiskReserve
    from rna_watch.daemon.pins import Pins
    from rna_watch.daemon.publication import Publication
    from rna_watch.daemon.ray_beside import RayBeside
    from rna_watch.daemon.recorder import Recorder
    from rna_watch.daemon.sequences import Sequences
    from rna_watch.daemon.shared import Shared
    from rna_watch.engine.contract import Engine
    from rna_watch.evaluation.client import Evaluator
    from rna_watch.evaluation.evaluator import EvaluatorSpec
    from rna_watch.journal.run_paths import RunPaths

_LOG = logging.getLogger("rna_watch")
_POLL_S = 0.25
_REMEDY = "the engine is started again; nothing is lost"
_RECONCILE_S = 30.0  # between looks at the output tree while nothing is to be done
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 60.0  # between two starts of an engine that cannot start


class Worker:
    """Works on what the backlog gives; its engine is closed and started anew when it is lost, for as long as that takes.

    Args:
        config: the settings.
        paths: where the run and its outputs lie.
        recorder: journal and state.
        shared: what the runs of this process share.
        spec: the evaluator.
        publication: what became of outputs.
        sequences: which checkpoints follow each other.
        pins: the window store.
        disk_reserve: what must stay free on the disk.
        backlog: what waits.
        proceed: called now and then; it raises Cancelled to end the thread.
        pauses: whether nothing may be taken at the moment, because the run is away.
        caught_up: whether what was there at the begin was taken, so that there is time for what is done once more.
        again: make every model anew whose inputs are there.
        foreign: checkpoints that hold another model than the setting `source` names.
        on_change: called when it is ready, and when there is nothing more to do.
        say: shows a line about how it begins.
    """

    def __init__(
        self,
        config: RunConfig,
        paths: RunPaths,
        recorder: Recorder,
        *,
        shared: Shared,
        spec: EvaluatorSpec | None,
        publication: Publication,
        sequences: Sequences,
        pins: Pins,
        disk_reserve: DiskReserve,
        backlog: Backlog,
        proceed: Callable[[], None],
        pauses: Callable[[], bool],
        caught_up: Callable[[], bool],
        again: bool,
        foreign: Collection[str],
        on_change: Callable[[], None],
        say: Callable[[str], None],
    ) -> None:
        self._config = config
        self._paths = paths
        self._recorder = self.recorder = recorder
        self._shared = shared
        self._spec = spec
        self._publication = publication
        self._sequences = sequences
        self._pins = pins
        self._disk_reserve = disk_reserve
        self._backlog = backlog
        self._proceed = proceed
        self._pauses = pauses
        self._caught_up = caught_up
        self._on_change = on_change
        self._say = say
        self._acts = Acts(recorder)
        self._pipeline: Pipeline | None = None
        self._late: deque[str] = deque()  # what came late, from before there is a second pass
        self._second = partial(
            SecondPass, config, publication, recorder, sequences, pins, again=again, foreign=foreign, late=self._late
        )
        self._reconciled = -math.inf
        self._ray: RayBeside | None = None
        self._evaluators: list[Evaluator] = []
        self.engine: Engine | None = None
        self._begun = False
        self._loading = False
        self.idle = False
        self.wake = threading.Event()

    def run(self) -> None:
        """Work until `proceed` ends it.

        Raises:
            Cancelled: `proceed` did.
            EngineError: the engine cannot start the first time.
            StoreError: our own store is lost.
        """
        self._shared.join(self)
        self._ray = self._shared.ray_beside(self._config, self._paths.state)
        self._say(f"engine   {_in_words(self._config)}")
        if self._shared.is_up(self._spec):  # by another run, which may be at work for long
            self._pipeline = self._set_up()
        else:
            with self._shared.turn(self, self._proceed):
                self._pipeline = self._set_up()
                self._look_at_ray()
        second = self._second()
        self._begun = True
        self._on_change()
        while True:
            self._proceed()
            done = False
            try:
                if not self._pauses():
                    done = self._one(second)
            except StoreAway:
                pass
            except Cancelled:
                self._proceed()
                continue  # it was another run's end that was meant
            with contextlib.suppress(StoreAway):
                self._acts.do("snapshot", "the state cannot be kept", self._recorder.keep_snapshot)
            if not done:
                self.wake.wait(TICK_S if self.idle and not self._pauses() else _POLL_S)
                self.wake.clear()

    def _one(self, second: SecondPass) -> bool:
        """Work on one checkpoint; False if there is none."""
        self._up_to_date()
        caught_up = self._caught_up()  # before the choice: what came since is new work
        chosen, taken = self._choose(second)
        if chosen and not taken and time.monotonic() - self._reconciled >= _RECONCILE_S:
            self._reconciled = time.monotonic()
            self._acts.do("outputs", "outputs cannot be compared with the journal", self._publication.reconcile)
        was_idle, self.idle = self.idle, chosen and not taken and caught_up
        if self.idle:
            if self.nothing_left():  # else the next work tells whether the engine that was started again is well
                self._recorder.solved("engine")
            if not was_idle:
                self._on_change()
        for name in taken:
            with self._shared.turn(self, self._proceed, urgent=self._backlog.is_new(name)) as waited:
                if waited:  # while others worked, a newer one may have come, or the engine may be another one
                    chosen, taken = self._choose(second)
                if not taken:
                    return False
                return self._process(self._up_to_date(in_turn=True), taken[0], second)
        return False

    def _choose(self, second: SecondPass) -> tuple[bool, list[str]]:
        """Whether it could be told what is next, and its name, if there is one."""
        taken: list[str] = []
        what = "the next checkpoint cannot be chosen"
        return self._acts.do("choice", what, lambda: taken.extend(self._next(second))), taken

    def _process(self, pipeline: Pipeline, name: str, second: SecondPass) -> bool:
        for evaluator in self._evaluators:
            evaluator.scratch = self._spec.scratch if self._spec is not None else None
        self._look_at_ray(name)
        done = self._acts.do("process", f"{name} cannot be worked on", partial(pipeline.process, name))
        second.ended(name)
        self._reconciled = -math.inf
        return done

    def _next(self, second: SecondPass) -> list[str]:
        name = self._backlog.next(self.since_error_s())
        if name is None and self._caught_up() and (name := second.next()) is not None:
            self._backlog.begin(name)
        return [] if name is None else [name]

    @property
    def ready(self) -> bool:
        """Whether it works, and the evaluator is loaded, or was found not to be what can be."""
        return self._begun and not self._loading

    def since_error_s(self) -> float:
        """Seconds since work failed last."""
        return time.monotonic() - self.progress.last_error_time

    def nothing_left(self) -> bool:
        """Whether there is nothing to do until something is admitted."""
        return self.ready and self.idle and not self._pauses() and not self._backlog.waits(self.since_error_s())

    def came_late(self, name: str) -> None:
        """Make anew the windows that went on without a checkpoint; called by the thread that watches."""
        self._late.append(name)

    @property
    def progress(self) -> Progress:
        """The work at hand."""
        return self._pipeline.progress if self._pipeline is not None else Progress()

    def cancel(self) -> None:
        """Give up the work at hand, for good; called by another thread."""
        if self._pipeline is not None:
            self._pipeline.cancel()
        self._shared.give_up(self)

    def close(self) -> None:
        """Have done with the engine, for good: it ends with the last run of this process."""
        self.engine = None
        self._shared.leave(self)

    # -- the engine

    def _up_to_date(self, *, in_turn: bool = False) -> Pipeline:
        """A pipeline on the engine that is in use, which is healed first if it is broken.

        Args:
            in_turn: whether the turn is this run's already.
        """
        pipeline, ray = self._pipeline, self._ray
        well = pipeline is not None and not pipeline.engine_lost and not self._broken()
        if pipeline is not None and well and self.engine is self._shared.engine and not (ray and ray.is_up()):
            return pipeline
        with contextlib.nullcontext() if in_turn else self._shared.turn(self, self._proceed):
            if not well:
                pipeline = self._healed()
            elif self.engine is not self._shared.engine:
                pipeline = self._pipeline = self._set_up()
            assert pipeline is not None
            return self._on_ray() or pipeline

    def _broken(self) -> bool:
        """Whether the engine says that it cannot be used any more, which is reported."""
        reason = self.engine.broken() if self.engine is not None else ""
        if reason:
            self._recorder.problem("engine", reason, _REMEDY)
        return bool(reason)

    def _healed(self) -> Pipeline:
        """A pipeline on an engine that was started anew, tried until it starts; where Ray was lost, on this machine meanwhile.

        Raises:
            Cancelled: `proceed` ended it.
        """
        pause_s = _FIRST_PAUSE_S
        here = self.engine is not None and self.engine.name == "ray" and goes_on_here(self._config)
        while True:
            self._shared.close(self.engine)
            if here and self._ray is not None and self._shared.engine is None:
                self._shared.replaced(LocalEngine(workers(self._config)))
                self._ray.again()
            try:
                self._pipeline = self._set_up()
                self._look_at_ray()
            except EngineError as error:
                what = f"the engine cannot be started again: {error}"
                self._recorder.problem("engine", what, "it is tried until it starts; checkpoints are kept meanwhile")
            else:
                return self._pipeline
            until = time.monotonic() + pause_s
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
            while time.monotonic() < until:
                self._proceed()
                time.sleep(_POLL_S)

    def _look_at_ray(self, name: str = "") -> None:
        """Have Ray started beside the work if it pays, for a checkpoint of this size."""
        found = self._recorder.checkpoint(name)
        if self._ray is not None and self.engine is not None and self.engine.name == "local":
            self._ray.look(found.admitted.size_bytes * (self._config.window + 1) if found and found.admitted else 0)

    def _on_ray(self) -> Pipeline | None:
        """A pipeline on Ray, if it was started beside the work and is up now; results are the same to the last bit."""
        engine = self._ray.take() if self._ray is not None else None
        if engine is None:
            return None
        self._shared.replaced(engine)
        self._shared.record(e.Noted(text="Ray is up: work goes on there"))
        try:
            self._pipeline = self._set_up()
        except EngineError as error:  # it was lost meanwhile
            self._recorder.problem("engine", str(error), _REMEDY)
            return self._healed()
        return self._pipeline

    def _set_up(self) -> Pipeline:
        """A pipeline on the engine, which is started if there is none.

        Raises:
            EngineError: it cannot start.
        """
        self.engine = self._shared.started(self._config, self._paths.state)
        loaded = self._shared.is_up(self._spec)
        self._evaluators = evaluators = (
            self._shared.evaluators(self._spec, self._config.evaluators) if self._spec is not None else []
        )
        if evaluators and not self._begun and not loaded:
            self._say(f"loading  {self._config.evaluator or self._config.evaluate_command}")
        for evaluator in evaluators[:1] if not loaded else ():  # the others start when there is more than one model
            self._loading = True
            loading = threading.Thread(target=self._load, args=(evaluator,), name="rna-watch-load", daemon=True)
            loading.start()  # windows are measured meanwhile
        return Pipeline(
            self._config,
            self._paths,
            self._recorder,
            sequences=self._sequences,
            pins=self._pins,
            disk_reserve=self._disk_reserve,
            engine=self.engine,
            evaluators=evaluators,
        )

    def _load(self, evaluator: Evaluator) -> None:
        try:
            evaluator.warm_up()
        except EvaluationFailed as error:
            with contextlib.suppress(RnaWatchError):  # the thread that works finds the same
                failed(self._recorder, error, loaded=False)
        except RnaWatchError:  # it was closed
            pass
        except Exception:  # noqa: BLE001 - whatever it is, it shows at the first model
            _LOG.exception("the evaluator was not loaded in advance")
        finally:
            self._loading = False
            self._on_change()


def _in_words(config: RunConfig) -> str:
    """The engine that work begins on."""
    if begins_on_ray(config):
        return "Ray, on a cluster of our own" if config.ray_address == "local" else f"Ray, at {config.ray_address}"
    count = workers(config)
    return f"this machine, {count} {'process' if count == 1 else 'processes'} at a time"
