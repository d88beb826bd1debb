"""Evaluation slower than training: pins stay bounded, the newest windows go first, and what was left out is made up for."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from rna_watch.journal import events as e
from rna_watch.journal.replay import Stage
from tests.daemon.runs import events
from tests.daemon.slow_evaluator import SlowEvaluator

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("kept", [0, 2], ids=["all files kept", "two kept"])
def test_pins_are_bounded_and_the_newest_windows_go_first(tmp_path: Path, kept: int) -> None:
    """Never more than eight pins for windows of three residuals, none but of the window in work and the newest four."""
    run = SlowEvaluator(tmp_path, window=3, kept=kept)
    for held in run.run(60):
        newest = range(held.step - 3, held.step + 1)
        of_work = range(held.in_work - 3, held.in_work + 1) if held.in_work else ()
        assert len(held.pinned) <= 8
        assert set(held.pinned) <= {*newest, *of_work}, held
    assert len(os.listdir(run.paths.pins)) <= 8
    # whole windows, of what was the newest when the one before was done
    assert list(run.windows.values())[2:] == [[f"step_{n}.pt" for n in range(s - 3, s + 1)] for s in (21, 31, 41, 51)]
    left = [event for event in events(tmp_path, "skipped") if event.for_now]
    assert 40 <= len(left) < 55
    problem = run.recorder.state.problems["behind"]
    assert f"rna-watch once {tmp_path}" in problem.remedy or "rna-watch once RUN" in problem.remedy
    assert "checkpoints were left out" in problem.what


@pytest.mark.parametrize("kept", [0, 2], ids=["all files kept", "two kept"])
def test_what_was_left_out_is_made_up_for_when_there_is_time(tmp_path: Path, kept: int) -> None:
    """As far as the trainer kept the originals, oldest first, so that the windows are whole again; the others stay out."""
    run = SlowEvaluator(tmp_path, window=3, kept=kept)
    run.run(25)
    left = [c.name for c in run.recorder.checkpoints() if c.left_behind]
    assert len(left) > 10
    order = []
    while (name := run.work()) is not None:
        order.append(name)
    made_up = [name for name in order if name in left]
    assert made_up == (left if not kept else [name for name in left if (tmp_path / name).exists()])
    for name in made_up:
        number = int(name[5:-3])
        assert run.windows[name] == [f"step_{n}.pt" for n in range(max(1, number - 3), number + 1)]
    stages = {c.name: c.stage for c in run.recorder.checkpoints()}
    assert {stages[name] for name in left} <= ({Stage.FINISHED} if not kept else {Stage.FINISHED, Stage.SKIPPED})
    if not kept:  # what went on without those that were left out was made anew with them
        assert {
            name: [f"step_{n}.pt" for n in range(max(1, number - 3), number + 1)]
            for number, name in enumerate(map("step_{}.pt".format, range(1, 26)), 1)
        } == run.windows
        run.backlog.begin(None)
        assert "behind" not in run.recorder.state.problems


@pytest.mark.parametrize("ended", [False, True], ids=["one start", "a new start between"])
def test_what_went_on_without_one_that_was_left_out_is_made_anew_with_it(tmp_path: Path, ended: bool) -> None:
    """Once it is made up for; the windows of the three after it lack it. What was made since has it."""
    run = SlowEvaluator(tmp_path, window=3, thins=False)
    for number in range(1, 9):
        run.save(number)
    run.recorder.record(e.Skipped(checkpoint="step_4.pt", reason="checkpoints come faster", for_now=True))
    for _ in range(7):
        assert run.work() not in {None, "step_4.pt"}
    assert "step_4.pt" not in run.windows["step_7.pt"]
    assert run.work() == "step_4.pt"
    if ended:
        run.recorder.record(e.Finished(checkpoint="step_4.pt", reason="evaluated"))
        run.in_work = None
        run.begin_again()
    assert [run.work() for _ in range(4)] == ["step_5.pt", "step_6.pt", "step_7.pt", None]
    assert run.windows["step_7.pt"] == [f"step_{n}.pt" for n in range(4, 8)]
    run.begin_again()
    assert run.work() is None


def test_once_leaves_nothing_out_and_keeps_the_order(tmp_path: Path) -> None:
    """`once` has all the time: the oldest first, from the originals, with as few pins."""
    run = SlowEvaluator(tmp_path, window=3, thins=False)
    assert all(len(held.pinned) <= 8 for held in run.run(25))
    order = list(run.windows)
    while (name := run.work()) is not None:
        order.append(name)
    assert order == [f"step_{number}.pt" for number in range(1, 26)]
    assert run.windows["step_20.pt"] == [f"step_{number}.pt" for number in range(17, 21)]


def test_what_was_there_before_waits_without_being_left_out(tmp_path: Path) -> None:
    """At a start on many files the oldest goes first, until new ones come: these go first, and the old ones after them."""
    run = SlowEvaluator(tmp_path, window=3)
    old = [f"step_{number}.pt" for number in range(1, 21)]
    for number, name in enumerate(old, 1):
        run.write(number)
        os.utime(tmp_path / name, ns=(number, number))
    run.backlog.there_before({name: number for number, name in enumerate(old, 1)})
    for number in range(1, 21):
        run.take(number)
    assert [run.work() for _ in range(3)] == old[:3]
    for number in (21, 22):
        run.save(number)
    assert [run.work() for _ in range(6)] == [*old[18:20], "step_21.pt", "step_22.pt", *old[3:5]]
    assert events(tmp_path, "skipped") == []
