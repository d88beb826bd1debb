"""The metric at a checkpoint: what the columns mean does not depend on whether a model was chosen already."""

from __future__ import annotations

from typing import Any

import pytest

from rna_watch.acceleration.family import family
from rna_watch.acceleration.methods import AVERAGES, COMPUTED, SOLUTIONS, Search, kind_of
from rna_watch.acceleration.residuals import Residuals
from rna_watch.acceleration.selection import Evidence, choose
from rna_watch.journal import events as e
from rna_watch.journal.metric import Metric, Values, values_of
from rna_watch.journal.recipe import recorded
from tests.acceleration import twins
from tests.dashboard.run_builder import RunBuilder

ERROR = Metric(name="error", mode="min")


def _evaluated(values: dict[str, float], recipes: dict[str, dict[str, Any]] | None = None) -> RunBuilder:
    run = RunBuilder().admit(9)
    for name, value in values.items():
        run.add(
            e.Evaluated(
                checkpoint="epoch_009.pt",
                candidate=name,
                metrics={"error": value},
                seconds=0.1,
                recipe=(recipes or {}).get(name, {}),
            )
        )
    return run


def _values(run: RunBuilder) -> Values:
    (checkpoint,) = run.state.checkpoints.values()
    return values_of(checkpoint, ERROR)


@pytest.mark.parametrize("best", COMPUTED)
def test_a_column_means_the_same_before_and_after_the_choice(best: str) -> None:
    """Whichever method is the best of its kind, its column holds it while candidates are evaluated and once one is chosen."""
    found = family(
        Residuals.of_differences(twins.gram(twins.linear_iterates(7, 40, seed=33, noise=1e-3))),
        Search(windows=(2, 6), regularizations=(1e-8, 1e-2), limit=100),
    ).candidates
    values = {each.name: 1.0 if each.method == best else 2.0 for each in found}
    run = _evaluated(values, {each.name: recorded(each) for each in found})
    before = _values(run)
    choice = choose(found, Evidence(values=values, mode="min"))
    metrics: dict[str, e.Metrics | None] = {
        "original": {"error": values["last"]},
        "average": {"error": values[choice.best_average or ""]},
        "rna": {"error": values[choice.best_rna or ""]},
        "chosen": {"error": values[choice.candidate.name]},
    }
    run.add(
        e.Chosen(
            checkpoint="epoch_009.pt",
            candidate=choice.candidate.name,
            method=choice.candidate.method,
            inputs=[],
            weights=[],
            metrics=metrics,
            better_than_original=True,
            significant=None,
            reason="so it is",
        )
    )
    after = _values(run)
    assert before.chosen is None
    assert (before.original, before.average, before.rna) == (after.original, after.average, after.rna)
    assert (before.average, before.rna) == {AVERAGES: (1.0, 2.0), SOLUTIONS: (2.0, 1.0)}[kind_of(best) or ""]


def test_records_without_fields_are_told_by_their_names() -> None:
    """Journals of 0.1.0 name a candidate and no more: an exponential average is an average, simplex RNA is RNA."""
    values = {"last": 5.0, "average-5": 4.0, "ema-5": 3.0, "rna-5-1e-08": 2.5, "simplex-5-1e-08": 2.0, "trained-5": 1.0}
    assert _values(_evaluated(values)) == Values(original=5.0, average=3.0, rna=2.0)


def test_a_name_that_says_otherwise_is_not_believed_against_the_record() -> None:
    """What is recorded with the evaluation counts, whatever a candidate is called."""
    run = _evaluated(
        {"last": 5.0, "average-of-mine": 1.0}, {"average-of-mine": {"method": "simplex", "statistics": "clamped"}}
    )
    assert _values(run) == Values(original=5.0, average=None, rna=1.0)
