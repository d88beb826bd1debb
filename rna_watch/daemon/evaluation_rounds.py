"""Rounds of evaluation: the candidates of one checkpoint, and those that are searched for with their results.

A round runs on several evaluators at a time. Every result is recorded as it comes, so that a restart continues there;
only candidates whose per-example values were lost with the process are evaluated again.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rna_watch.acceleration.candidate import CLAMPED, RE_ESTIMATED, Candidate
from rna_watch.acceleration.family import Family, cut, distinct, unevaluated
from rna_watch.acceleration.methods import ANNEAL, AVERAGES, LAST, LAYERED, LINE, SOLUTIONS, SOUP, TRAINED, kind_of
from rna_watch.acceleration.significance import ranked
from rna_watch.daemon import annealed, searched_candidates, statistics_modes
from rna_watch.daemon.evaluated import Evaluated
from rna_watch.daemon.evaluators import as_kept, failed, offers, spread
from rna_watch.daemon.settled_metric import note_what_is_kept, ranking_loss, settle
from rna_watch.errors import EvaluationFailed
from rna_watch.evaluation.evaluator import FRACTION, NORMALIZATION, TRAINING_LOSS, FitRequest, choosing_metric
from rna_watch.journal import events as e
from rna_watch.journal.heartbeat import Work
from rna_watch.journal.metric import mode_of
from rna_watch.journal.recipe import recorded
from rna_watch.layout import disk

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from rna_watch.acceleration.residuals import Residuals
    from rna_watch.acceleration.significance import Mode
    from rna_watch.config import RunConfig
    from rna_watch.daemon.recorder import Recorder
    from rna_watch.daemon.window import Window
    from rna_watch.evaluation.client import Evaluator
    from rna_watch.evaluation.evaluator import Evaluation

SCREENED = 3  # a cheap first round evaluates so many times as many candidates
FITTED = frozenset({TRAINED, LAYERED, ANNEAL})  # what the user's training loss drew lies in no journal
_RE_ESTIMATED_SUFFIX = "+re-estimated"


class EvaluationRounds:
    """Evaluates the candidates of one checkpoint after another.

    Args:
        config: the settings.
        recorder: journal and state.
        evaluators: as many as may run at a time.
        show: is given what is being done.
        scratch: the folder for models that are made for evaluation alone.
    """

    def __init__(
        self,
        config: RunConfig,
        recorder: Recorder,
        evaluators: Sequence[Evaluator],
        show: Callable[[Work], None],
        scratch: Path,
    ) -> None:
        self.config = config
        self.recorder = recorder
        self.evaluators = evaluators
        self.show = show
        self.scratch = scratch
        self.files: list[Path] = []
        if evaluators:
            note_what_is_kept(config, recorder)

    def run(self, window: Window, residuals: Residuals, members: Family, *, search: bool = True) -> Evaluated:
        """Evaluate a window's family and what can be found from it; a failure is recorded and costs that candidate only.

        Args:
            window: the inputs.
            residuals: the window's residuals.
            members: the family.
            search: evaluate candidates other than the original too.

        Raises:
            Cancelled: the evaluators were closed.
        """
        evaluation = CheckpointEvaluation(self, window, residuals, members)
        known = self.recorder.checkpoint(window.members[-1].name)
        if self.evaluators or (known is not None and known.evaluations):
            evaluation.run(search=search)
        return evaluation.outcome

    def clear(self) -> None:
        """Remove the files of models that were made for evaluation alone."""
        while self.files:
            with contextlib.suppress(OSError):  # the next start sweeps what is left
                disk.remove(self.files.pop())

    def unevaluated(self, window: Window, residuals: Residuals) -> Family:
        """What is left to publish if nothing could be evaluated."""
        found = unevaluated(residuals)
        if self.evaluators and self.config.normalization != "combine":
            return found
        (kind, *_) = self.kinds(window, None)
        return replace(found, candidates=tuple(replace(each, statistics=kind) for each in found.candidates))

    def kinds(self, window: Window, offered: frozenset[str] | None) -> tuple[str, ...]:
        """The ways in which normalization statistics are made in a window; a wanted way that is impossible is reported."""
        kinds, problem = statistics_modes.kinds(self.config.normalization, window.layouts[-1], offered)
        if problem is not None:
            self.recorder.problem(NORMALIZATION, *problem)
        return kinds


class CheckpointEvaluation:
    """The evaluation of one checkpoint's candidates; `outcome` is what it gave so far."""

    def __init__(self, rounds: EvaluationRounds, window: Window, residuals: Residuals, members: Family) -> None:
        self._rounds = rounds
        self._config = rounds.config
        self._recorder = rounds.recorder
        self._evaluators = rounds.evaluators
        self._window = window
        self._residuals = residuals
        self.outcome = Evaluated(members)
        # in which ways normalization statistics are made; with two, the second has candidates of its own
        self._kinds: tuple[str, ...] = (CLAMPED,)
        self._name = window.members[-1].name
        self._since = time.time()
        self._done = 0
        self._total = 0

    def run(self, *, search: bool) -> None:
        """Evaluate the original, then (if `search`) everything else; a failure is recorded and costs that candidate only."""
        last, *others = self.outcome.family.candidates
        self._total = 1 + len(others)
        if not self._evaluate([last]) or not search:
            return  # what fails on the original fails on the rest
        offered = offers(self._evaluators[0], self._recorder) if self._evaluators else frozenset()
        self._kinds = self._rounds.kinds(self._window, offered)
        originals = [last, *self._re_estimated(last)]
        finalists = self._first_round([self._variant(each, self._kinds[0]) for each in others], offered)
        kept = [self._variant(each, kind) for each in finalists for kind in self._kinds]
        names = {each.name for each in finalists}
        self.outcome.family = replace(
            self.outcome.family,
            candidates=(*originals, *kept),
            left_out=(*(each.name for each in others if each.name not in names), *self.outcome.family.left_out),
        )
        self._total = len(originals) + len(kept)
        if not self._evaluate(kept):
            return
        for method, find in SEARCHES.items():
            if method in self._config.methods and (method not in FITTED or TRAINING_LOSS in offered):
                find(self)

    def _re_estimated(self, last: Candidate) -> list[Candidate]:
        """The original with its statistics re-estimated, a bar for all others; where that fails, no other is tried so."""
        if RE_ESTIMATED not in self._kinds:
            return []
        variant = replace(last, name=f"{LAST}{_RE_ESTIMATED_SUFFIX}", statistics=RE_ESTIMATED)
        if self._evaluate([variant]):
            self._recorder.solved(NORMALIZATION)
            return [variant]
        self._kinds = tuple(kind for kind in self._kinds if kind != RE_ESTIMATED) or (CLAMPED,)
        return []

    # -- rounds of evaluation

    def _evaluate(self, candidates: Sequence[Candidate]) -> bool:
        """Evaluate the candidates that are not known yet; returns whether any of them is known now."""
        self.outcome.evaluated |= {each.name for each in candidates if self._at_hand(each)}
        settled = self._recorder.state.metric
        metric = self._config.metric or (settled.metric if settled is not None else None)
        if metric is not None and any(each.name in self.outcome.evaluated for each in candidates):
            settle(metric, self._config, self._recorder)  # what is known is used, whichever metric chose before
        self._round([each for each in candidates if each.name not in self.outcome.evaluated], None)
        return not candidates or any(each.name in self.outcome.evaluated for each in candidates)

    def _at_hand(self, each: Candidate) -> bool:
        """Whether a candidate was evaluated before a restart, with nothing lost that choice and publication need.

        The journal holds no per-example values, no re-estimated statistics, and nothing that the user's training loss drew.
        Per-example values of the metric that chose before are not missed where another one chooses now.
        """
        current = self._recorder.checkpoint(self._name)
        if current is None or each.name not in current.evaluations:
            return False
        lost = (each.statistics == RE_ESTIMATED and each.method != LAST) or each.method in FITTED
        if self._evaluators:
            wanted = self._config.metric
            by = current.chosen_by[1] if current.chosen_by else None
            lost = lost or current.judge != self._recorder.state.judge
            lost = lost or (wanted is not None and wanted not in current.evaluations[each.name])
            values = current.examples.get(each.name, 0) > 0
            values = values or (current.losses.get(each.name, "") != "" and self._config.choose_by != "metric")
            lost = lost or (values and (by is None or by[0] == (wanted or by[0])))
        return not lost and self._same(each, current.models.get(each.name, ""))

    def _round(self, wanted: Sequence[Candidate], fraction: float | None) -> None:
        if self._evaluators:
            spread(self._evaluators, wanted, partial(self._evaluate_one, fraction))

    def _evaluate_one(self, fraction: float | None, evaluator: Evaluator, each: Candidate) -> None:
        self._show(f"evaluating {each.name}")
        re_estimate = each.statistics == RE_ESTIMATED
        try:
            recipe = self.outcome.combination(each, self._window)
            result = evaluator.evaluate(recipe, fraction=fraction, re_estimate=re_estimate)
            metric = self._metric(each, result)
        except EvaluationFailed as error:
            if re_estimate and each.method == LAST:
                what = f"normalization statistics cannot be re-estimated, and combined ones are used: {error}"
                self._recorder.problem(NORMALIZATION, what, "repair it, or set normalization to clamp")
                return
            self._recorder.record(e.EvaluationFailed(checkpoint=self._name, candidate=each.name, reason=str(error)))
            failed(self._recorder, error)
            return
        self._recorder.solved("evaluator")
        self._keep(each, as_kept(result, metric, self._recorder), metric, fraction)

    def _show(self, stage: str) -> None:
        """Say what is being done."""
        total = max(self._total, self._done + 1)
        self._rounds.show(
            Work(checkpoint=self._name, stage=stage, done=self._done, total=total, unit="models", since=self._since)
        )

    def _metric(self, each: Candidate, result: Evaluation) -> str:
        """The choosing metric; it changes if a new evaluator gives the original another one.

        Raises:
            EvaluationFailed: the metric is missing.
        """
        settled = self._recorder.state.metric
        wanted = self._config.metric or (settled.metric if settled is not None else None)
        if self._config.metric is None and each.method == LAST and wanted not in result.metrics:
            wanted = None
        return choosing_metric(result.metrics, wanted)

    def _keep(self, each: Candidate, result: Evaluation, metric: str, fraction: float | None) -> None:
        self._done += 1
        if fraction is not None:
            self._recorder.record(
                e.Screened(
                    checkpoint=self._name,
                    candidate=each.name,
                    fraction=fraction,
                    metrics=result.metrics,
                    seconds=result.seconds,
                    model=self._window.model(each),
                )
            )
            return
        if metric in result.examples:
            self.outcome.examples[each.name] = result.examples[metric]
        if each.method == LAST:
            self.outcome.loss = ranking_loss(metric, result.examples, self._config, self._recorder)
        loss = self.outcome.loss if self.outcome.loss in result.examples else ""
        if loss:
            self.outcome.losses[each.name] = result.examples[loss]
        if result.statistics:
            self.outcome.statistics[each.name] = result.statistics
        self._recorder.record(
            e.Evaluated(
                checkpoint=self._name,
                candidate=each.name,
                metrics=result.metrics,
                seconds=result.seconds,
                examples=len(result.examples.get(metric, ())),
                recipe=recorded(each),
                model=self._window.model(each),
                loss=loss,
                training=branch.training if (branch := self.outcome.branches.get(each.name)) else {},
            )
        )
        self.outcome.evaluated.add(each.name)
        settle(metric, self._config, self._recorder)

    def _value(self, name: str) -> float | None:
        """What ranks a candidate, or the one that it equals; None if it is not known."""
        name = self.outcome.family.duplicates.get(name, name)
        current = self._recorder.checkpoint(self._name)
        return self._number(current.evaluations.get(name)) if current and name in self.outcome.evaluated else None

    def _screened(self, candidates: Sequence[Candidate]) -> dict[str, e.Metrics]:
        """What a first round on this part of the data said of these models."""
        current = self._recorder.checkpoint(self._name)
        said = current.screened if current else {}
        alike = [each for each in candidates if each.name in said and self._same(each, said[each.name].model)]
        return {m.name: said[m.name].metrics for m in alike if said[m.name].fraction == self._config.first_round}

    def _same(self, each: Candidate, model: str) -> bool:
        """Whether what was recorded under a candidate's name is its model; journals of 0.1.0 do not tell."""
        return not model or model == self._window.model(each)

    def _number(self, metrics: e.Metrics | None) -> float | None:
        settled = self._recorder.state.metric
        return metrics.get(self.outcome.loss or settled.metric) if metrics and settled else None

    def _mode(self) -> Mode | None:
        """Whether what ranks candidates is minimized or maximized; None where the metric's direction is not known."""
        mode = mode_of(self._recorder.state)
        return "min" if mode and self.outcome.loss else mode

    def _ranked(
        self, candidates: Sequence[Candidate], values: Mapping[str, e.Metrics] | None = None
    ) -> list[Candidate]:
        """Those that have a value (in a first round, by these metrics), best first; none where the direction is not known."""
        mode = self._mode()
        if mode is None:
            return []
        value = self._value if values is None else lambda name: self._number(values.get(name))
        return ranked(candidates, lambda each: value(each.name), mode)

    # -- variants

    def _variant(self, each: Candidate, kind: str) -> Candidate:
        """A candidate with its statistics made in a way; named after that if there are two ways."""
        suffix = _RE_ESTIMATED_SUFFIX if kind == RE_ESTIMATED and len(self._kinds) > 1 else ""
        return replace(each, name=f"{each.name}{suffix}", statistics=kind)

    def _best_kind(self) -> str:
        """How the best candidate's statistics are made."""
        best = self._ranked([each for each in self.outcome.family.candidates if each.method != LAST])
        return best[0].statistics if best else self._kinds[0]

    def _first_round(self, candidates: list[Candidate], offered: frozenset[str]) -> list[Candidate]:
        """As many as may be evaluated; by a cheap round on a part of the data, if it is wanted."""
        fraction = self._config.first_round
        limit = self._config.max_candidates
        if len(candidates) <= limit:
            return candidates
        if fraction is None:
            return cut(candidates, limit)
        if FRACTION not in offered:
            self._recorder.problem(
                "first_round",
                f"first_round is set, but the evaluator offers no '{FRACTION}'",
                "add it, or leave first_round out",
            )
            return cut(candidates, limit)
        self._recorder.solved("first_round")
        screened = cut(candidates, SCREENED * limit)
        self._done, self._total = 0, len(screened)
        known_already = self._screened(screened)
        self._round([each for each in screened if each.name not in known_already], fraction)
        self._done = 1  # the original
        values = self._screened(screened)
        known = self._ranked(screened, values)
        return cut([*known, *(each for each in screened if each not in known)], limit, screened)

    # -- candidates that evaluations or gradients lead to

    def soup(self) -> None:
        """Add a greedy soup of the window's checkpoints, as far as the evaluator that judges now has judged them."""
        mode = self._mode()
        if mode is None:
            return
        # as they are known now: the newest was evaluated after the window was made
        members = [
            self._recorder.checkpoint(name) or known
            for name, known in zip(self._window.names, self._window.members, strict=True)
        ]
        # what another evaluator said of a member cannot be compared
        judge = self._recorder.state.judge
        values = [self._number(member.evaluations.get(LAST)) if member.judge == judge else None for member in members]
        kind = self._best_kind()

        def evaluate(candidate: Candidate) -> float | None:
            variant = self._variant(candidate, kind)
            self._add([variant])
            return self._value(variant.name)

        searched_candidates.soup(self._residuals, values, mode, evaluate)

    def line(self) -> None:
        """Add the points of a line search through the best solution."""
        solutions = [each for each in self.outcome.family.candidates if kind_of(each.method) == SOLUTIONS]
        for through in self._ranked(solutions)[:1]:
            self._add(searched_candidates.line(self._residuals, through))

    def trained(self) -> None:
        """Add one row of weights fitted from the best combination on, or report why there is none."""
        rows = [each for each in self.outcome.family.candidates if not each.layer_weights]
        self._fitted(TRAINED, self._ranked(rows))

    def layered(self) -> None:
        """Add a row of weights for each tensor, fitted from the best plain average on, or report why there are none."""
        averages = [each for each in self.outcome.family.candidates if kind_of(each.method) == AVERAGES]
        self._fitted(LAYERED, self._ranked(averages))

    def _fitted(self, method: str, starts: Sequence[Candidate]) -> None:
        """Add weights fitted from the first start on, or report why there are none."""
        if not starts:
            return
        name = f"{method}-{len(self._window.residuals)}"
        request = FitRequest(
            method=method,
            combination=self._window.combination(starts[0]),
            seed=self._window.members[-1].step or 0,
            memory_limit_bytes=int(self._config.fit_memory * 2**30),
        )
        self._show("fitting weights")
        candidate, said = searched_candidates.fitted(self._residuals, name, request, self._evaluators[0].fit)
        if candidate is None:
            self._recorder.record(e.EvaluationFailed(checkpoint=self._name, candidate=name, reason=said))
            remedy = f"repair training_loss, or leave '{method}' out of methods"
            self._recorder.problem(method, f"weights cannot be fitted ({method}): {said}", remedy)
            return
        self._recorder.solved(method)
        if said:
            self._recorder.record(e.Noted(checkpoint=self._name, text=f"{name}: {said}"))
        # a fit in training mode knows nothing of combined statistics
        kind = RE_ESTIMATED if method == LAYERED and RE_ESTIMATED in self._kinds else self._best_kind()
        self._add([self._variant(candidate, kind)])

    def anneal(self) -> None:
        """Add what the run would be worth if it were cooled down now: branches from the last checkpoint and the best average."""
        last, *others = self.outcome.family.candidates
        averages = self._ranked([each for each in others if kind_of(each.method) == AVERAGES])
        self._show("cooling down")
        made = annealed.branches(
            self._window,
            [last, *averages[:1]],
            config=self._config,
            recorder=self._recorder,
            evaluator=self._evaluators[0],
            scratch=self._rounds.scratch,
        )
        for candidate, branch in made:
            self.outcome.branches[candidate.name] = branch
            self._rounds.files.append(Path(branch.layout.path))
            self.outcome.family = replace(self.outcome.family, candidates=(*self.outcome.family.candidates, candidate))
            self._total += 1
            self._evaluate([candidate])
            self._show("cooling down")

    def _add(self, candidates: Sequence[Candidate]) -> None:
        """Add candidates, whose statistics are made in one way, to the family if they are models of their own; evaluate them."""
        known = self.outcome.family.candidates
        names = {each.name for each in known}
        kind = candidates[0].statistics
        alike = [each for each in known if each.statistics == kind or (each.method == LAST and kind != RE_ESTIMATED)]
        kept, twins = distinct([*alike, *candidates], self._residuals)
        new = [each for each in kept if each.name not in names]
        others = [(each, twin) for each, twin in twins if each.name not in names]
        self.outcome.family = replace(
            self.outcome.family, candidates=(*known, *new), twins=(*self.outcome.family.twins, *others)
        )
        self._total += len(new)
        self._evaluate(new)


# how the members of searched methods are found, in the order in which they are tried
SEARCHES = {
    SOUP: CheckpointEvaluation.soup,
    LINE: CheckpointEvaluation.line,
    TRAINED: CheckpointEvaluation.trained,
    LAYERED: CheckpointEvaluation.layered,
    ANNEAL: CheckpointEvaluation.anneal,
}
