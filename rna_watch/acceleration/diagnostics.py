"""What an extrapolation does, in numbers and in one sentence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from rna_watch.acceleration.coefficients import Spectrum, norm_bound

if TYPE_CHECKING:
    import numpy.typing as npt

    Float64 = npt.NDArray[np.float64]

_EXTRAPOLATES_FROM = 1.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnostics:
    """Numbers a person can judge an extrapolation by.

    `condition` of R'R; `norm1`, `norm2` of c, and `norm2_bound` for its lambda; `gain`: predicted residual
    sqrt(c'Gc / G_NN), below 1 where the combination's residual is smaller than the newest one's; `cosine`: mean cosine
    of consecutive residuals (+1: straight on, -1: zigzag); `decay_profile`: w_i = sum_{j >= i} c_j, the equivalent
    weights of the steps; `effective_count`: 1 / sum(c^2), how many iterates the average is worth; `sentence`: all
    this in words.
    """

    condition: float
    norm1: float
    norm2: float
    norm2_bound: float
    gain: float
    cosine: float
    decay_profile: tuple[float, ...]
    effective_count: float
    sentence: str


def diagnose(gram_nn: Float64, c: Float64, regularization: float, spectrum_: Spectrum) -> Diagnostics:
    """Diagnostics of coefficients c `(N,)` over residuals with Gram matrix `gram_nn`."""
    n = len(c)
    norm1, norm2 = float(np.abs(c).sum()), float(np.linalg.norm(c))
    newest = float(gram_nn[-1, -1])
    combined = max(float(c @ gram_nn @ c), 0.0)
    lengths = np.sqrt(np.diag(gram_nn))
    products = lengths[1:] * lengths[:-1]
    cosines = np.diag(gram_nn, 1)[products > 0] / products[products > 0]
    effective = 1.0 / float(c @ c)
    return Diagnostics(
        condition=spectrum_.condition,
        norm1=norm1,
        norm2=norm2,
        norm2_bound=norm_bound(n, regularization),
        gain=float(np.sqrt(combined / newest)) if newest > 0 else float("nan"),
        cosine=float(cosines.mean()) if len(cosines) else float("nan"),
        decay_profile=tuple(float(value) for value in np.cumsum(c[::-1])[::-1]),
        effective_count=effective,
        sentence=_sentence(c, norm1, effective),
    )


def _sentence(c: Float64, norm1: float, effective: float) -> str:
    if norm1 > _EXTRAPOLATES_FROM:
        return f"extrapolates: {(norm1 - 1) / 2:.2g} of the weight lies outside the window's hull"
    if float(c[-1]) > 0.999:
        return "is the newest checkpoint"
    return f"acts as an average of about {effective:.2g} checkpoints"
