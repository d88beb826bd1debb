"""What happens to one admitted checkpoint: window, Gram matrix, family, evaluation, choice, publication.

Every step is recorded before the next begins, so that a restart continues there.
"""

from __future__ import annotations

import logging
import time
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING

from rna_watch.acceleration.family import Family, family, in_one_sentence
from rna_watch.acceleration.methods import AVERAGE, LAST, RNA, Search
from rna_watch.acceleration.selection import Choice, Evidence, choose
from rna_watch.daemon import failures, kept_model, second_pass
from rna_watch.daemon.checkpoint_evaluation import SCREENED
from rna_watch.daemon.disk_reserve import files_to_judge
from rna_watch.daemon.equal_neighbours import repeats
from rna_watch.daemon.evaluation_rounds import EvaluationRounds
from rna_watch.daemon.failures import Failure
from rna_watch.daemon.measurement import Measuring
from rna_watch.daemon.one_training import followed
from rna_watch.daemon.publication import Publication
from rna_watch.daemon.window import Window, state_of
from rna_watch.daemon.window_break import joined
from rna_watch.errors import Cancelled, InputChanged, RunIsWatched, StoreAway, Superseded, Unreadable
from rna_watch.journal import events as e
from rna_watch.journal.heartbeat import Work
from rna_watch.journal.metric import mode_of
from rna_watch.journal.recipe import searched
from rna_watch.journal.replay import Stage
from rna_watch.publishing import manifest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rna_watch.acceleration.residuals import Residuals
    from rna_watch.config import RunConfig
    from rna_watch.daemon.disk_reserve import DiskReserve
    from rna_watch.daemon.evaluated import Evaluated
    from rna_watch.daemon.pins import Pins
    from rna_watch.daemon.recorder import Recorder
    from rna_watch.daemon.sequences import Sequences
    from rna_watch.engine.contract import Engine
    from rna_watch.evaluation.client import Evaluator
    from rna_watch.journal.replay import Checkpoint
    from rna_watch.journal.run_paths import RunPaths
    from rna_watch.window import tasks_plan
    from rna_watch.window.tasks import Result

_SMALLEST_WINDOW = 3
_EQUAL_FAILURES = 3  # after so many in a row the engine is started again: it may have lost its parts
_LOG = logging.getLogger("rna_watch")


@dataclass(slots=True)
class Progress:
    """The work at hand, for the heartbeat; replaced as a whole, so that readers see a consistent value."""

    work: Work | None = None
    read_bytes_per_s: float = 0.0
    last_error_time: float = 0.0


class Pipeline:
    """Takes admitted checkpoints, one at a time, to their models.

    Args:
        config: the settings.
        paths: where the run and its outputs lie.
        recorder: journal and state.
        sequences: which checkpoints follow each other.
        pins: the window store.
        disk_reserve: what must stay free on the disk.
        engine: where tasks run.
        evaluators: they run at the same time; none: nothing is evaluated.
    """

    def __init__(
        self,
        config: RunConfig,
        paths: RunPaths,
        recorder: Recorder,
        *,
        sequences: Sequences,
        pins: Pins,
        disk_reserve: DiskReserve,
        engine: Engine,
        evaluators: Sequence[Evaluator],
    ) -> None:
        self._config = config
        self._recorder = recorder
        self._sequences = sequences
        self._pins = pins
        self._disk_reserve = disk_reserve
        self._engine = engine
        self._evaluators = evaluators
        self._measuring = Measuring(config, recorder)
        self._rounds = EvaluationRounds(config, recorder, evaluators, self._show, paths.scratch)
        self._publication = Publication(config, paths, recorder)
        self._cancelled = False
        self.progress = Progress()
        self.engine_lost = False
        self._alike = ("", 0)  # what failed last, and how often in a row

    def cancel(self) -> None:
        """Stop for good, as soon as possible; called from another thread, which ends the engine's work too."""
        self._cancelled = True

    def _show(self, work: Work) -> None:
        self.progress.work = work

    def process(self, name: str) -> None:
        """Take one checkpoint as far as it goes; errors are recorded, and the daemon goes on.

        Raises:
            Cancelled: `cancel` was called; work on the checkpoint continues after a restart.
            StoreError: the journal itself cannot be written.
            StoreAway: our own folder cannot be reached at the moment.
        """
        checkpoint = self._recorder.checkpoint(name)
        assert checkpoint is not None
        self._recorder.take([checkpoint])
        try:
            self._attempt(checkpoint)
        except Superseded as error:
            self._recorder.record(e.Noted(checkpoint=name, text=f"{error}; that version gets no model"))
        finally:
            self.progress.work = None
            self._rounds.clear()

    def _attempt(self, checkpoint: Checkpoint) -> None:
        try:
            as_it_is = checkpoint.taken_up is not None and checkpoint.taken_up.how == second_pass.EVALUATE
            if not self._publication.finish(checkpoint):
                (self._evaluate_as_it_is if as_it_is else self._process)(checkpoint)
            for key in failures.PROBLEMS:
                self._recorder.solved(key)
            self._alike = ("", 0)
        except (Cancelled, Superseded, StoreAway, RunIsWatched):
            raise
        except InputChanged as error:
            try:
                self._input_changed(checkpoint, str(error))
            except Unreadable as unread:  # nothing is known of its inputs at the moment
                self._failed(checkpoint, failures.of(unread))
        except Exception as error:  # noqa: BLE001 - whatever it is, it costs this checkpoint's attempt and no more
            failure = failures.of(error)
            if failure.unexpected:
                _LOG.warning("%s could not be worked on", checkpoint.name, exc_info=error)
            if failure.key:
                self._recorder.problem(failure.key, failure.reason, failure.remedy)
            self._failed(checkpoint, failure)

    def _failed(self, checkpoint: Checkpoint, failure: Failure) -> None:
        if self._cancelled:
            raise Cancelled("stopping")
        self._alike = (failure.alike, self._alike[1] + 1 if self._alike[0] == failure.alike else 1)
        self.engine_lost = self.engine_lost or failure.engine_lost or self._alike[1] % _EQUAL_FAILURES == 0
        again = checkpoint.attempts + 1 < failure.attempts
        self.progress.last_error_time = time.monotonic()
        self._recorder.record(e.Failed(checkpoint=checkpoint.name, reason=failure.reason, will_retry=again))

    def _input_changed(self, checkpoint: Checkpoint, reason: str) -> None:
        """Leave out inputs whose bytes are gone; the next attempt has another window."""
        members = [*self._sequences.history(checkpoint, self._config.window), checkpoint]
        self._recorder.take(members)
        for member in members:
            self._pins.forget(member.name)
            if self._pins.layout(member) is None:
                gone = "its bytes are gone or were changed (the trainer's retention, or a rewrite in place)"
                self._recorder.record(e.Skipped(checkpoint=member.name, reason=gone))
        current = self._recorder.checkpoint(checkpoint.name)
        if current is not None and current.stage is not Stage.SKIPPED:
            self._failed(current, Failure(reason=reason))

    def _process(self, checkpoint: Checkpoint) -> None:
        while True:
            window = self._window(self._recorder.current(checkpoint.name))
            if window is None:
                return
            stage = "measuring" if len(window.members) > 1 else "checking"
            residuals = self._measuring.residuals(window, partial(self._run, checkpoint, stage))
            if residuals is not None and not self._repeats(window, residuals):
                break
            if self._stage(checkpoint.name) is Stage.SKIPPED:
                return
        self.progress.read_bytes_per_s = self._measuring.read_bytes_per_s
        if len(window.members) < _SMALLEST_WINDOW:
            self._rounds.run(window, residuals, _only_last(residuals), search=False)
            self._finish(checkpoint, self._too_few(window))
            return
        files = files_to_judge(self._config, window.layouts[-1])
        if files and self._held(checkpoint, files * window.layouts[-1].size_bytes):
            return
        with self._disk_reserve.writing() if files else nullcontext():
            multiply = partial(self._run, checkpoint, "multiplying factors")
            outcome = self._rounds.run(window, residuals, self._family(residuals), multiply)
        nothing = not outcome.evaluated - {each.name for each in outcome.family.candidates if each.method == LAST}
        if nothing or mode_of(self._recorder.state) is None:
            if nothing and checkpoint.taken_up is not None and self._evaluators and checkpoint.output is not None:
                self._leave(checkpoint, "nothing could be evaluated")
                return
            outcome.family = self._rounds.unevaluated(window, residuals)
        self._recorder.record(searched(checkpoint.name, residuals.form, outcome.family))
        choice = self._choose(checkpoint, window.names, residuals.form, outcome, window=window)
        if choice is None:
            self._finish(checkpoint, in_one_sentence(outcome.family.notes) or "the family holds only the original")
        elif self._config.publish == "when-better" and choice.better_than_original is False:
            self._finish(checkpoint, f"{choice.reason}, so nothing was written")
        elif checkpoint.taken_up is not None and not self._publication.worth_writing(checkpoint):
            self._finish(
                checkpoint, f"it is not the best, and {self._config.keep} newer ones are kept, so nothing was written"
            )
        elif not self._held(checkpoint, self._publication.size_bytes(window.layouts[-1])):
            with self._disk_reserve.writing():
                self._publication.publish(
                    checkpoint,
                    window,
                    choice,
                    residuals,
                    outcome.combination(choice.candidate, window),
                    outcome.made.get(choice.candidate.name),
                    partial(self._run, checkpoint, "writing"),
                )

    def _repeats(self, window: Window, residuals: Residuals) -> bool:
        """Whether members of a window equal others, which is recorded: the window is formed again without them."""
        found = repeats(window.layouts, residuals, self._proceed)
        for number in found:
            of = self._recorder.current(window.names[number - 1])
            self._recorder.record(e.Repeated(checkpoint=window.names[number], of=of.repeats or of.name))
        return bool(found)

    def _proceed(self) -> None:
        if self._cancelled:
            raise Cancelled("stopping")

    def _too_few(self, window: Window) -> str:
        """Why a window is too short."""
        newest = self._recorder.current(window.names[-1])
        if newest.repeats and len(window.members) == 1:
            return f"every checkpoint of its window equals it bit for bit, as {newest.repeats} does: there is nothing to combine"
        equal = f"equals {newest.repeats} bit for bit, which counts once; " if newest.repeats else ""
        new = f"{equal}number {len(window.members)} of a new window; extrapolation begins with {_SMALLEST_WINDOW}"
        return f"{new} ({window.begins})" if window.begins else new

    def _held(self, checkpoint: Checkpoint, size_bytes: int) -> bool:
        """Whether there is no room to write so much for a checkpoint; it waits then, and the others go on."""
        held = not self._disk_reserve.fits(size_bytes)
        if held:
            self._disk_reserve.hold(checkpoint.name, size_bytes)
        return held

    def _stage(self, name: str) -> Stage | None:
        current = self._recorder.checkpoint(name)
        return current.stage if current else None

    def _leave(self, checkpoint: Checkpoint, reason: str) -> None:
        """End work that was taken up, with all as it was before."""
        self._recorder.record(e.Left(checkpoint=checkpoint.name, reason=reason))

    def _evaluate_as_it_is(self, checkpoint: Checkpoint) -> None:
        """Evaluate what is there of a checkpoint whose model cannot be made anew, or need not be, and decide anew."""
        layouts = {LAST: self._pins.layout(checkpoint)}
        if checkpoint.chosen is not None:
            layouts[checkpoint.chosen.candidate] = self._publication.layout_of(checkpoint)
        candidates = kept_model.candidates_of(checkpoint)
        there = {name: layout for name, layout in layouts.items() if layout is not None}
        outcome = kept_model.evaluate(checkpoint, there, candidates, self._rounds)
        current = self._recorder.current(checkpoint.name)
        judged = current.judge == self._recorder.state.judge or not self._evaluators
        before = checkpoint.chosen
        if before is None or not judged or before.candidate not in current.evaluations or before.candidate not in there:
            self._leave(checkpoint, "its model is not there" if before and judged else "it could not be evaluated")
            return
        outcome.evaluated = set(current.evaluations)
        choice = self._choose(checkpoint, before.inputs, before.residuals, outcome, before)
        assert choice is not None
        self._publication.describe_again(checkpoint, choice)

    def _finish(self, checkpoint: Checkpoint, reason: str) -> None:
        self._recorder.record(e.Finished(checkpoint=checkpoint.name, reason=reason))

    def _window(self, checkpoint: Checkpoint) -> Window | None:
        members = [*self._sequences.history(checkpoint, self._config.window), self._recorder.current(checkpoint.name)]
        members, begins = (members, "") if self._config.one_run else followed(members)
        layouts = joined([self._pins.layout(member) for member in members])
        least = min(second_pass.inputs_of(checkpoint, self._config), len(members))  # fewer where a training begins
        if checkpoint.taken_up is not None and len(layouts) < least:
            self._leave(checkpoint, "the inputs of its model are gone")
            return None
        if not layouts:
            reason = "its bytes are gone or were changed before it could be used"
            self._recorder.record(e.Skipped(checkpoint=checkpoint.name, reason=reason))
            return None
        begins = begins if len(layouts) == len(members) else ""
        members = members[-len(layouts) :]
        self._recorder.take(members)
        states = [state_of(m, layout, self._config.optimizer_order) for m, layout in zip(members, layouts, strict=True)]
        return Window(members=tuple(members), layouts=tuple(layouts), states=tuple(states), begins=begins)

    def _run(self, checkpoint: Checkpoint, stage: str, tasks: Sequence[tasks_plan.Task]) -> list[Result]:
        total = sum(task.work_bytes for task in tasks)
        since = time.time()
        done = 0

        def show() -> None:
            self.progress.work = Work(
                checkpoint=checkpoint.name, stage=stage, done=done, total=total, unit="bytes", since=since
            )

        def on_done(task: tasks_plan.Task) -> None:
            nonlocal done
            done += task.work_bytes
            show()
            self._proceed()

        show()
        results = self._engine.map(tasks, on_done)
        self._recorder.check()  # what was written takes its name next
        return results

    # -- candidates

    def _family(self, residuals: Residuals) -> Family:
        limit = self._config.max_candidates
        return family(
            residuals, self._config.search(limit=limit if self._config.first_round is None else SCREENED * limit)
        )

    def _choose(
        self,
        checkpoint: Checkpoint,
        inputs: list[str],
        form: str,
        outcome: Evaluated,
        kept: e.Chosen | None = None,
        window: Window | None = None,
    ) -> Choice | None:
        candidates = outcome.family.candidates
        if all(candidate.method == LAST for candidate in candidates):
            return None
        current = self._recorder.checkpoint(checkpoint.name)
        evaluations = {
            each.name: current.evaluations[each.name]
            for each in candidates
            if current
            and each.name in outcome.evaluated
            and (window is None or current.models.get(each.name) in {"", window.model(each)})
        }
        settled = self._recorder.state.metric
        choice = choose(
            candidates,
            Evidence(
                values={name: m[settled.metric] for name, m in evaluations.items() if settled and settled.metric in m},
                mode=mode_of(self._recorder.state),
                examples=outcome.examples,
                minimum_gain=self._config.minimum_gain,
                screened=sum(event.fraction == self._config.first_round for event in current.screened.values())
                if current
                else 0,
                metric=settled.metric if settled else "",
                losses=outcome.losses,
                loss=outcome.loss,
            ),
        )
        self._recorder.record(
            e.Chosen(
                checkpoint=checkpoint.name,
                candidate=choice.candidate.name,
                method=choice.candidate.method,
                inputs=inputs,
                weights=list(choice.candidate.weights),
                metrics={
                    "original": evaluations.get(LAST),
                    AVERAGE: evaluations.get(choice.best_average or ""),
                    RNA: evaluations.get(choice.best_rna or ""),
                    "chosen": evaluations.get(choice.candidate.name),
                },
                better_than_original=choice.better_than_original,
                significant=choice.significant,
                tested_on=choice.tested_on or "",
                reason=in_one_sentence([*outcome.family.notes, choice.reason]),
                residuals=form,
                diagnostics=kept.diagnostics if kept else manifest.finite(asdict(choice.candidate.diagnostics)),
                comparisons=[manifest.finite(asdict(step)) for step in choice.comparisons],
                spread=kept.spread if kept else list(window.spread(choice.candidate)) if window is not None else [],
            )
        )
        return choice


def _only_last(residuals: Residuals) -> Family:
    return family(residuals, Search(methods=(), limit=0))
