"""Trained weights: a few steps of the training loss's own descent inside the span of a window.

Letters (Li et al. 2022, "Trainable Weight Averaging: Efficient Training by Optimizing Historical Solutions"): K iterates
y_0..y_N, N residuals r_i = y_i - y_{i-1}, which span what the differences of any two iterates span; theta the
parameters; q_1..q_R an orthonormal basis of that span, R <= N; a the coordinates of theta in it; c the coefficients of
the residuals. Parameters come as a list of tensors `(n,)`, one an extent, residuals as `(N, n)`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from rna_watch.errors import EvaluationFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_BLOCK = 2**16  # elements widened to float64 at a time
# Directions shorter than a thousandth of the longest (1e-3 squared) are left out: moving along them takes coefficients of
# thousands, which consist of the rounding errors of the iterates and leave no running variance above zero.
_RANK = 1e-6
# Measured on quadratics of condition 10 to 1000, K = 4 and 10, gradients with and without noise, 30 steps: of steps from
# 0.1 to 0.8 and usual betas these end nearest to the best point of the span (median 1.03 of its loss with much noise).
_STEP = 0.4
_BETAS = (0.7, 0.95)
_FUNCTION = "training_loss(state_dict, device, generator)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """The coefficients c of the residuals `(N,)`, float64, and the loss at each step, before it is taken."""

    coefficients: torch.Tensor
    losses: tuple[float, ...]


def fit(
    base: Sequence[torch.Tensor],
    differences: Sequence[torch.Tensor],
    loss: Callable[[list[torch.Tensor], torch.Tensor], object],
    *,
    steps: int,
) -> Trained:
    """Descend on a loss inside the span of a window: theta = theta_0 + sum_j a_j q_j = theta_0 + sum_i c_i r_i.

    The optimizer is Adam on a, with one second moment for all coordinates, so that the steps do not depend on the choice
    of the orthonormal basis. A step is 0.4 of the root mean square of ||r_i||. The result is the average of the last half
    of the iterates of a.

    Args:
        base: theta_0, one tensor `(n,)` an extent.
        differences: the residuals, one tensor `(N, n)` an extent.
        loss: takes theta (leaves that require gradients) and c `(N,)`; returns a scalar that has a gradient.
        steps: number of steps; 0 leaves everything where it is.

    Raises:
        EvaluationFailed: the loss or its gradient is unusable, or the iterates are not finite or do not differ.

    Source: Li et al. 2022, section 3 (with Adam for SGD, and the Gram matrix for Gram-Schmidt).
    """
    to_coefficients, step_length = basis(gram(differences))
    a = torch.zeros(to_coefficients.shape[1], dtype=torch.float64)
    momentum, energy = torch.zeros_like(a), 0.0
    path: list[torch.Tensor] = []
    losses: list[float] = []
    for step in range(1, steps + 1):
        value, gradient = _gradient(base, differences, loss, to_coefficients @ a)
        losses.append(value)
        gradient = to_coefficients.T @ gradient
        momentum = _BETAS[0] * momentum + (1 - _BETAS[0]) * gradient
        energy = _BETAS[1] * energy + (1 - _BETAS[1]) * float(gradient @ gradient)
        length = math.sqrt(energy / (1 - _BETAS[1] ** step))
        if length > 0:
            a = a - (_STEP * step_length / length / (1 - _BETAS[0] ** step)) * momentum
        path.append(a)
    last_half = path[len(path) // 2 :]
    mean = torch.stack(last_half).mean(0) if last_half else a
    return Trained(coefficients=to_coefficients @ mean, losses=tuple(losses))


def gram(differences: Sequence[torch.Tensor]) -> torch.Tensor:
    """The Gram matrix of the residuals `(N, N)`, float64 on the CPU."""
    count = len(differences[0]) if differences else 0
    total = torch.zeros((count, count), dtype=torch.float64)
    for residuals in differences:
        for block in torch.split(residuals, _BLOCK, dim=1):
            wide = block.to("cpu", torch.float64)
            total += wide @ wide.T
    return total


def basis(gram_nn: torch.Tensor) -> tuple[torch.Tensor, float]:
    """An orthonormal basis of the span of residuals, as their coefficients `(N, R)`, and the residuals' rms length.

    With G = U S U', the basis is Q = [r_1 .. r_N] U S^(-1/2), over the S of directions that are at least a
    thousandth of the longest.

    Raises:
        EvaluationFailed: the residuals are not finite, or all zero.
    """
    if not bool(gram_nn.isfinite().all()):
        raise EvaluationFailed("the checkpoints hold numbers that are not finite: no weights can be trained")
    if not bool((gram_nn.diagonal() > 0).any()):
        raise EvaluationFailed("the checkpoints do not differ: there are no weights to train")
    values, vectors = torch.linalg.eigh(gram_nn)
    kept = values > _RANK * values[-1]
    return vectors[:, kept] / values[kept].sqrt(), math.sqrt(float(gram_nn.diagonal().mean()))


def weights(start: Sequence[float], coefficients: torch.Tensor) -> tuple[float, ...]:
    """The weights of the K iterates, of sum 1: w_k + c_k - c_{k+1}, as r_i = y_i - y_{i-1}.

    Args:
        start: the K weights of theta_0, of sum 1.
        coefficients: c_1..c_N.
    """
    if not bool(coefficients.any()):
        return tuple(start)
    c = [0.0, *coefficients.tolist(), 0.0]
    found = [weight + c[k] - c[k + 1] for k, weight in enumerate(start)]
    found[-1] += 1.0 - math.fsum(found)
    return tuple(found)


def _gradient(
    base: Sequence[torch.Tensor],
    differences: Sequence[torch.Tensor],
    loss: Callable[[list[torch.Tensor], torch.Tensor], object],
    c: torch.Tensor,
) -> tuple[float, torch.Tensor]:
    """The loss at theta_0 + sum_i c_i r_i, and its gradient by c `(N,)`, float64 on the CPU."""
    theta = [
        torch.addmv(start, residuals.T, c.to(start)).requires_grad_()
        for start, residuals in zip(base, differences, strict=True)
    ]
    value = loss(theta, c)
    number = _checked(value)
    assert isinstance(value, torch.Tensor)
    found = torch.autograd.grad(value.sum(), theta, allow_unused=True)
    if all(part is None for part in found):
        raise EvaluationFailed(_no_gradient())
    by_c = torch.zeros_like(c)
    for residuals, part in zip(differences, found, strict=True):
        if part is not None:
            by_c += (residuals @ part).to(by_c)
    if not bool(by_c.isfinite().all()):
        raise EvaluationFailed(f"the gradient of {_FUNCTION} is not finite (the loss is {number:g})")
    return number, by_c


def _checked(value: object) -> float:
    if not isinstance(value, torch.Tensor):
        raise EvaluationFailed(f"{_FUNCTION} must return a scalar tensor, not {value!r:.100}")
    if value.numel() != 1:
        raise EvaluationFailed(f"{_FUNCTION} must return a scalar tensor, not one of shape {tuple(value.shape)}")
    if not value.requires_grad:
        raise EvaluationFailed(_no_gradient())
    number = float(value.detach())
    if not math.isfinite(number):
        raise EvaluationFailed(f"{_FUNCTION} returned {number}, on which no weights can be trained")
    return number


def _no_gradient() -> str:
    return (
        f"the loss that {_FUNCTION} returned has no gradient by the tensors of state_dict; compute it with "
        "torch.func.functional_call(model, state_dict, inputs), as load_state_dict copies them"
    )
