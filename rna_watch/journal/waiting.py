"""Runs whose folder is yet to come: a user's record of the processes that wait for them (`start --wait`)."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rna_watch.journal import fields
from rna_watch.journal.owner import Owner, this_process
from rna_watch.journal.quantities import age
from rna_watch.journal.run_registry import registry_file
from rna_watch.layout import bounded_json, disk, owned

if TYPE_CHECKING:
    from collections.abc import Iterator

_POLL_S = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """A process that waits for a run's folder, or the error that ended it once the folder was there."""

    run: str
    owner: Owner
    error: str = ""

    def waits(self) -> bool:
        """Whether the process still waits, as far as that can be seen from here."""
        return not self.error and self.owner.lives() is not False

    def sentence(self) -> str:
        """What a person should know."""
        if self.error:
            return f"what waited for {self.run} ended when it came: {self.error}"
        since = age(time.time() - self.owner.since)
        return f"{self.owner} waits for {self.run}, for {since}: watching begins when the training makes it"


def file_of(run: Path) -> Path | None:
    """Where the record of a run lies; its log lies beside it. None for a user without a home."""
    return registry_file(run, "waiting")


def waiting_for(run: Path) -> Waiting | None:
    """The process that waits for a run's folder, or the error that it ended with; None if there is neither."""
    file = file_of(run)
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        record = bounded_json.read(file) if file is not None else {}
        owner = record.pop("owner")
        fields.check(Owner, owner)
        fields.check(Waiting, record)
        found = Waiting(owner=Owner(**owner), **record)
        return found if found.waits() or found.error else None
    return None


def all_waiting() -> list[Waiting]:
    """Every process of this user that waits, or ended with an error."""
    folder = file_of(Path("/"))
    files = sorted(folder.parent.glob("*.json")) if folder is not None else []
    runs = [str(_read(file).get("run", "")) for file in files]
    return [found for run in runs if run and (found := waiting_for(Path(run)))]


def _read(file: Path) -> dict[str, object]:
    with contextlib.suppress(OSError, ValueError):
        record = bounded_json.read(file)
        return record if isinstance(record, dict) else {}
    return {}


@contextlib.contextmanager
def waiting(run: Path) -> Iterator[None]:
    """Record that this process waits for a run; what it raises stays in the record, until somebody waits again."""
    owner = _owner(run)
    _write(run, Waiting(run=str(run), owner=owner))
    try:
        yield
    except Exception as error:
        _write(run, Waiting(run=str(run), owner=owner, error=str(error)))
        raise
    forget(run)


def forget(run: Path) -> None:
    """Empty the record of a run, if there is one: nothing waits for it any more."""
    if (file := file_of(run)) is not None and file.exists():
        _replace(file, {})


def await_folder(run: Path) -> None:
    """Return as soon as the run's folder is there."""
    while not run.exists():
        time.sleep(_POLL_S)


def _owner(run: Path) -> Owner:
    descriptor = os.open(run.parent, os.O_RDONLY)  # stands for the lock, which is yet to come
    try:
        return this_process(descriptor)
    finally:
        os.close(descriptor)


def _write(run: Path, record: Waiting) -> None:
    if (file := file_of(run)) is not None:
        _replace(file, dataclasses.asdict(record))


def _replace(file: Path, record: dict[str, object]) -> None:
    with contextlib.suppress(OSError):
        owned.make_folders(file.parent)
        with disk.replacing(file, durable=False) as temporary:
            disk.write_new(temporary, json.dumps(record).encode())
