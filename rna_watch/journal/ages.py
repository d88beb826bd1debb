"""The order in which a run saved its checkpoints: that of their admission, but for those that came late."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rna_watch.journal import events as e

Age = tuple[int, int]
NEVER: Age = (0, 0)  # of what was not admitted


def overtakes(other: e.Admitted, late: e.Admitted) -> bool:
    """Whether a checkpoint that was saved after another of its series was admitted before it."""
    return other.seq < late.seq and other.step > late.step and other.mtime_ns > late.mtime_ns


def age(admitted: e.Admitted, others: Iterable[e.Admitted]) -> Age:
    """The place of a checkpoint among the others: the older it is, the smaller.

    That is the number of its admission; for one that came late, of the first admission that overtook it, and then the step.

    Args:
        admitted: its admission.
        others: those of its series that were admitted before; those of smaller steps do not count.
    """
    return min((each.seq for each in others if overtakes(each, admitted)), default=admitted.seq), admitted.step
