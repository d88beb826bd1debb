"""What `rna-watch dashboard` does: show a run on the terminal, or draw it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from rna_watch.dashboard import picture
from rna_watch.dashboard.live import watch
from rna_watch.dashboard.terminal import PlainConsole
from rna_watch.errors import NothingToDo, UsageError
from rna_watch.journal import sweep
from rna_watch.journal.run_registry import known_runs, resolve
from rna_watch.journal.standing import standing
from rna_watch.journal.status import load, settled
from rna_watch.layout import disk

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from rna_watch.journal.run_paths import RunPaths

_MOST_RUNS = 30


def runs_of(run_dirs: Sequence[Path], output: str | None) -> list[RunPaths]:
    """The runs of these folders: each itself, or all that one process watches below it.

    Raises:
        UsageError: `--output` is given for several.
    """
    if output is not None and len(run_dirs) != 1:
        raise UsageError("--output goes with one RUN_DIR")
    return [paths for run_dir in run_dirs for paths in sweep.runs_of(resolve(run_dir, output))]


def show(runs: Sequence[RunPaths], *, once: bool, say: Callable[[str], None]) -> None:
    """Show runs until a person leaves, or their present state; line by line if there is no terminal.

    Args:
        runs: the runs' paths; none: every run of this user.
        once: only the present state.
        say: shows a line, if it has to be waited for a sign of life of a run's owner.

    Raises:
        NothingToDo: no run is named, and none is known.
    """
    runs = runs or known_runs()[:_MOST_RUNS]
    if not runs:
        raise NothingToDo("no run of this user is known; start with: rna-watch start RUN_DIR")
    for paths in runs if once else ():
        settled(paths, say)
    watch(runs, console=PlainConsole(), once=once)


def draw(paths: RunPaths, file: Path, width: int, *, force: bool) -> None:
    """Write a picture of a run's present state.

    Args:
        paths: the run's paths.
        file: the SVG file.
        width: columns of text.
        force: replace a file that has the name.

    Raises:
        UsageError: something has the name.
        StoreError: the file cannot be written.
    """
    state, status = load(paths)
    drawn = picture.svg(state, status, now=time.time(), width=width, best=standing(state, paths.there))
    with disk.writing(file, "--svg"), disk.replacing(file, durable=False, new=not force) as temporary:
        disk.write_new(temporary, drawn.encode())
