"""The choice among evaluated candidates: never worse than the original, and no gain is claimed that is not there."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from rna_watch.acceleration.methods import AVERAGES, LAST, PRODUCTS, SOLUTIONS, TRAINING, kind_of
from rna_watch.acceleration.significance import Comparison, Mode, compare, gain, ranked

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

    from rna_watch.acceleration.candidate import Candidate

    Float64 = npt.NDArray[np.float64]

_WORDS = {
    AVERAGES: "the plain average",
    PRODUCTS: "the combination of the products of its factors",
    TRAINING: "a short cooldown, which is training and no extrapolation,",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The candidate that was chosen for the window.

    `better_than_original` is strict, on the user's metric; None without an evaluation. `significant` says whether the gain
    over the original is beyond noise (paired examples, or `minimum_gain`), and `tested_on` in which of the two, the metric
    or the loss; None where neither is known. `best_average` and `best_rna` name the first of either kind in the ranking.
    `comparisons` are the steps of the choice, in the units of what ranks.
    """

    candidate: Candidate
    better_than_original: bool | None
    significant: bool | None
    best_average: str | None
    best_rna: str | None
    reason: str
    tested_on: str | None = None
    comparisons: tuple[Comparison, ...] = field(default=())


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """The evaluations: the user's metric of each candidate by name, and its per-example values if there are any.

    `losses` are the per-example values of the loss that ranks the candidates in the metric's place, if there is one; `metric`
    and `loss` are the names of the two. `minimum_gain` is the smallest gain that counts as beyond noise, in the metric's
    units; None: not stated. `screened` is the number of candidates that a cheap first round chose from, which were tried too.
    `mode` is None where it is not known whether the metric is to be small or large.
    """

    values: Mapping[str, float]
    mode: Mode | None
    examples: Mapping[str, Float64] = field(default_factory=dict)
    minimum_gain: float | None = None
    screened: int = 0
    metric: str = "the metric"
    losses: Mapping[str, Float64] = field(default_factory=dict)
    loss: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ranking:
    """What ranks and tests the candidates: values by name, and per example. `metric`: the user's, where a loss ranks."""

    values: Mapping[str, float]
    examples: Mapping[str, Float64]
    mode: Mode
    metric: Mapping[str, float] = field(default_factory=dict)
    metric_mode: Mode = "min"

    def best(self, group: Sequence[Candidate]) -> Candidate | None:
        """The first of a group; one without a value is in no ranking."""
        return next(iter(ranked(group, lambda each: self.values.get(each.name), self.mode)), None)

    def ahead(self, one: Candidate, other: Candidate) -> bool:
        """Whether one has a better value than the other."""
        return gain(self.values[one.name], self.values[other.name], self.mode) > 0.0

    def no_worse(self, one: Candidate, *others: Candidate | None) -> bool:
        """Whether one is no worse than any of these by the user's metric, where a loss ranks."""
        bars = [self.metric[each.name] for each in others if self.metric and each is not None]
        own = self.metric.get(one.name, math.nan)
        return all(own == bar or gain(own, bar, self.metric_mode) >= 0.0 for bar in bars)  # both may be infinite


def choose(candidates: Sequence[Candidate], evidence: Evidence) -> Choice:
    """The sequence original -> best average -> best solution -> best fit, each step only for a gain beyond noise.

    The first in the ranking is chosen even if nothing is beyond noise, the simpler one in a tie; `better_than_original` and
    `significant` say what it is worth. Where a loss ranks, what is worse by the user's metric than the original or than the
    best average is passed over. A fit is anything but an average and a solution. It must be better than what is chosen
    without it, by no metric worse, and changes nothing else. NaN counts as not evaluated. Where the metric's direction is not
    known, nothing is compared, and the first solution is taken.

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
    if evaluated and evidence.mode is not None:
        return _of_evaluated([c for c in candidates if c.name in known], known, evidence.mode, evidence)
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


def _of_evaluated(
    candidates: Sequence[Candidate], known: Mapping[str, float], mode: Mode, evidence: Evidence
) -> Choice:
    """The choice among candidates whose metric is known, the original perhaps among them."""
    originals = [c for c in candidates if c.method == LAST]
    averages = [c for c in candidates if kind_of(c.method) == AVERAGES]
    solutions = [c for c in candidates if kind_of(c.method) == SOLUTIONS]
    fits = [c for c in candidates if c.method != LAST and kind_of(c.method) not in {AVERAGES, SOLUTIONS}]
    by = _ranking(originals, [*averages, *solutions], known, mode, evidence)
    original, best_average, rna = by.best(originals), by.best(averages), by.best(solutions)
    plain = [c for c in (*averages, *solutions) if c.name in by.values and by.no_worse(c, best_average)]
    plain = [c for c in plain if by.no_worse(c, *originals)] or plain
    average = by.best([c for c in averages if c in plain])
    solution = by.best([c for c in solutions if c in plain])
    current: Candidate | None = None
    steps: list[Comparison] = []

    def step(best: Candidate, tried: Sequence[Candidate]) -> bool:
        """Compare with the current one, or the original; the best of `tried`."""
        assert original is not None
        steps.append(_step(best, current or original, by, evidence, max(len(tried), evidence.screened)))
        return steps[-1].accepted

    if original is not None and average is not None:
        current = average if step(average, averages) else None
    if original is not None and solution is not None:
        # against the original it is the best of all that was tried, also of the averages that did not make it
        accepted = step(solution, solutions if current else [*averages, *solutions])
        current = solution if accepted and (average is None or by.ahead(solution, average)) else current
    chosen = current or by.best(plain)
    ranking = [c for c in fits if c.name in by.values]
    if chosen is None:
        ranking = [c for c in ranking if by.no_worse(c, *originals)] or ranking
    else:
        ranking = [c for c in ranking if by.ahead(c, chosen) and by.no_worse(c, chosen)]
    fit = by.best(ranking)
    if fit is not None:
        accepted = original is not None and step(
            fit, [*solutions, *fits] if current else [*averages, *solutions, *fits]
        )
        chosen = fit if accepted or current is None else current
        current = fit if accepted else current
    assert chosen is not None
    gains = [gain(known[chosen.name], known[each.name], mode) for each in originals]
    better = all(each > 0.0 for each in gains) if originals else None
    taken = [each for each in steps if each.accepted] or steps
    by_example = bool(taken) and all(each.standard_error is not None for each in taken)
    tested = evidence.minimum_gain is not None or by_example
    significant = current is not None if tested and better is not None else None
    loss = evidence.loss if by.metric else ""
    behind = evidence.metric if loss and any(each < 0.0 for each in gains) else ""
    first = by.best([*averages, *solutions, *fits])
    passed_over = ""
    if first is not None and by.ahead(first, chosen) and not by.no_worse(first, *originals, best_average, chosen):
        passed_over = f"; {first.name} has a better {loss}, but a worse {evidence.metric}"
    return Choice(
        candidate=chosen,
        better_than_original=better,
        significant=significant,
        best_average=best_average.name if best_average else None,
        best_rna=rna.name if rna else None,
        reason=_reason(chosen, better=better, significant=significant, loss=loss, behind=behind) + passed_over,
        tested_on=None if significant is None else loss if loss and by_example else evidence.metric,
        comparisons=tuple(steps),
    )


def _ranking(
    originals: Sequence[Candidate],
    plain: Sequence[Candidate],
    known: Mapping[str, float],
    mode: Mode,
    evidence: Evidence,
) -> _Ranking:
    """By the loss, if the original and all averages and solutions have it on the same examples, by the metric if not.

    No fit decides by what it is judged. One whose loss is NaN, or is of other examples, is in no ranking.
    """
    by_metric = _Ranking(values=known, examples=evidence.examples, mode=mode)
    losses = {name: values for name, values in evidence.losses.items() if name in known}
    if not originals or any(each.name not in losses for each in (*originals, *plain)):
        return by_metric
    shape = losses[originals[0].name].shape
    with np.errstate(invalid="ignore", over="ignore"):  # of values that are infinite
        means = {name: float(values.mean()) for name, values in losses.items() if values.shape == shape}
    means = {name: mean for name, mean in means.items() if not math.isnan(mean)}
    left = means.keys() - {each.name for each in originals}
    if len(left) + len(originals) > len(means) or (left.isdisjoint(each.name for each in plain) if plain else not left):
        return by_metric
    return _Ranking(values=means, examples=losses, mode="min", metric=known, metric_mode=mode)


def _step(best: Candidate, reference: Candidate, by: _Ranking, evidence: Evidence, compared_count: int) -> Comparison:
    """One comparison by what ranks; `minimum_gain` is one of the user's metric in any case."""
    least = evidence.minimum_gain
    step = compare(
        best.name,
        reference.name,
        by.values,
        by.examples,
        mode=by.mode,
        compared_count=compared_count,
        minimum_gain=None if by.metric else least,
    )
    if not by.metric or least is None:
        return step
    enough = gain(by.metric[best.name], by.metric[reference.name], by.metric_mode) > least
    return replace(step, accepted=step.accepted and enough)


def _reason(best: Candidate, *, better: bool | None, significant: bool | None, loss: str, behind: str) -> str:
    """What the choice found; `behind` names the user's metric where the original is better by that."""
    if better is None:
        return "the original could not be evaluated, so it is not known whether it is better"
    kind = _WORDS.get(kind_of(best.method) or "", "extrapolation")
    by = f" ({'ranked' if significant is None else 'ranked and tested'} on {loss})" if loss else ""
    beyond = {True: ", beyond noise", False: ", but not beyond noise", None: ""}[significant]
    if better:
        return f"{kind} is better than the original{beyond}{by}"
    if significant and behind:
        return f"{kind} is worse than the original by {behind}, and better by {loss}, beyond noise"
    if significant:
        return f"{kind} is as good as the original, and better by {loss}, beyond noise"
    return f"{kind} is the best of the family, but not better than the original{by}"
