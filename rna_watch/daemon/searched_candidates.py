"""Searched candidates: combinations found with evaluations or gradients (soup, line search, fitted weights)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from rna_watch.acceleration.candidate import of_weights
from rna_watch.acceleration.methods import LINE, SOUP
from rna_watch.acceleration.significance import gain, ranked
from rna_watch.errors import EvaluationFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rna_watch.acceleration.candidate import Candidate
    from rna_watch.acceleration.residuals import Residuals
    from rna_watch.acceleration.significance import Mode
    from rna_watch.evaluation.evaluator import Fit, FitRequest

_LINE_FACTORS = (0.5, 1.5, 2.0)


def soup(
    residuals: Residuals, values: Sequence[float | None], mode: Mode, evaluate: Callable[[Candidate], float | None]
) -> None:
    """Greedy soup (Wortsman et al. 2022): from the best checkpoint on, each next best joins if the average gains.

    Args:
        residuals: the window's residuals.
        values: the choosing metric of the K checkpoints, oldest first; None or NaN if it is not known.
        mode: whether the metric is minimized or maximized.
        evaluate: evaluates a candidate and returns its value; None if that failed.
    """
    known = {k: value for k, value in enumerate(values) if value is not None}
    order = ranked(reversed(known), lambda k: known[k], mode)
    if len(order) < 2:
        return
    ingredients, best = [order[0]], known[order[0]]
    for k in order[1:]:
        tried = sorted([*ingredients, k])
        weights = [1.0 / len(tried) if i in tried else 0.0 for i in range(len(values))]
        ages = "+".join(str(len(values) - 1 - i) for i in reversed(tried))
        value = evaluate(of_weights(residuals, f"{SOUP}-{ages}", SOUP, weights, {"ages": ages}))
        if value is not None and gain(value, best, mode) > 0:
            ingredients, best = tried, value


def line(residuals: Residuals, through: Candidate) -> list[Candidate]:
    """Candidates on the line from the newest checkpoint through a solution and beyond, with its way of statistics."""
    newest = [0.0] * (len(through.weights) - 1) + [1.0]
    found = []
    for t in _LINE_FACTORS:
        weights = [(1.0 - t) * last + t * weight for last, weight in zip(newest, through.weights, strict=True)]
        name = f"{LINE}-{t:g}-{through.name}"
        candidate = of_weights(residuals, name, LINE, weights, {"factor": t, "through": through.name})
        found.append(replace(candidate, statistics=through.statistics))
    return found


def fitted(
    residuals: Residuals, name: str, request: FitRequest, fit: Callable[[FitRequest], Fit]
) -> tuple[Candidate | None, str]:
    """Weights fitted by a few steps inside the window's span (Li et al. 2022), or why there are none.

    Args:
        residuals: the window's residuals.
        name: the candidate's name.
        request: one row of weights or one for each tensor, the weights to start from, and the limits.
        fit: an evaluator's `fit`.
    """
    try:
        found = fit(request)
    except EvaluationFailed as error:
        return None, str(error)
    layers = {each: row for each, row in found.layer_weights.items() if row != found.weights}
    return of_weights(residuals, name, request.method, found.weights, layer_weights=layers), "; ".join(found.notes)
