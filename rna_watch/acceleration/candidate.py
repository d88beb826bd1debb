"""A candidate: a model as weights of the window's checkpoints, with a name and diagnostics."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from rna_watch.acceleration.coefficients import Spectrum, input_weights, spectrum, spectrum_of_factor
from rna_watch.acceleration.diagnostics import Diagnostics, diagnose
from rna_watch.acceleration.fixed_weights import as_decay
from rna_watch.acceleration.methods import CLAMPED, UNIFORM, USUAL_DECAY

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

    from rna_watch.acceleration.methods import Parameters
    from rna_watch.acceleration.residuals import Residuals

    Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A member of the family.

    `weights` belong to the inputs y_0..y_N, oldest first, and sum to one. `coefficients` are c_1..c_N over the largest
    window's residuals (0 for those before its own `window`): for a solution of Algorithm 1 `weights` are `(0, c)`, or with
    mixing beta < 1 those of its step 4; for any other candidate they are the weights of y_1..y_N. `regularization` is
    lambda; `parameters` tell it from its method's other members of the same window and lambda. `statistics` says how
    normalization statistics are made: combined and clamped at zero, combined as the paper does, or re-estimated by forward
    passes. `layer_weights` are rows of weights by the name of a stored tensor, where they differ from tensor to tensor;
    `weights` are then their mean over elements, and so are `coefficients`.
    """

    name: str
    method: str
    window: int
    regularization: float | None
    coefficients: tuple[float, ...]
    weights: tuple[float, ...]
    diagnostics: Diagnostics
    parameters: Parameters = field(default_factory=dict)
    statistics: str = CLAMPED
    layer_weights: Mapping[str, tuple[float, ...]] = field(default_factory=dict)


def name_of(method: str, length: int, regularization: float | None = None, parameters: Parameters | None = None) -> str:
    """The name of a member, for people; programs read a candidate's fields.

    Args:
        method: one of `methods.METHODS`, or `LAST`.
        length: how many checkpoints it combines.
        regularization: lambda of a solution.
        parameters: shape, prior, mixing and decay are named if they are not the usual ones.
    """
    given = parameters or {}
    parts = [method, given.get("shape"), str(length), None if regularization is None else _digits(regularization)]
    if given.get("prior", UNIFORM) != UNIFORM:
        parts.append(given["prior"])
    if given.get("mixing", 1.0) != 1.0:
        parts.append(f"m{given['mixing']:g}")
    if given.get("ema_decay", USUAL_DECAY) != USUAL_DECAY:
        parts.append(f"d{given['ema_decay']:g}")
    return "-".join(str(part) for part in parts if part is not None)


def _digits(regularization: float) -> str:
    short = f"{regularization:.0e}"
    return short if float(short) == regularization else f"{regularization:.2e}"


def spectrum_of(residuals: Residuals, window: int) -> Spectrum:
    """The spectrum of the newest `window` residuals, from the triangular factor if there is one."""
    if residuals.factor_nn is not None:
        return spectrum_of_factor(residuals.factor_nn[:, -window:])
    return spectrum(residuals.gram_nn[-window:, -window:])


def candidate(
    residuals: Residuals,
    name: str,
    method: str,
    c: Float64,
    *,
    regularization: float | None = None,
    spectrum_: Spectrum | None = None,
    parameters: Parameters | None = None,
) -> Candidate:
    """The candidate with coefficients c over the newest w residuals.

    Args:
        residuals: the window's N residuals.
        name: the candidate's name.
        method: its method.
        c: coefficients, (w,), oldest first.
        regularization: lambda, if c solves a system with one.
        spectrum_: of these w residuals; None: computed here.
        parameters: what tells it from its method's other members.
    """
    n, window, given = len(residuals.gram_nn), len(c), parameters or {}
    whole = np.concatenate([np.zeros(n - window), c])
    weights = input_weights(whole, float(given.get("mixing", 1.0)))
    bounded = given.get("prior", UNIFORM) == UNIFORM  # the bound on ||c||_2 is of the uniform prior
    return Candidate(
        name=name,
        method=method,
        window=window,
        regularization=regularization,
        coefficients=tuple(float(value) for value in whole),
        weights=tuple(float(value) for value in weights),
        diagnostics=diagnose(
            residuals.gram_nn[-window:, -window:],
            c,
            regularization if bounded else None,
            spectrum_ or spectrum_of(residuals, window),
            weights[-window - 1 :],
        ),
        parameters=given,
    )


def of_weights(
    residuals: Residuals,
    name: str,
    method: str,
    weights: Sequence[float] | Float64,
    parameters: Parameters | None = None,
    layer_weights: Mapping[str, tuple[float, ...]] | None = None,
) -> Candidate:
    """The candidate with weights that were found otherwise (a soup, trained weights, a line search).

    Args:
        residuals: the window's N residuals.
        name: the candidate's name.
        method: its method.
        weights: of y_0..y_N, (N + 1,), sum 1.
        parameters: what tells it from its method's other members.
        layer_weights: rows like `weights`, by tensor, if they differ.
    """
    c = np.asarray(weights[1:], dtype=np.float64)
    explained = c.copy()
    explained[0] += weights[0]  # there is no residual that ends in y_0: it counts with the oldest one's newer end
    return Candidate(
        name=name,
        method=method,
        window=len(c),
        regularization=None,
        coefficients=tuple(float(value) for value in c),
        weights=tuple(float(value) for value in weights),
        diagnostics=diagnose(
            residuals.gram_nn, explained, None, spectrum_of(residuals, len(c)), np.asarray(weights, dtype=np.float64)
        ),
        parameters=parameters or {},
        layer_weights=layer_weights or {},
    )


def distance(residuals: Residuals, first: Candidate, second: Candidate) -> float:
    """The distance of two candidates as models, in the units of the parameters.

    A model is y_N - sum_i (1 - W_i) d_i with W_i = sum_{k >= i} w_k, so two differ by their profiles W, measured with the
    Gram matrix of the differences d_i. Where weights differ from tensor to tensor, that matrix does not tell: it is zero
    for equal weights and infinite for others.

    Args:
        residuals: the window's residuals.
        first: one candidate.
        second: the other.
    """
    if first.layer_weights or second.layer_weights:
        return 0.0 if (first.weights, first.layer_weights) == (second.weights, second.layer_weights) else math.inf
    profile = _profile(first) - _profile(second)
    return math.sqrt(max(float(profile @ residuals.steps_nn @ profile), 0.0))


def _profile(of: Candidate) -> Float64:
    weights = np.array(of.weights, dtype=np.float64)
    return as_decay(weights[1:])
