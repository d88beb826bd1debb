"""What `rna-watch stop` does: end a run's daemon."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rna_watch.daemon import background

if TYPE_CHECKING:
    from collections.abc import Callable

    from rna_watch.journal.run_paths import RunPaths


def stop(paths: RunPaths, say: Callable[[str], None]) -> str:
    """Ask the daemon to stop and wait until it has; returns a sentence, and raises as `background.stop` does."""
    return background.stop(paths, say)
