"""An extrapolation described by numbers and by one sentence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from rna_watch.acceleration.coefficients import Spectrum, norm_bound
from rna_watch.acceleration.fixed_weights import as_decay

if TYPE_CHECKING:
    import numpy.typing as npt

    Float64 = npt.NDArray[np.float64]

_EXTRAPOLATES_FROM = 1.05
_IS_ONE = 0.999


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnostics:
    """Numbers that a person can judge a combination by.

    `condition` and `smallest_eigenvalue` (relative to the largest) are of R'R. `norm1` and `norm2` are of c, `norm2_bound`
    is the bound for its lambda, if it has one. `gain` is the predicted residual sqrt(c'Gc / G_NN), below 1 if the
    combination's residual is smaller than the newest one's. `cosine` is the mean cosine of consecutive residuals (+1:
    straight on, -1: zigzag).

    The others are of the model, by its weights w_0..w_N of y_0..y_N, which are (0, c) unless there is mixing.
    `decay_profile` is sum_{j >= i} w_j for i = 1..N, the weights of the steps as a learning-rate decay would give them.
    `effective_count` is 1 / sum(w^2), the number of iterates that the average is worth. `reach` is sum(w_i i) - N, the
    number of intervals past the newest checkpoint (negative: before it). `sentence` says all this in words.
    """

    condition: float
    smallest_eigenvalue: float
    norm1: float
    norm2: float
    norm2_bound: float | None
    gain: float
    cosine: float
    decay_profile: tuple[float, ...]
    effective_count: float
    reach: float
    sentence: str


def diagnose(
    gram_nn: Float64, c: Float64, regularization: float | None, spectrum_: Spectrum, weights: Float64
) -> Diagnostics:
    """Diagnostics of coefficients c `(N,)` over residuals with Gram matrix `gram_nn`, and of the model they make.

    Args:
        gram_nn: R'R, (N, N).
        c: coefficients, oldest first.
        regularization: lambda, if c solves a system with one.
        spectrum_: of R'R.
        weights: of the model, (N + 1,), oldest first.
    """
    n = len(c)
    norm1, norm2 = float(np.abs(c).sum()), float(np.linalg.norm(c))
    newest = float(gram_nn[-1, -1])
    combined = max(float(c @ gram_nn @ c), 0.0)
    lengths = np.sqrt(np.diag(gram_nn))
    products = lengths[1:] * lengths[:-1]
    cosines = np.diag(gram_nn, 1)[products > 0] / products[products > 0]
    effective = 1.0 / float(weights @ weights) if weights.any() else float("nan")
    reach = float(weights @ np.arange(n + 1)) - n
    return Diagnostics(
        condition=spectrum_.condition,
        smallest_eigenvalue=float(spectrum_.values[0]),
        norm1=norm1,
        norm2=norm2,
        norm2_bound=None if regularization is None else norm_bound(n, regularization),
        gain=float(np.sqrt(combined / newest)) if newest > 0 else float("nan"),
        cosine=float(cosines.mean()) if len(cosines) else float("nan"),
        decay_profile=tuple(float(value) for value in as_decay(weights[1:])),
        effective_count=effective,
        reach=reach,
        sentence=_sentence(weights, effective, reach),
    )


def _sentence(weights: Float64, effective: float, reach: float) -> str:
    norm1 = float(np.abs(weights).sum())
    if norm1 > _EXTRAPOLATES_FROM:
        outside = f"{(norm1 - 1) / 2:.2g} of the weight lies outside the window"
        if reach > 0:
            return f"extrapolates {_intervals(reach)} past the newest checkpoint; {outside}"
        return f"corrects the newest checkpoint with negative weights; {outside}"
    if float(weights.max()) > _IS_ONE:
        age = len(weights) - 1 - int(weights.argmax())
        return f"is the checkpoint {age} before the newest" if age else "is the newest checkpoint"
    return f"acts as an average of about {effective:.2g} checkpoints"


def _intervals(reach: float) -> str:
    return f"{reach:.2g} interval{'' if f'{reach:.2g}' == '1' else 's'}"
