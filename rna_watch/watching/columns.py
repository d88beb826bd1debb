"""The columns that the slots of names of one template form: which hold whole numbers, which tell runs or series apart."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import TYPE_CHECKING

from rna_watch.watching.slots import Kind, Rank

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rna_watch.watching.slots import Slot

    Rows = Sequence[tuple[str, tuple[Slot, ...]]]

_LEAST_ID = 100  # smaller numbers that come back are metrics


def is_int(rows: Rows, column: int) -> bool:
    """Whether a column holds whole numbers that may be a step."""
    return all(found[column].kind is Kind.INTEGER and found[column].rank >= Rank.IN_WORD for _, found in rows)


def tells_runs(rows: Rows, texts: Sequence[Sequence[str]], column: int) -> bool:
    """Whether several names share a hash, or the date of a folder: it is that of a run, not of a save."""
    slot = rows[0][1][column]
    if not (slot.kind is Kind.HASH or (slot.kind is Kind.DATE and slot.in_folder)):
        return False
    return max(Counter(row[column] for row in texts).values()) > 1


def counts_within(rows: Rows, varying: Sequence[int], step: int) -> tuple[int, int | None]:
    """The columns of an epoch that repeats and of what counts within it; the step and None where nothing repeats so."""
    major = step
    values = [found[step].value for _, found in rows]
    if len(set(values)) == len(values) or rows[0][1][step].rank < Rank.BATCH:
        return step, None
    ranks = {c: rows[0][1][c].rank for c in varying if c != step and is_int(rows, c)}
    if ranks and rows[0][1][step].rank is Rank.STEP:
        major = next((c for c, rank in ranks.items() if rank in (Rank.EPOCH, Rank.BATCH)), step)
    minors = [step] if major != step else [c for c, rank in ranks.items() if rank >= Rank.BARE]
    for minor in minors:
        if len({(found[major].value, found[minor].value) for _, found in rows}) == len(rows):
            return major, minor
    return step, None


def tells_apart(rows: Rows, texts: Sequence[Sequence[str]], varying: Sequence[int], step: int) -> int | None:
    """The column that tells series apart: steps repeat, but not together with it; or an id that comes back."""
    if step not in varying:
        return None
    values = [found[step].value for _, found in rows]
    repeated = len(set(values)) < len(values)
    for column in varying:
        slot = max((found[column] for _, found in rows), key=lambda each: each.kind is not Kind.INTEGER)
        if column == step or (slot.rank is Rank.METRIC and slot.kind is not Kind.DATE) or slot.rank >= Rank.BATCH:
            continue
        if repeated:
            if len({(value, row[column]) for value, row in zip(values, texts, strict=True)}) == len(values):
                return column
        elif slot.kind is Kind.INTEGER and min(found[column].value for _, found in rows) >= _LEAST_ID:
            ids = [row[column] for _, row in sorted(zip(values, texts, strict=True))]
            if 1 + sum(a != b for a, b in pairwise(ids)) > len(set(ids)):
                return column
    return None
