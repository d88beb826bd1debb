"""The honest choice among evaluated candidates: never worse than the original, and no gain claimed that is not there."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from rna_watch.acceleration.family import AVERAGE, LAST, RNA, Candidate

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Mode = Literal["min", "max"]
_MAXIMIZED = (
    "acc",
    "auc",
    "f1",
    "precision",
    "recall",
    "bleu",
    "rouge",
    "map",
    "iou",
    "dice",
    "score",
    "reward",
    "top1",
    "top5",
    "r2",
    "roc",
    "psnr",
    "ssim",
)
# these win: `top1_err`, `brier_score`, `heatmap_mse`
_MINIMIZED = re.compile(r"(?<![a-z])err|loss|mse|mae|mape|brier|nll|fid")


def infer_mode(metric: str) -> Mode:
    """Whether larger is better, by the metric's name: accuracies and scores are maximized, everything else minimized."""
    name = metric.lower()
    return "max" if any(word in name for word in _MAXIMIZED) and not _MINIMIZED.search(name) else "min"


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Which candidate stands for the window.

    `better_than_original` is strict, on the choosing metric; None without an evaluation. `significant` says whether
    the gain exceeds
    `minimum_gain`; None where no such threshold was stated. `best_average` and `best_rna` name the best of either kind.
    """

    candidate: Candidate
    better_than_original: bool | None
    significant: bool | None
    best_average: str | None
    best_rna: str | None
    reason: str


def gain(value: float, reference: float, mode: Mode) -> float:
    """By how much `value` is better than `reference` (positive: better)."""
    return reference - value if mode == "min" else value - reference


def choose(
    candidates: Sequence[Candidate], values: Mapping[str, float], mode: Mode, minimum_gain: float | None = None
) -> Choice:
    """Choose among the evaluated candidates besides the last iterate; an average wins a tie against an extrapolation.

    Args:
        candidates: the family, the last iterate among them.
        values: the choosing metric of each candidate that was evaluated, by name; NaN counts as not evaluated.
        mode: whether the metric is minimized or maximized.
        minimum_gain: the smallest gain that counts as beyond noise, in the metric's units; None: not stated.

    Raises:
        ValueError: there is no candidate besides the last iterate.
    """
    others = [candidate for candidate in candidates if candidate.method != LAST]
    if not others:
        raise ValueError("a choice needs a candidate besides the last iterate")
    known = {name: value for name, value in values.items() if not math.isnan(value)}
    evaluated = [candidate for candidate in others if candidate.name in known]
    if not evaluated:
        preferred = next((c for c in others if c.method == RNA), others[0])
        return Choice(
            candidate=preferred,
            better_than_original=None,
            significant=None,
            best_average=None,
            best_rna=None,
            reason="nothing was evaluated, so it is not known whether it is better",
        )

    def best_of(group: list[Candidate]) -> Candidate | None:
        simplest_first = sorted(group, key=lambda c: c.method != AVERAGE)
        return max(simplest_first, key=lambda c: gain(known[c.name], 0.0, mode), default=None)

    best = best_of(evaluated)
    average = best_of([c for c in evaluated if c.method == AVERAGE])
    rna = best_of([c for c in evaluated if c.method == RNA])
    assert best is not None
    original = known.get(LAST)
    better = significant = None
    if original is not None:
        advantage = gain(known[best.name], original, mode)
        better = advantage > 0.0
        significant = None if minimum_gain is None else advantage > minimum_gain
    return Choice(
        candidate=best,
        better_than_original=better,
        significant=significant,
        best_average=average.name if average else None,
        best_rna=rna.name if rna else None,
        reason=_reason(best, better=better, significant=significant),
    )


def _reason(best: Candidate, *, better: bool | None, significant: bool | None) -> str:
    if better is None:
        return "the original could not be evaluated, so it is not known whether it is better"
    kind = "the plain average" if best.method == AVERAGE else "extrapolation"
    if not better:
        return f"{kind} is the best of the family, but not better than the original"
    if significant is False:
        return f"{kind} is better than the original, but not beyond the stated noise"
    return f"{kind} is better than the original"
