"""The export of a run: its rows, given to a tool of the user's, once or as the journal grows."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from rna_watch.errors import RnaWatchError
from rna_watch.exporters.csv_file import Csv
from rna_watch.exporters.mlflow_run import Mlflow
from rna_watch.exporters.prometheus import Prometheus
from rna_watch.exporters.rows import rows
from rna_watch.exporters.target import Target
from rna_watch.exporters.tensorboard import TensorBoard
from rna_watch.exporters.wandb_run import Wandb
from rna_watch.journal import events as e
from rna_watch.journal.follow import Follower

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from rna_watch.exporters.target import Exporter
    from rna_watch.journal.run_paths import RunPaths

# `exporter_names.EXPORTERS` has their names
EXPORTERS: dict[str, Callable[[Target], Exporter]] = {
    "tensorboard": TensorBoard,
    "csv": Csv,
    "prometheus": Prometheus,
    "wandb": Wandb,
    "mlflow": Mlflow,
}
_POLL_S = 0.5


def export(
    paths: RunPaths,
    name: str,
    folder: Path,
    *,
    port: int | None = None,
    follow: bool = False,
    alive: Callable[[], None] = lambda: None,
) -> int:
    """Give a run's rows to a tool; returns their number.

    Args:
        paths: the run's paths.
        name: of `EXPORTERS`.
        folder: the exporter's own; it is there.
        port: of Prometheus' endpoint.
        follow: go on as the journal grows, until it says that the daemon has stopped.
        alive: called after each look at the journal.

    Raises:
        RnaWatchError: the tool's library is not installed.
    """
    follower = Follower(paths.journal)
    seen = list(follower.new())
    target = Target(run=paths.run, folder=folder, state=lambda: follower.state, port=port)
    try:
        exporter = EXPORTERS[name](target)
    except ImportError as error:
        raise RnaWatchError(
            f"{name} is not installed here ({error}); install it: pip install 'rna-watch[{name}]'"
        ) from error
    try:
        while True:
            if seen:
                exporter.write(rows(follower.state, live=follow))
            alive()
            if not follow or (follower.state.stopped is not None and isinstance(follower.state.recent[-1], e.Stopped)):
                return len(rows(follower.state, live=follow))
            time.sleep(_POLL_S)
            seen = list(follower.new())
    finally:
        exporter.close()
