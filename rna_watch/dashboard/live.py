"""The live dashboard: follows a run's journal and status, with or without a daemon, and writes to no file of the run."""

from __future__ import annotations

import contextlib
import math
import os
import time
from typing import TYPE_CHECKING

from rich.live import Live
from rich.text import Text

from rna_watch.dashboard.look import RUN, RUNS, Look, press
from rna_watch.dashboard.runs import RunSight, runs
from rna_watch.dashboard.table import ordered
from rna_watch.dashboard.terminal import HUNG_UP, keys, polite_end
from rna_watch.dashboard.view import framed, render
from rna_watch.journal.command_line import named
from rna_watch.journal.cooled import cooled, sentence
from rna_watch.journal.follow import Follower
from rna_watch.journal.metric import metric_of
from rna_watch.journal.run_paths import RunPaths
from rna_watch.journal.standing import standing
from rna_watch.journal.status import status_of
from rna_watch.journal.words import describe, stands

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterator, Sequence

    from rich.console import Console, RenderableType

    from rna_watch.journal.events import Event
    from rna_watch.journal.standing import Standing

_POLL_S = 0.25
# Ages and progress change even when nothing happens, but once a second is enough for them.
_IDLE_REFRESH_S = 1.0
_SHARE = 0.012  # of a core that frames take at most, but for those that a key asks for
# A long journal is read in slices, so that the keys work meanwhile.
_SLICE_S = 0.2
_FIRST_SLICE_S = 1.0  # the first frame shows a run of usual length whole


def watch(
    paths: RunPaths | Sequence[RunPaths],
    *,
    console: Console,
    once: bool = False,
    until_stopped: bool = False,
    stop: threading.Event | None = None,
) -> None:
    """Show runs until a person leaves with `q` or Ctrl-C; without a terminal, print a plain line for each event of one run.

    Args:
        paths: the run's paths, or those of several runs; a journal need not be there yet.
        console: where to show it.
        once: show the present state and return.
        until_stopped: return when the daemon has stopped.
        stop: return when it is set.
    """
    lines = not console.is_terminal or console.is_dumb_terminal or (not once and not _owns_screen(console))
    every = [_Run(each, history=lines) for each in ([paths] if isinstance(paths, RunPaths) else paths)]
    _tolerate(console)
    with contextlib.suppress(KeyboardInterrupt):
        if lines:
            for run in every if once else every[:1]:
                _print_lines(run, console, once=once, until_stopped=until_stopped, stop=stop)
        elif once:
            for run in every:
                run.catch_up()
            console.print(_frame(every, console, height=max(console.height - 1, 1), hint="", look=_first(every)))
        else:
            _show(every, console, until_stopped=until_stopped, stop=stop)


def _first(every: Sequence[_Run]) -> Look:
    return Look(screen=RUNS if len(every) > 1 else RUN)


class _Run:
    """A run as its files describe it, kept up to date; `history`: whether its past events are given too."""

    def __init__(self, paths: RunPaths, *, history: bool) -> None:
        self.paths = paths
        self.follower = Follower(paths.journal, history=history)
        self.status = status_of(paths)
        self._best: Standing | None = None
        self._known: Event | None = None

    def new(self) -> Iterator[Event]:
        """The events since the last call, each already part of the state; the status is looked up after them."""
        yield from self.follower.new()
        self.status = status_of(self.paths, self.follower.state)

    def catch_up(self, seconds: float = math.inf) -> bool:
        """Read new events for at most so many seconds; returns whether there was one."""
        deadline = time.monotonic() + seconds
        changed = False
        for _ in self.new():
            changed = True
            if time.monotonic() > deadline:
                break
        return changed

    def best(self) -> Standing | None:
        """The best model that is there, looked for again after events, and where it is gone."""
        state = self.follower.state
        newest = state.recent[-1] if state.recent else None
        model = self._best.model if self._best else None
        if newest is not self._known or (model is not None and not self.paths.there(model.output)):
            self._best, self._known = standing(state, self.paths.there), newest
        return self._best

    def sight(self) -> RunSight:
        """The run for a line of several."""
        return RunSight(path=named(self.paths.run), state=self.follower.state, status=self.status, best=self.best())


def _frame(every: Sequence[_Run], console: Console, *, height: int, hint: str, look: Look) -> RenderableType:
    """The frame of this moment.

    Args:
        every: the runs.
        console: its width counts.
        height: lines.
        hint: what the keys do.
        look: what a person looks at.
    """
    if look.screen == RUNS:
        now, foot = time.time(), [Text(hint, "dim")] if hint else []
        sights = [run.sight() for run in every]
        lines = runs(sights, picked=look.run, now=now, width=console.width, height=height - len(foot))
        return framed(lines, foot, width=console.width, height=height if hint else None, limit=height)
    run = every[look.run]
    return render(
        run.follower.state,
        run.status,
        now=time.time(),
        width=console.width,
        height=height,
        waiting_for=str(run.paths.journal),
        hint=hint,
        best=run.best(),
        look=look,
    )


def _show(every: Sequence[_Run], console: Console, *, until_stopped: bool, stop: threading.Event | None) -> None:
    look = _first(every)
    with (
        polite_end() as told_to_end,
        keys() as wait_for_key,
        Live(console=console, screen=True, auto_refresh=False) as live,
    ):
        shown: object = None
        statuses: object = None
        drawn_at = cost_s = 0.0
        changed, slice_s = False, _FIRST_SLICE_S
        while True:
            seen = every if look.screen == RUNS else every[look.run : look.run + 1]
            if not look.paused:
                changed = sum(run.catch_up(slice_s / len(seen)) for run in seen) > 0 or changed
                slice_s = _SLICE_S
            over = told_to_end() or _over(every[0], until_stopped=until_stopped, stop=stop)
            since_s, now = time.monotonic() - drawn_at, [run.status for run in seen]
            moved = changed or now != statuses or since_s >= _IDLE_REFRESH_S
            if shown != (console.size, look) or (not look.paused and moved and (over or since_s >= cost_s / _SHARE)):
                hint = f"{'PAUSED  p goes on  ' if look.paused else ''}? help  q leaves"
                began = time.thread_time()
                live.update(_frame(every, console, height=console.height, hint=hint, look=look), refresh=True)
                cost_s = time.thread_time() - began
                shown, statuses, changed, drawn_at = (console.size, look), now, False, time.monotonic()
            if over:
                return
            key = wait_for_key(_POLL_S)
            if key in {"q", "Q", HUNG_UP}:
                return
            if key:
                state = every[look.run].follower.state
                rows = len(ordered(state, metric_of(state), look))
                look = press(look, key, runs=len(every), rows=rows)


def _print_lines(run: _Run, console: Console, *, once: bool, until_stopped: bool, stop: threading.Event | None) -> None:
    """One line an event, the history first; no control codes."""
    said: str | None = None
    while True:
        for event in run.new():
            text = describe(event, run.follower.state)
            if text is not None:
                _print(console, event.time, text)
        state, status = run.follower.state, run.status
        if status.state != said and not status.responds and not status.ended:
            waits = f"waiting for {run.paths.journal}; start with: rna-watch start RUN_DIR"
            words = waits if state.started is None else f"{status.state}: {status.detail(time.time())}"
            _print(console, time.time(), words)
        said = status.state
        if once:
            best, branch = run.best(), cooled(state)
            for line in (stands(best, state) if best else "", sentence(branch) if branch else ""):
                if line:
                    _print(console, time.time(), line)
        if once or _over(run, until_stopped=until_stopped, stop=stop):
            return
        if stop is not None:
            stop.wait(_POLL_S)
        else:
            time.sleep(_POLL_S)


def _print(console: Console, seconds: float, text: str) -> None:
    console.out(f"{time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(seconds))}  {text}", highlight=False)


def _over(run: _Run, *, until_stopped: bool, stop: threading.Event | None) -> bool:
    # A daemon that ended in the middle of a long history has a successor that was not read yet.
    ended = run.follower.caught_up and run.follower.state.stopped is not None
    return (stop is not None and stop.is_set()) or (until_stopped and ended)


def _owns_screen(console: Console) -> bool:
    """Whether the console really is a terminal, and does not only behave like one (FORCE_COLOR in a CI log)."""
    try:
        return os.isatty(console.file.fileno())
    except (OSError, ValueError, AttributeError):
        return False


def _tolerate(console: Console) -> None:
    """Print a question mark for a character that the terminal lacks, instead of ending the dashboard."""
    reconfigure = getattr(console.file, "reconfigure", None)
    if reconfigure is not None and not console.encoding.startswith("utf"):
        reconfigure(errors="replace")
