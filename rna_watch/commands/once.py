"""What `rna-watch once` does: process every checkpoint that is there, and sum up the results."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

from rna_watch.commands.progress import progress
from rna_watch.commands.settle_run import nothing, settle
from rna_watch.commands.summary import of_last_call, summarize
from rna_watch.daemon.background import serve
from rna_watch.errors import NothingToDo
from rna_watch.evaluation.evaluator import check_exists
from rna_watch.journal import log
from rna_watch.journal.backfill import backfill
from rna_watch.journal.run_registry import resolve

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from rna_watch.commands.settle_run import Ask
    from rna_watch.config import RunConfig
    from rna_watch.journal.heartbeat import Work
    from rna_watch.journal.replay import RunState


def once(
    run_dir: Path,
    config: RunConfig,
    typed: Sequence[str],
    *,
    again: bool,
    say: Callable[[str], None],
    ask: Ask | None,
) -> None:
    """Process the checkpoints that are in a run directory now.

    Args:
        run_dir: the run directory, as typed.
        config: the settings.
        typed: all arguments of the command line.
        again: make every model anew whose inputs are there.
        say: shows a line.
        ask: see `settle`.

    Raises:
        NothingToDo: there is no checkpoint, none that can be used, or none left of which a run with models gets another one.
        RnaWatchError: nothing was published, and the run has no model, or something failed; every evaluation failed; or the
            run cannot be watched.
    """
    if config.evaluator is not None:
        check_exists(config.evaluator)
    process = partial(_process, run_dir, config, typed, again=again, say=say, ask=ask)
    if config.remote is None:
        process()
    else:
        from rna_watch.remote import mirror

        mirror.whole(config, resolve(run_dir, config.output), process, say)


def _process(
    run_dir: Path,
    config: RunConfig,
    typed: Sequence[str],
    *,
    again: bool,
    say: Callable[[str], None],
    ask: Ask | None,
) -> None:
    run_dir, found = settle(run_dir, config, ["rna-watch", *typed], ask, goes_on=False)
    for line in found:
        say(line)
    paths = resolve(run_dir, config.output)
    with progress() as show:

        def on_second(state: RunState, work: Work | None) -> None:
            far = backfill(state, time.time())
            show(work.stage if work else "checkpoints", far.done, far.total, far.left_s)

        state = serve(config, paths, until_done=True, again=again, say=say, on_second=on_second).state
    if not state.checkpoints:
        raise NothingToDo(nothing(paths))
    summary = summarize(of_last_call(log.read(paths.journal)), state, paths)
    for line in summary.lines:
        say(line)
    if summary.error is not None:
        raise summary.error
