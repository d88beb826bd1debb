"""What `rna-watch logs` prints: the daemon's log."""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING

from rna_watch.errors import NothingToDo

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rna_watch.journal.run_paths import RunPaths

_POLL_S = 0.5


def tail(paths: RunPaths, count: int, *, follow: bool) -> Iterator[str]:
    """The last lines of a run's log, with their line ends.

    Args:
        paths: the run's paths.
        count: how many lines.
        follow: yield new lines too, as they come, for ever.

    Raises:
        NothingToDo: there is no log.
    """
    if not paths.log.exists():
        raise NothingToDo(f"there is no log at {paths.log}: nothing has watched this run yet")
    with paths.log.open(encoding="utf-8", errors="replace") as file:
        yield from deque(file, maxlen=count)
        while follow:
            if line := file.readline():
                yield line
            else:
                time.sleep(_POLL_S)
