"""What `rna-watch start` does: find out which run is meant, start to watch it, and say how to look at it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rna_watch.commands.settle_run import settle
from rna_watch.daemon import background
from rna_watch.daemon.ends import Ends
from rna_watch.evaluation.evaluator import check_exists
from rna_watch.journal import events as e
from rna_watch.journal.command_line import command
from rna_watch.journal.run_paths import await_run
from rna_watch.journal.run_registry import resolve
from rna_watch.journal.standing import standings
from rna_watch.journal.status import load
from rna_watch.journal.words import all_stand

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from rna_watch.commands.settle_run import Ask
    from rna_watch.config import RunConfig


def start(
    run_dir: Path,
    config: RunConfig,
    typed: Sequence[str],
    *,
    wait: bool,
    chosen: Path | None,
    foreground: bool,
    to_terminal: bool,
    say: Callable[[str], None],
    ask: Ask | None,
) -> None:
    """Watch a run in the background, or in this process until it is stopped.

    Args:
        run_dir: the run directory, as typed.
        config: the settings.
        typed: all arguments of the command line; the process in the background gets those of `start`.
        wait: wait for a run directory that does not exist yet.
        chosen: the run, if it is settled already (by the process in the foreground).
        foreground: stay in this process.
        to_terminal: write the log to the terminal too, in the foreground.
        say: shows a line.
        ask: see `settle`.

    Raises:
        UsageError: the evaluator's file or its function, or the process to end with, does not exist.
        RnaWatchError: the run cannot be watched; the message says why.
    """
    if config.evaluator is not None:
        check_exists(config.evaluator)
    Ends(config)
    if chosen is None:
        await_run(run_dir, wait=wait, say=say)
        run_dir, found = settle(run_dir, config, ["rna-watch", *typed], ask, goes_on=True)
        for line in found:
            say(line)
    paths = resolve(chosen or run_dir, config.output)
    if foreground:
        background.serve(config, paths, to_terminal=to_terminal, say=say)
        return
    pid = background.start(
        paths, [*typed[typed.index("start") + 1 :], "--chosen", str(paths.run)], say, allow_links=config.allow_links
    )
    say(f"watching {paths.run} (process {pid})\nmodels   {paths.models}")
    state, _ = load(paths)
    for line in all_stand(standings(state, paths.there), state):
        say(f"so far   {line}")
    for problem in state.problems.values():
        say(f"problem  {problem.what}; {problem.remedy}")
    began = state.started.seq if state.started else 0
    for event in list(state.recent):
        if isinstance(event, e.Noted) and event.seq > began and not event.checkpoint:
            say(f"note     {event.text}")
    if not config.evaluator and not config.evaluate_command:
        say("note     nothing is evaluated: add --evaluator FILE.py:function to know which models are better")
    look, stop = (
        command(name, run_dir, None if paths.output == paths.run else paths.output) for name in ("dashboard", "stop")
    )
    say(f"look     {look}   (or: status, logs; end with: {stop})")
