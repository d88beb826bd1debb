"""The daemon ends with the training, and everything that is there is done before."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from rna_watch.config import RunConfig, load
from rna_watch.daemon.loop import Daemon
from rna_watch.daemon.recorder import Recorder
from rna_watch.errors import UsageError
from rna_watch.journal import owner
from rna_watch.journal.run_paths import RunPaths
from tests.daemon.runs import command, events, published, rna_watch, status, train, trainer_command

if TYPE_CHECKING:
    from pathlib import Path

    from rna_watch.journal.replay import RunState

QUICK: dict[str, object] = {"engine": "local", "quiet": 0.1, "scan_interval": 0.1, "normalization": "clamp"}


def _to_its_end(run: Path, **settings: object) -> RunState:
    """What `start --foreground` does, in this process, until it ends by itself."""
    run.mkdir(exist_ok=True)
    paths = RunPaths(run=run, output=run)
    paths.create()
    recorder = Recorder(paths.journal)
    try:
        Daemon(RunConfig.model_validate({**QUICK, "keep": 100, **settings}), paths, recorder).run()
    finally:
        recorder.close()
    return recorder.state


def _training(tmp_path: Path, run: Path, steps: range) -> subprocess.Popen[bytes]:
    """A process that saves the checkpoints of a real training, which ran before, one after another."""
    saved = tmp_path / "saved"
    train(saved, count=steps.stop - 1)
    run.mkdir(exist_ok=True)
    names = " ".join(f"step_{step}.pt" for step in steps)
    save = f'for name in {names}; do sleep 0.3; cp "$0/$name" "$1/saving"; mv "$1/saving" "$1/$name"; done'
    return subprocess.Popen(["sh", "-c", save, str(saved), str(run)])


def _reason(state: RunState) -> str:
    assert state.stopped is not None
    return state.stopped.reason


def test_it_ends_with_the_process_that_trains_and_the_last_checkpoint_is_done(tmp_path: Path) -> None:
    """Every checkpoint has its model, that of the last moment too; a file that stays incomplete holds it for a moment only."""
    run = tmp_path / "run"
    training = _training(tmp_path, run, range(1, 7))
    (run / "step_99.pt").write_bytes(b"PK\x03\x04 never whole")
    try:
        state = _to_its_end(run, with_pid=training.pid)
    finally:
        training.wait()
    assert published(run) == [f"step_{step}.pt" for step in range(3, 7)]
    assert _reason(state) == f"done: process {training.pid} has ended (--with-pid)"
    assert state.checkpoints["step_99.pt"].stage == "waiting"


def test_it_ends_when_nothing_comes_any_more(tmp_path: Path) -> None:
    """Pauses that are shorter are no end; after a longer one everything is done."""
    run = tmp_path / "run"
    training = _training(tmp_path, run, range(1, 6))
    state = _to_its_end(run, until_idle="2.5s")
    assert training.wait() == 0
    assert published(run) == ["step_3.pt", "step_4.pt", "step_5.pt"]
    assert _reason(state) == "done: no checkpoint came for 2.5 s (--until-idle)"


def test_it_ends_with_a_last_step_and_not_before(tmp_path: Path) -> None:
    """The step is that of a whole checkpoint; hooks are called to their end first."""
    run = tmp_path / "run"
    training = _training(tmp_path, run, range(1, 8))
    state = _to_its_end(run, last_step=7, on_model=f'sleep 0.2; echo >>"{tmp_path / "called"}"')
    assert training.wait() == 0
    assert published(run) == [f"step_{step}.pt" for step in range(3, 8)]
    assert (tmp_path / "called").read_text() == "\n" * 5
    assert _reason(state) == "done: step_7.pt is of step 7 (--last-step 7)"


def test_a_last_step_of_a_training_that_was_there_before_is_none_of_this(tmp_path: Path) -> None:
    """A journal tells of step 5, and its file was removed: a new training in the folder is watched to its own end."""
    train(tmp_path, count=5)
    assert _reason(_to_its_end(tmp_path, last_step=5)).startswith("done: step_5.pt")
    for step in range(1, 6):
        (tmp_path / f"step_{step}.pt").unlink()
    assert _reason(_to_its_end(tmp_path, last_step=5, until_idle=1)).endswith("(--until-idle)")


def test_in_the_background_it_ends_by_itself_with_status_0(tmp_path: Path) -> None:
    """`start` returns, the daemon goes on to the end of the training, and `status` says why it ended."""
    run = tmp_path / "run"
    training = subprocess.Popen(trainer_command(run, count=4, pause=1.0), stdout=subprocess.DEVNULL)
    begun = command("start", run, "--wait", "--engine", "local", "--with-pid", training.pid)
    assert begun.returncode == 0, begun.stdout + begun.stderr
    assert training.wait() == 0
    until = time.monotonic() + 60
    while status(run)["state"] != "not running" and time.monotonic() < until:
        time.sleep(0.2)
    assert published(run) == ["step_3.pt", "step_4.pt"]
    assert events(run, "stopped")[-1].reason == f"done: process {training.pid} has ended (--with-pid)"
    assert "has ended (--with-pid)" in rna_watch("status", run).stdout


def test_a_process_that_is_not_there_is_an_error_in_words(tmp_path: Path) -> None:
    """Before anything is made; a zombie is not there either."""
    gone = subprocess.Popen([sys.executable, "-c", ""])
    while owner.begun(gone.pid) is not None:
        time.sleep(0.02)
    (tmp_path / "run").mkdir()
    result = command("start", tmp_path / "run", "--with-pid", gone.pid)
    assert result.returncode == 2
    assert f"process {gone.pid} is not there" in result.stderr
    assert not (tmp_path / "run" / ".rna-watch").exists()
    gone.wait()


def test_another_process_with_the_same_id_is_not_the_training() -> None:
    """A process is known by its id and by when it began."""
    begun = owner.begun(os.getpid())
    assert begun is not None
    assert owner.lives(os.getpid(), begun)
    assert owner.lives(os.getpid(), begun - 1) is False
    assert owner.begun(2**22 + 1) is None


@pytest.mark.parametrize(
    ("given", "seconds"), [("90", 90.0), ("90s", 90.0), ("10m", 600.0), ("1.5h", 5400.0), (45, 45.0), ("2 h", 7200.0)]
)
def test_a_time_is_taken_with_and_without_a_unit(given: object, seconds: float) -> None:
    """Seconds, minutes and hours."""
    assert load(None, {"until_idle": given}).until_idle == seconds


@pytest.mark.parametrize("given", ["10 parsecs", "-5", "0", "m", ""])
def test_what_is_no_time_is_refused_with_an_example(given: str) -> None:
    """The message names the setting."""
    with pytest.raises(UsageError, match="until_idle"):
        load(None, {"until_idle": given})


@pytest.mark.parametrize("option", ["--until-idle=10m", "--last-step=3", "--with-pid=1"])
def test_once_refuses_them_and_takes_them_from_a_file_that_start_has_too(option: str, tmp_path: Path) -> None:
    """On the command line they are a misunderstanding; in a file they are for `start`."""
    train(tmp_path, count=1)
    result = rna_watch("once", tmp_path, "--engine", "local", option)
    assert result.returncode == 2
    assert "is for `start`" in result.stderr
    name, _, value = option.removeprefix("--").partition("=")
    (tmp_path / "settings.yaml").write_text(f"{name.replace('-', '_')}: {value}\n")
    result = rna_watch("once", tmp_path, "--engine", "local", "--config", tmp_path / "settings.yaml")
    assert "is for `start`" not in result.stderr
    assert result.returncode in {0, 1}
