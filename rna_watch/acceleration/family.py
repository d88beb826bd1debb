"""The family of candidates that one Gram matrix yields: RNA over windows and lambdas, its rivals, the last iterate.

Everything that is a set of weights of the window's checkpoints joins the family here; it costs microseconds. Only
evaluation costs time, so duplicates are removed and the rest is ranked before anything is evaluated.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import TYPE_CHECKING

import numpy as np

from rna_watch.acceleration.candidate import Candidate, candidate, distance, name_of, of_weights, spectrum_of
from rna_watch.acceleration.coefficients import Solution, smallest_stable
from rna_watch.acceleration.methods import AVERAGE, AVERAGES, LAST, METHODS, RNA, SOLUTIONS, UNIFORM, Search, kind_of
from rna_watch.acceleration.residuals import Residuals

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    import numpy.typing as npt

    from rna_watch.acceleration.coefficients import Spectrum
    from rna_watch.acceleration.methods import Parameters

    Float64 = npt.NDArray[np.float64]

# Two combinations closer than this, relative to the newest step's length, are one model for any evaluator.
_SAME_MODEL = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """The candidates of a window, the original (`last`) first, in the order in which they deserve an evaluation.

    `twins` are members whose model is that of another one, each with the other's name. `left_out` are names beyond the
    limit. `notes` has a sentence for each thing that was not done.
    """

    candidates: tuple[Candidate, ...]
    notes: tuple[str, ...] = ()
    twins: tuple[tuple[Candidate, str], ...] = ()
    left_out: tuple[str, ...] = ()

    @property
    def duplicates(self) -> dict[str, str]:
        """The names of twins, each with the name of the one that it equals."""
        return {each.name: twin for each, twin in self.twins}


def family(residuals: Residuals, search: Search) -> Family:
    """All candidates worth an evaluation, distinct as models, best prospects first.

    Args:
        residuals: of the largest window; a shorter window's Gram matrix is its trailing block.
        search: what to try; lengths are cut to the window.
    """
    notes = list(residuals.notes)
    found = [_last(residuals), *_averages(residuals, search)]
    made = list(_solutions(residuals, search))
    notes += dict.fromkeys(note for _, note in made if note and note not in notes)
    found += [each for each, _ in made if each is not None]
    kept, twins = distinct(found, residuals)
    ordered = _ordered(kept[1:], residuals, search)
    return Family(
        candidates=(kept[0], *ordered[: search.limit]),
        notes=tuple(notes),
        twins=tuple(twins),
        left_out=tuple(each.name for each in ordered[search.limit :]),
    )


def _last(residuals: Residuals) -> Candidate:
    return candidate(residuals, LAST, LAST, np.ones(1))


def _lengths(search: Search, n: int, further: tuple[int, ...] = ()) -> list[int]:
    """The lengths to try of a window of n residuals, longest first."""
    usual = (search.window, max(search.window // 2, 2), *further)
    return sorted({min(max(length, 1), n) for length in search.windows or usual}, reverse=True)


def _averages(residuals: Residuals, search: Search) -> Iterator[Candidate]:
    n = len(residuals.gram_nn)
    for name, method in METHODS.items():
        if name not in search.methods or method.weights is None:
            continue
        for length in [n + 1] if method.whole else _lengths(search, n, method.lengths):
            for parameters, weights in method.weights(length, search):
                make = of_weights if method.whole else candidate
                yield make(residuals, name_of(name, length, None, parameters), name, weights, parameters=parameters)


def _solutions(residuals: Residuals, search: Search) -> Iterator[tuple[Candidate | None, str]]:
    for window in _lengths(search, len(residuals.gram_nn)) if search.methods else ():
        spectrum_ = spectrum_of(residuals, window)
        floor = rounding_floor(residuals, spectrum_)
        note = spectrum_.status or (_DROWNED if floor >= 1.0 else "")
        if note:
            yield None, note
            continue
        allowed, notes = _above(search.regularizations, floor, spectrum_)
        for note in notes:
            yield None, note
        for lambda_ in allowed:
            for name, method in METHODS.items():
                if name not in search.methods or method.solve is None:
                    continue
                block = residuals.gram_nn[-window:, -window:]
                for parameters, solution in method.solve(block, spectrum_, lambda_, search):
                    yield _made(residuals, name, solution, spectrum_, parameters), solution.status


_DROWNED = "The steps between checkpoints drown in the rounding of the stored dtype, so RNA would fit noise."


# The smallest eigenvalue, relative to the rounding's, from which on lambda = 0 solves for the window and not for its rounding.
_WELL_ABOVE = 10.0


def _fits_rounding(regularization: float, floor: float, spectrum_: Spectrum) -> bool:
    """Whether a lambda is too small for the rounding; none at all is not if the system itself stands well above it."""
    below = regularization < floor
    return below and not (regularization == 0.0 and float(spectrum_.values[0]) >= _WELL_ABOVE * floor)


def _above(regularizations: Sequence[float], floor: float, spectrum_: Spectrum) -> tuple[list[float], list[str]]:
    """The lambdas that do not fit rounding; the next power of ten above the floor replaces others, but for 0, with notes."""
    small = [value for value in regularizations if _fits_rounding(value, floor, spectrum_)]
    allowed = {value for value in regularizations if value not in small}
    notes = []
    if 0.0 in small:
        notes.append("Lambda 0 would fit the rounding of the stored dtype, so it is left out.")
    if any(small):
        least = 10.0 ** math.ceil(math.log10(floor))
        notes.append(
            f"Lambdas below {least:.0e} would fit the rounding of the stored dtype; {least:.0e} is used instead."
        )
        allowed = {least, *(value for value in allowed if value > least or value == 0.0)}
    return (sorted(allowed) if small else list(regularizations)), notes


def rounding_floor(residuals: Residuals, spectrum_: Spectrum) -> float:
    """The lambda at which the system's regularization equals the rounding of the stored dtype: 2 sum(ulp^2 / 12) / ||R||_2^2."""
    return residuals.rounding / spectrum_.scale if spectrum_.scale > 0.0 else 0.0


def _made(
    residuals: Residuals, method: str, solution: Solution, spectrum_: Spectrum, parameters: Parameters
) -> Candidate | None:
    if solution.status:
        return None
    c, lambda_ = solution.coefficients, solution.regularization
    given = {"prior": UNIFORM, "mixing": 1.0, **parameters}
    name = name_of(method, len(c), lambda_, given)
    return candidate(residuals, name, method, c, regularization=lambda_, spectrum_=spectrum_, parameters=given)


def distinct(
    candidates: Sequence[Candidate], residuals: Residuals
) -> tuple[list[Candidate], list[tuple[Candidate, str]]]:
    """The candidates that differ from all earlier ones, in name and model; and the others, each with its twin's name."""
    kept: list[Candidate] = []
    twins: list[tuple[Candidate, str]] = []
    limit = _SAME_MODEL * float(np.sqrt(max(residuals.steps_nn[-1, -1], 0.0)))
    for each in candidates:
        twin = next((k for k in kept if k.name == each.name or distance(residuals, k, each) <= limit), None)
        if twin is None and np.isfinite(each.weights).all():
            kept.append(each)
        elif twin is not None and twin.name != each.name:
            twins.append((each, twin.name))
    return kept, twins


def _ordered(candidates: Sequence[Candidate], residuals: Residuals, search: Search) -> list[Candidate]:
    """A round-robin over the methods, each in the order of its prospects; the method's first member leads in any case.

    So no method displaces another, and the largest window's average and RNA, which come first, are tried at every checkpoint.
    """
    # the part that no combination of the whole window removes is noise of every residual
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
    """The family to publish from without evaluations: RNA with the smallest lambda >= 1e-8 that keeps ||c||_2 <= 3.

    The average takes its place if the window is rounding noise or singular, and a note says why.
    """
    n = len(residuals.gram_nn)
    spectrum_ = spectrum_of(residuals, n)
    average, _ = single(residuals, AVERAGE, 0.0, Search())
    assert average is not None
    floor = rounding_floor(residuals, spectrum_)
    note = spectrum_.status or (_DROWNED if floor >= 1.0 else "")
    if note:
        notes = (*residuals.notes, f"{note} The plain average is used.")
        return Family(candidates=(_last(residuals), average), notes=notes)
    solution = smallest_stable(spectrum_, max(1e-8, floor))
    made = _made(residuals, RNA, solution, spectrum_, {})
    return Family(candidates=(_last(residuals), made or average), notes=residuals.notes)


def single(residuals: Residuals, method: str, regularization: float, search: Search) -> tuple[Candidate | None, str]:
    """One member over the whole window, or None and a sentence that says why it is refused.

    Args:
        residuals: the window's residuals.
        method: `LAST`, or one of `methods.COMPUTED`.
        regularization: lambda of a solution.
        search: priors, mixings, decays and cap to use (the first of each, of decays the middle one).
    """
    n = len(residuals.gram_nn)
    if method == LAST:
        return _last(residuals), ""
    only = replace(
        search,
        windows=(n,),
        regularizations=(regularization,),
        methods=(method,),
        priors=search.priors[:1],
        ema_decays=(search.ema_decay,),
        mixings=search.mixings[:1],
    )
    if METHODS[method].weights:
        return next(_averages(residuals, only)), ""
    spectrum_ = spectrum_of(residuals, n)
    floor = rounding_floor(residuals, spectrum_)
    if floor < 1.0 and _fits_rounding(regularization, floor, spectrum_):
        least = 10.0 ** (math.ceil(10.0 * math.log10(floor)) / 10.0) * 1.1  # what is named must not be refused
        return None, (
            f"Lambda {regularization:g} lies below {least:.1e}, where it would fit the rounding of the stored dtype: take "
            "a larger one."
        )
    made = list(_solutions(residuals, only))
    return next(((each, "") for each, _ in made if each is not None), (None, made[0][1]))


def fixed(n: int, method: str, search: Search) -> Candidate:
    """One member whose weights are known in advance, over n residuals of which nothing else is: what needs them is NaN.

    Args:
        n: N.
        method: `LAST`, or an average of `methods.COMPUTED`.
        search: decays to use (the middle one).
    """
    unknown = math.nan
    made, _ = single(Residuals.of_differences(np.full((n, n), unknown)), method, 0.0, search)
    assert made is not None
    diagnostics = replace(
        made.diagnostics, condition=unknown, smallest_eigenvalue=unknown, gain=unknown, cosine=unknown
    )
    return replace(made, diagnostics=diagnostics)


def cut(ranked: Sequence[Candidate], limit: int, order: Sequence[Candidate] = ()) -> list[Candidate]:
    """The first candidates, with the first average and the first solution always among them.

    Args:
        ranked: the candidates.
        limit: how many at most.
        order: where the first average and the first solution are looked for; `ranked` if empty.
    """
    anchors = [
        next((each for each in order or ranked if kind_of(each.method) == kind), None) for kind in (AVERAGES, SOLUTIONS)
    ]
    first = [each for each in anchors if each is not None]
    names = list(dict.fromkeys(each.name for each in [*first, *ranked]))[:limit]
    return [each for each in ranked if each.name in names]
