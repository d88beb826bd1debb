"""What `rna-watch export` does: give a run to a tool of the user's, afterwards or (`--follow`) while the daemon works."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rna_watch.errors import NothingToDo, StoreError, UsageError
from rna_watch.exporters.export import export
from rna_watch.journal.status import load
from rna_watch.layout import owned

if TYPE_CHECKING:
    from collections.abc import Callable

    from rna_watch.journal.run_paths import RunPaths


def write(paths: RunPaths, name: str, out: Path | None, port: int | None, say: Callable[[str], None]) -> None:
    """Export a run once.

    Args:
        paths: the run's paths.
        name: of the exporter.
        out: its folder; below the state folder if not given.
        port: of Prometheus' endpoint; the command goes on until it is interrupted then.
        say: shows a line.

    Raises:
        NothingToDo: the journal tells of no checkpoint that is done.
        UsageError: the daemon exports to the same folder at the moment.
        RnaWatchError: the tool's library is not installed, or the folder cannot be written.
    """
    state, status = load(paths)
    if state.started is None:
        raise NothingToDo(f"{paths.run} was never watched: there is nothing to export")
    if out is None and status.alive and name in (state.started.settings.get("exporters") or ()):
        raise UsageError(f"{status.who()} exports to {paths.exports / name} as it works; name another folder with -o")
    folder = _folder(paths, name, out)
    count = export(paths, name, folder, port=port, follow=port is not None)
    if not count:
        raise NothingToDo(f"no checkpoint of {paths.run} is done yet")
    say(f"{name}: {count} checkpoints, in {folder}")


def follow(paths: RunPaths, name: str, port: int | None, say: Callable[[str], None]) -> None:
    """Export a run as the daemon works on it, until it stops; a line is a sign of life.

    Args:
        paths: the run's paths.
        name: of the exporter.
        port: of Prometheus' endpoint.
        say: shows a line.
    """
    export(paths, name, _folder(paths, name, None), port=port, follow=True, alive=lambda: say("alive"))


def _folder(paths: RunPaths, name: str, out: Path | None) -> Path:
    folder = out if out is not None else paths.exports / name
    try:
        if out is None:
            owned.claim(paths.state)
        owned.make_folders(folder)
    except OSError as error:
        raise StoreError(f"cannot make {folder}: {error.strerror}; name another folder with -o") from error
    return Path(folder).absolute()
