import dataclasses

import pytest

from rna_watch.journal import events as e
from rna_watch.journal.words import describe
from tests.dashboard.run_builder import RunBuilder, realistic_run


def last_line(run, *, with_state=True):
    """The line of the run's last event."""
    return describe(run.events[-1], run.state if with_state else None)


def chosen_run(**values):
    """A run whose last event is a choice."""
    known = {"original": 0.0522, "average": 0.0450, "rna": 0.0401, "weights": [0, -0.2, 0.2, 0.2, 0.3, 0.5]}
    return RunBuilder().admit(10).choose(10, **(known | values))


def test_an_output_is_told_with_its_numbers():
    """The line of a published model names it, what it is, and what it is compared with."""
    run = chosen_run().publish(10)
    assert last_line(run) == (
        "epoch_010.pt  published rna/epoch_010.pt: rna-5-1e-08 error 0.0401 (original 0.0522, best average 0.0450)"
    )
    assert last_line(run, with_state=False) == "epoch_010.pt  published epoch_010.pt (44.7 MB in 0.2 s)"


def test_an_output_elsewhere_is_told_in_full():
    """A person sees the whole path with --output, because it does not lie in the run folder."""
    run = RunBuilder()
    run.events[0] = dataclasses.replace(run.events[0], output="/elsewhere")
    run.admit(10).publish(10)
    assert last_line(run) == "epoch_010.pt  published /elsewhere/rna/epoch_010.pt (44.7 MB in 0.2 s)"


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        ({}, ": better than the original"),
        ({"significant": False}, ": better than the original, but not beyond noise"),
        ({"original": 0.04}, ": not better than the original"),
        ({"original": None}, ""),
    ],
)
def test_a_choice_says_whether_it_is_better(values, verdict):
    """A choice by itself tells the numbers and the verdict, and no verdict where none is known."""
    line = last_line(chosen_run(**values), with_state=False)
    assert line.startswith("epoch_010.pt  chose rna-5-1e-08 error 0.0401")
    assert line.endswith(")" + verdict)


def test_a_choice_without_an_evaluator_says_so():
    """No number is claimed if nothing was evaluated."""
    run = chosen_run(original=None, average=None, rna=None, candidate="rna-5-1e-08")
    assert last_line(run, with_state=False) == "epoch_010.pt  chose rna-5-1e-08, not evaluated"


@pytest.mark.parametrize(
    ("event", "line"),
    [
        (e.Waiting(checkpoint="a.pt", reason="it grows"), "a.pt  not complete yet: it grows"),
        (e.Refused(checkpoint="a.pt", reason="no tensors"), "a.pt  cannot be used: no tensors"),
        (e.Vanished(checkpoint="a.pt"), "a.pt  gone before it could be used"),
        (e.WindowStarted(checkpoint="a.pt", reason="other shapes"), "a.pt  starts a new window: other shapes"),
        (e.Finished(checkpoint="a.pt", reason="first"), "a.pt  no output: first"),
        (e.Skipped(checkpoint="a.pt", reason="NaN weights"), "a.pt  left out: NaN weights"),
        (e.Failed(checkpoint="a.pt", reason="disk", will_retry=True), "a.pt  failed: disk; it is tried again"),
        (e.Failed(checkpoint="a.pt", reason="disk", will_retry=False), "a.pt  failed: disk; given up"),
        (e.EvaluationFailed(checkpoint="a.pt", candidate="last", reason="oom"), "a.pt  evaluation of last failed: oom"),
        (e.BestMoved(checkpoint="a.pt", output="a.pt", value=0.04), "a.pt  best so far: rna/a.pt, error 0.0400"),
        (e.Pruned(checkpoint="a.pt", output="a.pt"), "a.pt  no longer kept: rna/a.pt"),
        (e.MetricChosen(metric="accuracy", mode="max"), "models are chosen by accuracy, higher is better"),
        (e.Problem(key="disk", what="no room", remedy="make some"), "problem: no room; make some"),
        (e.Solved(key="disk"), "solved: disk"),
        (e.Noted(text="hello"), "hello"),
        (
            e.Hooked(checkpoint="a.pt", hook="on_model", of=7, seconds=2.0, code=0),
            "a.pt  on_model was called: 2.0 s",
        ),
        (
            e.Hooked(checkpoint="a.pt", hook="on_best", of=8, seconds=2.0, code=7, reason="it ended with status 7"),
            "a.pt  on_best failed: it ended with status 7",
        ),
        (e.Stopped(reason="rna-watch stop"), "stopped: rna-watch stop"),
        (e.Evaluated(checkpoint="a.pt", candidate="last", metrics={"error": 1.0}, seconds=1.0), None),
        (e.Publishing(checkpoint="a.pt", output="a.pt", temporary=".a", manifest_digest=""), None),
        (e.Aliased(checkpoint="last.pt", of="a.pt"), "last.pt  is another name of a.pt"),
        (e.Unpinned(checkpoint="a.pt", reason="out of the window"), None),
    ],
)
def test_each_event_speaks_plainly(event, line):
    """Every kind of event has its line in a person's words, and routine has none."""
    run = RunBuilder()
    run.add(event)
    if isinstance(event, e.MetricChosen):
        assert describe(event) == line
    assert last_line(run) == line


def test_the_start_says_what_is_watched_and_what_is_missing():
    """The first line names the run, the folder written to, and that without an evaluator nothing is evaluated."""
    run = RunBuilder(evaluator=None, metric=None)
    assert last_line(run) == (
        "watching /scratch/runs/cifar10-resnet18, writing to /scratch/runs/cifar10-resnet18/rna; ray engine; "
        "nothing is evaluated: add --evaluator (rna-watch 0.1.0, gpu-07:41233)"
    )


def test_the_former_name_of_the_local_engine_is_read_as_its_name():
    """A journal of 0.1.0 says `inline`, newer ones `local`: the line is the same."""
    start = RunBuilder().events[0]
    old, new = (describe(dataclasses.replace(start, engine=name)) for name in ("inline", "local"))
    assert old == new
    assert "; local engine; " in new


def test_measuring_tells_how_fast_it_read():
    """The line of a measurement has the bytes, the time and the rate, and none of them divides by zero."""
    run = RunBuilder().admit(1).measure(1)
    assert last_line(run) == "epoch_001.pt  measured: read 268 MB in 1.5 s (179 MB/s)"
    at_once = dataclasses.replace(run.events[-1], seconds=0.0)
    assert describe(at_once) == "epoch_001.pt  measured: read 268 MB in 0.0 s"


def test_no_line_breaks_the_terminal():
    """A name or a reason from outside cannot add lines or control codes to a log."""
    event = e.Failed(checkpoint="a\x1b[2J\n.pt", reason="line one\nline two\x07", will_retry=False)
    line = describe(event)
    assert line.isprintable()
    assert "line one line two" in line


def test_every_event_of_a_whole_run_can_be_told():
    """No event of a real sequence raises, with or without the state."""
    run = realistic_run()
    for event in run.events:
        for line in (describe(event), describe(event, run.state)):
            assert line is None or line.isprintable()
