"""The order of work: the next checkpoint, and how long a failed one waits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rna_watch.journal.replay import PENDING, Stage

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from rna_watch.journal.replay import Checkpoint

_FIRST_PAUSE_S = 2.0
_LONGEST_PAUSE_S = 60.0


def by_admission(checkpoints: Iterable[Checkpoint]) -> list[Checkpoint]:
    """The newest last; a name that was written again is the newest, though it keeps its place in the state."""
    return sorted(checkpoints, key=lambda c: c.admitted.seq if c.admitted else 0)


def next_in_line(
    checkpoints: Iterable[Checkpoint],
    attempted: Collection[str],
    since_error_s: float,
    held: Callable[[str], bool] = lambda _: False,
) -> str | None:
    """The name of the next checkpoint to work on: oldest first; a failed one waits, longer each time.

    Args:
        checkpoints: all known checkpoints.
        attempted: names that this process has worked on; one that an earlier process gave up is tried once more.
        since_error_s: seconds since work failed last.
        held: whether a checkpoint waits for room on the disk; the others do not wait for it.
    """
    for checkpoint in by_admission(checkpoints):
        before = checkpoint.name in attempted
        pending = checkpoint.stage in PENDING or (checkpoint.stage is Stage.FAILED and not before)
        if not pending or held(checkpoint.name):
            continue
        if checkpoint.attempts and before:
            pause = min(_FIRST_PAUSE_S * 2 ** (checkpoint.attempts - 1), _LONGEST_PAUSE_S)
            if since_error_s < pause:
                return None
        return checkpoint.name
    return None
