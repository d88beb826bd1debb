"""How normalization statistics of candidates are made, by the settings, the evaluator and the files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rna_watch.acceleration.methods import CLAMPED, COMBINED, RE_ESTIMATED
from rna_watch.evaluation.evaluator import NORMALIZATION, TRAINING_LOSS
from rna_watch.layout.layout import Role, covers

if TYPE_CHECKING:
    from rna_watch.layout.layout import Layout

_STATISTICS = (Role.STATISTIC, Role.VARIANCE)
AUTO = "auto"  # both ways, wherever it can be


def kinds(
    wanted: str, newest: Layout, offered: frozenset[str] | None
) -> tuple[tuple[str, ...], tuple[str, str] | None]:
    """The ways in which statistics are made in a window, and (problem, remedy) if the wanted way is impossible.

    Args:
        wanted: the setting `normalization`.
        newest: the layout of the window's newest checkpoint.
        offered: what the evaluator offers; None if there is no evaluator.
    """
    statistics = [view for view in newest.tensors if newest.extents[view.extent].role in _STATISTICS]
    if wanted == "clamp" or not statistics:
        return (CLAMPED,), None
    if wanted == "combine":
        return (COMBINED,), None
    if not {NORMALIZATION, TRAINING_LOSS} & (offered or frozenset()):
        who = "there is no evaluator that offers" if offered is None else "the evaluator offers no"
        what = f"normalization is set, but {who} '{NORMALIZATION}' and no '{TRAINING_LOSS}'"
        return (CLAMPED,), None if wanted == AUTO else (what, "add one of them, or leave normalization out")
    shared = [view.name for view in statistics if not covers(view, newest.extents[view.extent])]
    if shared:
        why = f"{shared[0]} shares its storage with other tensors, or lies in several pieces"
        what = f"normalization statistics cannot be re-estimated: {why}"
        return (CLAMPED,), None if wanted == AUTO else (what, "set normalization to clamp or combine")
    return (RE_ESTIMATED,) if wanted == "re-estimate" else (CLAMPED, RE_ESTIMATED), None
