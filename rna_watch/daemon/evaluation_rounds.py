"""Rounds of evaluation: the candidates of one checkpoint are evaluated, and those that are searched for with the results.

A round of evaluation runs on several evaluators at a time; every result is recorded as it comes, so that a restart goes on
where this one ended (but for candidates whose per-example values were lost with the process: those are evaluated again).
"""

from __future__ import annotations

import math
import queue
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from rna_watch.acceleration.candidate import CLAMPED, RE_ESTIMATED, Candidate
from rna_watch.acceleration.family import Family, distinct, unevaluated
from rna_watch.acceleration.methods import AVERAGES, LAST, SOLUTIONS, TRAINED, kind_of
from rna_watch.acceleration.selection import infer_mode
from rna_watch.acceleration.significance import Mode, gain
from rna_watch.daemon import searched_candidates, statistics_modes
from rna_watch.errors import EvaluationFailed
from rna_watch.evaluation.evaluator import FRACTION, TRAINING_LOSS, choosing_metric
from rna_watch.journal import events as e
from rna_watch.journal.heartbeat import Work
from rna_watch.journal.recipe import recorded

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    import numpy.typing as npt

    from rna_watch.acceleration.residuals import Residuals
    from rna_watch.config import RunConfig
    from rna_watch.daemon.recorder import Recorder
    from rna_watch.daemon.window import Window
    from rna_watch.evaluation.evaluator import Evaluation, Evaluator
    from rna_watch.layout.dtypes import Array

UNEVALUATED = "models are written unevaluated until it works"
SCREENED = 3  # how many times as many candidates a cheap first round looks at
_RE_ESTIMATED_SUFFIX = "+re-estimated"


@dataclass(slots=True)
class Evaluated:
    """What the trials of one checkpoint gave: candidates, their per-example values, re-estimated statistics; by name.

    `evaluated` names those whose metrics in the journal are of the very models that are meant here, with all that belongs
    to them at hand; others are as good as not evaluated.
    """

    family: Family
    evaluated: set[str] = field(default_factory=set)
    examples: dict[str, npt.NDArray[np.float64]] = field(default_factory=dict)
    statistics: dict[str, dict[str, Array]] = field(default_factory=dict)


class EvaluationRounds:
    """Evaluates the candidates of one checkpoint after another.

    Args:
        config: the settings.
        recorder: journal and state.
        evaluators: as many as may run at a time.
        show: told what is being done.
    """

    def __init__(
        self,
        config: RunConfig,
        recorder: Recorder,
        evaluators: Sequence[Evaluator],
        show: Callable[[Work], None],
    ) -> None:
        self.config = config
        self.recorder = recorder
        self.evaluators = evaluators
        self.show = show

    def run(self, window: Window, residuals: Residuals, members: Family, *, search: bool = True) -> Evaluated:
        """Evaluate a window's family and what can be found from it; failures are recorded and leave the others.

        Args:
            window: the inputs.
            residuals: of the window.
            members: the family.
            search: whether candidates besides the original are to be found at all.

        Raises:
            Cancelled: the evaluators were closed.
        """
        evaluation = CheckpointEvaluation(self, window, residuals, members)
        if self.evaluators:
            evaluation.run(search=search)
        return evaluation.outcome

    def unevaluated(self, window: Window, residuals: Residuals) -> Family:
        """What is left to publish where nothing could be evaluated."""
        found = unevaluated(residuals)
        if self.evaluators and self.config.normalization != "combine":
            return found
        (kind, *_) = statistics_modes.kinds(self, window, frozenset())
        return replace(found, candidates=tuple(replace(each, statistics=kind) for each in found.candidates))

    def offers(self) -> frozenset[str]:
        """What the user's evaluator can do; nothing where it cannot be loaded."""
        try:
            return self.evaluators[0].offers()
        except EvaluationFailed as error:
            self.failed(error)
            return frozenset()

    def failed(self, error: EvaluationFailed) -> None:
        """Report that the evaluator does not work."""
        self.recorder.problem("evaluator", f"the evaluator failed: {error}", UNEVALUATED)

    def settle(self, metric: str) -> None:
        """Say, once, by which metric and in which direction is chosen."""
        settled = self.recorder.state.metric
        same = settled is not None and settled.metric == metric
        mode = self.config.mode or (settled.mode if settled is not None and same else infer_mode(metric))
        if settled is None or not same or settled.mode != mode:
            self.recorder.record(e.MetricChosen(metric=metric, mode=mode))

    def lacks(self, setting: str, function: str) -> None:
        """Report that a setting asks for what the evaluator's file does not offer."""
        who = "the evaluator offers no" if self.evaluators else "there is no evaluator that offers"
        self.recorder.problem(setting, f"{setting} is set, but {who} '{function}'", f"write it, or leave {setting} out")


class CheckpointEvaluation:
    """The trials of one checkpoint.

    `kinds` are the ways in which normalization statistics are made here; with two, the second has candidates of its own.
    """

    def __init__(self, of: EvaluationRounds, window: Window, residuals: Residuals, members: Family) -> None:
        self._of = of
        self.config = of.config
        self.recorder = of.recorder
        self.evaluators = of.evaluators
        self.window = window
        self.residuals = residuals
        self.outcome = Evaluated(members)
        self.kinds: tuple[str, ...] = (CLAMPED,)
        self._name = window.members[-1].name
        self._since = time.time()
        self._done = 0
        self._total = 0

    def run(self, *, search: bool) -> None:
        """Evaluate the original, then (if `search`) everything else; failures are recorded and leave the others."""
        last, *others = self.outcome.family.candidates
        self._total = 1 + len(others)
        if not self._evaluate([last]) or not search:
            return  # what fails on the original fails on the rest
        offers = self._of.offers()
        self.kinds = statistics_modes.kinds(self._of, self.window, offers)
        variants = [self.variant(each, kind) for each in others for kind in self.kinds]
        kept = self._first_round(variants, offers)
        names = {each.name for each in kept}
        self.outcome.family = replace(
            self.outcome.family,
            candidates=(last, *kept),
            left_out=(*(each.name for each in variants if each.name not in names), *self.outcome.family.left_out),
        )
        self._total = 1 + len(kept)
        if not self._evaluate(kept):
            return
        for method, find in searched_candidates.SEARCHES.items():
            if method in self.config.methods and (method != TRAINED or TRAINING_LOSS in offers):
                find(self)

    # -- rounds of evaluation

    def _evaluate(self, candidates: Sequence[Candidate]) -> bool:
        """Evaluate those that are not known yet; returns whether any of them is known now."""
        self.outcome.evaluated |= {each.name for each in candidates if self._at_hand(each)}
        self._round([each for each in candidates if each.name not in self.outcome.evaluated], None)
        return not candidates or any(each.name in self.outcome.evaluated for each in candidates)

    def _at_hand(self, each: Candidate) -> bool:
        """Whether a candidate was evaluated before a restart, and nothing is lost that the choice or the publication needs.

        Per-example values and re-estimated statistics are not in the journal, nor what the user's training loss drew.
        """
        current = self.recorder.checkpoint(self._name)
        if current is None or each.name not in current.evaluations:
            return False
        return each.statistics != RE_ESTIMATED and each.method != TRAINED and not current.examples.get(each.name, 0)

    def _round(self, wanted: Sequence[Candidate], fraction: float | None) -> None:
        """Evaluate these, as many at a time as there are evaluators."""
        if len(self.evaluators) == 1 or len(wanted) <= 1:
            for each in wanted:
                self._evaluate_one(self.evaluators[0], each, fraction)
            return
        free: queue.SimpleQueue[Evaluator] = queue.SimpleQueue()
        for evaluator in self.evaluators:
            free.put(evaluator)

        def evaluate(each: Candidate) -> None:
            evaluator = free.get()
            try:
                self._evaluate_one(evaluator, each, fraction)
            finally:
                free.put(evaluator)

        pool = ThreadPoolExecutor(len(self.evaluators), thread_name_prefix="evaluation")
        try:
            for future in [pool.submit(evaluate, each) for each in wanted]:
                future.result()
        finally:
            pool.shutdown(cancel_futures=True)

    def _evaluate_one(self, evaluator: Evaluator, each: Candidate, fraction: float | None) -> None:
        self.show(f"evaluating {each.name}")
        try:
            re_estimate = each.statistics == RE_ESTIMATED
            result = evaluator.evaluate(self.window.combination(each), fraction=fraction, re_estimate=re_estimate)
            metric = self._metric(each, result)
        except EvaluationFailed as error:
            self.recorder.record(e.EvaluationFailed(checkpoint=self._name, candidate=each.name, reason=str(error)))
            self._of.failed(error)
            return
        self.recorder.solved("evaluator")
        self._keep(each, result, metric, fraction)

    def show(self, stage: str) -> None:
        """Say what is being done."""
        total = max(self._total, self._done + 1)
        self._of.show(
            Work(checkpoint=self._name, stage=stage, done=self._done, total=total, unit="models", since=self._since)
        )

    def _metric(self, each: Candidate, result: Evaluation) -> str:
        """The choosing metric; an original that has another than before (a new evaluator) changes it.

        Raises:
            EvaluationFailed: the metric is not there.
        """
        settled = self.recorder.state.metric
        wanted = self.config.metric or (settled.metric if settled is not None else None)
        if self.config.metric is None and each.method == LAST and wanted not in result.metrics:
            wanted = None
        return choosing_metric(result.metrics, wanted)

    def _keep(self, each: Candidate, result: Evaluation, metric: str, fraction: float | None) -> None:
        self._done += 1
        if fraction is not None:
            self.recorder.record(
                e.Screened(
                    checkpoint=self._name,
                    candidate=each.name,
                    fraction=fraction,
                    metrics=result.metrics,
                    seconds=result.seconds,
                )
            )
            return
        if metric in result.examples:
            self.outcome.examples[each.name] = result.examples[metric]
        if result.statistics:
            self.outcome.statistics[each.name] = result.statistics
        self.recorder.record(
            e.Evaluated(
                checkpoint=self._name,
                candidate=each.name,
                metrics=result.metrics,
                seconds=result.seconds,
                examples=len(result.examples.get(metric, ())),
                recipe=recorded(each),
            )
        )
        self.outcome.evaluated.add(each.name)
        self._of.settle(metric)

    def value(self, name: str) -> float | None:
        """The choosing metric of a candidate, or of the one that it equals; None if it is not known."""
        name = self.outcome.family.duplicates.get(name, name)
        current = self.recorder.checkpoint(self._name)
        return self._number(current.evaluations.get(name)) if current and name in self.outcome.evaluated else None

    def _screened(self) -> dict[str, e.Metrics]:
        current = self.recorder.checkpoint(self._name)
        return current.screened if current is not None else {}

    def _number(self, metrics: e.Metrics | None) -> float | None:
        settled = self.recorder.state.metric
        value = metrics.get(settled.metric) if metrics and settled else None
        return None if value is None or math.isnan(value) else value

    @property
    def mode(self) -> Mode:
        """Whether the choosing metric is to be small or large."""
        settled = self.recorder.state.metric
        return "max" if settled is not None and settled.mode == "max" else "min"

    def best(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        """Those that have a value, best first."""
        return self._ranked([(each, self.value(each.name)) for each in candidates])

    def _ranked(self, valued: Sequence[tuple[Candidate, float | None]]) -> list[Candidate]:
        known = [(each, value) for each, value in valued if value is not None]
        return [each for each, value in sorted(known, key=lambda pair: -gain(pair[1], 0.0, self.mode))]

    # -- variants

    def variant(self, each: Candidate, kind: str) -> Candidate:
        """A candidate with its statistics made in a way; named after it where both ways are tried."""
        suffix = _RE_ESTIMATED_SUFFIX if kind == RE_ESTIMATED and len(self.kinds) > 1 else ""
        return replace(each, name=f"{each.name}{suffix}", statistics=kind)

    def best_kind(self) -> str:
        """How the best candidate's statistics are made."""
        best = self.best([each for each in self.outcome.family.candidates if each.method != LAST])
        return best[0].statistics if best else self.kinds[0]

    def _first_round(self, candidates: list[Candidate], offers: frozenset[str]) -> list[Candidate]:
        """As many as may be evaluated; by a cheap round on a part of the data, if it is wanted."""
        fraction = self.config.first_round
        limit = self.config.max_candidates
        if len(candidates) <= limit:
            return candidates
        if fraction is None:
            return _cut(candidates, limit)
        if FRACTION not in offers:
            self._of.lacks("first_round", FRACTION)
            return _cut(candidates, limit)
        self.recorder.solved("first_round")
        screened = _cut(candidates, SCREENED * limit)
        self._done, self._total = 0, len(screened)
        self._round([each for each in screened if each.name not in self._screened()], fraction)
        self._done = 1  # the original
        values = self._screened()
        ranked = self._ranked([(each, self._number(values.get(each.name))) for each in screened])
        return _cut([*ranked, *(each for each in screened if each not in ranked)], limit, screened)

    # -- candidates that evaluations or gradients lead to

    def add(self, candidates: Sequence[Candidate]) -> None:
        """Add candidates, whose statistics are made in one way, to the family if they are models of their own; evaluate them."""
        known = self.outcome.family.candidates
        names = {each.name for each in known}
        kind = candidates[0].statistics
        alike = [each for each in known if each.statistics == kind or (each.method == LAST and kind != RE_ESTIMATED)]
        kept, twins = distinct([*alike, *candidates], self.residuals)
        new = [each for each in kept if each.name not in names]
        others = [(each, twin) for each, twin in twins if each.name not in names]
        self.outcome.family = replace(
            self.outcome.family, candidates=(*known, *new), twins=(*self.outcome.family.twins, *others)
        )
        self._total += len(new)
        self._evaluate(new)


def _cut(ranked: Sequence[Candidate], limit: int, order: Sequence[Candidate] = ()) -> list[Candidate]:
    """The first of these, the first average and the first solution (of `order`, if it is another) always among them."""
    anchors = [
        next((each for each in order or ranked if kind_of(each.method) == kind), None) for kind in (AVERAGES, SOLUTIONS)
    ]
    first = [each for each in anchors if each is not None]
    names = list(dict.fromkeys(each.name for each in [*first, *ranked]))[:limit]
    return [each for each in ranked if each.name in names]
