"""The order of work: the next checkpoint, and how long a failed one waits."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

from rna_watch.journal.replay import PENDING, Stage

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from rna_watch.journal.checkpoints import Checkpoints
    from rna_watch.journal.replay import Checkpoint

_FIRST_PAUSE_S = 2.0
_LONGEST_PAUSE_S = 60.0


def by_age(checkpoints: Iterable[Checkpoint]) -> list[Checkpoint]:
    """The newest last; a name that was written again is the newest, though it keeps its place in the state."""
    return sorted(checkpoints, key=lambda c: c.age)


def next_in_line(
    checkpoints: Checkpoints,
    attempted: Collection[str],
    since_error_s: float,
    held: Callable[[str], bool] = lambda _: False,
    *,
    window: int = 0,
    left: Collection[str] = (),
) -> str | None:
    """The name of the next checkpoint to work on; a failed one waits, longer each time, and the others with it.

    The oldest goes first as long as its window lacks nothing that was left out for lack of time; where none is so, the
    newest does.

    Args:
        checkpoints: all known checkpoints.
        attempted: names that this process has worked on; one that an earlier process gave up is tried once more.
        since_error_s: seconds since work failed last.
        held: whether a checkpoint waits for room on the disk; the others do not wait for it.
        window: how many checkpoints before it are in a window.
        left: names that were there before this process began, and are not kept for it: they wait for all others.
    """
    pending = [each for each in checkpoints.of_stages(PENDING) if each.admitted]
    pending += [each for each in checkpoints.of_stages([Stage.FAILED]) if each.admitted and each.name not in attempted]
    whole: list[Checkpoint] = []
    lacking: list[Checkpoint] = []
    waiting: list[Checkpoint] = []
    for checkpoint in by_age(pending):
        if not held(checkpoint.name):
            lacks = bool(checkpoints.left_behind) and _lacks(checkpoints, checkpoint, window)
            (waiting if checkpoint.name in left else lacking if lacks else whole).append(checkpoint)
    first = next(iter([*whole, *lacking[::-1], *waiting]), None)
    if first is None:
        return None
    if first.attempts and first.name in attempted:
        pause = min(_FIRST_PAUSE_S * 2 ** (first.attempts - 1), _LONGEST_PAUSE_S)
        if since_error_s < pause:
            return None
    return first.name


def _lacks(checkpoints: Checkpoints, checkpoint: Checkpoint, window: int) -> bool:
    """Whether one of the checkpoints that were saved just before it, in its series, was left out for lack of time."""
    before = (checkpoints[name] for name in checkpoints.of_series(checkpoint.series).earlier(checkpoint.age))
    return any(each.left_behind for each in islice((c for c in before if c.stage is not Stage.ALIAS), window))
