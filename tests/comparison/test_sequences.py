"""What is compared: one sequence of checkpoints at a time, as its training finally went."""

import pytest

from rna_watch.comparison.comparison import compare
from rna_watch.comparison.findings import provenance
from rna_watch.comparison.record import record
from rna_watch.errors import UsageError
from rna_watch.journal import events as e

from .run_of import Run


def evaluated(run, step, value, *, name=None, inputs=(), restart=False):
    """A checkpoint whose original was evaluated; `inputs` stood in its window."""
    name = name or f"epoch_{step:03}.pt"
    run.admit(step, name=name)
    if restart:
        run.add(e.WindowStarted(checkpoint=name, reason="a restart"))
    if inputs:
        pairs = [[one, other] for one, other in zip(inputs, [*inputs[1:], name], strict=True)]
        run.add(e.Measured(checkpoint=name, residuals=pairs, rows=[], rounding_energy=0.0, read_bytes=0, seconds=0.0))
    metrics = {"error": value}
    return run.add(e.Evaluated(checkpoint=name, candidate="last", metrics=metrics, seconds=0.1))


def curve(state, **options):
    """Steps and values of the original."""
    return compare(state, **options).curve("original")


def test_a_rerun_is_not_joined_with_what_it_went_over_again():
    """What an earlier run left of later steps is another training: it is left out, and said to be."""
    run = Run()
    for step in range(1, 7):
        evaluated(run, step, 10.0 - step)
    for step in range(1, 4):
        evaluated(run, step, 20.0 - step, restart=step == 1)
    assert curve(run.state) == [(1, 19.0), (2, 18.0), (3, 17.0)]
    comparison = compare(run.state)
    assert comparison.taken_back == 3
    assert any("3 evaluated checkpoints are left out" in sentence for sentence in provenance(comparison))


def test_a_run_that_was_taken_up_again_keeps_what_came_before():
    """The earlier epochs still count after a restart from epoch 3; those that it went over again do not."""
    run = Run()
    for step in range(1, 7):
        evaluated(run, step, 10.0 - step)
    for step in (4, 5):
        evaluated(run, step, 20.0 - step, restart=step == 4)
    assert curve(run.state) == [(1, 9.0), (2, 8.0), (3, 7.0), (4, 16.0), (5, 15.0)]


def test_a_window_that_begins_anew_for_another_reason_takes_nothing_away():
    """A jump of the learning rate begins a new window of the same training."""
    run = Run()
    for step in range(1, 5):
        evaluated(run, step, 10.0 - step, restart=step == 3)
    assert [step for step, _ in curve(run.state)] == [1, 2, 3, 4]
    assert compare(run.state).taken_back == 0


def test_sequences_of_one_folder_are_compared_apart():
    """Generator and discriminator have a comparison each; the longer one is shown, and how to see the other is said."""
    run = Run()
    for step in range(1, 4):
        evaluated(run, step, 1.0 * step, name=f"G_{step}.pt")
        evaluated(run, step, 10.0 * step, name=f"D_{step}.pt")
    evaluated(run, 4, 4.0, name="G_4.pt")
    assert curve(run.state) == [(1, 1.0), (2, 2.0), (3, 3.0), (4, 4.0)]
    assert curve(run.state, sequence="D_#.pt") == curve(run.state, sequence="D") == [(1, 10.0), (2, 20.0), (3, 30.0)]
    comparison = compare(run.state)
    assert "--sequence 'D_#.pt'" in provenance(comparison)[0]
    assert (record(comparison)["sequence"], record(comparison)["sequences"]) == ("G_#.pt", ["G_#.pt", "D_#.pt"])
    with pytest.raises(UsageError, match=r"no sequence .* begins with 'E_#.pt'.*G_#.pt, D_#.pt; did you mean"):
        compare(run.state, sequence="E_#.pt")


def test_a_rewritten_name_belongs_to_those_whose_windows_it_fills():
    """What stood in one window with numbered checkpoints is compared with them."""
    run = Run()
    evaluated(run, 1, 3.0)
    evaluated(run, 2, 2.0, name="last.epoch2.pt", inputs=["epoch_001.pt"])
    evaluated(run, 3, 1.0, inputs=["epoch_001.pt", "last.epoch2.pt"])
    assert [step for step, _ in curve(run.state)] == [1, 2, 3]
    assert compare(run.state).sequences == ("epoch_#.pt",)
