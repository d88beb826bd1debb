"""The MLflow exporter: a run in an experiment of MLflow's, in a store of its own (SQLite) or the one that the user names."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rna_watch.exporters.rows import Row
    from rna_watch.exporters.target import Target

_MOST = 500  # metrics that MLflow takes at a time


class Mlflow:
    """Logs each row once; `$MLFLOW_TRACKING_URI` and `$MLFLOW_EXPERIMENT_NAME` count.

    Args:
        target: where it goes.

    Raises:
        ImportError: the library is not installed.
    """

    def __init__(self, target: Target) -> None:
        from mlflow.tracking import MlflowClient

        self._client: Any = MlflowClient(
            tracking_uri=os.environ.get("MLFLOW_TRACKING_URI", f"sqlite:///{target.folder / 'mlflow.db'}")
        )
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "rna-watch")
        experiment = self._client.get_experiment_by_name(name)
        number = (
            experiment.experiment_id
            if experiment
            else self._client.create_experiment(name, artifact_location=(target.folder / "artifacts").as_uri())
        )
        tags = {
            "mlflow.runName": f"{target.name} (rna-watch)",
            "rna_watch.run": str(target.run),
            "rna_watch.key": target.key,
        }
        self._run = self._client.create_run(number, tags=tags).info.run_id
        self._written: dict[tuple[str, int], Row] = {}

    def write(self, rows: Sequence[Row]) -> None:
        """Log the rows that are new or others than before."""
        from mlflow.entities import Metric

        metrics = []
        for row in rows:
            if self._written.get((row.series, row.step)) != row:
                self._written[row.series, row.step] = row
                metrics += [
                    Metric(_named(row.prefix + name), value, int(row.saved * 1000), row.step)
                    for name, value in row.values.items()
                ]
        for first in range(0, len(metrics), _MOST):
            self._client.log_batch(self._run, metrics=metrics[first : first + _MOST])

    def close(self) -> None:
        """Finish the run."""
        self._client.set_terminated(self._run)


def _named(name: str) -> str:
    """A name as MLflow takes it: letters, digits, and a few signs."""
    return "".join(each if each.isalnum() or each in "_-. /" else "_" for each in name)
