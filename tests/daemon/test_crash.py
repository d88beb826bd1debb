"""kill -9 at many points, then again: nothing torn, nothing lost, nothing that was published computed twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from rna_watch.config import RunConfig
from rna_watch.daemon import loop, shared
from rna_watch.daemon.recorder import Recorder
from rna_watch.engine.local import LocalEngine
from rna_watch.journal import log
from rna_watch.journal.run_paths import RunPaths
from rna_watch.layout.disk import TEMPORARY_PREFIX
from tests.daemon.runs import (
    EVALUATOR,
    check_output,
    events,
    fingerprints,
    published,
    rna_watch,
    start_foreground,
    train,
    wait_until,
)

if TYPE_CHECKING:
    from pathlib import Path

COUNT = 6


def _lines(run: Path) -> int:
    journal = run / ".rna-watch" / "journal.jsonl"
    return journal.read_bytes().count(b"\n") if journal.exists() else 0


def test_killed_at_many_points_and_started_again_it_ends_as_if_never_killed(tmp_path: Path) -> None:
    """Killed after every few lines of its journal, the daemon finishes in the end what an undisturbed one would."""
    run, calm = tmp_path / "run", tmp_path / "calm"
    train(run, count=COUNT)
    train(calm, count=COUNT)
    before = fingerprints(run)
    arguments = ("--engine", "local", "--evaluator", EVALUATOR, "--keep", 20)
    for step in (3, 4, 5, 7, 6, 8, 9, 11):
        target = _lines(run) + step
        daemon = start_foreground(run, *arguments)
        try:
            wait_until(lambda target=target: _lines(run) >= target or len(published(run)) == COUNT - 2)
        finally:
            daemon.kill()
            daemon.communicate()
        for model in (run / "rna").rglob("*.pt"):
            if not model.name.startswith(".") and not model.is_symlink():
                check_output(model, run)
    assert rna_watch("once", run, *arguments).returncode in {0, 3}
    assert rna_watch("once", calm, *arguments).returncode == 0
    assert Counter(published(run)) == Counter(published(calm))
    assert fingerprints(run) == before
    assert [path.name for path in (run / "rna").rglob("*") if path.name.startswith(TEMPORARY_PREFIX)] == []
    evaluations = Counter((event.checkpoint, event.candidate) for event in events(run, "evaluated"))
    assert max(evaluations.values()) == 1
    for name in published(calm):
        mine, theirs = ((folder / "rna" / name).read_bytes() for folder in (run, calm))
        assert mine == theirs
    assert [event.value for event in events(run, "best_moved")] == [event.value for event in events(calm, "best_moved")]


@pytest.mark.parametrize("whole", [True, False])
def test_a_crash_between_the_rename_and_its_record(tmp_path: Path, whole: bool) -> None:
    """A model that got its name but not its record is recorded, not made again; a half-made one is removed and made again."""
    train(tmp_path, count=4)
    assert rna_watch("once", tmp_path, "--engine", "local").returncode == 0
    journal = tmp_path / ".rna-watch" / "journal.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    intent = max(n for n, line in enumerate(lines) if json.loads(line)["kind"] == "publishing")
    journal.write_bytes(b"".join(lines[: intent + 1]))
    model = tmp_path / "rna" / "step_4.pt"
    inode = model.stat().st_ino
    if not whole:
        model.rename(tmp_path / "rna" / json.loads(lines[intent])["temporary"])
    assert rna_watch("once", tmp_path, "--engine", "local").returncode == 0
    assert published(tmp_path) == ["step_3.pt", "step_4.pt"]
    assert not whole or model.stat().st_ino == inode
    assert (events(tmp_path, "published")[-1].seconds == 0.0) == whole  # an inode number may be used again
    check_output(model, tmp_path)
    assert not list((tmp_path / "rna").glob(f"{TEMPORARY_PREFIX}*"))


def test_a_crash_right_after_the_first_evaluation(tmp_path: Path) -> None:
    """What it is judged by was recorded before, so the value counts, and nothing is evaluated twice."""
    train(tmp_path, count=3)
    arguments = ("once", tmp_path, "--engine", "local", "--evaluator", EVALUATOR)
    assert rna_watch(*arguments).returncode == 0
    state = tmp_path / ".rna-watch"
    lines = (state / "journal.jsonl").read_bytes().splitlines(keepends=True)
    first = next(n for n, line in enumerate(lines) if json.loads(line)["kind"] == "evaluated")
    (state / "journal.jsonl").write_bytes(b"".join(lines[: first + 1]))
    assert rna_watch(*arguments).returncode == 0
    evaluations = Counter((event.checkpoint, event.candidate) for event in events(tmp_path, "evaluated"))
    assert max(evaluations.values()) == 1


def test_a_torn_line_is_closed_off_and_skipped(tmp_path: Path) -> None:
    """A journal that ends in half a line is read up to it, and goes on behind it."""
    train(tmp_path, count=3)
    assert rna_watch("once", tmp_path, "--engine", "local").returncode == 0
    journal = tmp_path / ".rna-watch" / "journal.jsonl"
    whole = journal.read_bytes()
    journal.write_bytes(whole + whole.splitlines()[-1][:40])
    train(tmp_path, count=1, first=4)
    assert rna_watch("once", tmp_path, "--engine", "local").returncode == 0
    assert published(tmp_path) == ["step_3.pt", "step_4.pt"]
    numbers = [event.seq for event in log.read(journal)]
    assert numbers == sorted(set(numbers))


def test_a_second_once_does_nothing_again(tmp_path: Path) -> None:
    """What was published, finished or refused stays so: the second run adds only that it began and ended."""
    train(tmp_path, count=5)
    (tmp_path / "notes.pt").write_text(
        "not a checkpoint at all, but long enough to be told from one that has only begun"
    )
    assert rna_watch("once", tmp_path, "--engine", "local", "--evaluator", EVALUATOR).returncode == 0
    first = _lines(tmp_path)
    again = rna_watch("once", tmp_path, "--engine", "local", "--evaluator", EVALUATOR)
    assert again.returncode == 3
    assert "nothing to do" in again.stderr
    kinds = [event.kind for event in log.read(tmp_path / ".rna-watch" / "journal.jsonl")][first:]
    assert kinds == ["started", "stopped"]


@pytest.mark.parametrize("by", ["function", "command"])
@pytest.mark.parametrize("edited", [False, True], ids=["as it was", "edited"])
def test_after_a_crash_an_edited_evaluator_evaluates_again(tmp_path: Path, by: str, edited: bool) -> None:
    """What the evaluator said before it was edited chooses nothing; what it said as it still is, is kept."""
    run, file = tmp_path / "run", tmp_path / "judge.py"
    train(run, count=3)
    function = "def evaluate(state_dict, device):\n    return {'loss': float(state_dict['conv.bias'].norm())}\n"
    command = "import sys, os\nprint('{\"loss\": ' + str(os.stat(sys.argv[1]).st_size) + '}')\n"
    file.write_text(function if by == "function" else command)
    how = ("--evaluator", f"{file}:evaluate")
    if by == "command":
        how = ("--evaluate-command", f"{sys.executable} {file} {{checkpoint}}")
    assert rna_watch("once", run, "--engine", "local", *how).returncode == 0
    journal = run / ".rna-watch" / "journal.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    last = max(n for n, line in enumerate(lines) if json.loads(line)["kind"] == "searched")
    journal.write_bytes(b"".join(lines[:last]))
    before = Counter(event.candidate for event in events(run, "evaluated") if event.checkpoint == "step_3.pt")
    if edited:
        file.write_text(file.read_text() + "# better now\n")
    assert rna_watch("once", run, "--engine", "local", *how).returncode == 0
    after = Counter(event.candidate for event in events(run, "evaluated") if event.checkpoint == "step_3.pt")
    assert before.keys() == after.keys()
    assert set(before.values()) == {1}
    assert set(after.values()) == {1 + edited}


def test_evaluations_whose_metric_the_journal_lost_are_made_again(tmp_path: Path) -> None:
    """After a power cut in the middle of it: no model is published as if nothing had been evaluated."""
    train(tmp_path, count=3)
    given = ("--engine", "local", "--evaluate-command", "printf '{\"loss\": 0.%s}' $(cksum < {checkpoint} | cut -c1-4)")
    assert rna_watch("once", tmp_path, *given).returncode == 0
    journal = tmp_path / ".rna-watch" / "journal.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    kinds = [json.loads(line)["kind"] for line in lines]
    first = events(tmp_path, "chosen")[-1]
    journal.write_bytes(b"".join(lines[n] for n in range(kinds.index("searched")) if kinds[n] != "metric_chosen"))
    assert rna_watch("once", tmp_path, *given).returncode == 0
    again = events(tmp_path, "chosen")[-1]
    assert (again.candidate, again.reason, again.metrics) == (first.candidate, first.reason, first.metrics)


@pytest.mark.parametrize("other", [False, True], ids=["same evaluator", "another"])
def test_a_soup_is_made_of_what_one_evaluator_said(tmp_path: Path, other: bool) -> None:
    """Numbers that another evaluator gave older checkpoints rank no ingredients."""
    run = tmp_path / "run"
    train(run, count=3)
    arguments = ("once", run, "--engine", "local", "--methods", "average,soup", "--evaluator")
    assert rna_watch(*arguments, EVALUATOR).returncode == 0
    train(run, count=1, first=4)
    assert rna_watch(*arguments, EVALUATOR.replace("evaluate", "examples") if other else EVALUATOR).returncode == 0
    searched = {event.checkpoint: event for event in events(run, "searched")}
    named = [each["name"] for each in searched["step_4.pt"].candidates] + list(searched["step_4.pt"].duplicates)
    assert any(name.startswith("soup") for name in named) == (not other)


class _Unclosable(LocalEngine):
    """An engine that breaks while it is closed, as a cluster does that has lost its parts."""

    def close(self) -> None:
        """See `Engine.close`."""
        super().close()
        raise ConnectionError("the cluster is gone")


def test_an_engine_that_breaks_in_its_end_changes_no_outcome(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All is on the disk, the end too, before the engine is closed; that this fails is logged and no more."""
    train(tmp_path, count=3)
    monkeypatch.setattr(shared, "start_engine", lambda *_: _Unclosable(1))
    recorder = Recorder(tmp_path / "journal")
    paths = RunPaths(run=tmp_path, output=tmp_path)
    paths.create()
    loop.Daemon(RunConfig(), paths, recorder, until_done=True).run()
    assert recorder.state.stopped is not None
    assert recorder.state.stopped.reason == "done"
    assert list(recorder.state.outputs) == ["step_3.pt"]


def test_once_reads_what_rests_however_long_its_machine_stands_still(tmp_path: Path) -> None:
    """A checkpoint that waited for its rest while everything stood still is read all the same."""
    train(tmp_path, count=3)
    ahead = time.time() + 3600
    os.utime(tmp_path / "step_3.pt", (ahead, ahead))  # it rests from when it is seen
    time.sleep(1.1)  # the others have rested by then
    command = [sys.executable, "-m", "rna_watch", "once", str(tmp_path), "--engine", "local", "--quiet", "1"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as once:
        journal = tmp_path / ".rna-watch" / "journal.jsonl"
        wait_until(lambda: journal.exists() and bool(events(tmp_path, "started")))
        once.send_signal(signal.SIGSTOP)
        time.sleep(3.0)
        once.send_signal(signal.SIGCONT)
    assert once.returncode == 0
    assert published(tmp_path) == ["step_3.pt"]
