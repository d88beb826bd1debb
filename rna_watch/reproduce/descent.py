"""Gradient and Nesterov's method on a convex problem, each plain, with offline or with online RNA, and what they cost.

    x_N = y_{N-1} - h grad f(y_{N-1}),  y_N = x_N + b (x_N - x_{N-1}),  b = (1 - sqrt(mu h)) / (1 + sqrt(mu h))
The gradient method has b = 0. Offline RNA extrapolates the last N pairs (x_i, x_i - y_{i-1}) and does not change the run.
Online RNA puts its extrapolation z_N in the place of x_N in the second equation (arXiv 1805.09639, equations 3 and 8).
Backtracking halves h until f(x_N) <= f(y_{N-1}) - (h/2) ||grad f||^2. h never grows again, because RNA combines steps, and
only steps of one length are comparable. All of RNA is `training.FlatRna`, over `acceleration`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from rna_watch.training.online import FlatRna

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from rna_watch.reproduce.logistic import Logistic, Point

# a sufficient decrease below this, relative to f, is rounding
_ROUNDING = 1e-15
# measured on Madelon, 1/L = 0.62: starts of 1 to 16 end at the same h; starts below 1/L stay there and lose (see the table)
FIRST_STEP = 16.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """What to run.

    `n` is N of RNA, 0 for none. `momentum` is b; None: computed from `strong_convexity` (None: the problem's own mu).
    `first_step` is the h that backtracking tries first; None: no line search, h = 1/L throughout.
    """

    base: Literal["gradient", "nesterov"]
    n: int = 0
    online: bool = False
    regularization: float = 1e-8
    first_step: float | None = FIRST_STEP
    momentum: float | None = None
    strong_convexity: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Iteration:
    """The state after one iteration: the `loss` at the method's point, and the cost since the start.

    `evaluations` counts every point at which the method computed a loss, a gradient or both, trials of the line search
    included. `gradients` counts those with a gradient. The loss of an offline extrapolation is not counted.
    """

    loss: float
    evaluations: int
    gradients: int
    step: float


def descend(problem: Logistic, method: Method) -> Iterator[Iteration]:
    """The iterations of a method from w = 0, without end."""
    rna = FlatRna(method.n, method.regularization) if method.n else None
    at_y = problem.at(problem.start())
    before = at_y.w_d
    h = 1.0 / problem.smoothness if method.first_step is None else method.first_step
    evaluations, gradients = 1, 0
    while True:
        y, gradient = at_y.w_d, at_y.gradient()
        gradients += 1
        if method.first_step is None:
            at_x, x = None, y - h * gradient
        else:
            h, at_x, trials = _search(problem, at_y, gradient, h)
            x = at_x.w_d
            evaluations += trials
        point = x
        extrapolated = x
        if rna is not None:
            rna.store(x, x - y)
            extrapolated, _ = rna.extrapolate()
            point = extrapolated if method.online else x
        b = _momentum(problem, method, h)
        if b == 0.0 and point is x and at_x is not None:
            at_y = at_x
        else:
            at_y = problem.at(point + b * (point - before) if b else point)
            evaluations += 1
        before = point
        if rna is None:
            loss = problem.at(x).loss if at_x is None else at_x.loss
        else:
            loss = at_y.loss if method.online else problem.at(extrapolated).loss
        yield Iteration(loss=loss, evaluations=evaluations, gradients=gradients, step=h)


def _search(problem: Logistic, at_y: Point, gradient: Tensor, h: float) -> tuple[float, Point, int]:
    """The first of h, h/2, h/4, ... whose step decreases the loss enough, the point there, and the number of trials."""
    decrease = 0.5 * float(gradient @ gradient)
    trials = 1
    ahead = problem.at(at_y.w_d - h * gradient)
    while not ahead.loss <= at_y.loss - h * decrease + _ROUNDING * abs(at_y.loss) and h > _ROUNDING:
        h /= 2.0
        trials += 1
        ahead = problem.at(at_y.w_d - h * gradient)
    return h, ahead, trials


def _momentum(problem: Logistic, method: Method, h: float) -> float:
    if method.base == "gradient":
        return 0.0
    if method.momentum is not None:
        return method.momentum
    mu = problem.mu if method.strong_convexity is None else method.strong_convexity
    root = math.sqrt(min(mu * h, 1.0))
    return (1.0 - root) / (1.0 + root)


def held_vectors(method: Method) -> int:
    """The number of vectors of d elements that the method holds at once: those of the step, and 2 N for RNA's history."""
    step = 3 if method.base == "gradient" else 4  # y, gradient, trial point; and the point before
    return step + 2 * method.n
