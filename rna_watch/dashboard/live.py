"""The live dashboard: follows a run's journal and heartbeat, beside a daemon or none, and never writes to either."""

from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING

from rich.live import Live

from rna_watch.dashboard.status import status_of
from rna_watch.dashboard.terminal import HUNG_UP, keys, polite_end
from rna_watch.dashboard.view import render
from rna_watch.journal import heartbeat as heartbeats
from rna_watch.journal.log import Tail
from rna_watch.journal.replay import RunState
from rna_watch.journal.words import describe

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterator
    from pathlib import Path

    from rich.console import Console, RenderableType

    from rna_watch.journal.events import Event
    from rna_watch.journal.heartbeat import Heartbeat

_POLL_S = 0.25
# Ages and progress move on even when nothing happens, but once a second is enough for them.
_IDLE_REFRESH_S = 1.0
# A long journal is read in slices, so that the keys work meanwhile.
_SLICE_S = 0.2


def watch(
    journal_path: Path,
    heartbeat_path: Path,
    *,
    console: Console,
    once: bool = False,
    until_stopped: bool = False,
    stop: threading.Event | None = None,
) -> None:
    """Show a run until a person leaves with `q` or Ctrl-C; on what is no terminal, a plain line for each event.

    Args:
        journal_path: the run's journal; if there is none yet, it is waited for.
        heartbeat_path: the daemon's heartbeat file.
        console: where to show it.
        once: show what there is now and return.
        until_stopped: return when the daemon has stopped.
        stop: return when it is set.
    """
    run = _Run(journal_path, heartbeat_path)
    _tolerate(console)
    with contextlib.suppress(KeyboardInterrupt):
        if not console.is_terminal or console.is_dumb_terminal or (not once and not _owns_screen(console)):
            _print_lines(run, console, once=once, until_stopped=until_stopped, stop=stop)
        elif once:
            run.catch_up()
            console.print(run.frame(console, height=max(console.height - 1, 1), hint=""))
        else:
            _show(run, console, until_stopped=until_stopped, stop=stop)


class _Run:
    """The state of a run as its files tell it, kept up to date."""

    def __init__(self, journal_path: Path, heartbeat_path: Path) -> None:
        self.journal_path = journal_path
        self.heartbeat_path = heartbeat_path
        self.heartbeat: Heartbeat | None = None
        self.caught_up = False
        self._begin(None)

    def _begin(self, identity: tuple[int, int] | None) -> None:
        self.state = RunState()
        self._tail = Tail(self.journal_path)
        self._identity = identity
        self._size = 0

    def new(self) -> Iterator[Event]:
        """The events since the last call, each already part of the state; the heartbeat is read as well."""
        self.caught_up = False
        self.heartbeat = heartbeats.read(self.heartbeat_path)
        try:
            stat = self.journal_path.stat()
        except OSError:
            return
        identity = (stat.st_dev, stat.st_ino)
        # A run that was deleted and started afresh has another journal under the same name.
        if self._identity is not None and (identity != self._identity or stat.st_size < self._size):
            self._begin(identity)
        self._identity, self._size = identity, stat.st_size
        for event in self._tail.new():
            self.state.apply(event)
            yield event
        self.caught_up = True

    def catch_up(self) -> None:
        """Read everything there is."""
        for _ in self.new():
            pass

    def catch_up_for(self, seconds: float) -> bool:
        """Read what is new, for so long at most; whether there was anything."""
        deadline = time.monotonic() + seconds
        changed = False
        for _ in self.new():
            changed = True
            if time.monotonic() > deadline:
                break
        return changed

    def frame(self, console: Console, *, height: int, hint: str) -> RenderableType:
        """The frame of this moment."""
        return render(
            self.state,
            self.heartbeat,
            now=time.time(),
            width=console.width,
            height=height,
            waiting_for=str(self.journal_path),
            hint=hint,
        )


def _show(run: _Run, console: Console, *, until_stopped: bool, stop: threading.Event | None) -> None:
    with (
        polite_end() as told_to_end,
        keys() as wait_for_key,
        Live(console=console, screen=True, auto_refresh=False) as live,
    ):
        shown = None
        drawn_at = 0.0
        while True:
            changed = run.catch_up_for(_SLICE_S)
            sight = (console.size, run.heartbeat)
            if changed or sight != shown or time.monotonic() - drawn_at >= _IDLE_REFRESH_S:
                live.update(run.frame(console, height=console.height, hint="q leaves"), refresh=True)
                shown, drawn_at = sight, time.monotonic()
            if told_to_end() or _over(run, until_stopped=until_stopped, stop=stop):
                return
            if wait_for_key(_POLL_S) in {"q", "Q", HUNG_UP}:
                return


def _print_lines(run: _Run, console: Console, *, once: bool, until_stopped: bool, stop: threading.Event | None) -> None:
    """One line an event, the history first; no control codes."""
    told: str | None = None
    while True:
        for event in run.new():
            text = describe(event, run.state)
            if text is not None:
                _print(console, event.time, text)
        status = status_of(run.state, run.heartbeat, now=time.time())
        if status.word != told and status.word in {"not started", "not running"}:
            waits = f"waiting for {run.journal_path}; start with: rna-watch start RUN_DIR"
            _print(console, time.time(), waits if run.state.started is None else f"{status.word}: {status.detail}")
        told = status.word
        if once or _over(run, until_stopped=until_stopped, stop=stop):
            return
        if stop is not None:
            stop.wait(_POLL_S)
        else:
            time.sleep(_POLL_S)


def _print(console: Console, seconds: float, text: str) -> None:
    console.out(f"{time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(seconds))}  {text}", highlight=False)


def _over(run: _Run, *, until_stopped: bool, stop: threading.Event | None) -> bool:
    # In the middle of a long history the end of an earlier daemon is not yet followed by the next one's start.
    ended = run.caught_up and run.state.stopped is not None
    return (stop is not None and stop.is_set()) or (until_stopped and ended)


def _owns_screen(console: Console) -> bool:
    """Whether the console really is a terminal, and not only told to behave like one (FORCE_COLOR in a CI log)."""
    try:
        return os.isatty(console.file.fileno())
    except (OSError, ValueError, AttributeError):
        return False


def _tolerate(console: Console) -> None:
    """Let a terminal that lacks a character show a question mark instead of ending the dashboard."""
    reconfigure = getattr(console.file, "reconfigure", None)
    if reconfigure is not None and not console.encoding.startswith("utf"):
        reconfigure(errors="replace")
