"""What `rna-watch start` does: find out which run is meant, start to watch it, and say how to look at it."""

from __future__ import annotations

import contextlib
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from rna_watch.commands.settle_run import settle
from rna_watch.config import as_json
from rna_watch.daemon import background
from rna_watch.daemon.ends import Ends
from rna_watch.daemon.setup import Timing
from rna_watch.evaluation.evaluator import check_exists
from rna_watch.journal import events as e
from rna_watch.journal import waiting
from rna_watch.journal.backfill import backfill
from rna_watch.journal.command_line import command, named
from rna_watch.journal.quantities import duration, plain
from rna_watch.journal.replay import Stage
from rna_watch.journal.run_paths import is_to_come
from rna_watch.journal.run_registry import resolve
from rna_watch.journal.standing import standings
from rna_watch.journal.status import load
from rna_watch.journal.words import all_stand

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from rna_watch.commands.settle_run import Ask
    from rna_watch.config import RunConfig
    from rna_watch.journal.replay import RunState
    from rna_watch.journal.run_paths import RunPaths

_FEWEST = 3  # checkpoints of a window
_READ_BYTES_PER_S = 2e8
_MOST_CHANGES = 6
_PATIENCE_S = 1.0


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
        wait: wait for a run directory that does not exist yet; in the background, this returns at once.
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
    arguments = typed[typed.index("start") + 1 :]
    if chosen is None:
        with contextlib.ExitStack() as stack:
            to_come = is_to_come(run_dir, wait=wait)
            if not to_come:
                waiting.forget(run_dir.absolute())
            else:
                if not foreground:
                    options: dict[str, Any] = {"wait": True, "chosen": None, "foreground": True, "to_terminal": False}
                    waits = partial(start, run_dir, config, typed, **options, say=say, ask=None)
                    pid = background.start_waiting(run_dir.absolute(), arguments, waits)
                    say(f"waiting  for {run_dir}, which the training is to make (process {pid})")
                    say(f"look     {command('status', run_dir)}   (end with: {command('stop', run_dir)})")
                    return
                say(f"waiting  for {run_dir}, which the training is to make (Ctrl-C ends)")
                stack.enter_context(waiting.waiting(run_dir.absolute()))
                waiting.await_folder(run_dir)
            run_dir, found = settle(run_dir, config, ["rna-watch", *typed], ask, goes_on=True)
        for line in found if config.remote is None else ():  # what was fetched by now says nothing of the rest
            say(line)
    paths = resolve(chosen or run_dir, config.output)
    serve = partial(background.serve, config, paths, before=partial(_again, config))
    if foreground:
        serve(to_terminal=to_terminal, say=say)
        return
    with _telling(say) as (tell, on_wait):
        arguments = [*arguments, "--chosen", str(paths.run)]
        go_on = partial(serve, to_terminal=False)
        pid = background.start(paths, arguments, tell, allow_links=config.allow_links, on_wait=on_wait, go_on=go_on)
    say(f"watching {named(paths.run)} (process {pid})\nmodels   {paths.models}")
    for line in _begun(paths, config):
        say(line)
    look, stop = (
        command(name, run_dir, None if paths.output == paths.run else paths.output) for name in ("dashboard", "stop")
    )
    say(f"look     {look}   (or: status, logs; end with: {stop})")


@contextlib.contextmanager
def _telling(say: Callable[[str], None]) -> Iterator[tuple[Callable[[str], None], Callable[[float], None]]]:
    """Yields what shows a line of the process in the background, and what shows how long the last one takes."""
    last: list[str] = ["starting"]
    show: list[Callable[[str, int, int, float | None], None]] = []
    with contextlib.ExitStack() as stack:

        def tell(line: str) -> None:
            last[0] = line.partition(" ")[0]
            say(line)

        def wait(so_far_s: float) -> None:
            if not show and so_far_s >= _PATIENCE_S:
                # not sooner: most starts do without, and the daemon, a copy of what this process was, always does
                from rna_watch.commands.progress import progress

                show.append(stack.enter_context(progress(so_far_s)))
            for each in show:
                each(last[0], 0, 0, None)

        yield tell, wait


def _again(config: RunConfig, state: RunState) -> list[str]:
    """For a run that was watched before: what is done, and which settings are other than then."""
    if state.started is None:
        return []
    before, now = state.started.settings, as_json(config)
    changed = [f"{key} {_shown(before[key])} -> {_shown(now[key])}" for key in now if _differs(key, before, now)]
    more = len(changed) - _MOST_CHANGES
    said = "; ".join(changed[:_MOST_CHANGES]) + (f"; and {more} more" if more > 0 else "")
    done = state.checkpoints.count([Stage.PUBLISHED])
    models = f"{done} {'model' if done == 1 else 'models'}"
    return [
        f"again    watched before, {models} so far; " + (f"settings that differ: {said}" if said else "same settings")
    ]


def _differs(key: str, before: dict[str, Any], now: dict[str, Any]) -> bool:
    return key in before and before[key] != now[key]


def _shown(value: object) -> str:
    if isinstance(value, list):
        return ",".join(map(str, value)) or "none"
    return "none" if value is None else plain(str(value))


def _begun(paths: RunPaths, config: RunConfig) -> Iterator[str]:
    """How the run stands at the begin: the best so far, what to expect, what is wrong, and notes."""
    state, _ = load(paths)
    for line in all_stand(standings(state, paths.there), state):
        yield f"so far   {line}"
    yield from _to_come(state, config, paths)
    for problem in state.problems.values():
        yield f"problem  {problem.what}; {problem.remedy}"
    began = state.started.seq if state.started else 0
    for event in list(state.recent):
        if isinstance(event, e.Noted) and event.seq > began and not event.checkpoint:
            yield f"note     {event.text}"
    if not config.evaluator and not config.evaluate_command:
        yield "note     nothing is evaluated: add --evaluator FILE.py:function to know which models are better"


def _to_come(state: RunState, config: RunConfig, paths: RunPaths) -> Iterator[str]:
    """When the first model comes, or how much is left to do."""
    far = backfill(state, time.time())
    if far.total and far.done == far.total and state.outputs:
        yield f"done     all {far.total} are done, waiting for new ones"
    elif not state.outputs and far.total >= _FEWEST:
        newest = next(each.admitted for each in reversed(state.checkpoints.values()) if each.admitted)
        seconds = Timing.of(paths.run, config.quiet, None).quiet_s + _FEWEST * newest.size_bytes / _READ_BYTES_PER_S
        tested = " and the time of its first evaluations" if config.evaluator or config.evaluate_command else ""
        yield f"first    model in about {duration(max(1, round(seconds)))}{tested}"
    elif not state.outputs:
        yield f"first    model with checkpoint number {_FEWEST}: {far.total or 'none'} {'is' if far.total < 2 else 'are'} here"
