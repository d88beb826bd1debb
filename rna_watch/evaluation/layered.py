"""Layered weights: a few steps of the training loss's own descent, with coefficients of its own for every parameter tensor.

Letters as in `trained.py`; a group is one extent, and G their number. In group g, r_i are that extent's residuals `(N, n)`, and
q_j an orthonormal basis of their span.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch

from rna_watch.evaluation.trained import basis, check_finite, gradients, gram

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

STEPS = 60
_STEP = 0.05  # of the root mean square of ||r_i|| of the group
_EPSILON = 1e-12  # Adam's, far below any gradient; a group without a slope does not move


@dataclass(frozen=True, slots=True, kw_only=True)
class Layered:
    """The coefficients c of the residuals `(G, N)`, float64, and the loss at each step, before it is taken.

    `stopped`: the last of these losses, or its gradient, is not finite; the coefficients are zero.
    """

    coefficients: torch.Tensor
    losses: tuple[float, ...]
    stopped: bool = False


def fit(
    base: Sequence[torch.Tensor],
    differences: Sequence[torch.Tensor],
    loss: Callable[[list[torch.Tensor], torch.Tensor, int], object],
    *,
    steps: int = STEPS,
    grams: Sequence[torch.Tensor] | None = None,
) -> Layered:
    """Descend on a loss inside the span of each group: theta_g = theta_g0 + sum_j a_gj q_gj = theta_g0 + sum_i c_gi r_gi.

    The optimizer is Adam on all a_gj, each step one batch; a step is 0.05 of the root mean square of the group's ||r_i||.
    The result is the average of the last half of the iterates of a.

    Args:
        base: theta_0, one tensor `(n,)` a group.
        differences: the residuals, one tensor `(N, n)` a group; a group whose residuals are zero stays.
        loss: takes theta (leaves that require gradients), c `(G, N)` and the batch's number; returns a scalar that has a
            gradient.
        steps: number of steps; 0 leaves everything where it is.
        grams: the residuals' Gram matrices `(N, N)`, float64, one a group; computed if None.

    Raises:
        EvaluationFailed: the loss or its gradient is unusable at the start, or the iterates are not finite or do not differ.

    Source: Li et al. 2022 (arXiv 2205.13104), its layer-wise form, with Adam for SGD and Gram matrices for Gram-Schmidt.
    """
    if grams is None:
        grams = [gram([residuals]) for residuals in differences]
    basis(sum(grams, torch.zeros_like(grams[0])) if grams else gram([]))
    to_coefficients = torch.zeros(
        (len(grams), *grams[0].shape), dtype=torch.float64
    )  # in steps of the group's rms length
    for group, gram_nn in enumerate(grams):
        if bool((gram_nn.diagonal() > 0).any()):
            found, length = basis(gram_nn)
            to_coefficients[group, :, : found.shape[1]] = length * found

    a = torch.zeros(to_coefficients.shape[:2], dtype=torch.float64)
    adam = torch.optim.Adam([a], lr=_STEP, eps=_EPSILON)
    last_half = torch.zeros_like(a)
    losses: list[float] = []
    for step in range(steps):
        c = torch.einsum("gnr,gr->gn", to_coefficients, a)
        value, slope = gradients(base, differences, partial(_at, loss, c, step), list(c))
        losses.append(value)
        if step == 0:
            check_finite(value, slope)
        if not (math.isfinite(value) and bool(slope.isfinite().all())):
            return Layered(coefficients=torch.zeros_like(c), losses=tuple(losses), stopped=True)
        a.grad = torch.einsum("gnr,gn->gr", to_coefficients, slope)
        adam.step()
        if step >= steps // 2:
            last_half += a / (steps - steps // 2)
    return Layered(coefficients=torch.einsum("gnr,gr->gn", to_coefficients, last_half), losses=tuple(losses))


def _at(
    loss: Callable[[list[torch.Tensor], torch.Tensor, int], object],
    c: torch.Tensor,
    step: int,
    theta: list[torch.Tensor],
) -> object:
    return loss(theta, c, step)
