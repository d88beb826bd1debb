"""The back-fill: how far the daemon is with the checkpoints that are there, and how long the rest takes."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from rna_watch.journal.replay import PENDING, Stage

if TYPE_CHECKING:
    from rna_watch.journal.replay import RunState

# The pace is that of the last few: windows grow at first, and an evaluator loads its data once.
_PACE = 20
_HIDDEN = frozenset({Stage.ALIAS, Stage.VANISHED, Stage.REFUSED, Stage.WAITING})


@dataclass(frozen=True, slots=True, kw_only=True)
class Backfill:
    """How many checkpoints are done, of how many, and the seconds that the rest takes; None while that is not known."""

    done: int
    total: int
    left_s: float | None


def backfill(state: RunState, now: float) -> Backfill:
    """How far the daemon is.

    Args:
        state: what the journal adds up to.
        now: seconds since 1970.
    """
    total = state.checkpoints.count(frozenset(Stage) - _HIDDEN)
    pending = state.checkpoints.count(PENDING)
    began = state.started.time if state.started else 0.0
    left_s, recent = None, []
    if pending:
        whole = (each for each in list(state.checkpoints.values())[::-1] if each.stage not in _HIDDEN)
        recent = sorted(islice((each.done_time for each in whole if each.done_time > began), _PACE))
    if len(recent) > 1:
        # The work at hand counts from the end of the last one; what takes longer than usual slows the pace.
        pace_s = max((recent[-1] - recent[0]) / (len(recent) - 1), (now - recent[-1]) / 2)
        left_s = max(pending * pace_s - (now - recent[-1]), pace_s / 2)
    return Backfill(done=total - pending, total=total, left_s=left_s)
