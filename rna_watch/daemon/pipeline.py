"""What happens to one admitted checkpoint: window, Gram matrix, family, evaluation, choice, publication.

Every step is recorded before the next begins, so that a restart goes on where this one ended.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from rna_watch.acceleration.family import AVERAGE, LAST, RNA, Family, family, unevaluated
from rna_watch.acceleration.gram import GramRows, merge
from rna_watch.acceleration.selection import Choice, Mode, choose, infer_mode
from rna_watch.daemon.publication import Publication
from rna_watch.daemon.window import Window, assemble, known_products, missing_rows
from rna_watch.engine import plan
from rna_watch.errors import Cancelled, EngineError, EvaluationFailed, InputChanged, StoreError
from rna_watch.evaluation.evaluator import choosing_metric
from rna_watch.journal import events as e
from rna_watch.journal.heartbeat import Work
from rna_watch.journal.replay import Stage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rna_watch.config import RunConfig
    from rna_watch.daemon.admission import Admission
    from rna_watch.daemon.paths import RunPaths
    from rna_watch.daemon.recorder import Recorder
    from rna_watch.engine.contract import Engine
    from rna_watch.engine.tasks import Result
    from rna_watch.evaluation.evaluator import Evaluator
    from rna_watch.journal.replay import Checkpoint

UNEVALUATED = "models are written unevaluated until it works"
_ATTEMPTS = 3
_STORE_ATTEMPTS = 30  # a full disk is often mended, by the trainer's own retention to begin with
_SMALLEST_WINDOW = 3


@dataclass(slots=True)
class Progress:
    """What is being done now, for the heartbeat; replaced as a whole, so that readers see a consistent value."""

    work: Work | None = None
    read_bytes_per_s: float = 0.0
    last_error_time: float = 0.0


class Pipeline:
    """Takes admitted checkpoints, one at a time, through to their models."""

    def __init__(
        self,
        config: RunConfig,
        paths: RunPaths,
        recorder: Recorder,
        admission: Admission,
        engine: Engine,
        evaluator: Evaluator | None,
    ) -> None:
        self._config = config
        self._recorder = recorder
        self._admission = admission
        self._engine = engine
        self._evaluator = evaluator
        self._publication = Publication(config, paths, recorder)
        self._cancelled = False
        self.progress = Progress()
        self.engine_lost = False

    def cancel(self) -> None:
        """Give up as soon as possible, from another thread; for good."""
        self._cancelled = True
        self._engine.cancel()
        if self._evaluator is not None:
            self._evaluator.close()

    def process(self, name: str) -> None:
        """Take one checkpoint as far as it goes; what goes wrong is recorded, and the daemon goes on.

        Raises:
            Cancelled: `cancel` was called; the checkpoint is taken up again after a restart.
            StoreError: the journal itself cannot be written.
        """
        checkpoint = self._recorder.checkpoint(name)
        assert checkpoint is not None
        try:
            self._process(checkpoint)
            self._recorder.solved("store")
            self._recorder.solved("engine")
        except Cancelled:
            raise
        except InputChanged as error:
            self._input_changed(checkpoint, str(error))
        except (StoreError, OSError) as error:
            self._recorder.problem("store", str(error), "outputs go on as soon as they can be written")
            self._failed(checkpoint, str(error), attempts=_STORE_ATTEMPTS)
        except EngineError as error:
            self.engine_lost = True
            self._recorder.problem("engine", str(error), "the engine is started anew, and the checkpoint tried again")
            self._failed(checkpoint, str(error))
        except MemoryError:
            self._failed(checkpoint, "there is not enough memory; lower --memory-budget or --workers")
        finally:
            self.progress.work = None

    def _failed(self, checkpoint: Checkpoint, reason: str, attempts: int = _ATTEMPTS) -> None:
        if self._cancelled:
            raise Cancelled("stopping")
        again = checkpoint.attempts + 1 < attempts
        self.progress.last_error_time = time.monotonic()
        self._recorder.record(e.Failed(checkpoint=checkpoint.name, reason=reason, will_retry=again))

    def _input_changed(self, checkpoint: Checkpoint, reason: str) -> None:
        """Leave out inputs whose bytes are gone; the next attempt has another window."""
        for member in [*self._admission.history(checkpoint, self._config.window), checkpoint]:
            self._admission.forget(member.name)
            if self._admission.layout(member) is None:
                gone = "its bytes are gone or were changed (the trainer's retention, or a rewrite in place)"
                self._recorder.record(e.Skipped(checkpoint=member.name, reason=gone))
        current = self._recorder.checkpoint(checkpoint.name)
        if current is not None and current.stage is not Stage.SKIPPED:
            self._failed(current, reason)

    def _process(self, checkpoint: Checkpoint) -> None:
        if self._publication.finish(checkpoint):
            return
        while True:
            window = self._window(checkpoint)
            if window is None:
                return
            measured = self._measure(checkpoint, window)
            if measured is not None:
                break
            if self._stage(checkpoint.name) is Stage.SKIPPED:
                return
        gram_nn, energy = measured
        if len(window.members) < _SMALLEST_WINDOW:
            self._evaluate(checkpoint, window, _only_last(gram_nn))
            count = len(window.members)
            self._finish(checkpoint, f"number {count} of a new window; extrapolation begins with {_SMALLEST_WINDOW}")
            return
        members = self._family(gram_nn, energy)
        self._evaluate(checkpoint, window, members)
        if not self._any_evaluated(checkpoint.name):
            members = unevaluated(gram_nn, rounding_energy=energy)
        choice = self._choose(checkpoint, window, members)
        if choice is None:
            self._finish(checkpoint, " ".join(members.notes) or "the family holds nothing besides the original")
        elif self._config.publish == "when-better" and choice.better_than_original is False:
            self._finish(checkpoint, f"{choice.reason}, so nothing was written")
        else:
            self._publication.publish(checkpoint, window, choice, lambda tasks: self._run(checkpoint, "writing", tasks))

    def _stage(self, name: str) -> Stage | None:
        current = self._recorder.checkpoint(name)
        return current.stage if current else None

    def _finish(self, checkpoint: Checkpoint, reason: str) -> None:
        self._recorder.record(e.Finished(checkpoint=checkpoint.name, reason=reason))

    # -- window and Gram matrix

    def _window(self, checkpoint: Checkpoint) -> Window | None:
        newest = self._admission.layout(checkpoint)
        if newest is None:
            reason = "its bytes are gone or were changed before it could be used"
            self._recorder.record(e.Skipped(checkpoint=checkpoint.name, reason=reason))
            return None
        members, layouts = [checkpoint], [newest]
        for member in reversed(self._admission.history(checkpoint, self._config.window)):
            layout = self._admission.layout(member)
            if layout is None or layout.architecture != newest.architecture:
                break
            members.insert(0, member)
            layouts.insert(0, layout)
        return Window(members=tuple(members), layouts=tuple(layouts))

    def _measure(self, checkpoint: Checkpoint, window: Window) -> tuple[np.ndarray, float] | None:
        """The Gram matrix and the rounding energy; None if a member turned out to hold NaN or infinities."""
        if len(window.members) == 1:
            return self._check_alone(checkpoint, window)
        products = known_products(m.measured for m in window.members if m.measured is not None)
        new = missing_rows(window.residuals, products)
        own = checkpoint.measured
        if new == 0 and own is not None:
            return assemble(window.residuals, products), own.rounding_energy
        new = max(new, 1)
        begun = time.perf_counter()
        tasks = plan.gram_tasks(window.layouts, new, self._config.memory_budget)
        parts = self._run(checkpoint, "measuring", tasks)
        total = merge(part for part in parts if isinstance(part, GramRows))
        seconds = time.perf_counter() - begun
        if total.non_finite:
            for number in sorted(total.non_finite):
                reason = "it holds NaN or infinite weights: training diverged, or the file is damaged"
                self._recorder.record(e.Skipped(checkpoint=window.names[number], reason=reason))
            return None
        read_bytes = sum(task.work_bytes for task in tasks)
        self.progress.read_bytes_per_s = read_bytes / max(seconds, 1e-9)
        self._recorder.record(
            e.Measured(
                checkpoint=checkpoint.name,
                residuals=[list(pair) for pair in window.residuals],
                rows=total.rows.tolist(),
                rounding_energy=total.rounding_energy,
                read_bytes=read_bytes,
                seconds=seconds,
            )
        )
        current = self._recorder.checkpoint(checkpoint.name)
        assert current is not None
        products |= known_products([current.measured] if current.measured else [])
        return assemble(window.residuals, products), total.rounding_energy

    def _check_alone(self, checkpoint: Checkpoint, window: Window) -> tuple[np.ndarray, float] | None:
        """The first of a window has no residual, but its weights must be finite all the same."""
        tasks = plan.gram_tasks(window.layouts * 2, 1, self._config.memory_budget)
        parts = self._run(checkpoint, "checking", tasks)
        total = merge(part for part in parts if isinstance(part, GramRows))
        if total.non_finite:
            reason = "it holds NaN or infinite weights: training diverged, or the file is damaged"
            self._recorder.record(e.Skipped(checkpoint=checkpoint.name, reason=reason))
            return None
        return np.zeros((0, 0)), 0.0

    def _run(self, checkpoint: Checkpoint, stage: str, tasks: Sequence[plan.Task]) -> list[Result]:
        total = sum(task.work_bytes for task in tasks)
        since = time.time()
        done = 0

        def show() -> None:
            self.progress.work = Work(
                checkpoint=checkpoint.name, stage=stage, done=done, total=total, unit="bytes", since=since
            )

        def on_done(task: plan.Task) -> None:
            nonlocal done
            done += task.work_bytes
            show()

        show()
        return self._engine.map(tasks, on_done)

    # -- candidates

    def _family(self, gram_nn: np.ndarray, energy: float) -> Family:
        return family(
            gram_nn,
            rounding_energy=energy,
            windows=self._config.window_lengths,
            regularizations=self._config.regularizations,
            limit=self._config.max_candidates,
        )

    def _any_evaluated(self, name: str) -> bool:
        current = self._recorder.checkpoint(name)
        return current is not None and bool(current.evaluations.keys() - {LAST})

    def _evaluate(self, checkpoint: Checkpoint, window: Window, members: Family) -> None:
        """Evaluate every candidate that has no metrics yet; a failure is recorded and leaves the others."""
        if self._evaluator is None:
            return
        before = self._recorder.checkpoint(checkpoint.name)
        known = set(before.evaluations) if before else set()
        since = time.time()
        for number, candidate in enumerate(members.candidates):
            if candidate.name in known:
                continue
            self.progress.work = Work(
                checkpoint=checkpoint.name,
                stage=f"evaluating {candidate.name}",
                done=number,
                total=len(members.candidates),
                unit="models",
                since=since,
            )
            try:
                result = self._evaluator.evaluate(window.combination(candidate))
                choosing_metric(result.metrics, self._config.metric)
            except EvaluationFailed as error:
                self._recorder.record(
                    e.EvaluationFailed(checkpoint=checkpoint.name, candidate=candidate.name, reason=str(error))
                )
                self._recorder.problem("evaluator", f"the evaluator failed: {error}", UNEVALUATED)
                if candidate.method == LAST:
                    return  # what fails on the original fails on the rest
                continue
            self._recorder.solved("evaluator")
            self._recorder.record(
                e.Evaluated(
                    checkpoint=checkpoint.name, candidate=candidate.name, metrics=result.metrics, seconds=result.seconds
                )
            )
            self._settle_metric(result.metrics)

    def _settle_metric(self, metrics: dict[str, float]) -> None:
        """Say, once, by which metric and in which direction is chosen."""
        settled = self._recorder.state.metric
        if (
            settled is None
            or self._config.metric not in {None, settled.metric}
            or self._config.mode not in {None, settled.mode}
        ):
            name = choosing_metric(metrics, self._config.metric)
            self._recorder.record(e.MetricChosen(metric=name, mode=self._config.mode or infer_mode(name)))

    def _choose(self, checkpoint: Checkpoint, window: Window, members: Family) -> Choice | None:
        if all(candidate.method == LAST for candidate in members.candidates):
            return None
        current = self._recorder.checkpoint(checkpoint.name)
        evaluations = current.evaluations if current else {}
        settled = self._recorder.state.metric
        values = {name: m[settled.metric] for name, m in evaluations.items() if settled and settled.metric in m}
        mode: Mode = "max" if settled and settled.mode == "max" else "min"
        choice = choose(members.candidates, values, mode, self._config.minimum_gain)
        self._recorder.record(
            e.Chosen(
                checkpoint=checkpoint.name,
                candidate=choice.candidate.name,
                method=choice.candidate.method,
                inputs=window.names,
                weights=list(choice.candidate.weights),
                metrics={
                    "original": evaluations.get(LAST),
                    AVERAGE: evaluations.get(choice.best_average or ""),
                    RNA: evaluations.get(choice.best_rna or ""),
                    "chosen": evaluations.get(choice.candidate.name),
                },
                better_than_original=choice.better_than_original,
                significant=choice.significant,
                reason=" ".join([*members.notes, choice.reason]),
            )
        )
        return choice


def _only_last(gram_nn: np.ndarray) -> Family:
    matrix = gram_nn if len(gram_nn) else np.zeros((1, 1))
    return family(matrix, rounding_energy=0.0, windows=(), regularizations=(), limit=0)
