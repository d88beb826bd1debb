"""Searches: how the members of searched methods are found, and added to a checkpoint's evaluation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rna_watch.acceleration.methods import (
    ANNEAL,
    AVERAGES,
    LAST,
    LAYERED,
    LINE,
    PRODUCT,
    RE_ESTIMATED,
    SOLUTIONS,
    SOUP,
    TRAINED,
    kind_of,
)
from rna_watch.daemon import annealed, products, searched_candidates
from rna_watch.evaluation.evaluator import FitRequest
from rna_watch.journal import events as e

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rna_watch.acceleration.candidate import Candidate
    from rna_watch.daemon.checkpoint_evaluation import CheckpointEvaluation


def soup(evaluation: CheckpointEvaluation) -> None:
    """Add a greedy soup of the window's checkpoints, as far as the evaluator that judges now has judged them."""
    mode = evaluation.mode()
    if mode is None:
        return
    # as they are known now: the newest was evaluated after the window was made
    members = [
        evaluation.recorder.checkpoint(name) or known
        for name, known in zip(evaluation.window.names, evaluation.window.members, strict=True)
    ]
    # what another evaluator said of a member cannot be compared
    judge = evaluation.recorder.state.judge
    values = [evaluation.number(member.evaluations.get(LAST)) if member.judge == judge else None for member in members]
    kind = evaluation.best_kind()

    def evaluate(candidate: Candidate) -> float | None:
        variant = evaluation.variant(candidate, kind)
        evaluation.add([variant])
        return evaluation.value(variant.name)

    searched_candidates.soup(evaluation.residuals, values, mode, evaluate)


def line(evaluation: CheckpointEvaluation) -> None:
    """Add the points of a line search through the best solution."""
    solutions = [each for each in evaluation.outcome.family.candidates if kind_of(each.method) == SOLUTIONS]
    for through in evaluation.ranked(solutions)[:1]:
        evaluation.add(searched_candidates.line(evaluation.residuals, through))


def trained(evaluation: CheckpointEvaluation) -> None:
    """Add one row of weights fitted from the best combination on, or report why there is none."""
    rows = [each for each in evaluation.outcome.family.candidates if not each.layer_weights]
    _fitted(evaluation, TRAINED, evaluation.ranked(rows))


def layered(evaluation: CheckpointEvaluation) -> None:
    """Add a row of weights for each tensor, fitted from the best plain average on, or report why there are none."""
    averages = [each for each in evaluation.outcome.family.candidates if kind_of(each.method) == AVERAGES]
    _fitted(evaluation, LAYERED, evaluation.ranked(averages))


def _fitted(evaluation: CheckpointEvaluation, method: str, starts: Sequence[Candidate]) -> None:
    """Add weights fitted from the first start on, or report why there are none."""
    if not starts:
        return
    name = f"{method}-{len(evaluation.window.residuals)}"
    request = FitRequest(
        method=method,
        combination=evaluation.window.combination(starts[0]),
        seed=evaluation.window.members[-1].step or 0,
        memory_limit_bytes=int(evaluation.config.fit_memory * 2**30),
    )
    evaluation.show("fitting weights")
    candidate, said = searched_candidates.fitted(evaluation.residuals, name, request, evaluation.evaluators[0].fit)
    if candidate is None:
        evaluation.recorder.record(e.EvaluationFailed(checkpoint=evaluation.name, candidate=name, reason=said))
        remedy = f"repair training_loss, or leave '{method}' out of methods"
        evaluation.recorder.problem(method, f"weights cannot be fitted ({method}): {said}", remedy)
        return
    evaluation.recorder.solved(method)
    if said:
        evaluation.recorder.record(e.Noted(checkpoint=evaluation.name, text=f"{name}: {said}"))
    # a fit in training mode knows nothing of combined statistics
    kind = RE_ESTIMATED if method == LAYERED and RE_ESTIMATED in evaluation.kinds else evaluation.best_kind()
    evaluation.add([evaluation.variant(candidate, kind)])


def anneal(evaluation: CheckpointEvaluation) -> None:
    """Add what the run would be worth if it were cooled down now: branches from the last checkpoint and the best average."""
    last, *others = evaluation.outcome.family.candidates
    averages = evaluation.ranked([each for each in others if kind_of(each.method) == AVERAGES])
    evaluation.show("cooling down")
    made = annealed.branches(
        evaluation.window,
        [last, *averages[:1]],
        config=evaluation.config,
        recorder=evaluation.recorder,
        evaluator=evaluation.evaluators[0],
        scratch=evaluation.scratch,
    )
    for candidate, each in made:
        evaluation.add_made(candidate, each)
        evaluation.show("cooling down")


def product(evaluation: CheckpointEvaluation) -> None:
    """Add the best average and the best solution with products of factors, where the checkpoints have pairs of them."""
    candidates = evaluation.outcome.family.candidates
    best = [
        evaluation.ranked([each for each in candidates if kind_of(each.method) == kind])[:1]
        for kind in (AVERAGES, SOLUTIONS)
    ]
    made = products.products(
        evaluation.window,
        [each for starts in best for each in starts],
        recorder=evaluation.recorder,
        run=evaluation.run_tasks,
        scratch=evaluation.scratch,
    )
    for candidate, each in made:
        evaluation.add_made(candidate, each)


# in the order in which they are tried
SEARCHES: dict[str, Callable[[CheckpointEvaluation], None]] = {
    SOUP: soup,
    LINE: line,
    TRAINED: trained,
    LAYERED: layered,
    PRODUCT: product,
    ANNEAL: anneal,
}
