"""Adaptive candidates: combinations that evaluations or gradients lead to (soup, line search, trained weights).

Their normalization statistics are made as those of the best candidate that came before them.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from rna_watch.acceleration.candidate import of_weights
from rna_watch.acceleration.methods import LAST, LINE, SOLUTIONS, SOUP, TRAINED, kind_of
from rna_watch.acceleration.significance import gain
from rna_watch.errors import EvaluationFailed
from rna_watch.evaluation.evaluator import FitRequest
from rna_watch.journal import events as e

if TYPE_CHECKING:
    from rna_watch.daemon.evaluation_rounds import CheckpointEvaluation

_LINE_FACTORS = (0.5, 1.5, 2.0)
_TRAINING_STEPS = 30


def soup(evaluation: CheckpointEvaluation) -> None:
    """Greedy soup (Wortsman et al. 2022): from the best checkpoint on, each next best joins if the average gains."""
    settled = evaluation.recorder.state.metric
    if settled is None:
        return
    # as they are known now: the newest was evaluated after the window was made
    members = [
        evaluation.recorder.checkpoint(name) or known
        for name, known in zip(evaluation.window.names, evaluation.window.members, strict=True)
    ]
    # what another evaluator said of a member cannot be compared
    judge = evaluation.recorder.state.judge
    said = [member.evaluations.get(LAST, {}) if member.judge == judge else {} for member in members]
    values = [metrics.get(settled.metric, math.nan) for metrics in said]
    known = [k for k, value in enumerate(values) if not math.isnan(value)]
    order = sorted(known, key=lambda k: (-gain(values[k], 0.0, evaluation.mode), -k))
    if len(order) < 2:
        return
    kind = evaluation.best_kind()
    ingredients, best = [order[0]], values[order[0]]
    for k in order[1:]:
        tried = sorted([*ingredients, k])
        weights = [1.0 / len(tried) if i in tried else 0.0 for i in range(len(values))]
        ages = "+".join(str(len(values) - 1 - i) for i in reversed(tried))
        candidate = evaluation.variant(of_weights(evaluation.residuals, f"{SOUP}-{ages}", SOUP, weights), kind)
        evaluation.add([candidate])
        value = evaluation.value(candidate.name)
        if value is not None and gain(value, best, evaluation.mode) > 0:
            ingredients, best = tried, value


def line(evaluation: CheckpointEvaluation) -> None:
    """Line search from the newest checkpoint through the best solution, and beyond."""
    best = evaluation.best([each for each in evaluation.outcome.family.candidates if kind_of(each.method) == SOLUTIONS])
    if not best:
        return
    through = best[0]
    newest = [0.0] * (len(through.weights) - 1) + [1.0]
    found = []
    for t in _LINE_FACTORS:
        weights = [(1.0 - t) * last + t * weight for last, weight in zip(newest, through.weights, strict=True)]
        candidate = of_weights(evaluation.residuals, f"{LINE}-{t:g}-{through.name}", LINE, weights)
        found.append(replace(candidate, statistics=through.statistics))
    evaluation.add(found)


def trained(evaluation: CheckpointEvaluation) -> None:
    """Weights fitted by a few gradient steps inside the window's span, from the best candidate on (Li et al. 2022)."""
    best = evaluation.best(evaluation.outcome.family.candidates)
    if not best:
        return
    newest = evaluation.window.members[-1]
    name = f"{TRAINED}-{len(evaluation.window.members) - 1}"
    request = FitRequest(
        combination=evaluation.window.combination(best[0]),
        seed=newest.step or 0,
        memory_limit_bytes=int(evaluation.config.trained_memory * 2**30),
        steps=_TRAINING_STEPS,
    )
    evaluation.show("training weights")
    try:
        fit = evaluation.evaluators[0].fit(request)
    except EvaluationFailed as error:
        evaluation.recorder.record(e.EvaluationFailed(checkpoint=newest.name, candidate=name, reason=str(error)))
        evaluation.recorder.problem(
            "trained",
            f"weights cannot be trained: {error}",
            "mend training_loss, or leave 'trained' out of methods",
        )
        return
    evaluation.recorder.solved("trained")
    evaluation.add(
        [evaluation.variant(of_weights(evaluation.residuals, name, TRAINED, fit.weights), evaluation.best_kind())]
    )


SEARCHES = {SOUP: soup, LINE: line, TRAINED: trained}
