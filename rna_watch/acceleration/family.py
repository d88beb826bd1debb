"""The family of candidates that one Gram matrix yields: RNA over windows and lambdas, its rivals, the last iterate.

Whatever can be written as weights of the window's checkpoints joins the family here; it costs microseconds. Only
evaluation costs time, so duplicates are removed and the rest is ranked before anything is evaluated.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import TYPE_CHECKING

import numpy as np

from rna_watch.acceleration import fixed_weights
from rna_watch.acceleration.candidate import (
    AVERAGE,
    CAPPED,
    CUMULATIVE,
    DECAY,
    EMA,
    LAST,
    RNA,
    SIMPLEX,
    SOLUTIONS,
    Candidate,
    candidate,
    distance,
    of_weights,
    spectrum_of,
)
from rna_watch.acceleration.coefficients import Solution, smallest_stable, solve
from rna_watch.acceleration.constrained import l1_capped, simplex

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    import numpy.typing as npt

    from rna_watch.acceleration.coefficients import Spectrum
    from rna_watch.acceleration.residuals import Residuals

    Float64 = npt.NDArray[np.float64]

METHODS = (AVERAGE, EMA, DECAY, CUMULATIVE, RNA, SIMPLEX, CAPPED)
UNIFORM, EXPONENTIAL = "uniform", "ema"
PRIORS = (UNIFORM, EXPONENTIAL, LAST)
# Two combinations closer than this, relative to the newest step's length, are one model for any evaluator.
_SAME_MODEL = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """What the family spans.

    `windows`: numbers of residuals; `averages`: further lengths of uniform averages; `methods`: kinds, of `METHODS`;
    `regularizations`: lambdas; `priors`: what RNA tends to as lambda grows, of `PRIORS`; `mixings`: betas of step 4;
    `ema_decay`: a checkpoint's weight in the exponential average relative to the next newer one's; `l1_cap`: the most
    that ||c||_1 may be in capped RNA; `limit`: most candidates to evaluate, besides the last iterate.
    """

    windows: tuple[int, ...]
    regularizations: tuple[float, ...] = (1e-8,)
    averages: tuple[int, ...] = ()
    methods: tuple[str, ...] = METHODS
    priors: tuple[str, ...] = (UNIFORM,)
    mixings: tuple[float, ...] = (1.0,)
    ema_decay: float = 0.7
    l1_cap: float = 2.0
    limit: int = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """The candidates of a window, the original (`last`) first, in the order in which they deserve an evaluation.

    `duplicates`: members that are, as models, another one, by name; `left_out`: names beyond the limit; `notes`: a
    sentence for each thing that was not done.
    """

    candidates: tuple[Candidate, ...]
    notes: tuple[str, ...] = ()
    duplicates: dict[str, str] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()


def family(residuals: Residuals, search: Search) -> Family:
    """All candidates worth an evaluation, distinct as models, best prospects first.

    Args:
        residuals: of the largest window; a shorter window's Gram matrix is its trailing block.
        search: what to try; lengths are cut to the window.
    """
    n = len(residuals.gram_nn)
    lengths = sorted({min(max(window, 1), n) for window in search.windows}, reverse=True)
    notes = list(residuals.notes)
    last = candidate(residuals, LAST, LAST, np.ones(1))
    found = [last, *_averages(residuals, search, lengths)]
    made = list(_solutions(residuals, search, lengths))
    notes += dict.fromkeys(note for _, note in made if note and note not in notes)
    found += [each for each, _ in made if each is not None]
    kept, duplicates = distinct(found, residuals)
    ordered = _ordered(kept[1:], residuals, search)
    return Family(
        candidates=(kept[0], *ordered[: search.limit]),
        notes=tuple(notes),
        duplicates=duplicates,
        left_out=tuple(each.name for each in ordered[search.limit :]),
    )


def _averages(residuals: Residuals, search: Search, lengths: Sequence[int]) -> Iterator[Candidate]:
    n = len(residuals.gram_nn)
    if AVERAGE in search.methods:
        longer = {min(max(length, 1), n) for length in search.averages} - set(lengths)
        for window in sorted({*lengths, *longer}, reverse=True):
            yield average_of(residuals, window)
    if CUMULATIVE in search.methods:  # all that the window holds, its oldest checkpoint too
        yield of_weights(residuals, f"{CUMULATIVE}-{n + 1}", CUMULATIVE, [1.0 / (n + 1)] * (n + 1))
    for window in lengths:
        if EMA in search.methods:
            yield candidate(residuals, f"{EMA}-{window}", EMA, fixed_weights.exponential(window, search.ema_decay))
        if DECAY in search.methods:  # a linear decay is the uniform average
            for shape in ("sqrt", "cosine"):
                name = f"{DECAY}-{shape}-{window}"
                yield candidate(residuals, name, DECAY, fixed_weights.decay_profile(window, shape))


def _solutions(residuals: Residuals, search: Search, lengths: Sequence[int]) -> Iterator[tuple[Candidate | None, str]]:
    solvers: dict[str, Callable[[Float64, float], Solution]] = {
        SIMPLEX: simplex,
        CAPPED: lambda gram_nn, value: l1_capped(gram_nn, value, search.l1_cap),
    }
    for window in lengths:
        block = residuals.gram_nn[-window:, -window:]
        spectrum_ = spectrum_of(residuals, window)
        floor = rounding_floor(residuals, spectrum_)
        note = spectrum_.status or (_DROWNED if floor >= 1.0 else "")
        if note:
            yield None, note
            continue
        allowed, note = _above(search.regularizations, floor)
        if note:
            yield None, note
        for value in allowed:
            if RNA in search.methods:
                for prior in search.priors:
                    for mixing in search.mixings:
                        yield _rna(residuals, spectrum_, window, value, prior, mixing, search.ema_decay)
            for method, solver in solvers.items():
                if method in search.methods:
                    solution = solver(block, value)
                    name = f"{method}-{window}-{_digits(value)}"
                    yield _made(residuals, name, method, solution, spectrum_)


_DROWNED = "The steps between checkpoints drown in the rounding of the stored dtype, so RNA would fit noise."


def _above(regularizations: Sequence[float], floor: float) -> tuple[list[float], str]:
    """The lambdas at or above the floor; those below are replaced by the next power of ten above it, with a note."""
    allowed = [value for value in regularizations if value >= floor]
    if len(allowed) == len(regularizations):
        return allowed, ""
    least = 10.0 ** math.ceil(math.log10(floor))
    note = f"Lambdas below {least:.0e} would fit the rounding of the stored dtype; {least:.0e} is used instead."
    return sorted({least, *(value for value in allowed if value > least)}), note


def rounding_floor(residuals: Residuals, spectrum_: Spectrum) -> float:
    """The lambda at which the system's regularization equals the rounding of the stored dtype: 2 sum(ulp^2 / 12) / ||R||_2^2."""
    return residuals.rounding / spectrum_.scale if spectrum_.scale > 0.0 else 0.0


def _rna(
    residuals: Residuals, spectrum_: Spectrum, window: int, value: float, prior: str, mixing: float, decay: float
) -> tuple[Candidate | None, str]:
    centres = {LAST: fixed_weights.last(window), EXPONENTIAL: fixed_weights.exponential(window, decay)}
    solution = solve(spectrum_, value, centres.get(prior))
    suffix = ("" if prior == UNIFORM else f"-{prior}") + ("" if mixing == 1.0 else f"-m{mixing:g}")
    name = f"{RNA}-{window}-{_digits(value)}{suffix}"
    return _made(residuals, name, RNA, solution, spectrum_, prior=prior, mixing=mixing)


def _made(
    residuals: Residuals,
    name: str,
    method: str,
    solution: Solution,
    spectrum_: Spectrum,
    prior: str = UNIFORM,
    mixing: float = 1.0,
) -> tuple[Candidate | None, str]:
    if solution.status:
        return None, solution.status
    made = candidate(
        residuals,
        name,
        method,
        solution.coefficients,
        regularization=solution.regularization,
        spectrum_=spectrum_,
        prior=prior,
        mixing=mixing,
    )
    return made, ""


def _digits(regularization: float) -> str:
    short = f"{regularization:.0e}"
    return short if float(short) == regularization else f"{regularization:.2e}"


def distinct(candidates: Sequence[Candidate], residuals: Residuals) -> tuple[list[Candidate], dict[str, str]]:
    """The candidates without those that are, by name or as models, an earlier one; and which those were of whom."""
    kept: list[Candidate] = []
    duplicates: dict[str, str] = {}
    limit = _SAME_MODEL * float(np.sqrt(max(residuals.steps_nn[-1, -1], 0.0)))
    for each in candidates:
        twin = next((k for k in kept if k.name == each.name or distance(residuals, k, each) <= limit), None)
        if twin is None and np.isfinite(each.weights).all():
            kept.append(each)
        elif twin is not None and twin.name != each.name:
            duplicates[each.name] = twin.name
    return kept, duplicates


def _ordered(candidates: Sequence[Candidate], residuals: Residuals, search: Search) -> list[Candidate]:
    """A round-robin over the methods, each in the order of its prospects; the method's first member leads in any case.

    So no method starves another, and the largest window's average and RNA, who come first, are tried at every checkpoint.
    """
    # what no combination of the whole window removes is noise of every residual
    noise = (
        residuals.rounding + max(float(np.linalg.eigvalsh(residuals.gram_nn)[0]), 0.0) if _finite(residuals) else 0.0
    )

    def prospect(each: Candidate) -> float:
        c = np.asarray(each.coefficients)
        return float(c @ residuals.gram_nn @ c) + noise * float(c @ c)

    queues = []
    leading = [method for method in (AVERAGE, RNA) if method in search.methods]
    for method in dict.fromkeys([*leading, *search.methods]):
        members = [each for each in candidates if each.method == method]
        queues.append(members[:1] + sorted(members[1:], key=prospect))
    rounds = zip_longest(*queues)
    return [each for members in rounds for each in members if each is not None]


def _finite(residuals: Residuals) -> bool:
    return bool(np.isfinite(residuals.gram_nn).all())


def in_one_sentence(parts: Iterable[str]) -> str:
    """Notes, and what follows from them, as one sentence; some of them are whole sentences already."""
    *before, last = [*parts] or [""]
    return "; ".join([*(part.removesuffix(".") for part in before), last])


def unevaluated(residuals: Residuals) -> Family:
    """What to publish where nothing can be evaluated: RNA with the smallest lambda >= 1e-8 that keeps ||c||_2 <= 3.

    Where the window is rounding noise or singular, the average stands in, and a note says why.
    """
    n = len(residuals.gram_nn)
    spectrum_ = spectrum_of(residuals, n)
    last = candidate(residuals, LAST, LAST, np.ones(1))
    floor = rounding_floor(residuals, spectrum_)
    note = spectrum_.status or (_DROWNED if floor >= 1.0 else "")
    if note:
        notes = (*residuals.notes, f"{note} The plain average is used.")
        return Family(candidates=(last, average_of(residuals, n)), notes=notes)
    solution = smallest_stable(spectrum_, max(1e-8, floor))
    name = f"{RNA}-{n}-{_digits(solution.regularization)}"
    made, _ = _made(residuals, name, RNA, solution, spectrum_)
    return Family(candidates=(last, made or average_of(residuals, n)), notes=residuals.notes)


def average_of(residuals: Residuals, window: int) -> Candidate:
    """The uniform average of the newest `window` iterates (at most N)."""
    window = min(window, len(residuals.gram_nn))
    return candidate(residuals, f"{AVERAGE}-{window}", AVERAGE, fixed_weights.uniform(window))


def single(residuals: Residuals, method: str, regularization: float, search: Search) -> tuple[Candidate | None, str]:
    """One member over the whole window, or None and a sentence that says why it is refused.

    Args:
        residuals: of the window.
        method: `LAST`, `AVERAGE`, `EMA`, `DECAY`, `CUMULATIVE`, or one of `SOLUTIONS`.
        regularization: lambda of a solution.
        search: priors, mixings, decay and cap to use (the first of each).
    """
    n = len(residuals.gram_nn)
    if method == LAST:
        return candidate(residuals, LAST, LAST, np.ones(1)), ""
    if method in SOLUTIONS:
        floor = rounding_floor(residuals, spectrum_of(residuals, n))
        if regularization < floor < 1.0:
            least = 10.0 ** (math.ceil(10.0 * math.log10(floor)) / 10.0) * 1.1  # what is named must not be refused
            return None, (
                f"Lambda {regularization:g} lies below {least:.1e}, where it would fit the rounding of the stored dtype: take "
                "a larger one."
            )
        made = list(_solutions(residuals, _only(search, method, regularization, n), [n]))
        return next(((each, "") for each, _ in made if each is not None), (None, made[0][1]))
    return next(iter(_averages(residuals, _only(search, method, regularization, n), [n]))), ""


def _only(search: Search, method: str, regularization: float, window: int) -> Search:
    return Search(
        windows=(window,),
        regularizations=(regularization,),
        methods=(method,),
        priors=search.priors[:1],
        mixings=search.mixings[:1],
        ema_decay=search.ema_decay,
        l1_cap=search.l1_cap,
    )
