"""The findings of a comparison in words: how honest its numbers are, how often each kind was best, where RNA loses."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rna_watch.acceleration.methods import ANNEAL, AVERAGE, RNA
from rna_watch.acceleration.significance import gain
from rna_watch.comparison.comparison import CHOSEN, ORIGINAL
from rna_watch.comparison.cooling import cooling, in_words
from rna_watch.comparison.levels import better
from rna_watch.journal.quantities import plain
from rna_watch.journal.words import DIRECTIONS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rna_watch.acceleration.significance import Mode
    from rna_watch.comparison.comparison import Comparison, Row

NAMES = {AVERAGE: "best average", RNA: "best RNA"}
# a quarter of fewer checkpoints is one or two, and says nothing
_QUARTERS_FROM = 8
_MOST_STEPS = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """Counts over checkpoints that have an original and at least one other model.

    `best` says how often each kind was best; a tie counts for each of its kinds. `alone` says how often it was strictly
    best. `duels` counts the checkpoints that have both an average and RNA. The best average is at least as good as the best
    RNA in `average_holds` of them, and strictly better in `average_wins`. `gains` are mean gains over the original, in the
    metric's units.
    """

    rows: int
    best: Mapping[str, int]
    alone: Mapping[str, int]
    duels: int
    average_holds: int
    average_wins: int
    gains: Mapping[str, float]


def compared(comparison: Comparison) -> list[Row]:
    """The checkpoints at which the original and at least one other model have a value."""
    return [row for row in comparison.rows if row.best and row.value(ORIGINAL) is not None]


def tally(rows: Sequence[Row], kinds: Sequence[str], mode: Mode) -> Tally:
    """The counts over some checkpoints.

    Args:
        rows: the checkpoints.
        kinds: the kinds to count.
        mode: whether the metric is minimized or maximized.
    """
    duels = _pairs(rows, AVERAGE, RNA)
    gains = {
        kind: statistics.fmean(gain(value, original, mode) for value, original in pairs)
        for kind in kinds
        if kind != ORIGINAL and (pairs := _pairs(rows, kind, ORIGINAL))
    }
    return Tally(
        rows=len(rows),
        best={kind: sum(kind in row.best for row in rows) for kind in kinds},
        alone={kind: sum(row.best == (kind,) for row in rows) for kind in kinds},
        duels=len(duels),
        average_holds=sum(not better(r, a, mode) for a, r in duels),
        average_wins=sum(better(a, r, mode) for a, r in duels),
        gains=gains,
    )


def _pairs(rows: Sequence[Row], one: str, other: str) -> list[tuple[float, float]]:
    """The values of two kinds or recipes where both have one."""
    return [(a, b) for row in rows if (a := row.value(one)) is not None and (b := row.value(other)) is not None]


def quarters(rows: Sequence[Row]) -> tuple[Sequence[Row], Sequence[Row]]:
    """The first and the last quarter of the checkpoints; both are empty if there are fewer than eight."""
    count = len(rows) // 4 if len(rows) >= _QUARTERS_FROM else 0
    return rows[:count], rows[len(rows) - count :]


def provenance(comparison: Comparison) -> list[str]:
    """The run's best, which checkpoints these are, which metric is shown and which chose, whether its numbers are honest."""
    best = [f"{plain(comparison.stands)[:1].upper()}{plain(comparison.stands)[1:]}."] if comparison.stands else []
    branch = [f"{plain(comparison.cooled)[:1].upper()}{plain(comparison.cooled)[1:]}."] if comparison.cooled else []
    return [*best, *branch, *_compared(comparison), *_metrics(comparison)]


def _compared(c: Comparison) -> list[str]:
    told = []
    if len(c.sequences) > 1:
        others = ", ".join(f"--sequence {plain(name)!r}" for name in c.sequences if name != c.sequence)
        told.append(f"These are the checkpoints {plain(c.sequence)}; others have a comparison of their own: {others}.")
    if c.taken_back:
        told.append(
            f"{c.taken_back} evaluated checkpoint{'s are' if c.taken_back > 1 else ' is'} left out: "
            "a restart or a rerun in this folder went over their steps again."
        )
    if c.judged_otherwise:
        told.append(
            f"{c.judged_otherwise} evaluated checkpoint{'s are' if c.judged_otherwise > 1 else ' is'} left out: "
            "another evaluator judged them, or they hold another model than the one that is compared."
        )
    return told


def _metrics(comparison: Comparison) -> list[str]:
    c = comparison
    shown = f"{plain(c.metric)} ({DIRECTIONS[c.mode]})"
    if c.choosing is None:
        told = [f"Shown is {shown}; the journal does not say by which metric models were chosen."]
    elif c.metric == c.choosing:
        told = [f"Models were chosen by {shown}, and that is shown."]
    else:
        choosing = f"{plain(c.choosing)} ({DIRECTIONS[c.choosing_mode]})"
        honesty = "which chose nothing: the numbers are honest if it is measured on other data."
        return [f"Models were chosen by {choosing}; shown is {shown}, {honesty}"]
    others = ", ".join(f"--metric {plain(name)}" for name in c.others)
    remedy = (
        f"another metric of the evaluator, measured on other data, is honest: {others}."
        if others
        else "for honest ones let the evaluator report a second metric, on other data, and show it with --metric."
    )
    return [*told, f"Its numbers are flattered by the choice (the best of several tried on the same data); {remedy}"]


def findings(comparison: Comparison) -> list[str]:
    """The sentences under the tables."""
    c = comparison
    rows = compared(c)
    if not rows:
        return ["Nothing but originals has been evaluated so far: there is nothing to compare them with."]
    whole = tally(rows, c.kinds, c.mode)
    counts = ", ".join(f"{_name(kind)} {whole.best[kind]}" for kind in c.kinds)
    told = [f"Best at a checkpoint, of {whole.rows} (a tie counts for each): {counts}."]
    told += _losses(c, rows, whole)
    told += _fixed(c, rows)
    if branches := cooling(c):
        told.append(
            in_words(branches, next((row for row in c.rows if row.value(ANNEAL) is not None), None), c.step_kind)
        )
    early, late = quarters(rows)
    for word, part in (("first", early), ("last", late)):
        if part:
            told.append(_quarter(c, word, part))
    return told + _taken(c)


def _name(kind: str) -> str:
    return NAMES.get(kind, plain(kind))


def _losses(c: Comparison, rows: Sequence[Row], whole: Tally) -> list[str]:
    told = []
    if whole.duels:
        ties = whole.average_holds - whole.average_wins
        told.append(
            f"Where RNA loses: the best average was at least as good as the best RNA at {whole.average_holds} of {whole.duels} "
            f"checkpoints (better at {whole.average_wins}, equal at {ties})."
        )
    elif RNA not in c.kinds:
        told.append("No extrapolation was evaluated.")
    steps = [row.step for row in rows if row.best == (ORIGINAL,)]
    listed = f" ({c.step_kind} {', '.join(map(str, steps))})" if 0 < len(steps) <= _MOST_STEPS else ""
    told.append(f"The original was better than everything else at {len(steps)} of {whole.rows}{listed}.")
    return told


def _fixed(c: Comparison, rows: Sequence[Row]) -> list[str]:
    told = []
    rna = c.fixed[-1] if c.fixed else ""
    for average in c.fixed[:-1]:
        if duels := _pairs(rows, average, rna):
            holds = sum(not better(r, a, c.mode) for a, r in duels)
            wins = sum(better(a, r, c.mode) for a, r in duels)
            counts = f"{holds} of {len(duels)} (better at {wins}, equal at {holds - wins})"
            told.append(f"As fixed recipes, {plain(average)} was at least as good as {plain(rna)} at {counts}.")
    return told


def _quarter(c: Comparison, word: str, rows: Sequence[Row]) -> str:
    part = tally(rows, c.kinds, c.mode)
    facts = []
    if part.duels:
        facts.append(f"best average at least as good as best RNA at {part.average_holds} of {part.duels}")
    facts.append(f"original better than everything else at {part.alone[ORIGINAL]} of {part.rows}")
    if part.gains:
        gains = ", ".join(f"{_name(kind)} {value:+.3g}" for kind, value in part.gains.items())
        facts.append(f"mean gain over the original: {gains}")
    return f"In the {word} quarter ({c.step_kind} {rows[0].step} to {rows[-1].step}): {'; '.join(facts)}."


def _taken(c: Comparison) -> list[str]:
    decided = [row for row in c.rows if row.decided and row.better is not None]
    taken = [row for row in decided if row.better]
    if not decided:
        return []
    counts = [
        (sum(row.significant is True for row in taken), "beyond noise"),
        (sum(row.significant is False for row in taken), "within noise"),
        (sum(row.significant is None for row in taken), "not compared with noise"),
    ]
    split = ", ".join(f"{word} at {count}" for count, word in counts if count)
    verdict = f"; its gain was {split}" if split else ""
    told = [f"A model was taken instead of the original at {len(taken)} of {len(decided)}{verdict}."]
    if not c.flattered and taken:
        pairs = _pairs(taken, CHOSEN, ORIGINAL)
        worse = sum(better(original, value, c.mode) for value, original in pairs)
        told.append(f"By {plain(c.metric)}, what was taken was worse than the original at {worse} of {len(pairs)}.")
    return told
