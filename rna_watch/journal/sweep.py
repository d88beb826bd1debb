"""The record of a sweep: which runs one process watches below a folder, and why others are not watched."""

from __future__ import annotations

import contextlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rna_watch.journal import fields
from rna_watch.journal.run_paths import RunPaths
from rna_watch.layout import bounded_json, disk

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A run of a sweep, where its outputs lie, and why it is not watched at the moment ("" if it is)."""

    run: str
    output: str
    left: str = ""

    @property
    def paths(self) -> RunPaths:
        """The run's paths."""
        return RunPaths(run=Path(self.run), output=Path(self.output))


def write(home: RunPaths, entries: Iterable[Entry]) -> None:
    """Replace the record."""
    with contextlib.suppress(OSError), disk.replacing(home.sweep, durable=False) as temporary:
        disk.write_new(temporary, json.dumps({"runs": [asdict(each) for each in entries]}).encode())


def runs_of(home: RunPaths) -> list[RunPaths]:
    """The runs of a sweep, or the folder's own run."""
    entries = read(home)
    return [home] if entries is None else [each.paths for each in entries]


def read(home: RunPaths) -> list[Entry] | None:
    """The runs of a sweep; None where no process watched many runs, or one watched the folder as one run later."""
    try:
        if home.journal.exists() and home.journal.stat().st_mtime > home.sweep.stat().st_mtime:
            return None
        record = bounded_json.read(home.sweep)
        for each in record["runs"]:
            fields.check(Entry, each)
        found = [Entry(**each) for each in record["runs"]]
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return [each for each in found if each.run.startswith("/") and each.output.startswith("/")]
