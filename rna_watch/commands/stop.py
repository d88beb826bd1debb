"""What `rna-watch stop` does: end a run's daemon, or the process that waits for the run."""

from __future__ import annotations

import contextlib
import os
import signal
from typing import TYPE_CHECKING

from rna_watch.daemon import background
from rna_watch.journal import waiting
from rna_watch.journal.run_registry import resolve

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def stop(run: Path, output: str | None, say: Callable[[str], None]) -> str:
    """Ask the daemon to stop and wait until it has; returns a sentence, and raises as `background.stop` does."""
    found = waiting.waiting_for(run.absolute())
    if found is None:
        return background.stop(resolve(run, output), say)
    if found.waits():
        with contextlib.suppress(ProcessLookupError):
            os.kill(found.owner.pid, signal.SIGTERM)
    waiting.forget(run.absolute())
    return f"{found.owner} waits no more for {run}"
