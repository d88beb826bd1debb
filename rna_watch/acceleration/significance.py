"""Whether a gain is beyond noise: paired comparison of two models on the same examples, corrected for how many were compared.

Examples on which two models give the same value do not show which is better. Every other difference has either sign with
equal chance if the models are equal (Fisher's randomization test); for 0/1 metrics this is McNemar's exact test on
discordant pairs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, Literal, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    import numpy as np
    import numpy.typing as npt

    Float64 = npt.NDArray[np.float64]

Mode = Literal["min", "max"]
T = TypeVar("T")
# the chance, over one step of the choice, that a difference is found between equal models
_LEVEL = 0.05
_FEWEST_EXAMPLES = 10
# up to so many examples that differ all signs are tried, 2^20 in 10 ms
_MOST_EXACT = 20
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One candidate against one reference, by what ranks them.

    `gain` is positive if the candidate is better. `standard_error` is that of the paired differences (None without
    per-example values). `threshold` is what the gain must exceed to be `accepted`.
    """

    candidate: str
    reference: str
    gain: float
    standard_error: float | None
    threshold: float
    accepted: bool


def gain(value: float, reference: float, mode: Mode) -> float:
    """The gain of `value` over `reference`, positive if it is better.

    Args:
        value: a metric's value.
        reference: the value to compare with.
        mode: whether the metric is minimized or maximized.
    """
    return reference - value if mode == "min" else value - reference


def ranked(items: Iterable[T], value: Callable[[T], float | None], mode: Mode) -> list[T]:
    """The items whose value is a number, the best first; equal ones keep their order.

    Args:
        items: models, or whatever was evaluated, by one evaluator.
        value: the choosing metric of one; None or NaN if it is not known.
        mode: whether the metric is minimized or maximized.
    """
    known = [(item, found) for item in items if (found := value(item)) is not None and not math.isnan(found)]
    return [item for item, _ in sorted(known, key=lambda pair: -gain(pair[1], 0.0, mode))]


def paired_standard_error(candidate: Float64, reference: Float64) -> float | None:
    """Standard error of the mean of paired differences, over n examples; None if they cannot be paired or are too few.

    Args:
        candidate: the value of each example, (n,).
        reference: the values of the same examples in the same order, (n,).
    """
    n = len(candidate)
    if candidate.shape != reference.shape or n < _FEWEST_EXAMPLES:
        return None
    import numpy as np

    with np.errstate(invalid="ignore", over="ignore"):  # of values that are infinite
        deviation = float(np.std(candidate - reference, ddof=1))
    return deviation / math.sqrt(n) if math.isfinite(deviation) else None


def least_gain(differences: Float64, compared_count: int) -> float:
    """The mean of paired differences that the best of `compared_count` equal models exceeds with a chance of at most 5 %.

    It is the exact quantile of the sum over all 2^m signs for m <= 20 differences that are not zero (it cannot be exceeded
    if even m equal signs may be chance), and for more

        t(1 - 0.05 / compared_count, m - 1) * standard error + min |difference| / n

    with Student's quantile, and the correction for sums that move in steps (Edwards 1948, for 0/1 metrics).

    Args:
        differences: the paired differences of n examples, (n,), finite.
        compared_count: the number of candidates that this one is the best of (one-sided, Bonferroni).
    """
    import numpy as np

    n = len(differences)
    sizes = np.abs(differences[differences != 0.0])
    m, level = len(sizes), _LEVEL / max(compared_count, 1)
    if m > _MOST_EXACT:
        error = float(np.std(differences, ddof=1)) / math.sqrt(n)
        return student_quantile(level, m - 1) * error + float(sizes.min()) / n
    sums = np.zeros(1)
    for size in sizes:
        sums = np.concatenate([sums + size, sums - size])
    allowed = int(level * len(sums))  # so many of the largest sums may be exceeded by chance
    edge = np.partition(sums, -1 - allowed)[-1 - allowed]
    return (float(edge) + _ROUNDING * float(sizes.sum())) / n


def student_quantile(level: float, degrees: int) -> float:
    """The value that Student's t exceeds with probability `level` (Abramowitz & Stegun 26.7.5; to 2e-4 from 20 degrees on)."""
    z = NormalDist().inv_cdf(1.0 - level)
    return (
        z
        + (z**3 + z) / (4 * degrees)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * degrees**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * degrees**3)
    )


def compare(
    candidate: str,
    reference: str,
    values: Mapping[str, float],
    examples: Mapping[str, Float64],
    *,
    mode: Mode,
    compared_count: int,
    minimum_gain: float | None = None,
) -> Comparison:
    """Whether a candidate, the best of `compared_count`, is better than a reference by more than noise.

    Noise is that of the paired examples, if there are any, and `minimum_gain`, if it is stated. Any gain is accepted
    without either.

    Args:
        candidate: the candidate's name.
        reference: the name of the model that it is compared with.
        values: the choosing metric, by name.
        examples: its per-example values, by name, if there are any.
        mode: whether the metric is minimized or maximized.
        compared_count: the number of candidates that this one is the best of.
        minimum_gain: the smallest gain that counts, in the metric's units; None: not stated.
    """
    advantage = gain(values[candidate], values[reference], mode)
    error, threshold = None, minimum_gain or 0.0
    if candidate in examples and reference in examples:
        error = paired_standard_error(examples[candidate], examples[reference])
        if error is not None:
            threshold = max(threshold, least_gain(examples[candidate] - examples[reference], compared_count))
    return Comparison(
        candidate=candidate,
        reference=reference,
        gain=advantage,
        standard_error=error,
        threshold=threshold,
        accepted=advantage > threshold,
    )
