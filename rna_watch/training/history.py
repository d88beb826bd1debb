"""The history of a run: its newest iterates with their residuals, the Gram matrix of these, and what follows from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from rna_watch.acceleration.coefficients import Spectrum, input_weights, solve, spectrum, spectrum_of_factor
from rna_watch.acceleration.diagnostics import Diagnostics, diagnose
from rna_watch.acceleration.fixed_weights import last
from rna_watch.training.tensors import Vector, inner_products, laid_out, triangular_factor

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from rna_watch.training.tensors import Float64

# the Gram matrix' rounding is more than 1e-10 of c where the smallest relative eigenvalue plus lambda is below this (measured:
# 4e-9 of c at lambda = 1e-8, 5e-5 at 1e-12, N = 5)
_GRAM_DIGITS = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class Extrapolation:
    """The coefficients of one extrapolation: x_extr = sum_i c_i x_i.

    `c` are c_1..c_N, oldest first, sum 1; empty if nothing is stored yet. `regularization` is lambda. `status` is empty, or a
    sentence that says why this is the newest iterate and no extrapolation; `diagnostics` are None then.
    """

    c: tuple[float, ...]
    regularization: float
    status: str = ""
    diagnostics: Diagnostics | None = None


class History:
    """The newest n pairs of an iterate and its residual, oldest first, on the device where they were made.

    Iterates are copied; a tensor that did not change since the iterate before is kept once for both. Residuals are kept
    without a copy. So the history holds n copies of what changes, n residuals, and the Gram matrix (N, N).

    Args:
        n: most pairs to keep, at least 1.

    Raises:
        TypeError: n is no whole number.
        ValueError: n is below 1.
    """

    def __init__(self, n: int) -> None:
        if isinstance(n, bool) or not hasattr(n, "__index__"):
            raise TypeError(f"n must be a whole number of iterates, at least 1, not {n!r}")
        if n < 1:
            raise ValueError(f"a history needs room for at least 1 iterate, not {n}")
        self.n = n
        self.iterates: list[Vector] = []
        self.residuals: list[Vector] = []
        self.gram_nn: Float64 = np.zeros((0, 0))

    def __len__(self) -> int:
        return len(self.iterates)

    @torch.no_grad()
    def append(self, iterate: Mapping[str, Tensor], residual: Vector) -> None:
        """Add a pair; the oldest of n pairs is dropped first, before anything is copied.

        Args:
            iterate: x_i by name; copied.
            residual: r_i by name, (d,) in all; parameters without one count as zero. The caller must not change it later.
        """
        if len(self) == self.n:
            del self.iterates[0], self.residuals[0]
            self.gram_nn = self.gram_nn[1:, 1:]
        before = self.iterates[-1] if self.iterates else {}
        self.iterates.append({name: _kept(tensor, before.get(name)) for name, tensor in iterate.items()})
        earlier = {name: tensor for vector in self.residuals for name, tensor in vector.items()}
        residual = {name: laid_out(tensor, earlier.get(name, tensor)) for name, tensor in residual.items()}
        self.residuals.append(residual)
        row = inner_products(self.residuals, residual)
        self.gram_nn = np.block([[self.gram_nn, row[:-1, None]], [row[None, :-1], row[-1:, None]]])

    def clear(self) -> None:
        """Forget everything."""
        self.iterates, self.residuals, self.gram_nn = [], [], np.zeros((0, 0))

    def solve(self, regularization: float) -> Extrapolation:
        """The coefficients of Algorithm 1: solve (R'R / ||R'R||_2 + lambda I) z = 1, c = z / sum(z).

        c takes the newest iterate if there is no solution; the status says why.

        Args:
            regularization: lambda >= 0.

        Raises:
            ValueError: lambda is negative or NaN.

        Source: Scieur, Oyallon, d'Aspremont, Bach 2018, arXiv 1805.09639, Algorithm 1.
        """
        if not len(self):
            return Extrapolation(
                c=(), regularization=regularization, status="No iterate is stored since the history began."
            )
        spectrum_ = self._spectrum(regularization)
        solution = solve(spectrum_, regularization)
        if solution.status:
            status = f"{solution.status} The newest iterate is taken."
            return Extrapolation(c=tuple(last(len(self)).tolist()), regularization=regularization, status=status)
        return Extrapolation(
            c=tuple(solution.coefficients.tolist()),
            regularization=regularization,
            diagnostics=diagnose(
                self.gram_nn, solution.coefficients, regularization, spectrum_, input_weights(solution.coefficients)
            ),
        )

    def _spectrum(self, regularization: float) -> Spectrum:
        """The spectrum of R'R; by QR if a small lambda needs the digits, which only float64 residuals have."""
        found = spectrum(self.gram_nn)
        if found.status or float(found.values[0]) + regularization > _GRAM_DIGITS:
            return found
        if any(tensor.dtype != torch.float64 for vector in self.residuals for tensor in vector.values()):
            return found
        return spectrum_of_factor(triangular_factor(self.residuals))

    def state_dict(self) -> dict[str, Any]:
        """The whole history, as tensors and lists."""
        gram = torch.from_numpy(self.gram_nn.copy())
        return {"iterates": list(self.iterates), "residuals": list(self.residuals), "gram": gram}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any], devices: Mapping[str, torch.device]) -> None:
        """Load another history's state, its newest n pairs.

        Args:
            state: what `state_dict` returned.
            devices: the device of each tensor, by name.
        """
        self.clear()
        start = max(len(state["iterates"]) - self.n, 0)
        for iterate in state["iterates"][start:]:
            before = self.iterates[-1] if self.iterates else {}
            moved = {name: tensor.to(devices.get(name, tensor.device)) for name, tensor in iterate.items()}
            self.iterates.append({name: _shared(tensor, before.get(name)) for name, tensor in moved.items()})
        for residual in state["residuals"][start:]:
            self.residuals.append(
                {name: tensor.to(devices.get(name, tensor.device)) for name, tensor in residual.items()}
            )
        self.gram_nn = state["gram"].cpu().numpy().copy()[start:, start:]


def _shared(tensor: Tensor, before: Tensor | None) -> Tensor:
    """The tensor of the iterate before if its values are the same, else this one."""
    same = before is not None and before.device == tensor.device and before.dtype == tensor.dtype
    return before if same and before is not None and torch.equal(before, tensor) else tensor


def _kept(tensor: Tensor, before: Tensor | None) -> Tensor:
    """A copy with the memory layout of the tensor before; or that tensor itself if its values are the same."""
    if _shared(tensor, before) is before and before is not None:
        return before
    if before is not None and before.shape == tensor.shape:
        return torch.empty_like(before, dtype=tensor.dtype, device=tensor.device).copy_(tensor)
    return tensor.detach().clone(memory_format=torch.preserve_format)
