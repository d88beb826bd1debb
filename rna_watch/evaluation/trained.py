"""Trained weights: a damped Newton descent of the training loss inside the span of a window, on fixed batches.

Letters (Li et al. 2022, "Trainable Weight Averaging: Efficient Training by Optimizing Historical Solutions"): K iterates
y_0..y_N, N residuals r_i = y_i - y_{i-1}, which span what the differences of any two iterates span; theta the
parameters; q_1..q_R an orthonormal basis of that span, R <= N; a the coordinates of theta in it; c the coefficients of
the residuals. Parameters come as a list of tensors `(n,)`, one an extent, residuals as `(N, n)`. A batch has a number:
the same number gives the same examples and the same dropout at every point.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from rna_watch.errors import EvaluationFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

ROUNDS = 3
BATCHES = 8  # about 1,000 examples of 128 each; even, so that comparisons can alternate
_BLOCK = 2**16  # elements widened to float64 at a time
# Directions shorter than a thousandth of the longest (1e-3 squared) are left out: moving along them takes coefficients of
# thousands, which consist of the rounding errors of the iterates and leave no running variance above zero.
_RANK = 1e-6
_DISPLACEMENT = 0.1  # of the residuals' rms length, for differences of gradients
_LEAST = 1e-3  # the shortest displacement, in the same unit
_RADIUS = 10.0  # the longest step, in the same unit
_DAMPINGS = (
    1e-3,
    1e-1,
    1.0,
    10.0,
)  # of the largest curvature; each next one is tried where the last did not lower the loss
_DECREASE = 1e-4  # of what the slope promises (Armijo)
_FUNCTION = "training_loss(state_dict, device, generator)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """The coefficients c of the residuals `(N,)`, float64, and the mean loss of the batches at the start and after each round."""

    coefficients: torch.Tensor
    losses: tuple[float, ...]


def fit(
    base: Sequence[torch.Tensor],
    differences: Sequence[torch.Tensor],
    loss: Callable[[list[torch.Tensor], torch.Tensor, int], object],
    *,
    rounds: int = ROUNDS,
    reach: Callable[[torch.Tensor, torch.Tensor], float] = lambda _c, _step: 1.0,
    grams: Sequence[torch.Tensor] | None = None,
) -> Trained:
    """Descend on the mean loss of 8 batches in the span of a window: theta = theta_0 + sum_j a_j q_j = theta_0 + sum_i c_i r_i.

    A round takes the gradient g of all batches at a, and the curvature H from differences of gradients along each q_j, of
    one batch each. The step -(|H| + damping)^-1 g is taken where it lowers the loss, and damped more (Levenberg)
    where it does not. The loss at the result is never above that at the start. A round costs 8 + R gradients, 8 for each
    step that was refused, and 4 (R + 1) losses where running statistics, which c moves too, act on the loss.

    Args:
        base: theta_0, one tensor `(n,)` an extent.
        differences: the residuals, one tensor `(N, n)` an extent.
        loss: takes theta (leaves that require gradients), c `(N,)` and the batch's number; returns a scalar that has a
            gradient.
        rounds: number of rounds; 0 leaves everything where it is.
        reach: takes c and a step of it; returns which part of the step, from 0 to 1, may be taken.
        grams: the residuals' Gram matrices `(N, N)`, float64, one an extent; computed if None.

    Raises:
        EvaluationFailed: the loss or its gradient is unusable at the start, or the iterates are not finite or do not differ.

    Source: Li et al. 2022, section 3, with Newton's method for SGD and the Gram matrix for Gram-Schmidt.
    """
    to_coefficients, length = basis(torch.stack(list(grams)).sum(0) if grams else gram(differences))
    a = torch.zeros(to_coefficients.shape[1], dtype=torch.float64)

    def gradient(at: torch.Tensor, batch: int) -> tuple[float, torch.Tensor]:
        c = to_coefficients @ at
        value, parts = gradients(base, differences, lambda theta: loss(theta, c, batch), [c] * len(base))
        return value, to_coefficients.T @ parts.sum(0)

    def measured(at: torch.Tensor) -> tuple[float, torch.Tensor]:
        values, slopes = zip(*(gradient(at, batch) for batch in range(BATCHES)), strict=True)
        return sum(values) / BATCHES, torch.stack(slopes)

    def allowed(at: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
        return step * reach(to_coefficients @ at, to_coefficients @ step)

    def aside(at: torch.Tensor) -> Iterator[tuple[int, torch.Tensor]]:
        """A short step along each direction, or against it where there is more room."""
        for j, along in enumerate(_DISPLACEMENT * length * torch.eye(len(at), dtype=torch.float64)):
            step = max((allowed(at, along), allowed(at, -along)), key=lambda each: float(each.norm()))
            if float(step.norm()) >= _LEAST * length:
                yield j, step

    def by_buffers(at: torch.Tensor) -> torch.Tensor:
        """The slope that comes from running statistics alone, which autograd does not see: zero in training mode."""
        c = to_coefficients @ at
        theta = moved(base, differences, [c] * len(base))
        slope = torch.zeros_like(at)
        for batch in range(0, BATCHES, 2):
            here = checked(loss([each.clone() for each in theta], c, batch))
            for j, step in aside(at):
                there = checked(loss([each.clone() for each in theta], c + to_coefficients @ step, batch))
                slope[j] += (there - here) / float(step[j]) / (BATCHES / 2)
            if batch == 0 and not bool(slope.any()):
                break
        return slope if bool(slope.isfinite().all()) else torch.zeros_like(at)

    if rounds == 0:
        return Trained(coefficients=to_coefficients @ a, losses=())
    value, slopes = measured(a)
    check_finite(value, slopes)
    losses = [value]
    for _ in range(rounds):
        g = slopes.mean(0) + by_buffers(a)
        curvature = torch.zeros((len(a), len(a)), dtype=torch.float64)
        for j, step in aside(a):
            _, slope = gradient(a + step, j % BATCHES)
            row = (slope - slopes[j % BATCHES]) / step[j]
            if bool(row.isfinite().all()):
                curvature[j] = row
        values, vectors = torch.linalg.eigh((curvature + curvature.T) / 2)
        steepness = max(float(values.abs().max()), float(g.norm()) / (_RADIUS * length))
        for damping in _DAMPINGS:
            step = -(vectors @ ((vectors.T @ g) / (values.abs() + damping * steepness)))
            if not 0.0 < float(step.norm()) < math.inf:
                continue
            step = allowed(a, step * min(1.0, _RADIUS * length / float(step.norm())))
            found, there = measured(a + step)
            if -math.inf < found < value + _DECREASE * float(g @ step) and bool(there.isfinite().all()):
                a, value, slopes = a + step, found, there
                break
        else:
            break
        losses.append(value)
    return Trained(coefficients=to_coefficients @ a, losses=tuple(losses))


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


def moved(
    base: Sequence[torch.Tensor], differences: Sequence[torch.Tensor], rows: Sequence[torch.Tensor]
) -> list[torch.Tensor]:
    """theta_0 + sum_i c_i r_i of each extent, with its own c `(N,)`."""
    return [
        torch.addmv(start, residuals.T, c.to(start))
        for start, residuals, c in zip(base, differences, rows, strict=True)
    ]


def gradients(
    base: Sequence[torch.Tensor],
    differences: Sequence[torch.Tensor],
    loss: Callable[[list[torch.Tensor]], object],
    rows: Sequence[torch.Tensor],
) -> tuple[float, torch.Tensor]:
    """The loss where each extent has its own c, and its gradients by them `(extents, N)`, float64 on the CPU; finite or not.

    Raises:
        EvaluationFailed: the loss is no scalar, or does not depend on theta.
    """
    theta = [each.requires_grad_() for each in moved(base, differences, rows)]
    value = loss(theta)
    number = checked(value)
    assert isinstance(value, torch.Tensor)
    if not value.requires_grad:
        raise EvaluationFailed(_no_gradient())
    found = torch.autograd.grad(value.sum(), theta, allow_unused=True)
    if all(part is None for part in found):
        raise EvaluationFailed(_no_gradient())
    by_c = [
        residuals.new_zeros(len(residuals), dtype=torch.float64) if part is None else (residuals @ part).double()
        for residuals, part in zip(differences, found, strict=True)
    ]
    return number, torch.stack(by_c).cpu()


def checked(value: object) -> float:
    """A loss as a number, finite or not.

    Raises:
        EvaluationFailed: it is no scalar tensor.
    """
    if not isinstance(value, torch.Tensor):
        raise EvaluationFailed(f"{_FUNCTION} must return a scalar tensor, not {value!r:.100}")
    if value.numel() != 1:
        raise EvaluationFailed(f"{_FUNCTION} must return a scalar tensor, not one of shape {tuple(value.shape)}")
    return float(value.detach())


def check_finite(value: float, gradient: torch.Tensor) -> None:
    """See that a fit can begin with this loss.

    Raises:
        EvaluationFailed: the loss or its gradient is not finite.
    """
    if not math.isfinite(value):
        raise EvaluationFailed(f"{_FUNCTION} returned {value}, on which no weights can be trained")
    if not bool(gradient.isfinite().all()):
        raise EvaluationFailed(f"the gradient of {_FUNCTION} is not finite (the loss is {value:g})")


def _no_gradient() -> str:
    return (
        f"the loss that {_FUNCTION} returned has no gradient by the tensors of state_dict; compute it with "
        "torch.func.functional_call(model, state_dict, inputs), as load_state_dict copies them"
    )
