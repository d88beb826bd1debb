"""What the demo's run gained, from its journal alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.table import Table

from rna_watch.acceleration.family import AVERAGE, LAST, RNA

if TYPE_CHECKING:
    from rna_watch.journal.events import Metrics
    from rna_watch.journal.replay import RunState

REPORTED = "test_error"
LEVELS = (20.0, 10.0, 5.0, 3.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One epoch: test errors in percent. `chosen` is what a user would take: the original where nothing beat it."""

    epoch: int
    original: float | None
    average: float | None
    rna: float | None
    chosen: float | None
    chosen_name: str
    better: bool | None


def rows(state: RunState) -> list[Row]:
    """A row for every checkpoint whose original was evaluated, by epoch."""
    found = []
    for checkpoint in state.checkpoints.values():
        original = _value(checkpoint.evaluations.get(LAST))
        if original is None or checkpoint.step is None:
            continue
        metrics = checkpoint.chosen.metrics if checkpoint.chosen else {}
        better = checkpoint.chosen.better_than_original if checkpoint.chosen else None
        found.append(
            Row(
                epoch=checkpoint.step,
                original=original,
                average=_value(metrics.get(AVERAGE)),
                rna=_value(metrics.get(RNA)),
                chosen=_value(metrics.get("chosen")) if better else original,
                chosen_name=checkpoint.chosen.candidate if better and checkpoint.chosen else "original",
                better=better,
            )
        )
    return sorted(found, key=lambda row: row.epoch)


def _value(metrics: Metrics | None) -> float | None:
    return metrics.get(REPORTED) if metrics else None


def epochs_to(found: list[Row], level: float, column: str) -> int | None:
    """The first epoch whose test error is at most `level` percent."""
    for row in found:
        value = getattr(row, column)
        if value is not None and value <= level:
            return row.epoch
    return None


def errors_table(found: list[Row], shown: int = 14) -> Table:
    """Test errors, epochs thinned to about `shown` rows."""
    table = Table(title="test error in percent, on 400 images that chose nothing", title_justify="left")
    for name in ("epoch", "original", "average", "RNA", "chosen"):
        table.add_column(name, justify="right")
    table.add_column("which")
    step = max(1, -(-len(found) // shown))
    for row in [*found[:-1:step], *found[-1:]]:
        values = (row.original, row.average, row.rna, row.chosen)
        table.add_row(str(row.epoch), *("-" if v is None else f"{v:.2f}" for v in values), row.chosen_name)
    return table


def savings_table(found: list[Row]) -> Table:
    """Epochs to reach given errors."""
    table = Table(title="epochs until the test error is at most", title_justify="left")
    for name in ("level", "original", "average", "RNA", "chosen", "epochs saved"):
        table.add_column(name, justify="right")
    for level in LEVELS:
        reached = [epochs_to(found, level, column) for column in ("original", "average", "rna", "chosen")]
        first, chosen = reached[0], reached[-1]
        if first is not None and chosen is not None:
            saved = str(first - chosen)
        else:
            saved = "-" if chosen is None else f"more than {found[-1].epoch - chosen}"
        table.add_row(f"{level:g} %", *("never" if r is None else str(r) for r in reached), saved)
    return table
