"""A ring: the newest iterates of a network and the mean gradients that led to them, as flat vectors on its device.

Letters: K iterates are stored, d numbers of the network (parameters, then floating buffers), p of them parameters. Sums are
float64, chunk by chunk; what is stored is float32.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import numpy.typing as npt
    from torch import Tensor, nn

    Float64 = npt.NDArray[np.float64]

_CHUNK = 2**21


class Ring:
    """The newest `size` iterates and mean gradients, and R'R of these, `gram_nn` (K, K) float64, oldest first.

    Args:
        network: whose vectors are kept; they lie on its device.
        size: the most iterates.
    """

    def __init__(self, network: nn.Module, size: int) -> None:
        parameters = {name: tensor.detach() for name, tensor in network.named_parameters()}
        buffers = {name: tensor for name, tensor in network.named_buffers() if tensor.is_floating_point()}
        self.shapes = {name: tensor.shape for name, tensor in (parameters | buffers).items()}
        self.slices: dict[str, slice] = {}
        start = 0
        for name, shape in self.shapes.items():
            self.slices[name] = slice(start, start + shape.numel())
            start += shape.numel()
        self.parameters = tuple(parameters)
        self.size, self._d, self._p = size, start, sum(tensor.numel() for tensor in parameters.values())
        device = next(iter(parameters.values())).device
        self._iterates = torch.zeros(size, self._d, device=device)
        self._gradients = torch.zeros(size, self._p, device=device)
        self.stored = 0
        self.gram_nn: Float64 = np.zeros((0, 0))

    def __len__(self) -> int:
        return min(self.stored, self.size)

    def append(self, network: nn.Module, gradients: Mapping[str, Tensor]) -> None:
        """Store the network as it is, and the mean gradient of the steps that led to it.

        Args:
            network: the one of this ring, or one like it.
            gradients: by name; a parameter without one counts as zero.
        """
        row = self.stored % self.size
        self._iterates[row] = self.flat(network)
        gradient = self._gradients[row].zero_()
        for name, tensor in gradients.items():
            gradient[self.slices[name]] = tensor.reshape(-1)
        self.stored += 1
        rows = self._rows(len(self))
        products = torch.zeros(len(rows), dtype=torch.float64, device=gradient.device)
        for part in _chunks(self._p):
            products += self._gradients[rows, part].double() @ gradient[part].double()
        new = products.cpu().numpy()
        kept = self.gram_nn[len(self.gram_nn) - len(rows) + 1 :, len(self.gram_nn) - len(rows) + 1 :]
        self.gram_nn = np.block([[kept, new[:-1, None]], [new[None, :-1], new[-1:, None]]])

    def newest(self, count: int) -> Tensor:
        """The newest iterates, oldest first, `(count, d)` float32."""
        return self._iterates[self._rows(count)]

    def combined(self, weights: Sequence[Sequence[float]]) -> Tensor:
        """Weighted sums of the newest iterates, `(M, d)` float32; running variances are clamped at zero.

        Args:
            weights: M rows, each of as many newest iterates as it has weights, oldest first.
        """
        count = max(len(row) for row in weights)
        padded = torch.tensor([[0.0] * (count - len(row)) + list(row) for row in weights], dtype=torch.float64)
        padded = padded.to(self._iterates.device)
        rows = self._rows(count)
        made = torch.empty(len(weights), self._d, device=self._iterates.device)
        for part in _chunks(self._d):
            made[:, part] = (padded @ self._iterates[rows, part].double()).float()
        for name, part in self.slices.items():
            if name.endswith("running_var"):
                made[:, part].clamp_(min=0.0)
        return made

    def flat(self, network: nn.Module) -> Tensor:
        """A network's parameters and floating buffers as one vector `(d,)`."""
        named = self._named(network)
        return torch.cat([named[name].detach().reshape(-1) for name in self.shapes])

    @torch.no_grad()
    def write(self, flat: Tensor, network: nn.Module) -> None:
        """Write a vector `(d,)` into a network."""
        named = self._named(network)
        for name, shape in self.shapes.items():
            named[name].copy_(flat[self.slices[name]].view(shape))

    def state_dict(self) -> dict[str, Any]:
        """Everything, as tensors and a number."""
        gram = torch.from_numpy(self.gram_nn.copy())
        return {"iterates": self._iterates, "gradients": self._gradients, "stored": self.stored, "gram": gram}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue another ring of the same network and size."""
        self._iterates.copy_(state["iterates"])
        self._gradients.copy_(state["gradients"])
        self.stored, self.gram_nn = int(state["stored"]), state["gram"].cpu().numpy().copy()

    def _rows(self, count: int) -> list[int]:
        """Where the newest iterates lie, oldest first."""
        return [number % self.size for number in range(self.stored - count, self.stored)]

    def _named(self, network: nn.Module) -> dict[str, Tensor]:
        return dict(network.named_parameters()) | dict(network.named_buffers())


def _chunks(count: int) -> Iterator[slice]:
    return (slice(start, start + _CHUNK) for start in range(0, count, _CHUNK))
