"""What `start` says: when the first model comes, what differs from before, and that it waits for a run's folder."""

from __future__ import annotations

import io
import json
import os
import shutil
import time
from typing import TYPE_CHECKING

import pytest
from rich.console import Console

from rna_watch.commands import progress as of_progress
from rna_watch.commands import status
from rna_watch.commands.start import _again, _to_come
from rna_watch.config import RunConfig
from rna_watch.daemon.background import start_waiting
from rna_watch.daemon.log_file import stderr_of_libraries
from rna_watch.errors import NothingToDo, RunIsWatched
from rna_watch.journal import events as e
from rna_watch.journal import waiting
from rna_watch.journal.log import Journal
from rna_watch.journal.replay import RunState, replay
from rna_watch.journal.run_paths import RunPaths
from rna_watch.journal.run_registry import known_runs, remember
from tests.daemon.runs import published, rna_watch, train, wait_until
from tests.dashboard.run_builder import RunBuilder, realistic_run

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def _state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


def _paths(run: Path) -> RunPaths:
    run.mkdir(exist_ok=True)
    paths = RunPaths(run=run, output=run)
    paths.create()
    return paths


def _write(paths: RunPaths, run: RunBuilder) -> None:
    journal = Journal(paths.journal)
    for event in run.events:
        journal.append(event)
    journal.close()


def test_a_start_says_when_the_first_model_comes_or_that_all_is_done(tmp_path: Path) -> None:
    """By the checkpoints that are there: too few, enough, or all of them done."""
    paths, config = _paths(tmp_path / "run"), RunConfig()
    run = RunBuilder()

    def said(config: RunConfig = config) -> list[str]:
        return list(_to_come(run.state, config, paths))

    assert said() == ["first    model with checkpoint number 3: none is here"]
    run.admit(1).admit(2)
    assert said() == ["first    model with checkpoint number 3: 2 are here"]
    run.admit(3)
    assert said() == ["first    model in about 1.0 s"]
    tested = RunConfig(evaluator="eval.py:evaluate")
    assert said(tested) == ["first    model in about 1.0 s and the time of its first evaluations"]
    for step in (1, 2):
        run.add(e.Finished(checkpoint=f"epoch_00{step}.pt", reason="a new window"))
    run.choose(3, original=None, average=None, rna=0.5, weights=[0, 0.5, 0.5]).publish(3)
    assert said() == ["done     all 3 are done, waiting for new ones"]


def test_a_start_on_a_run_watched_before_says_what_differs() -> None:
    """Each setting that differs, with both values; a list of them is bounded."""
    assert _again(RunConfig(), RunState()) == []
    run = RunBuilder()
    started = run.events[0]
    run.events[0] = e.Started(
        **{name: getattr(started, name) for name in ("host", "pid", "version", "run", "output", "engine", "evaluator")},
        settings={"window": 5, "metric": "error", "methods": ["rna"], "mode": None},
    )
    before = replay(run.events)
    same = RunConfig(metric="error", methods=("rna",))
    assert _again(same, before) == ["again    watched before, 0 models so far; same settings"]
    other = RunConfig(metric="loss", methods=("rna", "average"), window=8, mode="min")
    changes = "window 5 -> 8; methods rna -> rna,average; metric error -> loss; mode none -> min"
    assert _again(other, before) == [f"again    watched before, 0 models so far; settings that differ: {changes}"]


def test_waiting_for_a_run_goes_on_in_the_background(tmp_path: Path) -> None:
    """`start --wait` returns at once and says how to look; `status` tells, `stop` ends it, and the folder starts it."""
    run, other = tmp_path / "run", tmp_path / "other"
    begun = time.monotonic()
    started = rna_watch("start", run, "--wait", "--engine", "local", "--quiet", 0.1, "--scan-interval", 0.1)
    assert started.returncode == 0, started.stderr
    assert started.stdout.startswith(f"waiting  for {run}, which the training is to make (process ")
    assert time.monotonic() - begun < 60.0
    with pytest.raises(RunIsWatched, match="waits for"):
        start_waiting(run, [])
    found = waiting.waiting_for(run)
    assert found is not None
    said = rna_watch("status", run)
    assert said.stdout == f"waiting  {found.sentence()}\n"
    assert json.loads(rna_watch("status", run, "--json").stdout)["state"] == "waiting"
    assert found.sentence() in rna_watch("status").stdout
    assert not run.exists()
    train(tmp_path / "trained", count=3)
    shutil.copytree(tmp_path / "trained", run)
    wait_until(lambda: published(run) == ["step_3.pt"])
    assert waiting.waiting_for(run) is None
    assert rna_watch("stop", run).returncode == 0
    with waiting.waiting(other):
        pass
    assert rna_watch("stop", other).returncode == 2


def test_what_ended_the_waiting_is_told(tmp_path: Path) -> None:
    """The error stays in the record, where `status` finds it; a process that is gone waits no more."""
    run = tmp_path / "run"
    with pytest.raises(ValueError, match="two runs"), waiting.waiting(run):  # noqa: PT012 - it is seen in between
        assert "waits for" in status.waits(run)["reason"]  # type: ignore[index]
        raise ValueError("two runs lie there")
    told = status.waits(run)
    assert told is not None
    assert told["reason"] == f"what waited for {run} ended when it came: two runs lie there"
    assert told["problems"] == [{"what": "two runs lie there", "remedy": "start again"}]
    assert rna_watch("stop", run).returncode == 0
    assert status.waits(run) is None


def test_status_alone_lists_every_run_of_this_user(tmp_path: Path) -> None:
    """The last one first; one that was removed is not named, and without any the command to begin is."""
    with pytest.raises(NothingToDo, match="rna-watch start RUN_DIR"):
        status.all_lines(print)
    for number, name in enumerate(("first", "second", "gone")):
        paths = _paths(tmp_path / name)
        _write(paths, realistic_run(6) if name == "first" else RunBuilder())
        remember(paths)
        for file in (tmp_path / "state" / "rna-watch" / "runs").iterdir():
            if json.loads(file.read_text())["run"] == str(paths.run):
                os.utime(file, (number, number))
    shutil.rmtree(tmp_path / "gone")
    assert [paths.run.name for paths in known_runs()] == ["second", "first"]
    lines = status.all_lines(print)
    assert [line for line in lines if not line.startswith(" ")] == [str(tmp_path / "second"), str(tmp_path / "first")]
    assert lines[1].startswith("  working  no, not running: last sign of life ")
    assert lines[2] == "  helping  not known yet: no model was tested"
    assert lines[5].startswith("  helping  yes, the model is better than the original at 3 of 3 checkpoints")
    found = json.loads(rna_watch("status", "--json").stdout)
    assert [each["run"] for each in found] == [str(tmp_path / "second"), str(tmp_path / "first")]


def _console(**options: object) -> tuple[io.StringIO, Console]:
    file = io.StringIO()
    return file, Console(file=file, width=100, **options)  # type: ignore[arg-type]


def test_a_bar_is_for_terminals_and_for_what_takes_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a pipe nothing of it; on a terminal from the third second on, with the time left."""

    def shown(console: Console, after_s: float) -> None:
        monkeypatch.setattr(of_progress, "PlainConsole", lambda: console)
        monkeypatch.setattr(of_progress, "_FROM_S", after_s)
        with of_progress.progress() as show:
            show("evaluating", 7, 14, 65.0)

    pipe, console = _console()
    shown(console, 0.0)
    assert pipe.getvalue() == ""
    early, console = _console(force_terminal=True)
    shown(console, 60.0)
    assert "evaluating" not in early.getvalue()
    late, console = _console(force_terminal=True)
    shown(console, 0.0)
    assert "7 of 14, 1 min 5 s left" in late.getvalue()


def test_what_libraries_write_past_python_goes_to_the_log(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Ray's own words stay off the terminal; ours go on to it."""
    import sys

    with open(os.dup(2), "w") as terminal:
        before, sys.stderr = sys.stderr, terminal
        try:
            # a stream on another descriptor than 2 is left alone
            with stderr_of_libraries(tmp_path / "log", to_terminal=True):
                os.write(2, b"one\n")
        finally:
            sys.stderr = before
    with open(2, "w", closefd=False) as terminal:
        before, sys.stderr = sys.stderr, terminal
        try:
            with stderr_of_libraries(tmp_path / "log", to_terminal=True):
                os.write(2, b"raylet died\n")
                print("ours", file=sys.stderr)
            assert sys.stderr is terminal
            os.write(2, b"two\n")
        finally:
            sys.stderr = before
    assert (tmp_path / "log").read_text() == "raylet died\n"
    assert capfd.readouterr().err == "one\nours\ntwo\n"
