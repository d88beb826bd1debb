"""What `rna-watch start` does for many runs: find them, start one process that watches them, and say how to look at them."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rna_watch.commands.settle_run import describe
from rna_watch.daemon import background
from rna_watch.daemon.ends import Ends
from rna_watch.daemon.sweep import Found
from rna_watch.errors import RnaWatchError, UsageError
from rna_watch.evaluation.evaluator import check_exists
from rna_watch.journal.command_line import command
from rna_watch.journal.quantities import printable
from rna_watch.journal.run_paths import RunPaths, looking_at
from rna_watch.journal.run_registry import resolve, usual_place
from rna_watch.layout.trouble import check_run
from rna_watch.watching.below import runs_below
from rna_watch.watching.reading import Reading
from rna_watch.watching.scan import scan

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rna_watch.config import RunConfig
    from rna_watch.watching.discovery import Run

_MOST_SHOWN = 20


class Below:
    """The runs below a folder, as they are at each look.

    Args:
        root: the folder.
        config: the settings `output`, `patterns` and `step`.
        globs: which folders are runs; empty: what lies in them tells.
    """

    def __init__(self, root: Path, config: RunConfig, globs: Sequence[str]) -> None:
        self.root = root
        self._config = config
        self._globs = globs
        self._paths: dict[str, RunPaths] = {}
        self.beside = 0  # checkpoints that lie in the folder itself

    def runs(self) -> list[Run]:
        """The runs that are there now.

        Raises:
            RnaWatchError: the folder cannot be read.
        """
        found, _ = scan(self.root, patterns=self._config.patterns)
        names = {each.name: each.identity.mtime_ns for each in found if each.identity is not None}
        reading = Reading(step=self._config.step)
        reading.update(names, names)
        folders = {name[:end] for name in names for end in range(len(name)) if name[end] == "/"}
        before = () if self._globs else [each for each in folders if self.paths(each).journal.exists()]
        runs = runs_below(names, reading, globs=self._globs, before=before)
        self.beside = sum("/" not in name for name in names)
        return runs

    def paths(self, folder: str) -> RunPaths:
        """The paths of a run in a folder below the root."""
        if folder not in self._paths:
            run = self.root / folder
            output = self._config.output
            elsewhere = RunPaths(run=run, output=Path(output or "").absolute() / folder)
            self._paths[folder] = elsewhere if output else usual_place(run)
        return self._paths[folder]

    def found(self) -> list[Found]:
        """The runs that are there now, for a sweep."""
        return [Found(paths=self.paths(run.folder), changed_ns=run.changed_ns) for run in self.runs()]


def start_many(
    run_dirs: Sequence[Path],
    config: RunConfig,
    typed: Sequence[str],
    *,
    recursive: bool,
    globs: Sequence[str],
    wait: bool,
    chosen: Path | None,
    foreground: bool,
    to_terminal: bool,
    say: Callable[[str], None],
) -> None:
    """Watch several runs in one process: those that are named, or all below a folder.

    Raises:
        UsageError: options that do not go together; see `start_below` and `start_these`.
    """
    if wait or chosen:
        raise UsageError("--wait goes with one run: with --recursive, runs are taken as they appear")
    if globs and not recursive:
        raise UsageError("--runs goes with --recursive, and one folder")
    if recursive and len(run_dirs) > 1:
        raise UsageError("--recursive goes with one folder; without it, several runs can be named")
    how: dict[str, Any] = {"foreground": foreground, "to_terminal": to_terminal, "say": say}
    if recursive:
        start_below(run_dirs[0], config, typed, globs=globs, **how)
    else:
        start_these(run_dirs, config, typed, **how)


def start_below(
    root: Path,
    config: RunConfig,
    typed: Sequence[str],
    *,
    globs: Sequence[str],
    foreground: bool,
    to_terminal: bool,
    say: Callable[[str], None],
) -> None:
    """Watch every run below a folder, also those that are yet to come.

    Args:
        root: the folder, as typed.
        config: the settings of all runs.
        typed: all arguments of the command line.
        globs: which folders are runs; empty: what lies in them tells.
        foreground: stay in this process.
        to_terminal: write the log to the terminal too, in the foreground.
        say: shows a line.

    Raises:
        UsageError: the folder or the evaluator's file does not exist.
        RnaWatchError: nothing can be watched; the message says why.
    """
    _check(config)
    with looking_at(root):
        check_run(root)
        below = Below(root.resolve(), config, globs)
    home = RunPaths(run=below.root, output=Path(config.output).absolute() if config.output else below.root)
    runs = below.runs()
    for line in _shown(runs, below, root):
        say(line)
    first = [Found(paths=below.paths(run.folder), changed_ns=run.changed_ns) for run in runs]
    serve = partial(background.serve_sweep, config, first, find=below.found, home=home)
    if foreground:
        serve(to_terminal=to_terminal, say=say)
        return
    arguments = typed[typed.index("start") + 1 :]
    go_on = partial(serve, to_terminal=False)
    pid = background.start_sweep(home, [], arguments, say, allow_links=config.allow_links, go_on=go_on)
    say(f"watching {root}, one process for all runs (process {pid})")
    output = None if home.output == home.run else home.output
    say(f"look     {command('status', root, output)}   (or: logs; end with: {command('stop', root, output)})")


def start_these(
    run_dirs: Sequence[Path],
    config: RunConfig,
    typed: Sequence[str],
    *,
    foreground: bool,
    to_terminal: bool,
    say: Callable[[str], None],
) -> None:
    """Watch several runs that are named, in one process; see `start_below`.

    Raises:
        UsageError: none of them exists.
        RnaWatchError: nothing can be watched; the message says why.
    """
    _check(config)
    common = Path(os.path.commonpath([each.absolute().parent for each in run_dirs]))
    runs: dict[Path, RunPaths] = {}
    errors: list[RnaWatchError] = []
    for each in run_dirs:
        output = None if config.output is None else str(Path(config.output) / each.absolute().relative_to(common))
        try:
            paths = resolve(each, output)
        except RnaWatchError as error:
            errors.append(error)
            say(printable(f"left     {each}: {error}"))
        else:
            runs.setdefault(paths.run, paths)
    if not runs:
        raise errors[0]
    nested = [(one, other) for one in runs for other in runs if one in other.parents]
    if nested:
        raise UsageError(
            f"{nested[0][1]} lies below {nested[0][0]}, which would take its checkpoints too: name one of them"
        )
    serve = partial(background.serve_sweep, config, [Found(paths=paths) for paths in runs.values()])
    if foreground:
        serve(to_terminal=to_terminal, say=say)
        return
    arguments = typed[typed.index("start") + 1 :]
    go_on = partial(serve, to_terminal=False)
    pid = background.start_sweep(None, list(runs.values()), arguments, say, allow_links=config.allow_links, go_on=go_on)
    say(f"one process for all of them ({pid})")
    look, stop = (command(name, next(iter(runs))) for name in ("status", "stop"))
    say(f"look     {look}   (let one go with: {stop})")


def _check(config: RunConfig) -> None:
    if config.evaluator is not None:
        check_exists(config.evaluator)
    Ends(config)


def _shown(runs: Sequence[Run], below: Below, root: Path) -> list[str]:
    """The runs in words."""
    said = [f"found    {len(runs) or 'no'} {'run' if len(runs) == 1 else 'runs'} below {root}{'' if runs else ' yet'}"]
    said[0] += "; what appears later is taken too, --runs GLOB says otherwise what is a run"
    width = max((len(run.folder) for run in runs[:_MOST_SHOWN]), default=0)
    said += [f"  {run.folder:{width}}  {describe(run.groups[0], trainer=False)}" for run in runs[:_MOST_SHOWN]]
    if len(runs) > _MOST_SHOWN:
        said.append(f"  and {len(runs) - _MOST_SHOWN} more")
    if below.beside:
        one = command("start", root)
        said.append(f"note     {below.beside} checkpoints in {root} itself are not taken; as one run: {one}")
    return list(map(printable, said))
