"""How normalization statistics of candidates are made: as the settings say, and as far as the evaluator and the files allow."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rna_watch.acceleration.candidate import CLAMPED, COMBINED, RE_ESTIMATED
from rna_watch.evaluation.evaluator import NORMALIZATION
from rna_watch.layout.layout import Role, covers

if TYPE_CHECKING:
    from rna_watch.daemon.evaluation_rounds import EvaluationRounds
    from rna_watch.daemon.window import Window

_STATISTICS = (Role.STATISTIC, Role.VARIANCE)
_KEY = "normalization"


def kinds(trials: EvaluationRounds, window: Window, offers: frozenset[str]) -> tuple[str, ...]:
    """The ways in which statistics are made for this window; what is wanted and cannot be is reported.

    Args:
        trials: settings, evaluators, and whom to report to.
        window: the inputs.
        offers: what the evaluator can do.
    """
    wanted = trials.config.normalization
    newest = window.layouts[-1]
    statistics = [view for view in newest.tensors if newest.extents[view.extent].role in _STATISTICS]
    if wanted == "clamp" or not statistics:
        return (CLAMPED,)
    if wanted == "combine":
        return (COMBINED,)
    if NORMALIZATION not in offers:
        trials.lacks(_KEY, NORMALIZATION)
        return (CLAMPED,)
    shared = [view.name for view in statistics if not covers(view, newest.extents[view.extent])]
    if shared:
        trials.recorder.problem(
            _KEY,
            f"normalization statistics cannot be re-estimated: {shared[0]} shares its storage with other tensors, or lies "
            "in several pieces",
            "set normalization to clamp or combine",
        )
        return (CLAMPED,)
    trials.recorder.solved(_KEY)
    return (RE_ESTIMATED,) if wanted == "re-estimate" else (CLAMPED, RE_ESTIMATED)
