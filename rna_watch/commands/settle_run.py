"""The content of a run directory, from one scan and in words; and the runs to choose from, if there are several."""

from __future__ import annotations

import contextlib
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from rna_watch.errors import AllIgnored, RnaWatchError, UsageError
from rna_watch.formats import registry
from rna_watch.formats.probe import probe
from rna_watch.journal.quantities import printable
from rna_watch.journal.run_registry import resolve
from rna_watch.layout.unmatched import describe as describe_unmatched
from rna_watch.layout.unmatched import unmatched
from rna_watch.watching.discovery import MOST_BESIDE, discover, unexplained, within
from rna_watch.watching.reading import Reading
from rna_watch.watching.scan import linked_folders, scan
from rna_watch.watching.steps import ending, natural_key

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from rna_watch.config import RunConfig
    from rna_watch.journal.run_paths import RunPaths
    from rna_watch.watching.discovery import Discovery, NumberedNames, Run

    Ask = Callable[[list[str], int, int], int]

_MOST_CHOICES = 20
_PROBES = 3
_ASKED = 40
_UNITS = {"step": ("step", "steps"), "epoch": ("epoch", "epochs"), "number": ("number", "numbers")}


def settle(
    run_dir: Path,
    config: RunConfig,
    typed: Sequence[str],
    ask: Ask | None,
    *,
    goes_on: bool,
) -> tuple[Path, list[str]]:
    """The run to watch, and lines that describe it: the run directory, or the chosen one of several runs in it.

    Nothing is asked if patterns say what to take, or if the folder was watched before. It is then watched as before (a
    service that starts again has nobody to ask), and the daemon reports the several runs as a problem.

    Args:
        run_dir: the run directory, as typed.
        config: the settings.
        typed: the whole command, to show it for each run.
        ask: shows lines and returns a choice (1, 2, ...), given the number of choices and the default; None without a
            terminal.
        goes_on: whether later checkpoints will be taken too.

    Raises:
        UsageError: there is no such folder, there are several runs and nobody to ask, or all tensors are to be ignored.
    """
    where = resolve(run_dir, config.output)
    names = look(config, where)
    found = understand(names, where.run, config)
    chosen = run_dir
    while found.runs and not config.patterns and not where.journal.exists():
        shown, newest = _choices(found.runs)
        if ask is None:
            commands = [_instead(typed, run_dir, chosen / run.folder) for run in shown]
            raise UsageError(_refusal(found.runs, chosen, commands, shown, newest))
        more = f" (here the newest {len(shown)})" if len(shown) < len(found.runs) else ""
        labels = [f"{number:{len(str(len(shown)))}}  {run.folder}" for number, run in enumerate(shown, 1)]
        said = [printable(f"{len(found.runs)} runs lie below {chosen}{more}:"), *_table(labels, shown, newest)]
        folder = shown[ask(said, len(shown), newest + 1) - 1].folder
        chosen, names = chosen / folder, within(names, folder)
        where = resolve(chosen, config.output)
        found = understand(names, where.run, config)
    said = [*lines(found, config, goes_on=goes_on), *_ignoring(found, where.run, config)]
    links = passed_over(where) if goes_on and not found.groups else ""
    return chosen, [*said, f"note     {links}"] if links else said


def nothing(paths: RunPaths) -> str:
    """A sentence for a run without checkpoints."""
    links = passed_over(paths)
    what = f"there are no checkpoints (files ending in {', '.join(registry.endings())}; or --patterns)"
    return f"{what}; {links}" if links else what


def passed_over(paths: RunPaths) -> str:
    """The links to folders that are not followed although checkpoints may lie behind them; "" if there are none."""
    found = linked_folders(paths.run, exclude=(paths.models, paths.state))
    said = [f"{name} is a link to a folder, which is not followed: name {target} itself" for name, target in found]
    more = len(said) - MOST_BESIDE
    return printable("; ".join(said[:MOST_BESIDE]) + (f"; and {more} more" if more > 0 else ""))


def _instead(typed: Sequence[str], run_dir: Path, other: Path) -> str:
    """A command with another run directory."""
    places = [index for index, each in enumerate(typed) if Path(each) == run_dir]
    if len(places) != 1:
        return shlex.join([*typed[:2], str(other)])
    return shlex.join([*typed[: places[0]], str(other), *typed[places[0] + 1 :]])


def look(config: RunConfig, paths: RunPaths) -> dict[str, int]:
    """The paths of everything that looks like a checkpoint, and when each last changed (ns), by one scan.

    Raises:
        RnaWatchError: the run directory cannot be read.
    """
    found, _ = scan(paths.run, patterns=config.patterns, exclude=(paths.models, paths.state))
    return {each.name: each.identity.mtime_ns for each in found if each.identity is not None}


def understand(names: Mapping[str, int], run: Path, config: RunConfig) -> Discovery:
    """The sequences and runs of these names; some files are asked for what the names leave open.

    Args:
        names: paths relative to the run directory, and when each last changed (ns).
        run: the run directory.
        config: the settings `source`, `ignore` and `step`.
    """
    reading = Reading(step=config.step)
    reading.update(names, names)
    for name in reading.undecided(names)[:_ASKED]:
        with contextlib.suppress(OSError, RnaWatchError):
            reading.found_inside(name, probe(str(run / name), config.source, config.ignore).counters)
    found = discover(names, reading=reading)
    open_ones = unexplained(found.groups)
    if found.runs or len(open_ones) < 2:
        return found
    architectures = {}
    for group in open_ones[:_PROBES]:
        with contextlib.suppress(OSError, RnaWatchError):
            architectures[group.folder] = probe(str(run / group.newest), config.source, config.ignore).architecture
    return discover(names, architectures, reading)


def _ignoring(found: Discovery, run: Path, config: RunConfig) -> list[str]:
    """A line for patterns of tensors to ignore that match none of the newest checkpoints.

    Raises:
        AllIgnored: no tensor is left in any of them.
    """
    layouts, nothing_left = [], []
    for group in found.groups[:_PROBES] if config.ignore else ():
        try:
            layouts.append(probe(str(run / group.newest), config.source, config.ignore))
        except AllIgnored as error:
            nothing_left.append(AllIgnored(f"{group.newest} cannot be used: {error}"))
        except (OSError, RnaWatchError):
            continue  # the daemon says why
    if nothing_left and not layouts:
        raise nothing_left[0]
    patterns = unmatched(config.ignore, layouts) if layouts else ()
    return [printable(f"note     {describe_unmatched(patterns, layouts[0])}")] if patterns else []


def lines(found: Discovery, config: RunConfig, *, goes_on: bool) -> list[str]:
    """What was found, in one or two lines; no line if nothing was found and nothing is waited for.

    Args:
        found: the sequences.
        config: the settings.
        goes_on: whether later checkpoints will be taken too.
    """
    if not found.groups:
        named = (
            f"files like {', '.join(config.patterns)}"
            if config.patterns
            else f"files ending in {', '.join(registry.endings())}, and folders of them"
        )
        return [printable(f"found    no checkpoint yet; what appears here is taken ({named})")] if goes_on else []
    first, *others = found.groups
    said = [f"found    {describe(first, place=True)}"]
    if first.kind == "" and first.count == 1:
        said[0] += "; taken each time it is written"
    elif step := _step(first):
        said.append(f"step     {step}")
    if others:
        also = "; ".join(
            describe(each, place=each.folder != first.folder, trainer=each.trainer != first.trainer)
            for each in others[:MOST_BESIDE]
        )
        more = len(others) - MOST_BESIDE
        said.append(f"also     {also}" + (f"; and {more} more" if more > 0 else ""))
    return said


def _step(group: NumberedNames) -> str:
    """What tells the step of a group's checkpoints, in words; "" for a single one that tells it."""
    if group.count == 1:
        return ""
    if group.first is None:
        return f"read from {group.told}, as no number in the names is one; --step names one that is"
    if group.values < group.count:
        same = f"{group.values} values stand for {group.count} files"
        return f"read from {group.told}, but {same}; --step names another number, such as --step '_(\\d+)'"
    return f"read from {group.told}"


def describe(group: NumberedNames, *, place: bool = False, trainer: bool = True) -> str:
    """A group in words: how many checkpoints, their names, and their steps.

    Args:
        group: the checkpoints.
        place: name their folder too.
        trainer: name the trainer that writes them so too.
    """
    one = group.count == 1
    where = f" in {group.folder}" if place and group.folder else ""
    whose = f", as {group.trainer} writes {'it' if one else 'them'}" if trainer and group.trainer else ""
    if group.first is None and one:
        return printable(f"{group.pattern}{where}{whose}")
    span = ""
    if group.first is not None:
        unit, units = _UNITS[group.kind]
        span = f", {unit} {group.last}" if group.first == group.last else f", {units} {group.first} to {group.last}"
    return printable(f"{group.count} checkpoint{'' if one else 's'}{where}{whose}: {group.pattern}{span}")


def _choices(runs: Sequence[Run]) -> tuple[list[Run], int]:
    """The runs to choose from (only the most recently changed ones of very many), and the index of the newest."""
    newest = sorted(runs, key=lambda run: run.changed_ns, reverse=True)[:_MOST_CHOICES]
    shown = sorted(newest, key=lambda run: natural_key(run.folder))
    return shown, shown.index(newest[0])


def _table(labels: Sequence[str], runs: Sequence[Run], newest: int) -> list[str]:
    """A line for each run: its label, its checkpoints, and a mark for the newest."""
    width = max(map(len, labels))
    return [
        f"  {printable(label):{width}}  {describe(run.groups[0], trainer=False)}{'  (newest)' if index == newest else ''}"
        for index, (label, run) in enumerate(zip(labels, runs, strict=True))
    ]


def _refusal(runs: Sequence[Run], run_dir: Path, commands: Sequence[str], shown: Sequence[Run], newest: int) -> str:
    """The message for several runs and nobody to ask: the runs, and the command for each."""
    more = [f"  (and {len(runs) - len(shown)} more, not as new)"] if len(shown) < len(runs) else []
    everything = shlex.quote(",".join(sorted({_any(group) for run in runs for group in run.groups})))
    return "\n".join(
        [
            printable(f"{len(runs)} runs lie below {run_dir}; name the one to take:"),
            *_table(commands, shown, newest),
            *more,
            f"or, if they are one run after all, add --patterns {everything}",
        ]
    )


def _any(group: NumberedNames) -> str:
    """A pattern for the names of a group and others of their kind."""
    last = group.pattern.rpartition("/")[2]
    return f"*{ending(last)}" if ending(last) else last
