"""The CSV exporter: one table with a line for each checkpoint, replaced whole whenever something is new."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING

from rna_watch.layout import disk

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from rna_watch.exporters.rows import Row
    from rna_watch.exporters.target import Target

_FIXED = ("series", "step", "checkpoint", "saved", "done", "method", "output")


class Csv:
    """Writes FOLDER/rna-watch.csv.

    Args:
        target: where it goes.
    """

    def __init__(self, target: Target) -> None:
        self.path: Path = target.folder / "rna-watch.csv"

    def write(self, rows: Sequence[Row]) -> None:
        """Write all rows, in their order; a value that a row lacks is empty.

        Raises:
            OSError: it cannot be written.
        """
        names = list(dict.fromkeys(name for row in rows for name in row.values))
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow([*_FIXED, *names])
        for row in rows:
            table.writerow([*(getattr(row, name) for name in _FIXED), *(row.values.get(name, "") for name in names)])
        with disk.replacing(self.path, durable=False) as temporary:
            disk.write_new(temporary, text.getvalue().encode(errors="backslashreplace"))

    def close(self) -> None:
        """Nothing is open."""
