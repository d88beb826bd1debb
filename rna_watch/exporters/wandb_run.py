"""The Weights & Biases exporter: an offline run, which `wandb sync` sends afterwards, in the group of the run's name."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rna_watch.exporters.rows import Row
    from rna_watch.exporters.target import Target


class Wandb:
    """Logs each row once, with the checkpoint's step as the axis; `$WANDB_PROJECT` and `$WANDB_MODE` count.

    Args:
        target: where it goes.

    Raises:
        ImportError: the library is not installed.
    """

    def __init__(self, target: Target) -> None:
        import wandb

        self._run: Any = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "rna-watch"),
            mode=os.environ.get("WANDB_MODE", "offline"),
            dir=str(target.folder),
            id=f"rna-watch-{target.key}-{os.urandom(3).hex()}",
            name=f"{target.name} (rna-watch)",
            group=target.name,
            config={"run": str(target.run)},
        )
        self._run.define_metric("checkpoint_step")
        self._run.define_metric("*", step_metric="checkpoint_step")
        self._written: dict[tuple[str, int], Row] = {}

    def write(self, rows: Sequence[Row]) -> None:
        """Log the rows that are new or others than before."""
        for row in rows:
            if self._written.get((row.series, row.step)) != row:
                self._written[row.series, row.step] = row
                values = {row.prefix + name: value for name, value in row.values.items()}
                self._run.log({"checkpoint_step": row.step, **values})

    def close(self) -> None:
        """Finish the run."""
        self._run.finish()
