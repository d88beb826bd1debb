"""The family of candidates that one Gram matrix yields: RNA over windows and lambdas, plain averages, the last iterate.

A candidate is a coefficient vector with a name and diagnostics; whatever can be written so joins the family here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from rna_watch.acceleration.coefficients import Solution, smallest_stable, solve, spectrum
from rna_watch.acceleration.diagnostics import Diagnostics, diagnose
from rna_watch.acceleration.gram import rounding_variance

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    Float64 = npt.NDArray[np.float64]

LAST = "last"
AVERAGE = "average"
RNA = "rna"
# Two combinations closer than this, relative to the newest residual's length, are one model for any evaluator.
_SAME_MODEL = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A member of the family.

    `coefficients` are c_1..c_N over the largest window's residuals, oldest first (0 for those before its own
    `window`); the
    weights of the inputs y_0..y_N are `(0, c)`: each checkpoint stands at its interval's newer end (Algorithm 1, step
    4).
    """

    name: str
    method: str
    window: int
    regularization: float | None
    coefficients: tuple[float, ...]
    diagnostics: Diagnostics

    @property
    def weights(self) -> tuple[float, ...]:
        """Weights of the inputs y_0..y_N; they sum to one."""
        return (0.0, *self.coefficients)


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """The candidates of a window, the original (`last`) first, and a sentence for each thing that was left out."""

    candidates: tuple[Candidate, ...]
    notes: tuple[str, ...]


def family(
    gram_nn: Float64,
    *,
    rounding_energy: float,
    windows: Sequence[int],
    regularizations: Sequence[float],
    limit: int,
) -> Family:
    """All candidates worth an evaluation, at most `limit` besides the last iterate, distinct as models.

    Args:
        gram_nn: R'R of the largest window, (N, N); a shorter window's matrix is its trailing block.
        rounding_energy: as `GramRows.rounding_energy`.
        windows: lengths to try, each cut to N.
        regularizations: lambdas to try.
        limit: most candidates, without the last iterate.
    """
    n = len(gram_nn)
    lengths = sorted({min(max(window, 1), n) for window in windows}, reverse=True)
    notes: list[str] = []
    found = [_last(gram_nn)]
    found += [_average(gram_nn, window) for window in lengths]
    for regularization in regularizations:
        for window in lengths:
            candidate, note = _rna(gram_nn, window, regularization, rounding_energy)
            if note and note not in notes:
                notes.append(note)
            if candidate is not None:
                found.append(candidate)
    return Family(candidates=tuple(_distinct(found, gram_nn)[: limit + 1]), notes=tuple(notes))


def unevaluated(gram_nn: Float64, *, rounding_energy: float) -> Family:
    """What to publish where nothing can be evaluated: RNA with the smallest lambda >= 1e-8 that keeps ||c||_2 <= 3.

    Where the window is rounding noise or singular, the average stands in, and a note says why.
    """
    n = len(gram_nn)
    block = spectrum(gram_nn)
    note = block.status or rounding_note(gram_nn, rounding_energy)
    if note:
        return Family(candidates=(_last(gram_nn), _average(gram_nn, n)), notes=(f"{note} The plain average is used.",))
    solution = smallest_stable(block)
    return Family(candidates=(_last(gram_nn), _from_solution(gram_nn, n, solution)), notes=())


def rounding_note(gram_nn: Float64, rounding_energy: float) -> str:
    """A sentence if rounding of the stored values outweighs the residuals (then RNA would fit noise), else ""."""
    scale = float(np.linalg.eigvalsh(gram_nn)[-1])
    if rounding_variance(rounding_energy) >= scale > 0.0:
        return "The steps between checkpoints drown in the rounding of the stored dtype, so RNA would fit noise."
    return ""


def average_of(gram_nn: Float64, window: int) -> Candidate:
    """The uniform average of the newest `window` iterates."""
    return _average(gram_nn, min(window, len(gram_nn)))


def rna_of(
    gram_nn: Float64, window: int, regularization: float, rounding_energy: float
) -> tuple[Candidate | None, str]:
    """RNA of the newest `window` residuals at one lambda, or None and a sentence that says why not."""
    return _rna(gram_nn, min(window, len(gram_nn)), regularization, rounding_energy)


def _candidate(
    gram_nn: Float64, name: str, method: str, window: int, regularization: float | None, c: Float64
) -> Candidate:
    block = gram_nn[-window:, -window:]
    lam = float("inf") if regularization is None else regularization
    return Candidate(
        name=name,
        method=method,
        window=window,
        regularization=regularization,
        coefficients=(0.0,) * (len(gram_nn) - window) + tuple(float(value) for value in c),
        diagnostics=diagnose(block, c, lam, spectrum(block)),
    )


def _last(gram_nn: Float64) -> Candidate:
    return _candidate(gram_nn, LAST, LAST, 1, None, np.ones(1))


def _average(gram_nn: Float64, window: int) -> Candidate:
    return _candidate(gram_nn, f"{AVERAGE}-{window}", AVERAGE, window, None, np.full(window, 1.0 / window))


def _rna(gram_nn: Float64, window: int, regularization: float, rounding_energy: float) -> tuple[Candidate | None, str]:
    block = gram_nn[-window:, -window:]
    solution = solve(spectrum(block), regularization)
    note = solution.status or rounding_note(block, rounding_energy)
    if note:
        return None, note
    return _from_solution(gram_nn, window, solution), ""


def _from_solution(gram_nn: Float64, window: int, solution: Solution) -> Candidate:
    if solution.status:
        return _average(gram_nn, window)
    name = f"{RNA}-{window}-{_digits(solution.regularization)}"
    return _candidate(gram_nn, name, RNA, window, solution.regularization, solution.coefficients)


def _digits(regularization: float) -> str:
    short = f"{regularization:.0e}"
    return short if float(short) == regularization else f"{regularization:.2e}"


def _distinct(candidates: Sequence[Candidate], gram_nn: Float64) -> list[Candidate]:
    """The candidates without those that are, by name or as models, an earlier one.

    The model is y_N - sum_j (1 - w_j) r_j with w_j = sum_{i >= j} c_i, so that two models differ by the differences
    of their profiles,
    measured in the residuals' metric.
    """
    kept: list[tuple[Candidate, Float64]] = []
    scale = float(gram_nn[-1, -1])
    for candidate in candidates:
        profile = np.cumsum(np.asarray(candidate.coefficients)[::-1])[::-1]
        distances = [float((profile - other) @ gram_nn @ (profile - other)) for _, other in kept]
        if any(candidate.name == other.name for other, _ in kept):
            continue
        if not any(distance <= _SAME_MODEL**2 * scale for distance in distances) or not np.isfinite(scale):
            kept.append((candidate, profile))
    return [candidate for candidate, _ in kept]
