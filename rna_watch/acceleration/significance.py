"""Is a gain beyond noise: paired comparison of two models on the same examples, corrected for the number tried."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    Float64 = npt.NDArray[np.float64]

Mode = Literal["min", "max"]
# the chance, over one step of the choice, that equal models are told apart
_LEVEL = 0.05
_FEWEST_EXAMPLES = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One candidate against one reference, on the choosing metric.

    `gain` is positive where the candidate is better; `standard_error` of the paired differences (None where there are no
    per-example values); `threshold` is what the gain must exceed to be `accepted`.
    """

    candidate: str
    reference: str
    gain: float
    standard_error: float | None
    threshold: float
    accepted: bool


def gain(value: float, reference: float, mode: Mode) -> float:
    """By how much `value` is better than `reference` (positive: better)."""
    return reference - value if mode == "min" else value - reference


def paired_standard_error(candidate: Float64, reference: Float64) -> float | None:
    """Standard error of the mean of paired differences, over n examples; None where they cannot be paired or are too few.

    Args:
        candidate: values of each example, (n,).
        reference: of the same examples in the same order, (n,).
    """
    n = len(candidate)
    if candidate.shape != reference.shape or n < _FEWEST_EXAMPLES:
        return None
    deviation = float(np.std(candidate - reference, ddof=1))
    return deviation / math.sqrt(n) if math.isfinite(deviation) else None


def critical(tried: int) -> float:
    """How many standard errors the best of `tried` candidates must gain (one-sided, Bonferroni): 1.64 for one, 2.50 for eight."""
    return NormalDist().inv_cdf(1.0 - _LEVEL / max(tried, 1))


def compare(
    candidate: str,
    reference: str,
    values: Mapping[str, float],
    examples: Mapping[str, Float64],
    *,
    mode: Mode,
    tried: int,
    minimum_gain: float | None = None,
) -> Comparison:
    """Whether a candidate, the best of `tried`, is better than a reference by more than noise.

    Noise is that of the paired examples where there are any, and `minimum_gain` where it is stated; without either any gain
    is accepted.

    Args:
        candidate: its name.
        reference: the name of what it is compared with.
        values: the choosing metric, by name.
        examples: its per-example values, by name, where there are any.
        mode: whether the metric is minimized or maximized.
        tried: how many candidates this one is the best of.
        minimum_gain: the smallest gain that counts, in the metric's units; None: not stated.
    """
    advantage = gain(values[candidate], values[reference], mode)
    error = None
    if candidate in examples and reference in examples:
        error = paired_standard_error(examples[candidate], examples[reference])
    threshold = max(minimum_gain or 0.0, critical(tried) * error if error is not None else 0.0)
    return Comparison(
        candidate=candidate,
        reference=reference,
        gain=advantage,
        standard_error=error,
        threshold=threshold,
        accepted=advantage > threshold,
    )
