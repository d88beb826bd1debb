"""A kept model: one that was published before, evaluated as it lies there, and decided on with what is known of it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from rna_watch.acceleration.family import Family, family
from rna_watch.acceleration.methods import COMBINED, LAST, RE_ESTIMATED, Search
from rna_watch.acceleration.residuals import Residuals
from rna_watch.daemon.checkpoint_evaluation import re_estimated
from rna_watch.daemon.evaluated import Evaluated
from rna_watch.daemon.settled_metric import settle
from rna_watch.daemon.window import Window
from rna_watch.journal.recipe import read

if TYPE_CHECKING:
    from rna_watch.acceleration.candidate import Candidate
    from rna_watch.daemon.evaluation_rounds import EvaluationRounds
    from rna_watch.journal.replay import Checkpoint
    from rna_watch.layout.layout import Layout


def candidates_of(checkpoint: Checkpoint) -> tuple[Candidate, ...]:
    """The original, also with statistics re-estimated, and the chosen model, as candidates whose evaluations can be compared.

    If none was chosen, the original is alone.
    """
    (original,) = family(Residuals.of_differences(np.zeros((1, 1))), Search(methods=(), limit=0)).candidates
    chosen = checkpoint.chosen
    if chosen is None:
        return (original,)
    recipe = checkpoint.recipes.get(chosen.candidate) or read(chosen.candidate, {})
    model = replace(
        original,
        name=chosen.candidate,
        method=recipe.method or chosen.method,
        window=recipe.window or len(chosen.weights) - 1,
        regularization=recipe.regularization,
        weights=tuple(chosen.weights),
        parameters=dict(recipe.parameters),
        # what the file holds is evaluated: nothing of it is estimated or clamped again
        statistics=COMBINED if recipe.statistics == RE_ESTIMATED else recipe.statistics,
    )
    return original, re_estimated(original), model


def evaluate(
    checkpoint: Checkpoint, layouts: dict[str, Layout], candidates: tuple[Candidate, ...], rounds: EvaluationRounds
) -> Evaluated:
    """Evaluate the original and the published model of a checkpoint, as far as they are there and were not evaluated yet.

    The original is evaluated with re-estimated statistics too, where a window's candidates would be.

    Args:
        checkpoint: the checkpoint.
        layouts: of the files that are there, by the candidate's name.
        candidates: of that checkpoint.
        rounds: how evaluation is done.

    Returns:
        What was found, with them as family.
    """
    found = Evaluated(Family(candidates=candidates))
    residuals = Residuals.of_differences(np.zeros((1, 1)))
    for each in candidates:
        current = rounds.recorder.current(checkpoint.name)
        known = current.evaluations if current.judge == rounds.recorder.state.judge or not rounds.evaluators else {}
        metric = rounds.config.metric
        if each.name in known and (metric is None or metric in known[each.name]):
            settle(metric or _settled(rounds) or next(iter(known[each.name])), rounds.config, rounds.recorder)
        elif (layout := layouts.get(LAST if each.method == LAST else each.name)) and rounds.evaluators:
            window = Window(members=(checkpoint,), layouts=(layout,))
            if each.name != LAST and each.method == LAST and not rounds.re_estimates(window):
                continue
            outcome = rounds.run(window, residuals, Family(candidates=(each,)), search=False)
            found.evaluated |= outcome.evaluated
            found.examples |= outcome.examples
            found.losses |= outcome.losses
            found.loss = found.loss or outcome.loss
            if each.name == LAST and not outcome.evaluated:
                break  # what fails on the original fails on the rest
    return found


def _settled(rounds: EvaluationRounds) -> str | None:
    settled = rounds.recorder.state.metric
    return settled.metric if settled is not None else None
