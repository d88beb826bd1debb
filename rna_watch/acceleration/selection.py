"""The choice among evaluated candidates: never worse than the original, and no gain is claimed that is not there."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rna_watch.acceleration.methods import AVERAGES, LAST, SOLUTIONS, TRAINING, kind_of
from rna_watch.acceleration.significance import Comparison, Mode, compare, gain, ranked

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    import numpy.typing as npt

    from rna_watch.acceleration.candidate import Candidate

_WORDS = {AVERAGES: "the plain average", TRAINING: "a short cooldown, which is training and no extrapolation,"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The candidate that was chosen for the window.

    `better_than_original` is strict, on the choosing metric; None without an evaluation. `significant` says whether the
    gain over the original is beyond noise (paired examples, or `minimum_gain`); None where neither is known.
    `best_average` and `best_rna` name the best of either kind. `comparisons` are the steps of the choice.
    """

    candidate: Candidate
    better_than_original: bool | None
    significant: bool | None
    best_average: str | None
    best_rna: str | None
    reason: str
    comparisons: tuple[Comparison, ...] = field(default=())


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """The evaluations: the choosing metric of each candidate by name, and its per-example values if there are any.

    `minimum_gain` is the smallest gain that counts as beyond noise, in the metric's units; None: not stated. `screened` is
    the number of candidates that a cheap first round chose from, which were tried too. `mode` is None where it is not known
    whether the metric is to be small or large.
    """

    values: Mapping[str, float]
    mode: Mode | None
    examples: Mapping[str, npt.NDArray[np.float64]] = field(default_factory=dict)
    minimum_gain: float | None = None
    screened: int = 0


def choose(candidates: Sequence[Candidate], evidence: Evidence) -> Choice:
    """The sequence original -> best average -> best extrapolation, each step only for a gain beyond noise.

    The best candidate by the metric is chosen even if nothing is beyond noise, the simpler one in a tie;
    `better_than_original` and `significant` say what it is worth. NaN counts as not evaluated. Where the metric's direction
    is not known, nothing is compared, and the first solution is taken.

    Args:
        candidates: the family, the last iterate among them.
        evidence: the evaluations.

    Raises:
        ValueError: there is no candidate besides the last iterate.
    """
    others = [candidate for candidate in candidates if candidate.method != LAST]
    if not others:
        raise ValueError("a choice needs a candidate besides the last iterate")
    known = {name: value for name, value in evidence.values.items() if not math.isnan(value)}
    evaluated = [candidate for candidate in others if candidate.name in known]
    mode = evidence.mode
    if not evaluated or mode is None:
        undefined = any(candidate.name in evidence.values for candidate in others)
        what = "what was evaluated gave NaN" if undefined else "nothing was evaluated"
        if evaluated:
            what = "the direction of the metric is not known"
        preferred = next((c for c in others if kind_of(c.method) == SOLUTIONS), others[0])
        return Choice(
            candidate=preferred,
            better_than_original=None,
            significant=None,
            best_average=None,
            best_rna=None,
            reason=f"{what}, so it is not known whether it is better",
        )

    def best_of(group: Sequence[Candidate]) -> Candidate | None:
        return next(iter(ranked(group, lambda c: known[c.name], mode)), None)

    averages = [c for c in evaluated if kind_of(c.method) == AVERAGES]
    extrapolations = [c for c in evaluated if kind_of(c.method) != AVERAGES]
    rna = best_of([c for c in evaluated if kind_of(c.method) == SOLUTIONS])
    average = best_of(averages)
    extrapolation = best_of(extrapolations)
    current: Candidate | None = None
    steps: list[Comparison] = []
    if LAST in known and average is not None:
        steps.append(_step(average, None, known, evidence, mode, compared_count=max(len(averages), evidence.screened)))
        current = average if steps[-1].accepted else None
    if LAST in known and extrapolation is not None:
        # against the original it is the best of all that was tried, also of the averages that did not make it
        compared_count = max(len(extrapolations) if current else len(evaluated), evidence.screened)
        steps.append(_step(extrapolation, current, known, evidence, mode, compared_count=compared_count))
        simpler_does = average is not None and gain(known[extrapolation.name], known[average.name], mode) <= 0.0
        current = extrapolation if steps[-1].accepted and not simpler_does else current
    chosen = current or best_of([*averages, *extrapolations])
    assert chosen is not None
    better = gain(known[chosen.name], known[LAST], mode) > 0.0 if LAST in known else None
    taken = [step for step in steps if step.accepted] or steps
    tested = evidence.minimum_gain is not None or (
        bool(taken) and all(step.standard_error is not None for step in taken)
    )
    significant = current is not None if tested and better is not None else None
    return Choice(
        candidate=chosen,
        better_than_original=better,
        significant=significant,
        best_average=average.name if average else None,
        best_rna=rna.name if rna else None,
        reason=_reason(chosen, better=better, significant=significant),
        comparisons=tuple(steps),
    )


def _step(
    best: Candidate,
    current: Candidate | None,
    known: Mapping[str, float],
    evidence: Evidence,
    mode: Mode,
    *,
    compared_count: int,
) -> Comparison:
    return compare(
        best.name,
        current.name if current else LAST,
        known,
        evidence.examples,
        mode=mode,
        compared_count=compared_count,
        minimum_gain=evidence.minimum_gain,
    )


def _reason(best: Candidate, *, better: bool | None, significant: bool | None) -> str:
    if better is None:
        return "the original could not be evaluated, so it is not known whether it is better"
    kind = _WORDS.get(kind_of(best.method) or "", "extrapolation")
    if not better:
        return f"{kind} is the best of the family, but not better than the original"
    if significant is False:
        return f"{kind} is better than the original, but not beyond noise"
    return f"{kind} is better than the original" + (", beyond noise" if significant else "")
