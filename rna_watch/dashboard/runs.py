"""Several runs on one screen: a line each, with what it is worth and what is wrong."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.text import Text

from rna_watch.dashboard.answer import answer
from rna_watch.dashboard.header import state_mark
from rna_watch.dashboard.layout import Lines, fit, heading, tail_of
from rna_watch.journal.backfill import backfill
from rna_watch.journal.quantities import plain

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rna_watch.journal.replay import RunState
    from rna_watch.journal.standing import Standing
    from rna_watch.journal.status import Status

_NAME = 28
_STATE = 15


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSight:
    """What is known of a run: its path, what its journal adds up to, its status, and its best model."""

    path: str
    state: RunState
    status: Status
    best: Standing | None


def runs(sights: Sequence[RunSight], *, picked: int, now: float, width: int, height: int) -> Lines:
    """A title and a line for each run, as many as fit around the picked one.

    Args:
        sights: the runs.
        picked: the number of the run that a person is at.
        now: seconds since 1970.
        width: terminal cells of a line.
        height: the most lines.
    """
    troubled = sum(bool(each.state.problems) for each in sights)
    note = f"{troubled} with problems" if troubled else ""
    first = max(0, min(picked - (height - 2) // 2, len(sights) - (height - 1)))
    shown = list(enumerate(sights))[first : first + height - 1]
    common = _common([each.path for each in sights])
    name_width = min(max((len(plain(each.path[common:])) for each in sights), default=0), max(_NAME, width // 3))
    lines = [heading(f"{len(sights)} {'run' if len(sights) == 1 else 'runs'}", note, width)]
    for index, each in shown:
        far = backfill(each.state, now)
        glyph, style = state_mark(each.state, each.status)
        line = Text.assemble(
            ("▸ " if index == picked else "  ", "bold cyan"),
            (tail_of(plain(each.path[common:]), name_width).ljust(name_width), "bold" if index == picked else ""),
            "  ",
            (f"{glyph} {each.status.state}".ljust(_STATE), style),
            f"{far.done}/{far.total}".rjust(9),
            ("  ! " if each.state.problems else "    ", "bold red"),
        )
        lines.append(fit(line.append_text(answer(each.state, each.best, max(width - line.cell_len, 20))), width))
    return lines


def _common(paths: Sequence[str]) -> int:
    """How many characters of the folder that all paths lie in need not be said."""
    if len(paths) < 2:
        return 0
    first, last = min(paths), max(paths)
    same = next(
        (index for index, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last))
    )
    return first.rfind("/", 0, same) + 1
