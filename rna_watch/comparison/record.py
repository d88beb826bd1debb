"""A comparison as one JSON object, with everything that the tables thin out or leave away."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rna_watch.comparison.comparison import CHOSEN
from rna_watch.comparison.cooling import cooling
from rna_watch.comparison.findings import compared, findings, provenance, quarters, tally
from rna_watch.comparison.levels import known

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rna_watch.comparison.comparison import Comparison, Row


def record(comparison: Comparison) -> dict[str, Any]:
    """Keys: run, sequence, sequences, metric, mode, chosen_by, kinds, members, fixed, checkpoints, levels, tallies, sentences.

    `cooling` has the gains of the branches that `anneal` trained. `standing` is the best model of the run next to its best
    original. A value that is no finite number is null; a method that was not evaluated at a checkpoint is not named there.
    """
    c = comparison
    rows = compared(c)
    early, late = quarters(rows)
    return {
        "run": c.run,
        "sequence": c.sequence,
        "sequences": list(c.sequences),
        "metric": c.metric,
        "mode": c.mode,
        "chosen_by": {"metric": c.choosing, "mode": c.choosing_mode} if c.choosing else None,
        "other_metrics": list(c.others),
        "kinds": [*c.kinds, CHOSEN],
        "members": list(c.members),
        "fixed": list(c.fixed),
        "checkpoints": [_row(row) for row in c.rows],
        "levels": [
            {
                "level": level.value,
                "tolerance": level.tolerance,
                "reached": dict(level.reached),
                "speedup": {name: asdict(speedup) for name, speedup in level.speedups.items()},
            }
            for level in c.levels
        ],
        "tallies": {
            "all": asdict(tally(rows, c.kinds, c.mode)),
            "first_quarter": _part(c, early),
            "last_quarter": _part(c, late),
        },
        "cooling": asdict(branches) if (branches := cooling(c)) else None,
        "standing": asdict(c.standing) if c.standing else None,
        "sentences": [*provenance(c), *findings(c)],
    }


def _part(c: Comparison, rows: Sequence[Row]) -> dict[str, Any] | None:
    return asdict(tally(rows, c.kinds, c.mode)) if rows else None


def _row(row: Row) -> dict[str, Any]:
    return {
        "checkpoint": row.checkpoint,
        "step": row.step,
        "points": {
            key: {"candidate": point.candidate, "value": _finite(point.value)} for key, point in row.points.items()
        },
        "candidates": {
            name: {"method": method, "value": _finite(value)} for name, (method, value) in row.candidates.items()
        },
        "best": list(row.best),
        "better_than_original": row.better,
        "significant": row.significant,
    }


def _finite(value: float | None) -> float | None:
    return value if known(value) else None
