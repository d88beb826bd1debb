"""The ten lines of `status`: whether it works, whether it helps, by how much, what is wrong."""

from __future__ import annotations

from rna_watch.dashboard.summary import summary
from rna_watch.journal import events as e
from rna_watch.journal.replay import RunState
from rna_watch.journal.status import Status

from .run_builder import RUN, RunBuilder, evaluating, realistic_run


def lines(run: RunBuilder, status: Status) -> list[str]:
    """The lines two seconds after the last event."""
    found = summary(run.state, status, run=RUN, output=RUN, now=run.now + 2.0, there=lambda _: True)
    return [f"{word:<9}{text}" for word, text in found]


def test_a_run_at_work() -> None:
    """Each question has its line, with numbers."""
    run = realistic_run()
    run.add(e.Problem(key="disk", what="the disk is full", remedy="make room"))
    run.add(e.Problem(key="hook", what="on_best failed", remedy="look at the log"))
    assert lines(run, run.status(work=evaluating(run))) == [
        "run      /scratch/runs/cifar10-resnet18",
        "working  yes, evaluating rna-5-1e-06 epoch_025.pt, 4 of 12 models, 16 s left (process 41233 on gpu-07, for 1 h)",
        "done     24 of 25 checkpoints, 22 models kept, 1 not complete yet, 1 min 27 s left",
        "helping  yes, the model is better than the original at 22 of 22 checkpoints, beyond noise at 20",
        "best     rna/epoch_022.pt, error 0.0333: +12.6% over the best original, not compared with noise",
        "original epoch_023.pt, error 0.0381, is the best one",
        "wrong    the disk is full -> make room; and 1 more",
        "look     rna-watch dashboard /scratch/runs/cifar10-resnet18 (or: report, compare, logs)",
    ]


def test_a_run_without_an_evaluator_that_waits() -> None:
    """It says what to add, and that all is done."""
    run = RunBuilder(evaluator=None, metric=None).admit(1, after=20.0)
    run.add(e.Finished(checkpoint="epoch_001.pt", reason="number 1 of a new window"), after=1.0)
    assert lines(run, run.status()) == [
        "run      /scratch/runs/cifar10-resnet18",
        "working  yes, it is done, waiting for new ones; the last one came 3 s ago (process 41233 on gpu-07, for 23 s)",
        "done     1 of 1 checkpoint",
        "helping  not known, nothing is tested: add --evaluator FILE.py:function",
        "wrong    nothing",
        "look     rna-watch dashboard /scratch/runs/cifar10-resnet18 (or: report, compare, logs)",
    ]


def test_a_run_that_nobody_watched() -> None:
    """Nothing is claimed, and the command to begin is there."""
    found = summary(RunState(), Status(), run=RUN, output=RUN, now=0.0, there=lambda _: True)
    assert found == [
        ("run", RUN),
        ("working", "no, not running"),
        ("look", "rna-watch start /scratch/runs/cifar10-resnet18"),
    ]


def test_a_daemon_that_ended_or_is_silent() -> None:
    """Why it does not work comes first; a finished `once` is no failure."""
    run = realistic_run(4)
    for status, words in (
        (Status(last_sign=run.now, ended="done"), "no, it ended: all that was there is done"),
        (Status(last_sign=run.now, ended="signal SIGTERM"), "no, not running: stopped: signal SIGTERM"),
        (Status(last_sign=run.now - 58.0), "no, not running: last sign of life 1 min ago"),
    ):
        assert lines(run, status)[1] == f"working  {words}"


def test_originals_that_no_model_beats() -> None:
    """A loss is said as plainly as a gain."""
    run = RunBuilder()
    run.admit(3).evaluate(3, "last", 0.1)
    run.choose(3, original=0.1, average=0.2, rna=None, weights=[0, 0.5, 0.5], significant=None)
    run.publish(3)
    assert lines(run, run.status())[2:6] == [
        "done     1 of 1 checkpoint, 1 model kept",
        "helping  no, the model is better than the original at 0 of 1 checkpoint",
        "best     rna/epoch_003.pt, error 0.2000: no gain over the best original (-100.0%)",
        "original epoch_003.pt, error 0.1000, is the best one",
    ]
