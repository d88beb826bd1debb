"""The history of the deciding metric: the originals against the chosen models, as strips on one scale."""

from __future__ import annotations

import math
from itertools import islice
from typing import TYPE_CHECKING

from rich.text import Text

from rna_watch.dashboard.layout import Lines, fit, heading, pack
from rna_watch.dashboard.sparkline import Scale, common_scale, sparkline
from rna_watch.journal.metric import values_of
from rna_watch.journal.quantities import number, places

if TYPE_CHECKING:
    from rna_watch.journal.metric import Metric
    from rna_watch.journal.replay import RunState

Series = list[float | None]
_LABEL = 10
# No screen has so many columns; a frame must be drawn quickly however long the run is.
_MOST = 1000


def history(state: RunState, metric: Metric, *, width: int, rows: int) -> Lines:
    """A strip for the originals and one for the chosen models, with their lowest, highest and last number.

    A very long run shows its newest part. There is nothing until two checkpoints have been evaluated.

    Args:
        state: what the journal adds up to.
        metric: the metric that decides.
        width: terminal cells of a line.
        rows: the height of a strip, in lines.
    """
    originals: Series = []
    chosen: Series = []
    tally = [0, 0, 0]
    for checkpoint in list(islice(reversed(state.checkpoints.values()), _MOST))[::-1]:
        if not checkpoint.chosen and not checkpoint.evaluations:
            continue
        values = values_of(checkpoint, metric)
        if values.original is None and values.chosen is None:
            continue
        originals.append(values.original)
        chosen.append(values.chosen)
        if checkpoint.chosen and checkpoint.chosen.better_than_original is not None:
            tally[0] += 1
            tally[1] += checkpoint.chosen.better_than_original
            tally[2] += checkpoint.chosen.better_than_original and checkpoint.chosen.significant is False
    scale = common_scale(originals, chosen)
    if scale is None or len(originals) < 2:
        return []
    decimals = places(value for value in (*originals, *chosen))
    count = f"newest {len(originals)}" if len(state.checkpoints) > _MOST else f"{len(originals)}"
    note = f"{count} checkpoints{', log scale' if scale.log else ''}"
    lines = [heading(metric.name, note, width)]
    lines += _strip("original", originals, "dim", scale=scale, width=width, rows=rows, decimals=decimals)
    if any(value is not None for value in chosen):
        lines += _strip("chosen", chosen, "cyan", scale=scale, width=width, rows=rows, decimals=decimals)
    if tally[0]:
        facts = [Text(f"chosen better than the original at {tally[1]} of {tally[0]}", "dim")]
        facts.append(Text(f"{tally[2]} of them within noise" if tally[2] else "", "dim"))
        lines += pack(facts, width)[:1]
    return lines


def _strip(
    label: str, values: Series, style: str, *, scale: Scale, width: int, rows: int, decimals: int | None
) -> Lines:
    finite = [value for value in values if value is not None and math.isfinite(value)]
    low, high = (min(finite), max(finite)) if finite else (None, None)
    last = next((value for value in reversed(values) if value is not None), None)
    texts = [number(value, decimals) for value in (high, low, last)]
    digits = max(map(len, texts))
    notes = [f"{word:<4} {text:>{digits}}" for word, text in zip(("max", "min", "last"), texts, strict=True)]
    if rows < 3:
        notes = ["  ".join((notes[1], notes[0], notes[2]))] + [""] * (rows - 1)
    else:
        notes = [notes[0]] + [""] * (rows - 3) + [notes[1], notes[2]]
    room = max(width - _LABEL - 2 - max(map(len, notes)), 8)
    strips = sparkline(values, scale=scale, width=room, rows=rows)
    lines = []
    for row, (strip, note) in enumerate(zip(strips, notes, strict=True)):
        name = ("" if row else label).ljust(_LABEL)
        lines.append(fit(Text.assemble((name, "dim"), (strip, style), "  ", (note, "dim")), width))
    return lines
