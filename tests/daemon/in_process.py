"""The real pipeline on real files in this process, with evaluators that need no process of their own."""

from __future__ import annotations

import threading
import time
import zlib
from typing import TYPE_CHECKING

import numpy as np

from rna_watch.config import RunConfig
from rna_watch.daemon.admission import Admission
from rna_watch.daemon.disk_reserve import DiskReserve
from rna_watch.daemon.loop import Daemon
from rna_watch.daemon.pins import Pins
from rna_watch.daemon.pipeline import Pipeline
from rna_watch.daemon.rebuilt import Rebuilt
from rna_watch.daemon.recorder import Recorder
from rna_watch.daemon.sequences import Sequences
from rna_watch.engine.local import LocalEngine
from rna_watch.errors import EvaluationFailed
from rna_watch.evaluation.evaluator import (
    FRACTION,
    NORMALIZATION,
    Annealed,
    AnnealRequest,
    Evaluation,
    EvaluatorSpec,
    Fit,
    FitRequest,
)
from rna_watch.evaluation.worker import EvaluationWorker
from rna_watch.journal.run_paths import RunPaths
from rna_watch.watching import steps
from rna_watch.watching.scan import scan

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from rna_watch.engine.contract import Engine
    from rna_watch.evaluation.client import Evaluator
    from rna_watch.journal.replay import RunState
    from rna_watch.window.combine import Combination


_LIMIT_S = 60.0


def process(run: Path, output: Path, evaluators: Sequence[Evaluator] = (), **settings: object) -> RunState:
    """What `rna-watch once` does, checkpoint by checkpoint, as soon as it may; returns what the journal adds up to.

    Statistics are combined, so that each candidate is evaluated once, unless `normalization` says otherwise.
    """
    config = RunConfig.model_validate({"keep": 100, "normalization": "clamp"} | settings)
    paths = RunPaths(run=run, output=output)
    paths.create()
    recorder = Recorder(paths.journal)
    engine = LocalEngine(1)
    admission, pipeline = assemble(config, paths, recorder, engine, evaluators)
    try:
        found, _ = scan(run, exclude=(paths.models, paths.state))
        for each in sorted(found, key=lambda each: steps.natural_key(each.name)):
            assert each.identity is not None
            admission.consider(each.name, each.identity)
        for checkpoint in recorder.checkpoints():
            pipeline.process(checkpoint.name)
    finally:
        engine.close()
        recorder.close()
    return recorder.state


def assemble(
    config: RunConfig, paths: RunPaths, recorder: Recorder, engine: Engine, evaluators: Sequence[Evaluator]
) -> tuple[Admission, Pipeline]:
    """Admission and pipeline on one window store, as the daemon has them."""
    sequences = Sequences(recorder)
    disk_reserve = DiskReserve(config, paths.output, recorder)
    pins = Pins(config, paths, recorder, disk_reserve, lambda: None)
    pipeline = Pipeline(
        config,
        paths,
        recorder,
        sequences=sequences,
        pins=pins,
        disk_reserve=disk_reserve,
        engine=engine,
        evaluators=evaluators,
    )
    return Admission(config, recorder, sequences, pins, lambda: None, Rebuilt(recorder, paths)), pipeline


class Here:
    """The user's evaluator in this process: an `EvaluationWorker` without a child around it."""

    def __init__(self, function: str, folder: Path) -> None:
        self._worker = EvaluationWorker(
            EvaluatorSpec(
                function=function,
                command=None,
                device="cpu",
                timeout_s=60.0,
                threads=1,
                cwd=str(folder),
                scratch=str(folder / "scratch"),
            )
        )

    def warm_up(self) -> None:
        """See `Evaluator.warm_up`."""

    def offers(self) -> frozenset[str]:
        """See `Evaluator.offers`."""
        return self._worker.offers()

    def evaluate(
        self, combination: Combination, *, fraction: float | None = None, re_estimate: bool = False
    ) -> Evaluation:
        """See `Evaluator.evaluate`."""
        return self._worker.evaluate(combination, fraction=fraction, re_estimate=re_estimate)

    def fit(self, request: FitRequest) -> Fit:
        """See `Evaluator.fit`."""
        return self._worker.fit(request)

    def anneal(self, request: AnnealRequest) -> Annealed:
        """See `Evaluator.anneal`."""
        return self._worker.anneal(request)

    def pid(self) -> int | None:
        """See `Evaluator.pid`."""
        return None

    def close(self) -> None:
        """See `Evaluator.close`."""


class Noise:
    """An evaluator whose metric is noise, the same for the same model: no model is better than another but by chance.

    Args:
        seed: of the noise.
        examples: how many values per example come with it (0: none).
        failing: the part of models whose evaluation fails.
        undefined: the part of models whose metric is NaN.
        metric: its name.
    """

    def __init__(
        self, seed: int, *, examples: int = 0, failing: float = 0.0, undefined: float = 0.0, metric: str = "loss"
    ) -> None:
        self._seed = seed
        self._examples = examples
        self._failing = failing
        self._undefined = undefined
        self._metric = metric
        self.evaluated: list[tuple[str, tuple[float, ...]]] = []

    def warm_up(self) -> None:
        """See `Evaluator.warm_up`."""

    def offers(self) -> frozenset[str]:
        """See `Evaluator.offers`."""
        return frozenset({FRACTION, NORMALIZATION})

    def evaluate(
        self, combination: Combination, *, fraction: float | None = None, re_estimate: bool = False
    ) -> Evaluation:
        """See `Evaluator.evaluate`."""
        model = (combination.layouts[-1].fingerprint, combination.weights)
        if fraction is None:
            self.evaluated.append(model)
        generator = np.random.default_rng([self._seed, zlib.crc32(repr(model).encode()), re_estimate])
        luck = generator.random()
        if luck < self._failing:
            raise EvaluationFailed("out of luck")
        if luck < self._failing + self._undefined:
            return Evaluation(metrics={self._metric: float("nan")}, seconds=0.0)
        values = generator.normal(size=max(self._examples, 1))
        examples = {self._metric: values} if self._examples and fraction is None else {}
        return Evaluation(metrics={self._metric: float(values.mean())}, seconds=0.0, examples=examples)

    def fit(self, request: FitRequest) -> Fit:
        """See `Evaluator.fit`."""
        raise EvaluationFailed("noise has no gradient")

    def pid(self) -> int | None:
        """See `Evaluator.pid`."""
        return None

    def close(self) -> None:
        """See `Evaluator.close`."""


def watch(run: Path, until: Callable[[RunState], bool], **settings: object) -> RunState:
    """What `rna-watch start --foreground` does, in this process, until a condition holds; returns what was recorded.

    Args:
        run: the run directory.
        until: told the state as it is at that moment; the daemon is then asked to stop as from another machine.
        settings: the settings.
    """
    config = RunConfig.model_validate({"keep": 100, "engine": "local", "quiet": 0.05, "scan_interval": 0.1} | settings)
    paths = RunPaths(run=run, output=run)
    paths.create()
    recorder = Recorder(paths.journal)
    timed_out = threading.Event()

    def wait() -> None:
        limit = time.monotonic() + _LIMIT_S
        while not until(recorder.state):
            if time.monotonic() > limit:
                timed_out.set()
                break
            time.sleep(0.05)
        paths.stop_request.touch()

    waiter = threading.Thread(target=wait, daemon=True)
    waiter.start()
    try:
        Daemon(config, paths, recorder).run()
    finally:
        recorder.close()
    assert not timed_out.is_set(), recorder.state.problems
    return recorder.state
