"""What `rna-watch compare` does: print the comparison of a run's methods, and draw it."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING

from rna_watch.comparison.comparison import compare
from rna_watch.comparison.plot import check
from rna_watch.comparison.plot import plot as draw
from rna_watch.comparison.record import record
from rna_watch.comparison.tables import render
from rna_watch.dashboard.terminal import PlainConsole
from rna_watch.errors import UsageError
from rna_watch.journal.echo import echo
from rna_watch.journal.status import load

if TYPE_CHECKING:
    from pathlib import Path

    from rna_watch.acceleration.significance import Mode
    from rna_watch.journal.run_paths import RunPaths


def show(
    paths: RunPaths,
    *,
    metric: str | None,
    mode: Mode | None,
    levels: str | None,
    sequence: str | None,
    members: bool,
    plot: Path | None,
    force: bool,
    as_json: bool,
) -> None:
    """Print the comparison of a run.

    Args:
        paths: the run's paths.
        metric: the evaluator's metric to show; None: the one that models were chosen by.
        mode: its direction, if its name does not say it.
        levels: values of the metric to be reached, with commas; None: values around the original's best.
        sequence: the sequence to compare, if a folder has several; None: the longest.
        members: show every fixed recipe too.
        plot: a picture to draw too.
        force: replace what has the picture's name.
        as_json: print everything as one JSON object instead.

    Raises:
        NothingToDo: nothing was evaluated.
        UsageError: a level is no number, the metric or the sequence is unknown, or the picture cannot be drawn.
    """
    if plot is not None:
        check(plot)
    comparison = compare(
        load(paths)[0],
        metric=metric,
        mode=mode,
        given=parse_levels(levels),
        sequence=sequence,
        there=paths.there,
    )
    if plot is not None:
        draw(comparison, plot, force=force)
    console = PlainConsole(highlight=False)
    if as_json:
        echo(json.dumps(record(comparison), indent=2))
        return
    colour = console.color_system is not None and not console.no_color
    console.print(render(comparison, width=console.width, members=members, colour=colour))
    if plot is not None:
        console.print(f"picture: {plot}", soft_wrap=True, markup=False)


def parse_levels(text: str | None) -> list[float] | None:
    """The levels of `--levels 20,10,5`.

    Raises:
        UsageError: a level is no finite number.
    """
    if text is None:
        return None
    found = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        try:
            level = float(part)
        except ValueError:
            level = math.nan
        if not math.isfinite(level):
            raise UsageError(f"--levels takes numbers with commas between them, like 20,10,5; {part!r} is none")
        found.append(level)
    return found or None
