"""What `rna-watch report` does: write the page of a run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rna_watch.errors import UsageError
from rna_watch.exporters.report import page
from rna_watch.journal import snapshot
from rna_watch.layout import disk

if TYPE_CHECKING:
    from rna_watch.journal.run_paths import RunPaths


def write(paths: RunPaths, out: Path | None, *, force: bool) -> str:
    """Write the page from the journal, which needs no daemon and waits for none; returns what was written, in words.

    Args:
        paths: the run's paths.
        out: the page; `NAME-report.html` in the current folder, if not given.
        force: replace what has its name.

    Raises:
        NothingToDo: the journal knows of no checkpoint.
        UsageError: the page would lie among the run's files, or something has its name.
        StoreError: it cannot be written.
    """
    page_path = out if out is not None else Path(f"{paths.run.resolve().name or 'run'}-report.html")
    place = page_path.parent.resolve() / page_path.name
    for folder in (paths.run, paths.models, paths.state):
        if place.is_relative_to(folder.resolve()):
            raise UsageError(
                f"{page_path} would lie in {folder}, which belongs to the training or to rna-watch; name a file elsewhere: "
                f"-o {Path('..') / f'{paths.run.resolve().name}-report.html'}"
            )
    content = page(snapshot.fold(paths.journal).state, paths).encode()
    with disk.writing(page_path, "-o"), disk.replacing(page_path, durable=False, new=not force) as temporary:
        disk.write_new(temporary, content)
    return f"{page_path} ({len(content) / 1e3:,.0f} kB): one page with everything in it, for any browser"
