"""A convex quadratic programme over non-negative variables, tiny and dense: argmin x'Qx / 2, Ax = b, x >= 0.

Letters: M variables, K equality constraints; y are the multipliers of Ax = b, z those of x >= 0. The optimum is where
    Ax = b,  Qx = A'y + z,  x >= 0,  z >= 0,  x_i z_i = 0.
Sources: Mehrotra 1992 (predictor and corrector); Nocedal and Wright 2006, Algorithm 16.4, for quadratic programmes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

_EPS = float(np.finfo(np.float64).eps)
_MOST_ITERATIONS = 60
# iterations without halving the violation or the products before the search ends
_PATIENCE = 4
_ACCEPTABLE = 1e-8
# violations below this are rounding: of two such points neither is better
_FLOOR = 16 * _EPS
# where the products x_i z_i end; measured on caps of 1 + 1e-9: at 1e-20 some active bounds are not yet told from free ones
_TIGHT = 1e-22
# least share of the way to the bounds that a step leaves; measured on the same: at 1e-6 and below, nearly tied bounds jam
_INSIDE = 1e-4


@dataclass(frozen=True, slots=True, kw_only=True)
class Minimum:
    """The minimizer `x` (M,), `multipliers` y (K,), `bound_multipliers` z (M,), and the `iterations` it took.

    `status` is empty, or a sentence that says why `x` is no minimizer.
    """

    x: Float64
    multipliers: Float64
    bound_multipliers: Float64
    iterations: int
    status: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Point:
    """Where the three unknowns are."""

    x: Float64
    y: Float64
    z: Float64


@dataclass(frozen=True, slots=True, kw_only=True)
class _Problem:
    """A programme in the scale in which it is solved: the largest entries of Q and b are 1."""

    q: Float64
    a: Float64
    b: Float64

    def violation(self, point: _Point) -> float:
        """The largest violation of the conditions of optimality."""
        return max(
            float(np.abs(self.a @ point.x - self.b).max()),
            float(np.abs(self.q @ point.x - self.a.T @ point.y - point.z).max()),
            float(-point.x.min()),
            float(-point.z.min()),
            float(np.abs(point.x * point.z).max()),
        )


def minimize(q_mm: Float64, a_km: Float64, b_k: Float64) -> Minimum:
    """The minimizer of x'Qx / 2 subject to Ax = b and x >= 0; x is exactly 0 where the bound is active.

    An interior point method finds which bounds are active, also where Q is singular; the linear system of that active
    set then gives the digits. Where the minimizer is not unique, it is one of them.

    Args:
        q_mm: Q, (M, M), symmetric, positive semi-definite.
        a_km: A, (K, M), of full row rank.
        b_k: b, (K,).

    Raises:
        ValueError: the shapes do not fit.
    """
    m, k = len(q_mm), len(b_k)
    if q_mm.shape != (m, m) or a_km.shape != (k, m):
        raise ValueError(f"Q {q_mm.shape}, A {a_km.shape} and b {b_k.shape} do not fit: (M, M), (K, M) and (K,)")
    q_size, b_size = float(np.abs(q_mm).max(initial=0.0)), float(np.abs(b_k).max(initial=0.0))
    if not (np.isfinite(q_size) and np.isfinite(b_size) and np.isfinite(a_km).all()):
        return _nothing(m, k, "The quadratic programme holds infinite or NaN values.")
    if b_size == 0.0:
        return _nothing(m, k, "")  # x = 0 is feasible, and no x'Qx is below 0
    q_size = q_size or 1.0
    problem = _Problem(q=q_mm / q_size, a=a_km, b=b_k / b_size)
    inner, free, iterations = _interior(problem)
    point = _polished(problem, inner, free)
    status = ""
    if not problem.violation(point) <= _ACCEPTABLE:
        status = f"The quadratic programme was not solved in {iterations} iterations: it may have no feasible point."
    return Minimum(
        x=point.x * b_size,
        multipliers=point.y * (q_size * b_size),
        bound_multipliers=point.z * (q_size * b_size),
        iterations=iterations,
        status=status,
    )


def _nothing(m: int, k: int, status: str) -> Minimum:
    return Minimum(x=np.zeros(m), multipliers=np.zeros(k), bound_multipliers=np.zeros(m), iterations=0, status=status)


def _interior(problem: _Problem) -> tuple[_Point, Bools, int]:
    """The best point of the predictor-corrector iteration, which x are free there, and how many steps it took."""
    x: Float64 = np.linalg.lstsq(problem.a, problem.b, rcond=None)[0].astype(np.float64)
    if x.min() <= 0.0:
        x = np.maximum(x, 0.1 * np.abs(x).max())
    z = max(float(np.abs(problem.q @ x).max()), 1e-3) * x.mean() / x  # equal products: the start must be central
    point = best = _Point(x=x, y=np.zeros(len(problem.b)), z=z)
    free = np.ones(len(x), dtype=np.bool_)
    lowest, tightest, waited, iterations = problem.violation(point), 1.0, 0, 0
    while iterations < _MOST_ITERATIONS and waited < _PATIENCE and tightest > _TIGHT:
        following = _step(problem, point)
        if following is None:
            break
        violation, tightness = problem.violation(following), float((following.x * following.z).max())
        # Tapia's indicators, which no scale of a variable touches: of x_i and z_i, the one that vanishes falls faster
        if tightness < 0.5 * tightest:
            free = following.x / point.x >= following.z / point.z
        waited = 0 if violation < 0.5 * lowest or tightness < 0.5 * tightest else waited + 1
        point, iterations = following, iterations + 1
        if violation <= max(lowest, _FLOOR):
            best = point
        lowest, tightest = min(lowest, violation), min(tightest, tightness)
    return best, free, iterations


def _step(problem: _Problem, point: _Point) -> _Point | None:
    """One step of Mehrotra's method, or None where rounding leaves none.

    The Newton system is scaled by S = sqrt(x / z), which makes its first block I + SQS: never below I, whatever is
    singular in Q. S is capped at 1 / sqrt(eps), as if Q had eps on its diagonal.
    """
    x, y, z = point.x, point.y, point.z
    m, k = len(x), len(y)
    dual, primal = problem.q @ x - problem.a.T @ y - z, problem.a @ x - problem.b
    products = x * z
    gap = float(products.mean())
    s = np.sqrt(x / (z + _EPS * x))
    matrix = np.zeros((m + k, m + k))
    matrix[:m, :m] = problem.q * s[:, None] * s
    matrix[range(m), range(m)] += 1.0
    matrix[m:, :m] = problem.a * s
    matrix[:m, m:] = matrix[m:, :m].T

    def direction(target: Float64) -> tuple[Float64, Float64, Float64]:
        right = np.concatenate([s * (target / x - dual), -primal])
        found = np.linalg.solve(matrix, right)
        dx = s * found[:m]
        return dx, -found[m:], (target - z * dx) / x

    try:
        with np.errstate(all="ignore"):
            dx, dy, dz = direction(-products)
            length = _length(x, z, dx, dz)
            ahead = float(((x + length * dx) * (z + length * dz)).mean())
            centring = (ahead / gap) ** 3
            dx, dy, dz = direction(centring * gap - products - dx * dz)
            length = min(1.0, max(0.9, 1.0 - max(gap, _INSIDE)) * _length(x, z, dx, dz, most=2.0))
            following = _Point(x=x + length * dx, y=y + length * dy, z=z + length * dz)
    except np.linalg.LinAlgError:
        return None
    positive = following.x.min() > 0.0 and following.z.min() > 0.0  # False for NaN
    return following if positive and np.isfinite(following.y).all() else None


def _length(x: Float64, z: Float64, dx: Float64, dz: Float64, most: float = 1.0) -> float:
    """The longest step, at most `most`, that keeps x and z from falling below zero."""
    steepest = max(float((-dx / x).max()), float((-dz / z).max()), 1.0 / most)
    return 1.0 / steepest


def _polished(problem: _Problem, inner: _Point, free: Bools) -> _Point:
    """The optimum of the active set that the iteration shows, if it is no worse than its point, else that point.

    A wrong guess is mended one bound at a time: negative x become active, then the most negative multiplier is freed.
    """
    best, lowest = inner, max(problem.violation(inner), _FLOOR)
    tried: set[bytes] = set()
    while free.tobytes() not in tried and len(tried) < 3 * len(free):
        tried.add(free.tobytes())
        point = _on_face(problem, free)
        if point is None:
            break
        violation = problem.violation(point)
        if violation <= lowest:
            best, lowest = point, violation
        if point.x.min() < 0.0:
            free = free & (point.x >= 0.0)
        elif point.z.min() < 0.0:
            free = free.copy()
            free[int(point.z.argmin())] = True
        else:
            break
    return _Point(x=np.maximum(best.x, 0.0), y=best.y, z=best.z)


def _on_face(problem: _Problem, free: Bools) -> _Point | None:
    """The optimum of the programme with x_i = 0 for all i that are not free, and without bounds for the others."""
    count, k = int(free.sum()), len(problem.b)
    matrix = np.zeros((count + k, count + k))
    matrix[:count, :count] = problem.q[np.ix_(free, free)]
    matrix[count:, :count] = problem.a[:, free]
    matrix[:count, count:] = matrix[count:, :count].T
    right = np.concatenate([np.zeros(count), problem.b])
    try:
        found = np.linalg.solve(matrix, right)
        found += np.linalg.solve(matrix, right - matrix @ found)
    except np.linalg.LinAlgError:
        return None
    if not np.isfinite(found).all():
        return None
    x = np.zeros(len(free))
    x[free] = found[:count]
    y = -found[count:]
    z = problem.q @ x - problem.a.T @ y
    z[free] = 0.0
    return _Point(x=x, y=y, z=z)
