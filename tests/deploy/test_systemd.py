import os
import shlex
import shutil
import signal
import socket
import subprocess

import pytest

from .conftest import BIN, DEPLOY, models, wait_for

UNIT = DEPLOY / "rna-watch@.service"
INSTALLED = "/usr/local/bin/rna-watch"


@pytest.fixture(scope="module")
def unit():
    """The settings of the unit, by name; comments and sections aside."""
    lines = [line for line in UNIT.read_text().splitlines() if line and not line.startswith(("#", "["))]
    return dict(line.split("=", 1) for line in lines)


def command(setting, run, options=""):
    """What systemd executes: words first, then specifiers, so that a path with a space stays one word."""
    words = []
    for word in shlex.split(setting):
        words += options.split() if word == "$RNA_WATCH_OPTIONS" else [word.replace("%f", str(run))]
    return [word.replace(INSTALLED, str(BIN / "rna-watch")) for word in words]


def test_the_start_command_watches_and_the_stop_signal_ends_it_in_good_order(unit, run, begin):
    """ExecStart writes models, also for a path with a space; KillSignal ends it with 0, so it is not started again."""
    spaced = run.rename(run.with_name("a run"))
    watcher = begin(command(unit["ExecStart"], spaced, "--engine local"), cwd=spaced)
    wait_for(lambda: len(models(spaced)) == 2, "models", watcher)
    watcher.send_signal(signal.Signals[unit["KillSignal"]])
    said, _ = watcher.communicate(timeout=float(unit["TimeoutStopSec"]))
    assert watcher.returncode == 0, said
    assert said.splitlines()[-1].endswith("stopped: signal SIGTERM")
    assert unit["Restart"] == "on-failure"
    assert "ExecStop" not in unit


@pytest.mark.slow
def test_one_unit_watches_many_runs(unit, run, begin):
    """With --recursive among its options the same command watches all runs below its folder, and ends as for one."""
    root = run.parent / "runs"
    for name in ("lr1", "lr2"):
        shutil.copytree(run, root / name)
    watcher = begin(command(unit["ExecStart"], root, "--engine local --recursive"), cwd=root)
    wait_for(lambda: [len(models(root / name)) for name in ("lr1", "lr2")] == [2, 2], "models", watcher)
    watcher.send_signal(signal.Signals[unit["KillSignal"]])
    said, _ = watcher.communicate(timeout=float(unit["TimeoutStopSec"]))
    assert watcher.returncode == 0, said


def test_a_wrong_option_is_not_tried_again(unit, run, begin):
    """A usage error ends with the status that prevents a restart."""
    watcher = begin(command(unit["ExecStart"], run, "--windw 3"), cwd=run)
    watcher.communicate(timeout=120)
    assert watcher.returncode == 2
    assert unit["RestartPreventExitStatus"].split() == ["2", "3"]


def test_systemd_is_told_that_it_lives(unit, run, begin, tmp_path):
    """It is ready with the run in hand, gives signs of life far more often than the watchdog asks for, and says its end."""
    assert unit["Type"] == "notify"
    assert int(unit["WatchdogSec"]) >= 60
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(60)
        watcher = begin(
            command(unit["ExecStart"], run, "--engine local"), cwd=run, NOTIFY_SOCKET=str(tmp_path / "notify")
        )
        assert manager.recv(100) == b"READY=1\nWATCHDOG=1\nSTATUS=starting"
        said = [manager.recv(100) for _ in range(3)]
        assert all(each.startswith(b"READY=1\nWATCHDOG=1\n") for each in said)
        watcher.send_signal(signal.SIGTERM)
        while said[-1] != b"STOPPING=1":
            said.append(manager.recv(100))
    watcher.communicate(timeout=120)


def test_only_the_run_directory_can_be_written(unit):
    """The file system is read-only but for the run directory, which is where the service works."""
    assert unit["ProtectSystem"] == "strict"
    assert unit["ReadWritePaths"] == unit["WorkingDirectory"] == "%f"


def test_systemd_accepts_the_unit(tmp_path):
    """`systemd-analyze verify` has nothing to say about an instance of it, once the command is where it says."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("there is no systemd-analyze on this machine")
    copy = tmp_path / "rna-watch@data-runs-a.service"
    copy.write_text(UNIT.read_text().replace(INSTALLED, str(BIN / "rna-watch")))
    result = subprocess.run(
        ["systemd-analyze", "verify", copy], env=os.environ, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert copy.name not in result.stderr, result.stderr


def test_the_escaped_path_comes_back(tmp_path):
    """The instance's name in the unit's comment is what systemd turns back into the path (%f)."""
    if shutil.which("systemd-escape") is None:
        pytest.skip("there is no systemd-escape on this machine")
    path = str(tmp_path / "a run-1")
    instance = subprocess.check_output(["systemd-escape", "--path", path], text=True).strip()
    assert subprocess.check_output(["systemd-escape", "--path", "--unescape", instance], text=True).strip() == path
