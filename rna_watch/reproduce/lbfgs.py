"""L-BFGS of scipy, iteration by iteration."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from rna_watch.reproduce.descent import Iteration

if TYPE_CHECKING:
    from collections.abc import Callable

    from rna_watch.reproduce.logistic import Logistic
    from rna_watch.reproduce.madelon import Float64


def lbfgs(problem: Logistic, *, memory: int, most: int, ended: Callable[[float], bool]) -> list[Iteration]:
    """The iterations from w = 0; scipy's line search evaluates loss and gradient together, so both counts are its `nfev`.

    Args:
        problem: what to minimize.
        memory: m, the number of pairs of vectors that are kept.
        most: the most iterations.
        ended: whether a loss is low enough to stop.
    """
    from scipy.optimize import minimize

    done: list[Iteration] = []
    evaluations = 0

    def loss_and_gradient(w_d: Float64) -> tuple[float, Float64]:
        nonlocal evaluations
        evaluations += 1
        point = problem.at(torch.from_numpy(w_d.copy()))
        return point.loss, point.gradient().numpy()

    def after(intermediate_result: Any) -> None:
        loss = float(intermediate_result.fun)
        done.append(Iteration(loss=loss, evaluations=evaluations, gradients=evaluations, step=1.0))
        if ended(loss):
            raise StopIteration

    minimize(
        loss_and_gradient,
        problem.start().numpy(),
        jac=True,
        method="L-BFGS-B",
        callback=after,
        options={"maxcor": memory, "ftol": 0.0, "gtol": 1e-14, "maxiter": most, "maxfun": 20 * most},
    )
    return done


def held_vectors(memory: int, dimension: int) -> float:
    """Vectors of d elements that scipy's L-BFGS-B works in: 2 m d + 5 d + 11 m^2 + 8 m numbers, the point and its gradient."""
    return 2 * memory + 5 + (11 * memory**2 + 8 * memory) / dimension + 2
