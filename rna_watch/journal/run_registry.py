"""The registry of runs: a user's record of the runs that were watched, by which they and their outputs are found."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rna_watch.errors import UsageError
from rna_watch.journal.command_line import MIRROR
from rna_watch.journal.run_paths import RunPaths, looking_at, same_folder
from rna_watch.journal.status import status_of
from rna_watch.layout import bounded_json, disk, owned
from rna_watch.layout.trouble import check_run

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_POLL_S = 0.2
_OUTPUTS = 8


def registry_file(run: Path, kind: str = "runs") -> Path | None:
    """Where a record of a run lies; None for a user without a home, who repeats `--output`, as the commands do that we print."""
    try:
        folder = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "rna-watch" / kind
    except RuntimeError:
        return None
    return folder / f"{hashlib.blake2b(os.fsencode(run), digest_size=8).hexdigest()}.json"


def remember(paths: RunPaths) -> None:
    """Record a run and the place of its outputs; `--output` must be repeated if the home is read-only."""
    file = registry_file(paths.run)
    if file is None:
        return
    # version 0.1.0 reads `output`
    outputs = [str(paths.output), *(str(each) for each in _outputs(_read(file)) if each != paths.output)][:_OUTPUTS]
    with contextlib.suppress(OSError):
        record = {"run": str(paths.run), "output": outputs[0], "outputs": outputs, "inode": paths.run.stat().st_ino}
        owned.make_folders(file.parent)
        with disk.replacing(file, durable=False) as temporary:
            disk.write_new(temporary, json.dumps(record).encode())


def _read(file: Path) -> dict[str, Any]:
    with contextlib.suppress(OSError, ValueError):
        record = bounded_json.read(file)
        if isinstance(record, dict):
            return record
    return {}


def _outputs(record: dict[str, Any]) -> list[Path]:
    """The recorded places, the last one first."""
    listed = record.get("outputs", [record.get("output")])
    listed = listed if isinstance(listed, list) else []
    texts = [each for each in listed if isinstance(each, str) and "\0" not in each]
    return [Path(each) for each in texts if each.startswith("/") and each == os.path.normpath(each)]


def _records(run: Path) -> Iterator[dict[str, Any]]:
    """What is recorded of a run: under its path, then under another path of the same folder (a second mount of it)."""
    own = registry_file(run)
    if own is None:
        return
    yield _read(own)
    inode = run.stat().st_ino
    files: list[Path] = []
    with contextlib.suppress(OSError):  # a registry that cannot be read is none, and no fault of the run
        files = sorted(own.parent.glob("*.json"))
    for file in files:
        record = _read(file) if file != own else {}
        # a path is touched only if its inode fits: a network file system of another run may not answer
        if record.get("inode") == inode and isinstance(record.get("run"), str):
            with contextlib.suppress(OSError):
                if same_folder(Path(record["run"]), run):
                    yield record


def known_runs() -> list[RunPaths]:
    """The runs of this user that are still there, the one that was started last first."""
    file = registry_file(Path("/"))
    records: list[tuple[float, RunPaths]] = []
    with contextlib.suppress(OSError):
        for each in file.parent.glob("*.json") if file is not None else ():
            record = _read(each)
            places = _outputs(record)
            run = Path(record["run"]) if isinstance(record.get("run"), str) else None
            if run is not None and places and (places[0] / ".rna-watch").is_dir():
                records.append((each.stat().st_mtime, RunPaths(run=run, output=places[0])))
    return [paths for _, paths in sorted(records, key=lambda each: each[0], reverse=True)]


def usual_place(run: Path) -> RunPaths:
    """The paths of one of many runs, without a look at other mounts: below the run directory if that is so, else remembered."""
    file = registry_file(run)
    places = [] if file is None or (run / ".rna-watch").is_dir() else _outputs(_read(file))
    return RunPaths(run=run, output=next((each for each in places if each.is_dir()), run))


def resolve(run: Path, output: str | None) -> RunPaths:
    """The paths of a run: those of `--output`, else of a living daemon, else below the run directory, else remembered ones.

    Raises:
        UsageError: the run directory does not exist or is closed to this user.
        RnaWatchError: it cannot be looked at for a reason that may pass.
    """
    with looking_at(run):
        if run.name == MIRROR and not run.exists():
            raise UsageError(
                f"no run of this address was watched by this user on this machine, there is no {run}; start it first"
            )
        check_run(run)
        run = run.resolve()
        if output is not None:
            return RunPaths(run=run, output=Path(output).absolute())
        own = [run] if (run / ".rna-watch").is_dir() else []
        remembered = [place for record in _records(run) for place in _outputs(record)]
        with contextlib.suppress(OSError):
            own += [place for place in dict.fromkeys(remembered) if place != run and place.is_dir()]
    places = [RunPaths(run=run, output=place) for place in own]
    living = _living(places) if len(places) > 1 else None
    return living or (places[0] if places else RunPaths(run=run, output=run))


def _living(places: Sequence[RunPaths]) -> RunPaths | None:
    """The place whose daemon lives, as soon as that is certain of one, or of none."""
    while True:
        found = [(place, status_of(place)) for place in places]
        alive = next((place for place, status in found if status.alive and status.certain), None)
        if alive is not None or all(status.certain for _, status in found):
            return alive
        time.sleep(_POLL_S)
