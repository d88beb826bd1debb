import math

import pytest

from rna_watch.comparison.comparison import compare
from rna_watch.errors import NothingToDo, UsageError
from rna_watch.journal import events as e
from rna_watch.journal.replay import RunState

from .run_of import Run, usual_run


def both(error, test_error):
    """Two metrics of one candidate."""
    return {"error": error, "test_error": test_error}


def test_the_best_of_a_kind_is_picked_by_the_choosing_metric():
    """The candidate that looks best on the shown metric is not taken: a user could not have known."""
    run = Run().checkpoint(
        3,
        {
            "last": both(9.0, 9.0),
            "average-2": both(5.0, 8.0),
            "average-3": both(6.0, 4.0),
            "rna-2-1e-08": both(7.0, 7.0),
        },
    )
    (row,) = compare(run.state, metric="test_error").rows
    assert (row.points["average"].candidate, row.points["average"].value) == ("average-2", 8.0)
    assert row.best == ("rna",)


def test_kinds_hold_their_methods_and_unknown_methods_stand_alone():
    """Averages of any kind are averages, constrained solutions are RNA, and what nobody knows is shown by its name."""
    values = {
        "last": 9.0,
        "ema-5": 3.0,
        "decay-sqrt-5": 2.0,
        "soup": 2.5,
        "cumulative": 2.6,
        "simplex-5-1e-08": 4.0,
        "capped-5-1e-08": 3.5,
        "trained": 1.0,
        "line": 6.0,
        "magic-7": 0.5,
    }
    comparison = compare(Run().checkpoint(9, values, residuals=5).state)
    assert comparison.kinds == ("original", "average", "rna", "trained", "line", "magic")
    (row,) = comparison.rows
    assert {kind: row.points[kind].candidate for kind in comparison.kinds} == {
        "original": "last",
        "average": "decay-sqrt-5",
        "rna": "capped-5-1e-08",
        "trained": "trained",
        "line": "line",
        "magic": "magic-7",
    }


@pytest.mark.parametrize(
    ("better", "taken", "value"), [(True, "average-2", 2.0), (False, "original", 3.0), (None, "original", 3.0)]
)
def test_what_is_taken_is_the_original_unless_the_choice_is_better(better, taken, value):
    """A user takes the original without a proof that a model is better."""
    run = Run().checkpoint(3, {"last": 3.0, "average-2": 2.0}, chosen="average-2", better=better)
    (row,) = compare(run.state).rows
    assert (row.points["chosen"].candidate, row.points["chosen"].value) == (taken, value)


def test_a_checkpoint_still_in_work_has_no_choice_yet():
    """The newest row of a living run has no chosen value; a finished one without a choice has the original."""
    run = Run().checkpoint(1, {"last": 9.0}).checkpoint(2, {"last": 8.0, "average-2": 7.0}, finished=False)
    first, second = compare(run.state).rows
    assert first.points["chosen"].candidate == "original"
    assert "chosen" not in second.points


def test_what_was_not_evaluated_is_missing_and_what_is_no_number_never_wins():
    """No value is invented: a missing metric, NaN and a missing original stay so."""
    run = Run()
    run.checkpoint(3, {"last": math.nan, "average-2": 2.0, "rna-2-1e-08": math.nan})
    run.checkpoint(4, {"average-2": both(2.0, 1.0), "rna-2-1e-08": {"test_error": 1.0}})
    first, second = compare(run.state).rows
    assert first.value("original") is None
    assert first.value("rna") is None
    assert first.best == ()
    assert set(second.points) == {"average", "average-2", "rna-2-1e-08"}
    assert second.value("rna-2-1e-08") is None


def test_equal_values_are_a_tie_beyond_rounding():
    """Both kinds are best where they differ by the rounding of a mean."""
    run = Run().checkpoint(3, {"last": 9.0, "average-2": 3.5, "rna-2-1e-08": 3.5000000000000004})
    assert compare(run.state).rows[0].best == ("average", "rna")


def test_fixed_recipes_grow_with_the_window_and_are_the_papers_and_its_rivals():
    """rna-5-1e-08 and average-5 start as those over fewer checkpoints; rare names have no column."""
    run = usual_run()
    run.checkpoint(13, {"last": 5.0, "average-5": 4.0, "rna-5-1e-08": 4.0, "rna-5-1e-02": 4.0}, residuals=5)
    comparison = compare(run.state)
    assert comparison.members == ("average-5", "average-2", "rna-5-1e-08")
    assert comparison.fixed == ("average-5", "rna-5-1e-08")
    steps = {row.step: row.points.get("average-5") for row in comparison.rows}
    assert steps[1] is None
    assert [steps[step].candidate for step in (3, 4, 5, 6)] == ["average-2", "average-3", "average-4", "average-5"]


def test_the_average_of_rnas_own_window_is_fixed_too():
    """RNA stands next to the average of as many checkpoints even if a longer average exists."""
    values = {
        "last": 9.0,
        "average-15": 3.0,
        "average-5": 3.0,
        "rna-5-1e-08": 2.0,
        "rna-5-1e-02": 2.0,
        "rna-2-1e-08": 2.0,
    }
    comparison = compare(Run().checkpoint(20, values, residuals=15).state)
    assert comparison.fixed == ("average-15", "average-5", "rna-5-1e-08")


def solution(regularization, *, mixing=1.0, prior="uniform", window=5):
    """A recorded recipe of RNA."""
    return {
        "method": "rna",
        "window": window,
        "regularization": regularization,
        "parameters": {"mixing": mixing, "prior": prior},
        "statistics": "clamped",
    }


@pytest.mark.parametrize("recorded", [True, False], ids=["recorded", "by name"])
def test_the_paper_s_recipe_is_the_one_with_the_paper_s_mixing_and_prior(recorded):
    """A smaller lambda of another mixing or prior is not the paper's recipe with `mixings` or `priors` set."""
    recipes = {
        "rna-5-1e-08-m0.5": solution(1e-8, mixing=0.5),
        "rna-5-1e-08-last": solution(1e-8, prior="last"),
        "rna-5-1e-08-ema-m0.5": solution(1e-8, mixing=0.5, prior="ema"),
        "rna-5-1e-04": solution(1e-4),
        "rna-5-1e-02": solution(1e-2),
        "rna-3-1e-08": solution(1e-8, window=3),
    }
    values = {"last": 9.0, "average-5": 3.0, **dict.fromkeys(recipes, 2.0)}
    run = Run().checkpoint(20, values, residuals=5, recipes=recipes if recorded else None)
    comparison = compare(run.state)
    assert comparison.fixed == ("average-5", "rna-5-1e-04")
    assert comparison.members[1:4] == ("rna-5-1e-08-ema-m0.5", "rna-5-1e-08-last", "rna-5-1e-08-m0.5")


def test_where_the_paper_s_recipe_was_not_tried_its_nearest_stands_in():
    """A run with another mixing alone still has a fixed recipe of RNA, called by its own name."""
    values = {"last": 9.0, "average-5": 3.0, "rna-5-1e-08-ema-m0.5": 2.0, "rna-5-1e-02-m0.5": 2.0}
    comparison = compare(Run().checkpoint(20, values, residuals=5).state)
    assert comparison.fixed == ("average-5", "rna-5-1e-02-m0.5")


def test_the_metric_shown_is_the_choosing_one_unless_another_is_named():
    """Its direction is the daemon's; another's is inferred from its name or given."""
    run = Run(metric="score", mode="min")
    run.checkpoint(3, {"last": {"score": 2.0, "accuracy": 0.5}, "average-2": {"score": 1.0, "accuracy": 0.7}})
    shown = compare(run.state)
    assert (shown.metric, shown.mode, shown.choosing, shown.others, shown.flattered) == (
        "score",
        "min",
        "score",
        ("accuracy",),
        True,
    )
    other = compare(run.state, metric="accuracy")
    assert (other.mode, other.choosing_mode, other.flattered) == ("max", "min", False)
    assert other.rows[0].points["average"].candidate == "average-2"
    assert compare(run.state, metric="accuracy", mode="min").mode == "min"


def test_a_journal_that_names_no_metric_is_compared_by_the_first_one():
    """Its direction is inferred, and it is not claimed that anything was chosen by it."""
    run = Run(metric=None)
    run.checkpoint(3, {"last": {"accuracy": 0.5}, "average-2": {"accuracy": 0.6}})
    comparison = compare(run.state)
    assert (comparison.metric, comparison.mode, comparison.choosing) == ("accuracy", "max", None)


def test_checkpoints_stand_in_the_order_of_their_steps():
    """Files may be seen in any order."""
    run = Run().checkpoint(10, {"last": 1.0}).checkpoint(9, {"last": 2.0})
    assert [row.step for row in compare(run.state).rows] == [9, 10]


def test_an_unknown_metric_names_those_that_are_there():
    """The error says what the evaluator reports, and the nearest name."""
    with pytest.raises(UsageError, match=r"only error, test_error; did you mean test_error\?"):
        compare(usual_run().state, metric="test_eror")


def test_nothing_evaluated_says_what_to_do():
    """No journal, no checkpoint and no evaluation are told apart, each with the command that helps."""
    with pytest.raises(NothingToDo, match="nothing is known of this run.*rna-watch once RUN_DIR --evaluator"):
        compare(RunState())
    run = Run(metric=None).admit(3)
    run.add(e.Finished(checkpoint="epoch_003.pt", reason="done"))
    with pytest.raises(NothingToDo, match="no model of this run was evaluated.*rna-watch once RUN_DIR --evaluator"):
        compare(run.state)
