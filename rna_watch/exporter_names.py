"""The names of the exporters (`exporters/export.py` has what each does), for those that need no more of them."""

from __future__ import annotations

EXPORTERS = ("tensorboard", "csv", "prometheus", "wandb", "mlflow")
