"""The evaluation of one checkpoint: its family, and what is added to it; every result is recorded as it comes."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from rna_watch.acceleration.family import Family, cut, distinct
from rna_watch.acceleration.methods import ANNEAL, CLAMPED, LAST, LAYERED, PRODUCT, RE_ESTIMATED, TRAINED
from rna_watch.acceleration.significance import ranked
from rna_watch.daemon import statistics_modes
from rna_watch.daemon.evaluated import Evaluated
from rna_watch.daemon.evaluators import as_kept, failed, offers, spread
from rna_watch.daemon.settled_metric import ranking_loss, settle
from rna_watch.errors import EvaluationFailed
from rna_watch.evaluation.evaluator import FRACTION, NORMALIZATION, choosing_metric
from rna_watch.journal import events as e
from rna_watch.journal.heartbeat import Work
from rna_watch.journal.metric import mode_of
from rna_watch.journal.recipe import recorded
from rna_watch.publishing.made import TRAINING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from rna_watch.acceleration.candidate import Candidate
    from rna_watch.acceleration.residuals import Residuals
    from rna_watch.acceleration.significance import Mode
    from rna_watch.config import RunConfig
    from rna_watch.daemon.recorder import Recorder
    from rna_watch.daemon.window import Window
    from rna_watch.evaluation.client import Evaluator
    from rna_watch.evaluation.evaluator import Evaluation
    from rna_watch.publishing.made import Made
    from rna_watch.window.tasks import Run

SCREENED = 3  # a cheap first round evaluates so many times as many candidates
FITTED = frozenset({TRAINED, LAYERED, ANNEAL})  # what the user's training loss drew lies in no journal
_LOST = FITTED | {PRODUCT}  # nor do the weights of a product
_RE_ESTIMATED_SUFFIX = "+re-estimated"


def kinds(config: RunConfig, recorder: Recorder, window: Window, offered: frozenset[str] | None) -> tuple[str, ...]:
    """The ways in which normalization statistics are made in a window; a wanted way that is impossible is reported.

    Args:
        config: the settings.
        recorder: journal and state.
        window: the inputs.
        offered: what the evaluator offers; None if there is none.
    """
    found, problem = statistics_modes.kinds(config.normalization, window.layouts[-1], offered)
    if problem is not None:
        recorder.problem(NORMALIZATION, *problem)
    return found


def re_estimated(last: Candidate) -> Candidate:
    """The original with its statistics re-estimated."""
    return replace(last, name=f"{LAST}{_RE_ESTIMATED_SUFFIX}", statistics=RE_ESTIMATED)


class CheckpointEvaluation:
    """The evaluation of one checkpoint's candidates; `outcome` is what it gave so far.

    Args:
        config: the settings.
        recorder: journal and state.
        evaluators: as many as may run at a time.
        show: is given what is being done.
        scratch: the folder for models that are made for evaluation alone.
        window: the inputs.
        residuals: the window's residuals.
        members: the family.
        run: runs tasks, as an engine's `map` does.
    """

    def __init__(
        self,
        config: RunConfig,
        recorder: Recorder,
        evaluators: Sequence[Evaluator],
        show: Callable[[Work], None],
        scratch: Path,
        *,
        window: Window,
        residuals: Residuals,
        members: Family,
        run: Run,
    ) -> None:
        self.config = config
        self.recorder = recorder
        self.evaluators = evaluators
        self._show = show
        self.scratch = scratch
        self.window = window
        self.residuals = residuals
        self.run_tasks = run
        self.outcome = Evaluated(members)
        # in which ways normalization statistics are made; with two, the second has candidates of its own
        self.kinds: tuple[str, ...] = (CLAMPED,)
        self.name = window.members[-1].name
        self._since = time.time()
        self._done = 0
        self.total = 0

    def run(self, *, search: bool) -> frozenset[str] | None:
        """Evaluate the original, then (if `search`) the family; a failure is recorded and costs that candidate only.

        Returns:
            what the evaluator offers, if anything is to be searched for from here.
        """
        last, *others = self.outcome.family.candidates
        self.total = 1 + len(others)
        if not self.evaluate([last]) or not search:
            return None  # what fails on the original fails on the rest
        offered = offers(self.evaluators[0], self.recorder) if self.evaluators else frozenset()
        self.kinds = kinds(self.config, self.recorder, self.window, offered)
        originals = [last, *self._re_estimated(last)]
        finalists = self._first_round([self.variant(each, self.kinds[0]) for each in others], offered)
        kept = [self.variant(each, kind) for each in finalists for kind in self.kinds]
        names = {each.name for each in finalists}
        self.outcome.family = replace(
            self.outcome.family,
            candidates=(*originals, *kept),
            left_out=(*(each.name for each in others if each.name not in names), *self.outcome.family.left_out),
        )
        self.total = len(originals) + len(kept)
        return offered if self.evaluate(kept) else None

    def _re_estimated(self, last: Candidate) -> list[Candidate]:
        """The original with its statistics re-estimated, a bar for all others; where that fails, no other is tried so."""
        if RE_ESTIMATED not in self.kinds:
            return []
        variant = re_estimated(last)
        if self.evaluate([variant]):
            self.recorder.solved(NORMALIZATION)
            return [variant]
        self.kinds = tuple(kind for kind in self.kinds if kind != RE_ESTIMATED) or (CLAMPED,)
        return []

    # -- rounds of evaluation

    def evaluate(self, candidates: Sequence[Candidate]) -> bool:
        """Evaluate the candidates that are not known yet; returns whether any of them is known now."""
        self.outcome.evaluated |= {each.name for each in candidates if self._at_hand(each)}
        settled = self.recorder.state.metric
        metric = self.config.metric or (settled.metric if settled is not None else None)
        if metric is not None and any(each.name in self.outcome.evaluated for each in candidates):
            settle(metric, self.config, self.recorder)  # what is known is used, whichever metric chose before
        self._round([each for each in candidates if each.name not in self.outcome.evaluated], None)
        return not candidates or any(each.name in self.outcome.evaluated for each in candidates)

    def _at_hand(self, each: Candidate) -> bool:
        """Whether a candidate was evaluated before a restart, with nothing lost that choice and publication need.

        The journal holds no per-example values, no re-estimated statistics, and nothing of what was fitted or made.
        Per-example values of the metric that chose before are not missed where another one chooses now.
        """
        current = self.recorder.checkpoint(self.name)
        if current is None or each.name not in current.evaluations:
            return False
        lost = (each.statistics == RE_ESTIMATED and each.method != LAST) or each.method in _LOST
        if self.evaluators:
            wanted = self.config.metric
            lost = lost or (wanted is None and self.recorder.state.metric is None)  # which of its metrics is the first
            by = current.chosen_by[1] if current.chosen_by else None
            lost = lost or current.judge != self.recorder.state.judge
            lost = lost or (wanted is not None and wanted not in current.evaluations[each.name])
            values = current.examples.get(each.name, 0) > 0
            values = values or (current.losses.get(each.name, "") != "" and self.config.choose_by != "metric")
            lost = lost or (values and (by is None or by[0] == (wanted or by[0])))
        return not lost and self._same(each, current.models.get(each.name, ""))

    def _round(self, wanted: Sequence[Candidate], fraction: float | None) -> None:
        if self.evaluators:
            spread(self.evaluators, wanted, partial(self._evaluate_one, fraction))

    def _evaluate_one(self, fraction: float | None, evaluator: Evaluator, each: Candidate) -> None:
        self.show(f"evaluating {each.name}")
        re_estimate = each.statistics == RE_ESTIMATED
        try:
            recipe = self.outcome.combination(each, self.window)
            result = evaluator.evaluate(recipe, fraction=fraction, re_estimate=re_estimate)
            metric = self._metric(each, result)
        except EvaluationFailed as error:
            if re_estimate and each.method == LAST:
                what = f"normalization statistics cannot be re-estimated, and combined ones are used: {error}"
                self.recorder.problem(NORMALIZATION, what, "repair it, or set normalization to clamp")
                return
            self.recorder.record(e.EvaluationFailed(checkpoint=self.name, candidate=each.name, reason=str(error)))
            failed(self.recorder, error)
            return
        self.recorder.solved("evaluator")
        self._keep(each, as_kept(result, metric, self.recorder), metric, fraction)

    def show(self, stage: str) -> None:
        """Say what is being done."""
        total = max(self.total, self._done + 1)
        self._show(
            Work(checkpoint=self.name, stage=stage, done=self._done, total=total, unit="models", since=self._since)
        )

    def _metric(self, each: Candidate, result: Evaluation) -> str:
        """The choosing metric; it changes if a new evaluator gives the original another one.

        Raises:
            EvaluationFailed: the metric is missing.
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
                    checkpoint=self.name,
                    candidate=each.name,
                    fraction=fraction,
                    metrics=result.metrics,
                    seconds=result.seconds,
                    model=self.window.model(each),
                )
            )
            return
        if metric in result.examples:
            self.outcome.examples[each.name] = result.examples[metric]
        if each.method == LAST:
            self.outcome.loss = ranking_loss(metric, result.examples, self.config, self.recorder)
        loss = self.outcome.loss if self.outcome.loss in result.examples else ""
        if loss:
            self.outcome.losses[each.name] = result.examples[loss]
        if result.statistics:
            self.outcome.statistics[each.name] = result.statistics
        made = self.outcome.made.get(each.name)
        settle(metric, self.config, self.recorder)  # first: a value without it is of no use after a crash
        self.recorder.record(
            e.Evaluated(
                checkpoint=self.name,
                candidate=each.name,
                metrics=result.metrics,
                seconds=result.seconds,
                examples=len(result.examples.get(metric, ())),
                recipe=recorded(each),
                model=self.window.model(each),
                loss=loss,
                training=dict(made.account) if made is not None and made.kind == TRAINING else {},
            )
        )
        self.outcome.evaluated.add(each.name)

    def value(self, name: str) -> float | None:
        """What ranks a candidate, or the one that it equals; None if it is not known."""
        name = self.outcome.family.duplicates.get(name, name)
        current = self.recorder.checkpoint(self.name)
        return self.number(current.evaluations.get(name)) if current and name in self.outcome.evaluated else None

    def _screened(self, candidates: Sequence[Candidate]) -> dict[str, e.Metrics]:
        """What a first round on this part of the data said of these models."""
        current = self.recorder.checkpoint(self.name)
        said = current.screened if current else {}
        alike = [each for each in candidates if each.name in said and self._same(each, said[each.name].model)]
        return {m.name: said[m.name].metrics for m in alike if said[m.name].fraction == self.config.first_round}

    def _same(self, each: Candidate, model: str) -> bool:
        """Whether what was recorded under a candidate's name is its model; journals of 0.1.0 do not tell."""
        return not model or model == self.window.model(each)

    def number(self, metrics: e.Metrics | None) -> float | None:
        """What ranks a model, of its metrics; None if it is not known."""
        settled = self.recorder.state.metric
        return metrics.get(self.outcome.loss or settled.metric) if metrics and settled else None

    def mode(self) -> Mode | None:
        """Whether what ranks candidates is minimized or maximized; None where the metric's direction is not known."""
        mode = mode_of(self.recorder.state)
        return "min" if mode and self.outcome.loss else mode

    def ranked(self, candidates: Sequence[Candidate], values: Mapping[str, e.Metrics] | None = None) -> list[Candidate]:
        """Those that have a value (in a first round, by these metrics), best first; none where the direction is not known."""
        mode = self.mode()
        if mode is None:
            return []
        value = self.value if values is None else lambda name: self.number(values.get(name))
        return ranked(candidates, lambda each: value(each.name), mode)

    # -- variants

    def variant(self, each: Candidate, kind: str) -> Candidate:
        """A candidate with its statistics made in a way; named after that if there are two ways."""
        suffix = _RE_ESTIMATED_SUFFIX if kind == RE_ESTIMATED and len(self.kinds) > 1 else ""
        return replace(each, name=f"{each.name}{suffix}", statistics=kind)

    def best_kind(self) -> str:
        """How the best candidate's statistics are made."""
        best = self.ranked([each for each in self.outcome.family.candidates if each.method != LAST])
        return best[0].statistics if best else self.kinds[0]

    def _first_round(self, candidates: list[Candidate], offered: frozenset[str]) -> list[Candidate]:
        """As many as may be evaluated; by a cheap round on a part of the data, if it is wanted."""
        fraction = self.config.first_round
        limit = self.config.max_candidates
        if len(candidates) <= limit:
            return candidates
        if fraction is None:
            return cut(candidates, limit)
        if FRACTION not in offered:
            self.recorder.problem(
                "first_round",
                f"first_round is set, but the evaluator offers no '{FRACTION}'",
                "add it, or leave first_round out",
            )
            return cut(candidates, limit)
        self.recorder.solved("first_round")
        screened = cut(candidates, SCREENED * limit)
        self._done, self.total = 0, len(screened)
        known_already = self._screened(screened)
        self._round([each for each in screened if each.name not in known_already], fraction)
        self._done = 1  # the original
        values = self._screened(screened)
        known = self.ranked(screened, values)
        return cut([*known, *(each for each in screened if each not in known)], limit, screened)

    def add_made(self, candidate: Candidate, made: Made) -> None:
        """Add a candidate that is no combination to the family, and evaluate it."""
        self.outcome.made[candidate.name] = made
        self.outcome.family = replace(self.outcome.family, candidates=(*self.outcome.family.candidates, candidate))
        self.total += 1
        self.evaluate([candidate])

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
        self.total += len(new)
        self.evaluate(new)
