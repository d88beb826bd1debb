"""l2-regularized logistic regression with a chosen condition number, and its minimum.

    f(w) = (1/n) sum_i log(1 + exp(-b_i a_i'w)) + (mu/2) ||w||^2
Letters: n examples, d features; a_i are the features and b_i is the label of example i; L and mu are the largest and the
least curvature; w are the weights. A loss costs one product with the data, a gradient at the same point one more.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from rna_watch.reproduce.madelon import Float64

_NEWTON_STEPS = 100
_SMALLEST_LENGTH = 1e-9


class Point:
    """The loss at one point, and its derivatives on demand."""

    __slots__ = ("_margins_n", "_problem", "loss", "w_d")

    def __init__(self, problem: Logistic, w_d: Tensor) -> None:
        self._problem, self.w_d = problem, w_d
        self._margins_n = problem.signed_nd @ w_d
        losses_n = torch.nn.functional.softplus(-self._margins_n)
        self.loss = float(losses_n.mean() + 0.5 * problem.mu * (w_d @ w_d))

    def gradient(self) -> Tensor:
        """The gradient -(1/n) sum_i sigma(-b_i a_i'w) b_i a_i + mu w, (d,)."""
        p = self._problem
        return p.signed_nd.T @ (torch.sigmoid(-self._margins_n) / -len(p.signed_nd)) + p.mu * self.w_d

    def hessian(self) -> Tensor:
        """The matrix of second derivatives, (d, d)."""
        p = self._problem
        s = torch.sigmoid(-self._margins_n)
        weights_n = s * (1.0 - s) / len(p.signed_nd)
        return (p.signed_nd.T * weights_n) @ p.signed_nd + p.mu * torch.eye(p.dimension, dtype=torch.float64)


class Logistic:
    """The problem whose L / mu is the given condition number: mu = ||A||_2^2 / (4 n) / (condition - 1).

    Args:
        features_nd: A (n, d), standardized.
        labels_n: b (n,), -1 or +1.
        condition: L / mu, above 1.
    """

    def __init__(self, features_nd: Float64, labels_n: Float64, condition: float) -> None:
        self.signed_nd = torch.from_numpy(features_nd * labels_n[:, None])
        self.dimension = features_nd.shape[1]
        curvature = float(torch.linalg.matrix_norm(self.signed_nd, ord=2)) ** 2 / (4 * len(labels_n))
        self.mu = curvature / (condition - 1.0)
        self.smoothness = curvature + self.mu

    def start(self) -> Tensor:
        """The start w = 0, where the loss is log 2."""
        return torch.zeros(self.dimension, dtype=torch.float64)

    def at(self, w_d: Tensor) -> Point:
        """The loss at a point."""
        return Point(self, w_d)

    def minimum(self) -> tuple[float, float]:
        """f* and ||grad f|| there, by Newton's method, to the last digits of float64."""
        point = best = self.at(self.start())
        for _ in range(_NEWTON_STEPS):
            direction = torch.linalg.solve(point.hessian(), -point.gradient())
            length, ahead = 1.0, self.at(point.w_d + direction)
            while not ahead.loss < point.loss and length > _SMALLEST_LENGTH:
                length /= 2.0
                ahead = self.at(point.w_d + length * direction)
            if not ahead.loss < point.loss:
                break
            point = best = ahead
        return best.loss, float(torch.linalg.vector_norm(best.gradient()))


def relative(loss: float, optimum: float) -> float:
    """The relative suboptimality (f - f*) / (f(0) - f*)."""
    return (loss - optimum) / (math.log(2.0) - optimum)
