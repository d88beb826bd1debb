"""The summary of a run in at most ten lines (`status`): does it work, does it help, by how much, what is wrong."""

from __future__ import annotations

import statistics
from collections import Counter
from itertools import islice, pairwise
from typing import TYPE_CHECKING

from rna_watch.journal.backfill import backfill
from rna_watch.journal.command_line import command
from rna_watch.journal.cooled import cooled, sentence
from rna_watch.journal.quantities import age, duration, gain, number, places, plain, size
from rna_watch.journal.replay import Stage
from rna_watch.journal.standing import standings
from rna_watch.journal.words import HOW_TO_TEST, NOISE, output_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rna_watch.journal.heartbeat import Work
    from rna_watch.journal.replay import RunState
    from rna_watch.journal.standing import Standing
    from rna_watch.journal.status import Status

_RECENT = 12


def summary(
    state: RunState, status: Status, *, run: str, output: str, now: float, there: Callable[[str], bool]
) -> list[tuple[str, str]]:
    """The lines, each with the word that stands before it.

    Args:
        state: what the journal adds up to.
        status: whether the run is watched, and the work at hand.
        run: the run directory.
        output: where outputs lie.
        now: seconds since 1970.
        there: whether an output is in the output tree.
    """
    found = standings(state, there)
    look = f"{command('dashboard', run, output)}   (or: report, compare, logs)"
    rows = [
        ("run", run),
        ("working", works(state, status, now)),
        ("done", _done(state, now)),
        ("helping", helps(state)),
        *_values(state, found),
        ("wrong", wrong(state)),
        ("look", look if state.started else f"{command('start', run, output)}"),
    ]
    return [(word, plain(text)) for word, text in rows if text]


def works(state: RunState, status: Status, now: float) -> str:
    """Whether a daemon works, and what it does."""
    if not status.alive:
        if status.ended == "done":
            return "no, it ended: all that was there is done"
        detail = status.detail(now)
        return f"no, {status.state}" + (f": {detail}" if detail else "")
    if not status.responds:
        return f"no, {status.state}: {status.detail(now)} of {status.who()}; see its log"
    doing = in_work(status.work, now) if status.work else idle(state, now)
    return f"yes, {doing} ({status.who()}, for {age(now - status.since)})"


def in_work(work: Work, now: float) -> str:
    """The work at hand, in words."""
    elapsed = max(now - work.since, 0.0)
    if work.total <= 0:
        return f"{work.stage} {work.checkpoint}, for {duration(elapsed)}"
    share = min(max(work.done / work.total, 0.0), 1.0)
    count = (
        f"{size(work.done)} of {size(work.total)}"
        if work.unit == "bytes"
        else f"{work.done} of {work.total} {work.unit}"
    )
    left = f", {duration(round(elapsed / share - elapsed))} left" if elapsed > 3 and 0 < share < 1 else ""
    return f"{work.stage} {work.checkpoint}, {count}{left}"


def idle(state: RunState, now: float) -> str:
    """What is waited for."""
    far = backfill(state, now)
    seen = [c.seen_time for c in islice(reversed(state.checkpoints.values()), _RECENT) if c.admitted][::-1]
    if not seen:
        return "waiting for the first checkpoint"
    gaps = [later - earlier for earlier, later in pairwise(seen) if later - earlier > 1]
    # Fewer than three gaps show no rhythm; files that were there at the start have none.
    rhythm = f", one every {duration(round(statistics.median(gaps)))}" if len(gaps) >= 3 else ""
    every = f"all {far.total} are done" if far.total > 1 else "it is done"
    done = f"{every}, waiting for new ones" if far.done == far.total else "waiting for the next checkpoint"
    return f"{done}; the last one came {age(now - seen[-1])} ago{rhythm}"


def _done(state: RunState, now: float) -> str:
    """How far the daemon is, and what it could not use."""
    far = backfill(state, now)
    if not far.total:
        return ""
    stages = Counter({stage: len(names) for stage, names in state.checkpoints.stages.items()})
    parts = [f"{far.done} of {far.total} {'checkpoint' if far.total == 1 else 'checkpoints'}"]
    parts += [f"{len(state.outputs)} {'model' if len(state.outputs) == 1 else 'models'} kept"] if state.outputs else []
    for count, word in (
        (stages[Stage.WAITING], "not complete yet"),
        (stages[Stage.REFUSED], "not usable"),
        (stages[Stage.SKIPPED], "left out"),
        (stages[Stage.FAILED], "failed"),
        (stages[Stage.VANISHED], "gone before they could be read"),
    ):
        parts += [f"{count} {word}"] if count else []
    if far.left_s is not None:
        parts.append(f"{duration(round(far.left_s))} left")
    return ", ".join(parts)


def helps(state: RunState) -> str:
    """At how many checkpoints the model is better than the original."""
    compared, better, beyond, unknown = state.checkpoints.better()
    if not compared:
        if state.started is not None and not state.started.evaluator:
            return f"not known, nothing is tested: {HOW_TO_TEST}"
        return "not known yet: no model was tested" if state.started else ""
    how = "" if unknown == better else f", beyond noise at {beyond}"
    word = "yes" if better * 2 > compared else "sometimes" if better else "no"
    at = "checkpoint" if compared == 1 else "checkpoints"
    return f"{word}, the model is better than the original at {better} of {compared} {at}{how}"


def _values(state: RunState, found: Sequence[Standing]) -> list[tuple[str, str]]:
    """The best model and the best original of the first series; those of others on one line."""
    branch = cooled(state)
    rows = [("cooled", sentence(branch))] if branch else []
    if not found:
        return rows
    first, *others = found
    model, original = first.model, first.original
    decimals = places(each.value for each in (model, original) if each)
    if model:
        ours = f"{output_of(state, model.output)}, {first.metric} {number(model.value, decimals)}"
        rows.append(("best", f"{ours}{_gain(first)}"))
    if original:
        rows.append(
            ("original", f"{original.checkpoint}, {first.metric} {number(original.value, decimals)}, is the best one")
        )
    also = [
        f"{each.series} {number(each.model.value, places([each.model.value]))}{_gain(each)}"
        for each in others
        if each.model
    ]
    return [*rows, *([("also", "best of " + "; ".join(also))] if also else [])]


def _gain(standing: Standing) -> str:
    model, original = standing.model, standing.original
    if model is None or original is None or standing.gain is None:
        return ""
    share = gain(original.value, model.value, standing.mode) or f"{standing.gain:+.3g}"
    if standing.gain <= 0.0:
        return f": no gain over the best original ({share})"
    tested = f" (tested on {standing.tested_on})" if standing.tested_on not in {None, standing.metric} else ""
    return f": {share} over the best original, {NOISE[standing.significant]}{tested}"


def wrong(state: RunState) -> str:
    """The problems with their remedies, on one line."""
    if state.started is None:
        return "" if not state.checkpoints else "its journal tells of no start"
    problems = list(state.problems.values())
    more = f"; and {len(problems) - 1} more" if len(problems) > 1 else ""
    return f"{problems[0].what} -> {problems[0].remedy}{more}" if problems else "nothing"
