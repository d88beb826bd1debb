"""A convex quadratic programme over non-negative variables, tiny and dense: argmin x'Qx / 2, Ax = b, x >= 0.

Letters: M variables, K equality constraints; y are the multipliers of Ax = b, z = Qx - A'y those of x >= 0. The optimum
is where Ax = b, x >= 0, z >= 0 and x_i z_i = 0.
Sources: Wolfe 1976 (the nearest point in a polytope), for K = 1; Nocedal and Wright 2006, Algorithm 16.3, a primal
active-set method.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

# a multiplier that is no further below zero, where the largest entries of Q and x are 1, is rounding
_ROUNDING = 16 * float(np.finfo(np.float64).eps)
_ACCEPTABLE = 1e-8
_NOT_FINITE = "The quadratic programme holds infinite or NaN values."
_NOT_SOLVED = "The quadratic programme was not solved: rounding hides which of its variables are zero."


@dataclass(frozen=True, slots=True, kw_only=True)
class Minimum:
    """The minimizer `x` (M,) and the `multipliers` y (K,); `status` is empty, or a sentence that says why it is none."""

    x: Float64
    multipliers: Float64
    status: str = ""


def minimize(q_mm: Float64, a_km: Float64, start_m: Float64) -> Minimum:
    """The minimizer of x'Qx / 2 subject to Ax = A start and x >= 0; x is exactly 0 where the bound is active.

    Each step goes towards the optimum over the free variables. Variables that reach 0 on the way are held at 0; if none
    does, the one with the most negative multiplier is freed. Q may be singular: a variable with a negative multiplier
    never makes the system of the free ones singular. The result is one of the minimizers if there are several.

    Args:
        q_mm: Q, (M, M), symmetric, positive semi-definite.
        a_km: A, (K, M).
        start_m: (M,), feasible; its positive entries are K, and the columns of A there are independent.

    Raises:
        ValueError: the shapes do not fit.
    """
    m, k = len(q_mm), len(a_km)
    if q_mm.shape != (m, m) or a_km.shape != (k, m) or start_m.shape != (m,):
        shapes = f"Q {q_mm.shape}, A {a_km.shape} and start {start_m.shape}"
        raise ValueError(f"{shapes} do not fit: (M, M), (K, M) and (M,)")
    q_size, x_size = float(np.abs(q_mm).max(initial=0.0)) or 1.0, float(np.abs(start_m).max(initial=0.0)) or 1.0
    if not (np.isfinite(q_size) and np.isfinite(x_size) and np.isfinite(a_km).all()):
        return Minimum(x=start_m, multipliers=np.zeros(k), status=_NOT_FINITE)
    q, x, free = q_mm / q_size, start_m / x_size, start_m > 0.0
    b, seen = a_km @ x, set[bytes]()
    while True:
        face = _on_face(q, a_km, b, free)
        if face is None:
            y, z = np.zeros(k), np.full(m, np.nan)
            break
        optimum, y = face
        falling = free & (optimum <= 0.0)
        if falling.any():
            ways = np.full(m, np.inf)
            ways[falling] = x[falling] / (x[falling] - optimum[falling])
            x = np.where(free & (ways > ways.min()), x + ways.min() * (optimum - x), 0.0)
            free = x > 0.0
            continue
        x, z = optimum, q @ optimum - a_km.T @ y
        # in exact arithmetic no set of free variables comes back
        if z.min(where=~free, initial=0.0) >= -_ROUNDING or free.tobytes() in seen:
            break
        seen.add(free.tobytes())
        free = free.copy()
        free[int(np.where(free, 0.0, z).argmin())] = True
    violations = np.abs(np.concatenate([a_km @ x - b, np.minimum(z, 0.0), x * z]))
    status = "" if violations.max() <= _ACCEPTABLE else _NOT_SOLVED
    return Minimum(x=x * x_size, multipliers=y * (q_size * x_size), status=status)


def _on_face(q_mm: Float64, a_km: Float64, b_k: Float64, free: Bools) -> tuple[Float64, Float64] | None:
    """The optimum with x_i = 0 where i is not free, without bounds for the others, and y; None if it is not one point."""
    count, k = int(free.sum()), len(b_k)
    matrix = np.zeros((count + k, count + k))
    matrix[:count, :count] = q_mm[np.ix_(free, free)]
    matrix[count:, :count] = a_km[:, free]
    matrix[:count, count:] = matrix[count:, :count].T
    right = np.concatenate([np.zeros(count), b_k])
    try:
        found = np.linalg.solve(matrix, right)
        found += np.linalg.solve(matrix, right - matrix @ found)
    except np.linalg.LinAlgError:
        return None
    x = np.zeros(len(free))
    x[free] = found[:count]
    return x, -found[count:]
