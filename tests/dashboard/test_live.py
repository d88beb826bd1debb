import dataclasses
import io
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path

import pytest
from rich.console import Console

from rna_watch.dashboard.live import watch
from rna_watch.journal import events as e
from rna_watch.journal import heartbeat as heartbeats
from rna_watch.journal.lock import RunLock
from rna_watch.journal.log import Journal
from rna_watch.journal.owner import Owner
from rna_watch.journal.run_paths import RunPaths

from .run_builder import RunBuilder, realistic_run

DEADLINE_S = 30.0
SHOWN = "── checkpoints"


def write(path, run):
    """A journal file with the run's events, stamped as of now."""
    journal = Journal(path)
    for event in run.events:
        journal.append(event)
    return journal


def until(condition):
    """Polls until the condition holds, and returns what it gave."""
    deadline = time.monotonic() + DEADLINE_S
    while not (result := condition()):
        assert time.monotonic() < deadline, "it did not come to pass in time"
        time.sleep(0.05)
    return result


@pytest.fixture
def paths(tmp_path):
    """The paths of a run's files."""
    paths = RunPaths(run=tmp_path, output=tmp_path)
    paths.create()
    return paths


def watched_until(paths, seconds_ago):
    """A lock of a daemon of another host, with a heartbeat so old."""
    time_of_it = time.time() - seconds_ago
    owner = Owner(host="gpu-07", pid=41233, boot_id="", start_ticks=0, since=time_of_it - 100)
    paths.lock.write_text(json.dumps(dataclasses.asdict(owner)))
    heartbeats.write(
        paths.heartbeat,
        heartbeats.Heartbeat(
            host=owner.host,
            pid=owner.pid,
            time=time_of_it,
            state="watching",
            watching="events",
            queue=0,
            work=None,
            workers=(),
            read_bytes_per_s=0.0,
        ),
    )


class Follower:
    """`watch` in a thread, on what is no terminal."""

    def __init__(self, paths, **options):
        self.file = io.StringIO()
        self.stop = threading.Event()
        console = Console(file=self.file, width=40, **options.pop("console", {}))
        self.thread = threading.Thread(
            target=watch, args=(paths,), kwargs={"console": console, "stop": self.stop} | options
        )
        self.thread.start()

    @property
    def lines(self):
        """What was printed."""
        return self.file.getvalue().splitlines()

    def end(self):
        """Ask it to stop, and see that it does."""
        self.stop.set()
        self.thread.join(DEADLINE_S)
        assert not self.thread.is_alive()


def test_what_is_no_terminal_gets_the_history_as_plain_lines(paths):
    """Once, without a terminal: one line an event, however narrow, with no control codes."""
    write(paths.journal, realistic_run(6))
    file = io.StringIO()
    watch(paths, console=Console(file=file, width=20), once=True)
    lines = file.getvalue().splitlines()
    assert any(
        "epoch_005.pt  published rna/epoch_005.pt: average-4 error 0.1858 (original 0.2353" in line for line in lines
    )
    assert all(line.isprintable() for line in lines)
    assert all(time.strptime(line[:19], "%Y-%m-%d %H:%M:%S") for line in lines)


def test_lines_follow_the_journal(paths):
    """What is appended while it watches is printed, and it ends when its caller says so."""
    journal = write(paths.journal, RunBuilder())
    follower = Follower(paths)
    until(lambda: any("watching /scratch" in line for line in follower.lines))
    journal.append(e.Noted(text="something new"))
    until(lambda: any("something new" in line for line in follower.lines))
    follower.end()


def test_colour_forced_on_a_pipe_makes_no_screen(paths):
    """FORCE_COLOR in a CI log does not fill it with frames and control codes."""
    write(paths.journal, RunBuilder())
    follower = Follower(paths, console={"force_terminal": True})
    until(lambda: any("watching /scratch" in line for line in follower.lines))
    follower.end()
    assert "\x1b" not in follower.file.getvalue()


def test_a_journal_that_is_not_there_yet_is_waited_for(paths):
    """Opened before any daemon, it says what it waits for, and goes on when the journal comes."""
    follower = Follower(paths)
    until(lambda: any(f"waiting for {paths.journal}" in line for line in follower.lines))
    write(paths.journal, RunBuilder())
    until(lambda: any("watching /scratch" in line for line in follower.lines))
    follower.end()


def test_once_without_a_journal_says_so(paths):
    """Once does not wait: it says what is missing and returns."""
    file = io.StringIO()
    watch(paths, console=Console(file=file, width=40), once=True)
    assert f"waiting for {paths.journal}; start with: rna-watch start RUN_DIR" in file.getvalue()


def test_a_journal_made_anew_is_read_from_its_beginning(paths):
    """A run that was deleted and started again under the same name shows its own events, all of them."""
    write(paths.journal, realistic_run(4)).close()
    follower = Follower(paths)
    until(lambda: any("epoch_004.pt" in line for line in follower.lines))
    fresh = paths.journal.with_name("fresh")
    write(fresh, RunBuilder(run="/another/run")).close()
    fresh.replace(paths.journal)
    until(lambda: any("watching /another/run" in line for line in follower.lines))
    follower.end()


def test_it_ends_with_the_run_if_asked(paths):
    """It returns at the daemon's end with until_stopped, not at that of an earlier one."""
    run = RunBuilder()
    run.add(e.Stopped(reason="earlier")).add(run.events[0])
    journal = write(paths.journal, run)
    follower = Follower(paths, until_stopped=True)
    until(lambda: sum("watching /scratch" in line for line in follower.lines) == 2)
    assert follower.thread.is_alive()
    journal.append(e.Stopped(reason="done"))
    follower.thread.join(DEADLINE_S)
    assert not follower.thread.is_alive()
    assert follower.lines[-1].endswith("stopped: done")


def test_a_daemon_that_dies_is_noticed(paths, monkeypatch):
    """A log, too, tells silence after a crash from silence of a long training, by no clock but its own."""
    monkeypatch.setattr(heartbeats, "STALE_AFTER_S", 2.0)
    write(paths.journal, RunBuilder())
    watched_until(paths, 0.0)
    follower = Follower(paths)
    until(lambda: any("watching /scratch" in line for line in follower.lines))
    watched_until(paths, -3600.0)
    until(lambda: any("not running: last sign of life" in line for line in follower.lines))
    follower.end()


def test_a_damaged_heartbeat_does_no_harm(paths):
    """A heartbeat file that cannot be read is as good as none."""
    write(paths.journal, RunBuilder())
    paths.heartbeat.write_text('{"host": 3')
    file = io.StringIO()
    with RunLock(paths):
        watch(paths, console=Console(file=file, width=80, height=24, force_terminal=True), once=True)
    assert "starting" in file.getvalue()


def test_once_on_a_terminal_prints_one_frame(paths):
    """One frame that fits above the prompt, and the cursor and the screen are left alone."""
    write(paths.journal, realistic_run())
    file = io.StringIO()
    console = Console(file=file, width=80, height=24, force_terminal=True, color_system=None)
    watch(paths, console=console, once=True)
    assert len(file.getvalue().splitlines()) <= 23
    assert "◑ epoch_025.pt" in file.getvalue()
    assert "\x1b[?" not in file.getvalue()


def test_a_console_that_lacks_characters_survives(paths):
    """A character may be a question mark on a terminal without Unicode, but the dashboard stays."""
    write(paths.journal, realistic_run())
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding="ascii")
    console = Console(file=file, width=80, height=24, force_terminal=True, color_system=None)
    watch(paths, console=console, once=True)
    file.flush()
    assert b"? epoch_025.pt" in raw.getvalue()


class Screen:
    """A real terminal of its own: a shell in a private tmux server."""

    def __init__(self, folder):
        self.socket = f"rna-watch-{uuid.uuid4().hex[:12]}"
        self.rows = 24
        environment = {key: value for key, value in os.environ.items() if key not in {"TMUX", "COLUMNS", "LINES"}}
        environment |= {"LC_ALL": "C.UTF-8", "PS1": "ready> ", "TMUX_TMPDIR": str(folder)}
        self._environment = environment
        shell = "env PS1='ready> ' sh"
        self.tmux("new-session", "-d", "-x", "120", "-y", "40", shell)
        until(lambda: "ready>" in self.text)

    def tmux(self, *arguments):
        """Run a tmux command and return what it printed."""
        command = ["tmux", "-L", self.socket, "-f", "/dev/null", *arguments]
        return subprocess.run(command, env=self._environment, check=True, capture_output=True, text=True).stdout

    @property
    def text(self):
        """What the terminal shows."""
        return self.tmux("capture-pane", "-p")

    def type(self, text, *keys):
        """Type a text, then keys by their names."""
        if text:
            self.tmux("send-keys", "-l", text)
        for key in keys:
            self.tmux("send-keys", key)

    def assert_sane(self):
        """The shell is back on the ordinary screen, with its cursor, and the terminal echoes and edits lines."""
        until(lambda: self.tmux("display-message", "-p", "#{alternate_on} #{cursor_flag}").split() == ["0", "1"])
        self.type("clear; stty -a; echo do''ne", "Enter")
        settings = until(lambda: text if "\ndone\n" in (text := self.text) else "").split()
        assert {"icanon", "echo", "isig"} <= set(settings)
        assert "susp = ^Z;" in " ".join(settings)


@pytest.fixture
def screen(tmp_path):
    """A terminal, closed at the end with whatever runs in it."""
    if shutil.which("tmux") is None:
        pytest.skip("tmux is not installed: no real terminal to look at")
    screen = Screen(tmp_path)
    yield screen
    screen.tmux("kill-server")


SCRIPT = """
import os, sys
from pathlib import Path
from rich.console import Console
from rna_watch.dashboard.live import watch
from rna_watch.journal.run_paths import RunPaths
Path(sys.argv[2]).write_text(str(os.getpid()))
watch(RunPaths(run=Path(sys.argv[1]), output=Path(sys.argv[1])), console=Console(), until_stopped=True)
print("left the dash" + "board")
"""


@pytest.fixture
def shown(paths, screen, tmp_path):
    """A terminal in which the realistic run is watched, its journal, and a file with the process's number."""
    journal = write(paths.journal, realistic_run())
    watched_until(paths, 0.0)
    script = tmp_path / "look.py"
    script.write_text(SCRIPT)
    pid_file = tmp_path / "pid"
    command = [sys.executable, str(script), str(paths.run), str(pid_file)]
    screen.type(f"cd {shlex.quote(str(Path(__file__).parents[2]))} && PYTHONPATH=. {shlex.join(command)}", "Enter")
    until(lambda: SHOWN in screen.text)
    return screen, journal, pid_file


def test_a_real_terminal_follows_resizes_and_is_given_back(shown):
    """The frame follows the journal and the terminal's size, and q restores the terminal."""
    screen, journal, _ = shown
    until(lambda: "q leaves" in screen.text)
    assert "stage       original" in screen.text
    journal.append(e.Problem(key="disk", what="the disk is full", remedy="make room"))
    until(lambda: "\n ! the disk is full\n   → make room\nrna-watch" in screen.text)
    screen.tmux("resize-window", "-x", "80", "-y", "24")
    narrow = until(lambda: text if "q leaves" in (text := screen.text) and "stage" not in text else "")
    assert len(narrow.splitlines()) == 24
    assert narrow.splitlines()[-1].endswith("q leaves")
    assert "◑ epoch_025.pt" in narrow
    screen.tmux("resize-window", "-x", "200", "-y", "50")
    until(lambda: len(max(screen.text.splitlines(), key=len)) == 200)
    screen.type("xq")
    until(lambda: "left the dashboard" in screen.text)
    screen.assert_sane()


def test_keys_open_details_help_and_pause(shown):
    """Arrows pick a row, Enter opens it, Esc leaves it, ? helps, and while it is paused nothing moves."""
    screen, journal, _ = shown
    screen.type("", "Up", "Up", "Enter")
    until(lambda: "── candidates" in screen.text and "oldest first, their sum is 1" not in screen.text)
    screen.type("", "Up")
    until(lambda: "oldest first, their sum is 1" in screen.text)
    screen.type("", "Escape")
    until(lambda: "▸  24" in screen.text)
    screen.type("?")
    until(lambda: "pause: the screen stays as it is" in screen.text)
    screen.type("xp")
    until(lambda: "PAUSED  p goes on" in screen.text)
    journal.append(e.Problem(key="disk", what="the disk is full", remedy="make room"))
    time.sleep(1.5)
    assert "the disk is full" not in screen.text
    screen.type("p")
    until(lambda: "the disk is full" in screen.text)
    screen.type("q")
    until(lambda: "left the dashboard" in screen.text)
    screen.assert_sane()


def test_several_runs_are_a_list(tmp_path):
    """One line each, the state of all; nothing is hidden."""
    every = []
    for name in ("one", "two"):
        paths = RunPaths(run=tmp_path / name, output=tmp_path / name)
        paths.run.mkdir()
        paths.create()
        write(paths.journal, realistic_run(8 if name == "one" else 3)).close()
        every.append(paths)
    file = io.StringIO()
    watch(every, console=Console(file=file, width=100, height=24, force_terminal=True, color_system=None), once=True)
    lines = [line.rstrip() for line in file.getvalue().splitlines()]
    assert lines[0].startswith("── 2 runs ──")
    assert lines[1].startswith(
        "▸ one  ✗ not running        7/8    its models are gone · best original epoch_008.pt error 0.0478"
    )
    assert lines[2].startswith("  two  ✗ not running        2/3    no model yet · best original ")
    plain = io.StringIO()
    watch(every, console=Console(file=plain, width=100), once=True)
    assert "epoch_007.pt  published" in plain.getvalue()


def test_ctrl_c_gives_the_terminal_back(shown):
    """Ctrl-C leaves as quietly as q, without a traceback; Ctrl-Z does nothing meanwhile."""
    screen, _, _ = shown
    screen.type("", "C-z", "C-c")
    until(lambda: "left the dashboard" in screen.text)
    assert "Traceback" not in screen.text
    screen.assert_sane()


def test_a_kill_gives_the_terminal_back(shown):
    """SIGTERM still ends the process as SIGTERM does, but the terminal is restored first."""
    screen, _, pid_file = shown
    os.kill(int(pid_file.read_text()), signal.SIGTERM)
    until(lambda: "Terminated" in screen.text)
    assert "left the dashboard" not in screen.text
    screen.assert_sane()


def test_the_end_of_the_run_gives_the_terminal_back(shown):
    """The screen closes by itself with until_stopped when the daemon has stopped."""
    screen, journal, _ = shown
    journal.append(e.Stopped(reason="done"))
    until(lambda: "left the dashboard" in screen.text)
    screen.assert_sane()
