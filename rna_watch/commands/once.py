"""What `rna-watch once` does: process every checkpoint that is there, and sum up the results."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from rna_watch.commands.settle_run import nothing, settle
from rna_watch.daemon.background import serve
from rna_watch.errors import NothingToDo, RnaWatchError
from rna_watch.journal.replay import DONE, Stage
from rna_watch.journal.run_registry import resolve
from rna_watch.journal.standing import standing
from rna_watch.journal.words import stands

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from rna_watch.commands.settle_run import Ask
    from rna_watch.config import RunConfig


def once(
    run_dir: Path, config: RunConfig, typed: Sequence[str], *, say: Callable[[str], None], ask: Ask | None
) -> None:
    """Process the checkpoints that are in a run directory now.

    Args:
        run_dir: the run directory, as typed.
        config: the settings.
        typed: all arguments of the command line.
        say: shows a line.
        ask: see `settle`.

    Raises:
        NothingToDo: there is no checkpoint, or none that can be used.
        RnaWatchError: work on all of them failed, or the run cannot be watched.
    """
    run_dir, found = settle(run_dir, config, ["rna-watch", *typed], ask, goes_on=False)
    for line in found:
        say(line)
    paths = resolve(run_dir, config.output)
    state = serve(config, paths, until_done=True, say=say).state
    counts = Counter(checkpoint.stage for checkpoint in state.checkpoints.values())
    if not counts:
        raise NothingToDo(nothing(paths))
    say("; ".join(f"{count} {stage}" for stage, count in counts.items()))
    now = standing(state, paths.there)
    if now is not None and (line := stands(now, state)):
        say(line)
    if not DONE & counts.keys():
        failed = {Stage.FAILED, Stage.SKIPPED} & counts.keys()
        raise (RnaWatchError if failed else NothingToDo)("no checkpoint could be used; the reasons are above")
