"""The inputs that a manifest names, found on the disk: where they were recorded, moved with their run, or pinned."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from rna_watch.errors import IncompleteCheckpoint, InputChanged, RefusedCheckpoint
from rna_watch.formats.probe import probe
from rna_watch.journal import events as e
from rna_watch.journal import log
from rna_watch.journal.run_paths import RunPaths
from rna_watch.layout.artifacts import is_output

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rna_watch.layout.layout import Layout
    from rna_watch.publishing.verification import Input


class Finder:
    """Finds a manifest's inputs on the disk, wherever they lie now; knows them by their fingerprints.

    Args:
        folder: where the manifest lies.
        source: key path of the model inside the files; found by itself if None.
        ignore: patterns of tensors that were left out.
    """

    def __init__(self, folder: Path, source: str | None, ignore: Sequence[str] = ()) -> None:
        self._source = source
        self._ignore = ignore
        self._pins: tuple[Path, ...] = ()
        bases: list[Path] = []
        output = _output_above(folder)
        if output is not None:
            paths = RunPaths(run=output, output=output)
            self._pins = paths.pin_folders
            with contextlib.suppress(OSError):
                for event in log.read(paths.journal):
                    if isinstance(event, e.Started):
                        bases.insert(0, Path(event.run))
            bases.insert(0, output)  # where the run itself lies, unless --output; it may have been moved since
        self._folder = folder
        self._bases = list(dict.fromkeys([*bases, Path.cwd(), folder]))

    def __call__(self, wanted: Input) -> Layout | str:
        """An input's layout, from its recorded path below every base, else from a pinned copy; or why there is none."""
        why = ""
        for path in self._candidates(wanted):
            try:
                layout = probe(str(path), self._source, self._ignore)
            except FileNotFoundError:
                continue
            except (RefusedCheckpoint, IncompleteCheckpoint, InputChanged) as error:
                problem = f"cannot be used: {error}"
            except OSError as error:
                problem = f"cannot be read: {error.strerror or error}"
            else:
                if layout.fingerprint == wanted.fingerprint:
                    return layout
                problem = f"changed: {path} no longer holds what was combined"
            if str(path) == wanted.path or not is_output(path):
                why = why or problem  # else it is an output of the same name, not the input
        if why:
            return why
        bases = [] if Path(wanted.path).is_absolute() else [str(base) for base in self._bases]
        return f"is gone (looked in {', '.join(bases)})" if bases else "is gone"

    def _candidates(self, wanted: Input) -> Iterator[Path]:
        recorded = Path(wanted.path)
        if recorded.is_absolute():
            yield recorded
            yield self._folder / recorded.name
        else:
            yield from (base / recorded for base in self._bases)
        known = "".join(c for c in wanted.fingerprint[:8] if c.isalnum())
        for folder in self._pins:
            yield from sorted(folder.glob(f"*.{known}.pinned"))


def _output_above(folder: Path) -> Path | None:
    """The folder that holds `rna` (and `.rna-watch`) of the run whose output tree this folder is in."""
    above = [each.parent for each in (folder, *folder.parents) if each.name == "rna"]
    return next((each for each in above if RunPaths(run=each, output=each).state.is_dir()), above[0] if above else None)
