"""A table of results as plain text that is Markdown too."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A title, a header, rows of the same length, and sentences below them: what holds, what does not, and why."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()


def render(table: Table) -> str:
    """The table with aligned columns: the first to the left, the others to the right."""
    lines = [table.header, *table.rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(table.header))]

    def row(cells: tuple[str, ...]) -> str:
        first, *others = zip(cells, widths, strict=True)
        aligned = [first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]
        return f"| {' | '.join(aligned)} |"

    rule = f"|{'-' * (widths[0] + 2)}|{'|'.join('-' * (width + 1) + ':' for width in widths[1:])}|"
    body = [table.title, "", row(table.header), rule, *(row(cells) for cells in table.rows)]
    return "\n".join([*body, *(f"\n- {note}" if i == 0 else f"- {note}" for i, note in enumerate(table.notes))]) + "\n"
