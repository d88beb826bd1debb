"""Coefficient vectors that are known in advance: the averages that RNA is compared with, and its priors.

All are `(N,)`, oldest first, and sum to one; `w_i = sum_{j >= i} c_j` are the weights that they leave on the steps.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]
Shape = Literal["linear", "sqrt", "cosine"]


def uniform(n: int) -> Float64:
    """The plain average of the window: c_i = 1 / N.

    Args:
        n: N, at least 1.

    Raises:
        ValueError: N is below 1.

    Source: Kaddour 2022, arXiv 2209.14981 (LAWA).
    """
    _check(n)
    return np.full(n, 1.0 / n)


def last(n: int) -> Float64:
    """The newest iterate alone: c = (0, ..., 0, 1).

    Args:
        n: N, at least 1.

    Raises:
        ValueError: N is below 1.
    """
    _check(n)
    return np.append(np.zeros(n - 1), 1.0)


def exponential(n: int, decay: float) -> Float64:
    """The exponential average of the window: c_i proportional to decay^(N - i).

    Args:
        n: N, at least 1.
        decay: 0 (the newest alone) to 1 (uniform).

    Raises:
        ValueError: N is below 1, or the decay outside [0, 1].
    """
    _check(n)
    if not 0.0 <= decay <= 1.0:
        raise ValueError(f"the decay of an exponential average lies in [0, 1], not at {decay}")
    weights = decay ** np.arange(n - 1.0, -1.0, -1.0)
    return np.asarray(weights / weights.sum(), dtype=np.float64)


def decay_profile(n: int, shape: Shape) -> Float64:
    """The merge that replaces a learning-rate decay: c_j = f((j - 1) / N) - f(j / N), with f falling from 1 to 0.

    It leaves w_i = f((i - 1) / N) on step i, as if the steps had been taken at that learning rate. f(t) is 1 - t
    (`linear`: the uniform average), 1 - sqrt(t) (`sqrt`) or (1 + cos(pi t)) / 2 (`cosine`).

    Args:
        n: N, at least 1.
        shape: of f.

    Raises:
        ValueError: N is below 1, or the shape is none of the three.

    Source: Tian et al. 2025, arXiv 2507.17634 (WSM).
    """
    _check(n)
    t = np.linspace(0.0, 1.0, n + 1)
    match shape:
        case "linear":
            f = 1.0 - t
        case "sqrt":
            f = 1.0 - np.sqrt(t)
        case "cosine":
            f = (1.0 + np.cos(np.pi * t)) / 2.0
        case _:
            raise ValueError(f"the shape of a decay is linear, sqrt or cosine, not {shape!r}")
    return -np.diff(f)


def as_decay(c: Float64) -> Float64:
    """The weights that coefficients leave on the steps: w_i = sum_{j >= i} c_j, since sum c_j y_j = y_0 + sum w_i r_i.

    Args:
        c: coefficients, (N,), oldest first.
    """
    return np.cumsum(c[::-1])[::-1]


def _check(n: int) -> None:
    if n < 1:
        raise ValueError(f"a window has at least 1 residual, not {n}")
