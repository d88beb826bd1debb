"""Where a window begins: reasons why the history before a checkpoint of a sequence cannot be used with it.

Each function returns the reason in words, or "" if there is none.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rna_watch.acceleration.residuals import TrainingState
    from rna_watch.journal.checkpoints import Checkpoints
    from rna_watch.journal.events import Admitted
    from rna_watch.layout.layout import Layout

_VERSION = "-v#"  # Lightning's, in the series of a name that was taken


def same_step(previous: Admitted, current: Admitted) -> str:
    """Two files have the same step, so that only one of them can be in a window."""
    if previous.path == current.path or (previous.step_kind, previous.step) != (current.step_kind, current.step):
        return ""
    return f"{previous.checkpoint} and {current.checkpoint} have the same {current.step_kind} {current.step}"


def restart(previous: Admitted, current: Admitted, others: Checkpoints) -> str:
    """The run went back, or was begun again between two saves, as another version of a name (`-v1`) shows.

    Args:
        previous: the checkpoint admitted before, in the same sequence.
        current: the one admitted now.
        others: all known checkpoints.
    """
    if current.step <= previous.step and current.mtime_ns > previous.mtime_ns:
        return f"the run went back from {previous.step_kind} {previous.step} to {current.step}: a restart"
    alike = [each for each in others.series() if each.replace(_VERSION, "") == current.series.replace(_VERSION, "")]
    for name in (
        name for each in alike if each != current.series for _, _, name, _ in list(others.of_series(each).steps)
    ):
        other = others[name].admitted
        if (
            other is not None
            and previous.mtime_ns < other.mtime_ns < current.mtime_ns
            and other.step <= previous.step
            and other.step_kind == previous.step_kind
        ):
            return f"{name} was saved after {previous.checkpoint}, though its step is not later: a restart"
    return ""


def change(older: TrainingState, newer: TrainingState, jump: float) -> str:
    """The training changed so much that the residual between two checkpoints cannot be in a window.

    Args:
        older: the checkpoint before.
        newer: the checkpoint after.
        jump: the largest ratio of successive learning rates that is allowed; infinity allows all.
    """
    if older.optimizer and newer.optimizer and older.optimizer != newer.optimizer:
        return f"the optimizer changed from {older.optimizer} to {newer.optimizer}"
    if older.step_kind != newer.step_kind:
        return f"steps were counted by {older.step_kind}, now by {newer.step_kind}, so they cannot be compared"
    for old, new in zip(older.groups, newer.groups, strict=False):
        before, after = old.learning_rate, new.learning_rate
        if math.isnan(before) or math.isnan(after) or before == after:
            continue
        if min(before, after) <= 0.0 or max(before, after) > jump * min(before, after):
            if math.isinf(jump):
                continue
            return f"the learning rate jumped from {before:.3g} to {after:.3g}"
    return ""


def joined(layouts: Sequence[Layout | None]) -> list[Layout]:
    """The newest of these that can stand in one window: none of them is gone (None), and all have one architecture."""
    found: list[Layout] = []
    for layout in reversed(layouts):
        if layout is None or (found and layout.architecture != found[0].architecture):
            break
        found.insert(0, layout)
    return found
