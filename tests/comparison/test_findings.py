import pytest

from rna_watch.comparison.comparison import compare
from rna_watch.comparison.findings import compared, findings, provenance, quarters, tally

from .run_of import Run, usual_run


def text(run, **more):
    """All sentences of a run in one line each."""
    comparison = compare(run.state, **more)
    return [*provenance(comparison), *findings(comparison)]


def small():
    """Three comparable checkpoints: an average wins, a tie, the original wins."""
    run = Run().checkpoint(1, {"last": 9.0})
    run.checkpoint(
        3, {"last": 8.0, "average-2": 4.0, "rna-2-1e-08": 5.0}, chosen="average-2", better=True, significant=True
    )
    run.checkpoint(
        4, {"last": 7.0, "average-2": 4.0, "rna-2-1e-08": 4.0}, chosen="average-2", better=True, significant=False
    )
    return run.checkpoint(5, {"last": 3.0, "average-2": 4.0, "rna-2-1e-08": 3.5}, chosen="rna-2-1e-08", better=False)


def test_a_tally_counts_wins_ties_and_gains():
    """Each count is what one counts by hand; a checkpoint with nothing next to the original does not count."""
    comparison = compare(small().state)
    counts = tally(compared(comparison), comparison.kinds, comparison.mode)
    assert counts.rows == 3
    assert counts.best == {"original": 1, "average": 2, "rna": 1}
    assert counts.alone == {"original": 1, "average": 1, "rna": 0}
    assert (counts.duels, counts.average_holds, counts.average_wins) == (3, 2, 1)
    assert counts.gains == pytest.approx({"average": (4 + 3 - 1) / 3, "rna": (3 + 3 - 0.5) / 3})


def test_the_sentences_say_where_rna_loses():
    """Best counts, ties, the original's wins with their steps, fixed recipes and noise: all of them in words."""
    told = text(small())
    assert told[2:] == [
        "Best at a checkpoint, of 3 (a tie counts for each): original 1, best average 2, best RNA 1.",
        "Where RNA loses: the best average was at least as good as the best RNA at 2 of 3 checkpoints (better at 1, equal at 1).",
        "The original was better than everything else at 1 of 3 (epoch 5).",
        "As fixed recipes, average-2 was at least as good as rna-2-1e-08 at 2 of 3 (better at 1, equal at 1).",
        "A model was taken instead of the original at 2 of 3; its gain was beyond noise at 1, within noise at 1.",
    ]


def test_a_tie_with_the_original_is_no_win_of_the_original():
    """It counts as best for both, but the original is not better than everything else."""
    told = text(Run().checkpoint(3, {"last": 4.0, "average-2": 4.0, "rna-2-1e-08": 5.0}))
    assert "Best at a checkpoint, of 1 (a tie counts for each): original 1, best average 1, best RNA 0." in told
    assert "The original was better than everything else at 0 of 1." in told


def test_numbers_of_the_choosing_metric_are_called_flattered():
    """The reader learns it, and which metric is honest, if there is one."""
    told = text(usual_run())
    assert told[0] == "Models were chosen by error (lower is better), and that is shown."
    assert "flattered" in told[1]
    assert told[1].endswith("is honest: --metric test_error.")
    assert "let the evaluator report a second metric" in text(small())[1]


def test_another_metric_says_what_chose_and_whether_what_was_taken_hurt():
    """The choosing metric stands next to the shown one; harm on the shown one is counted."""
    run = Run()
    values = {"last": {"error": 5.0, "accuracy": 0.8}, "average-2": {"error": 4.0, "accuracy": 0.7}}
    told = text(run.checkpoint(3, values, chosen="average-2", better=True), metric="accuracy")
    assert told[0].startswith(
        "Models were chosen by error (lower is better); shown is accuracy (higher is better), which chose nothing"
    )
    assert "By accuracy, what was taken was worse than the original at 1 of 1." in told
    assert "No extrapolation was evaluated." in told


def test_quarters_are_the_first_and_last_checkpoints_of_a_run_long_enough():
    """Ten rows give two each; fewer than eight give none."""
    assert quarters(list(range(10))) == ([0, 1], [8, 9])
    assert quarters(list(range(7))) == ([], [])


def test_early_and_late_are_told_apart():
    """Averages that win early and RNA that wins late show as such."""
    told = text(usual_run(26))
    (first,) = [sentence for sentence in told if sentence.startswith("In the first quarter (epoch 3 to 8)")]
    (last,) = [sentence for sentence in told if sentence.startswith("In the last quarter (epoch 21 to 26)")]
    assert "best average at least as good as best RNA at 6 of 6" in first
    assert "best average at least as good as best RNA at 0 of 6" in last
    assert "mean gain over the original: best average +" in last


def test_only_originals_are_nothing_to_compare():
    """A run at its very start says so instead of counting."""
    assert text(Run().checkpoint(1, {"last": 9.0}))[-1].startswith("Nothing but originals has been evaluated")
