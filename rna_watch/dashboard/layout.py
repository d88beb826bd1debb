"""The layout of a frame: lists of single lines, none wider than its place, put below and next to each other."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import TYPE_CHECKING

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from rna_watch.journal.quantities import plain

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

Lines = list[Text]
GAP = 3
_SHORTEST_NOTE = 12


def fit(text: Text, width: int) -> Text:
    """The text cut to the width; an ellipsis shows that something is missing."""
    if text.cell_len > width:
        text = text.copy()
        text.truncate(max(width, 0), overflow="ellipsis")
    return text


def tail_of(text: str, width: int) -> str:
    """The end of the text, with an ellipsis before it: names and paths differ at their end."""
    if cell_len(text) <= width:
        return text
    while text and cell_len(text) > width - 1:
        text = text[1:]
    return f"…{text}" if width > 0 else ""


def heading(title: str, note: str, width: int) -> Text:
    """A rule across the width with a title at its left and a note at its right.

    Args:
        title: what stands below.
        note: cut, or left out, where there is no room.
        width: terminal cells.
    """
    line = Text.assemble(("── ", "dim"), (plain(title), "bold"), " ")
    note = plain(note)
    room = width - line.cell_len - 4
    if cell_len(note) > room >= _SHORTEST_NOTE:
        note = set_cell_size(note, room - 1).rstrip() + "…"
    if note and cell_len(note) <= room:
        line.append(f"{'─' * (room - cell_len(note))} {note} ──", "dim")
    else:
        line.append("─" * max(width - line.cell_len, 0), "dim")
    return fit(line, width)


def spread(left: Text, right: Text, width: int) -> Text:
    """Two texts at the ends of one line; the right one gives way if there is no room for both.

    Args:
        left: the text at the left.
        right: the text at the right.
        width: terminal cells.
    """
    room = width - left.cell_len - right.cell_len
    if room < 2:
        return fit(left, width)
    return Text.assemble(left, " " * room, right)


def pack(items: Iterable[Text], width: int, *, separator: str = " · ", indent: str = "") -> Lines:
    """The items on as few lines as they need, broken only between items.

    Args:
        items: texts; empty ones are left out.
        width: terminal cells.
        separator: what stands between two items on a line.
        indent: what all lines but the first begin with.
    """
    lines: Lines = []
    for item in items:
        if not item.cell_len:
            continue
        if lines and lines[-1].cell_len + cell_len(separator) + item.cell_len <= width:
            lines[-1].append(separator, "dim").append_text(item)
        else:
            lines.append(Text(indent if lines else "").append_text(item))
    return [fit(line, width) for line in lines]


def wrap(text: str, width: int, *, style: str, most: int) -> Lines:
    """A sentence over at most so many lines.

    Args:
        text: the sentence.
        width: terminal cells.
        style: rich's.
        most: lines at most.
    """
    parts = textwrap.wrap(plain(text), max(width, 8), max_lines=most, placeholder=" …")
    return [fit(Text(part, style), width) for part in parts]


def side_by_side(left: Lines, right: Lines, *, left_width: int) -> Lines:
    """Two columns, the left one padded to its width.

    Args:
        left: lines.
        right: lines.
        left_width: terminal cells of the left column.
    """
    empty = Text()
    lines = []
    for one, other in zip_longest(left, right, fillvalue=empty):
        padding = left_width + GAP - one.cell_len if other.cell_len else 0
        lines.append(Text.assemble(one, " " * padding, other))
    return lines


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column of a grid: its title, its cells and the gap before it.

    The column with a `least` width is cut first if the grid is too wide, down to that, at the left of its cells. Then the
    columns with a `drop` are left out, the highest first, and it gets the room that they leave.
    """

    title: str
    cells: Sequence[Text]
    drop: int = 0
    least: int = 0
    right: bool = False
    gap: int = 2

    @property
    def width(self) -> int:
        """The width in terminal cells, without the gap; 0 if all cells are empty."""
        widest = max((cell.cell_len for cell in self.cells), default=0)
        return max(widest, cell_len(self.title)) if widest else 0

    def cut(self, width: int) -> Column:
        """The same column with its cells cut to the width, at their left."""
        return replace(self, cells=[Text(tail_of(cell.plain, width), cell.style) for cell in self.cells])


def grid(columns: Sequence[Column], width: int, *, spans: Sequence[tuple[int, Text] | None]) -> Lines:
    """The columns side by side with a line of titles; columns that are empty or do not fit are left out.

    Args:
        columns: the columns from left to right, each with one cell per row.
        width: terminal cells of a line.
        spans: for each row, None, or the number of its leading columns and the text in place of all others.
    """
    kept = [(index, column, column.width) for index, column in enumerate(columns)]
    kept = [item for item in kept if item[2]]
    excess = _total(kept) - width
    kept = [
        (index, column.cut(max(column.least, room - excess)), max(column.least, room - excess))
        if excess > 0 and 0 < column.least < room
        else (index, column, room)
        for index, column, room in kept
    ]
    while _total(kept) > width:
        droppable = [item for item in kept if item[1].drop]
        if not droppable:
            break
        kept.remove(max(droppable, key=lambda item: item[1].drop))
    slack = width - _total(kept)
    kept = [
        (index, columns[index].cut(min(room + slack, columns[index].width)), min(room + slack, columns[index].width))
        if slack > 0 and column.least and room < columns[index].width
        else (index, column, room)
        for index, column, room in kept
    ]
    lines = [_row([(Text(column.title, "dim"), column, room) for _, column, room in kept])]
    for row, span in enumerate(spans):
        leading = len(columns) if span is None else span[0]
        line = _row([(column.cells[row], column, room) for index, column, room in kept if index < leading])
        if span is not None:
            line.append("  ").append_text(span[1])
        lines.append(line)
    return [fit(line, width) for line in lines]


def _total(kept: Sequence[tuple[int, Column, int]]) -> int:
    return sum(room + column.gap for _, column, room in kept) - kept[0][1].gap


def _row(cells: Sequence[tuple[Text, Column, int]]) -> Text:
    parts: list[str | Text] = []
    for position, (cell, column, width) in enumerate(cells):
        room = " " * (width - cell.cell_len)
        parts.append(" " * column.gap if position else "")
        parts += (room, cell) if column.right else (cell, room)
    return Text.assemble(*parts)


def padded(text: str, width: int) -> str:
    """The text cut or filled to exactly this many terminal cells."""
    return set_cell_size(text, width)
