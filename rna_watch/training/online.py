"""Online RNA: at every step the extrapolation is fed back, y_N = RNA(x, y, lambda).

Names: x_N = g(y_{N-1}) is the result of a step from y_{N-1}; R's columns are x_i - y_{i-1}, or any multiple of them that is
the same for all. Source: Scieur, Oyallon, d'Aspremont, Bach 2018, arXiv 1805.09639, equations 3 and 8.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from rna_watch.training.history import Extrapolation, History
from rna_watch.training.rna import Rna
from rna_watch.training.tensors import LINEAR, everything, once, write_sum

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import Tensor, nn, optim

    from rna_watch.training.tensors import Vector


class FlatRna:
    """RNA for a function of one tensor: store each step, extrapolate whenever wanted: sum_i c_i (p_i - h r_i).

    The next step starts at the extrapolation online; offline, the extrapolation changes nothing. Steps of one length h store
    the point that they reached. Steps of varying length (a line search) store the point where they began, and the gradient:

        x = step(y)                             gradient = f.gradient(y)
        rna.store(x, x - y)                     rna.store(y, gradient)
        y, found = rna.extrapolate()            y, found = rna.extrapolate(step=h)

    Both are the same for one h. They differ for varying lengths, where sum_i c_i x_i with R of gradients would be wrong: c makes
    sum_i c_i r_i small, but not sum_i c_i h_i r_i.

    Args:
        n: most steps to combine.
        reg: lambda >= 0, relative to ||R'R||_2.

    Raises:
        TypeError: n is no whole number.
        ValueError: n is below 1, or reg negative.
    """

    def __init__(self, n: int = 10, reg: float = 1e-8) -> None:
        if not reg >= 0.0:
            raise ValueError(f"reg must be at least 0, not {reg}")
        self.history, self.reg = History(n), reg

    def store(self, point: Tensor, residual: Tensor) -> None:
        """Remember a step.

        Args:
            point: p_i, which is x_i = g(y_{i-1}) or y_{i-1}; of any shape; copied.
            residual: r_i, which is x_i - y_{i-1} or the gradient at y_{i-1}; of the same shape; copied.

        Raises:
            ValueError: the shapes differ, or differ from those of earlier points; or a tensor is no real floating point.
        """
        for name, tensor in (("point", point), ("residual", residual)):
            if tensor.dtype not in LINEAR:
                raise ValueError(f"the {name} is {tensor.dtype}: only real floating-point tensors can be combined")
        before = [("point before", each[""].shape) for each in self.history.iterates[-1:]]
        for name, shape in (("residual", residual.shape), *before):
            if shape != point.shape:
                raise ValueError(
                    f"the point is {tuple(point.shape)}, but the {name} is {tuple(shape)}: give one shape to all"
                )
        copied = residual.detach().clone(memory_format=torch.contiguous_format)
        self.history.append({"": point.detach().contiguous()}, {"": copied})

    @torch.no_grad()
    def extrapolate(self, step: float = 0.0) -> tuple[Tensor, Extrapolation]:
        """A new tensor sum_i c_i (p_i - h r_i), and c.

        Args:
            step: h; 0 if the points are those that the steps reached.

        Raises:
            RuntimeError: nothing is stored.

        Source: arXiv 1805.09639, Algorithm 1.
        """
        if not len(self.history):
            raise RuntimeError("nothing is stored: call store(point, residual) after a step first")
        found = self.history.solve(self.reg)
        point = _combined(self.history.iterates, found.c)
        if step:
            point.sub_(_combined(self.history.residuals, found.c), alpha=step)
        return point, found


def _combined(vectors: Sequence[Vector], c: Sequence[float]) -> Tensor:
    tensors = [vector[""] for vector in vectors]
    result = torch.empty_like(tensors[-1])
    write_sum(tensors, c, "", [result])
    return result


@dataclass(frozen=True, slots=True, kw_only=True)
class Iteration:
    """One step of online RNA: `x` = g(y_{N-1}); `y` = y_N, from which the next step starts; the `extrapolation`."""

    x: Tensor
    y: Tensor
    extrapolation: Extrapolation


def online_rna(
    step: Callable[[Tensor], Tensor], start: Tensor, *, n: int = 10, reg: float = 1e-8, momentum: float = 0.0
) -> Iterator[Iteration]:
    """Online RNA of a fixed step, without end: x_N = g(y_{N-1}), z_N = RNA(x, y, lambda), y_N = z_N + b (z_N - z_{N-1}).

    With b = 0 this is equation 8; with b > 0 Nesterov's extrapolation is taken on top, from the accelerated points.

    Args:
        step: g, such as y - gradient(y) / L, with one step length, because R's columns are x_i - y_{i-1}.
        start: y_0, of any shape; float64 for precise minima.
        n: most steps to combine.
        reg: lambda >= 0, relative to ||R'R||_2.
        momentum: b, at least 0.

    Source: arXiv 1805.09639, equation 8 (b = 0) and equation 3 (Nesterov).
    """
    rna = FlatRna(n, reg)
    y = before = start.detach().clone()
    while True:
        x = step(y).detach()
        rna.store(x, x - y)
        z, found = rna.extrapolate()
        y = z + momentum * (z - before) if momentum else z
        before = z
        yield Iteration(x=x, y=y.clone(), extrapolation=found)


class OnlineRna(Rna):
    """Online RNA around any torch optimizer of a network: after each step the parameters become sum_i c_i x_i.

    R's columns are the gradients that the steps used, which for gradient descent are x_i - y_{i-1} up to the learning rate.
    Momentum and gradual schedules do no harm; a jump of the learning rate does, until the window has passed it. Buffers
    such as batch norm's statistics stay as forward passes left them, as in the authors' online code (their offline code
    combines them), unless `combine_statistics`. A window of n steps costs n copies of the parameters (and of buffers, if
    those are combined) and n gradients. Equation 8 was made for convex problems; networks with batch normalization gain
    little (the paper's Fig. 7). `last` is the newest extrapolation.

    Args:
        network: as for `Rna`.
        optimizer: as for `Rna`.
        n: most steps to combine.
        reg: lambda >= 0, relative to ||R'R||_2.
        coupled_decay: as for `Rna`.
        combine_statistics: whether floating buffers become sum_i c_i x_i too.

    Raises:
        TypeError, ValueError: as for `Rna`.

    Source: arXiv 1805.09639, equation 8.
    """

    def __init__(
        self,
        network: nn.Module,
        optimizer: optim.Optimizer,
        n: int = 10,
        reg: float = 1e-8,
        *,
        coupled_decay: bool | None = None,
        combine_statistics: bool = False,
    ) -> None:
        super().__init__(network, optimizer, n, reg, reset_after=0, coupled_decay=coupled_decay)
        self.combine_statistics = combine_statistics
        self.last: Extrapolation | None = None

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """A step of the optimizer, then the extrapolation in place; a step without a gradient changes and stores nothing."""
        loss = super().step(closure)
        if self.mean.count:
            self.store()
            self.last = self.accelerate(self.network, combine_statistics=self.combine_statistics)
        return loss

    def _iterate(self) -> dict[str, Tensor]:
        named = everything(self.network)
        kept = {n: t for n, t in named.items() if self.combine_statistics or isinstance(t, torch.nn.Parameter)}
        return once(kept)
