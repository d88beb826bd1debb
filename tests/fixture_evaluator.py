"""The evaluator of the fixture run: how far a model is from the one that its checkpoints approach, in each of 40 places."""

from __future__ import annotations

import zlib

import torch

PLACES = 40


def limit(name: str, shape: torch.Size) -> torch.Tensor:
    """The values (float64) of a tensor in the model that the checkpoints of every form approach."""
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    values = torch.randn(shape, generator=generator, dtype=torch.float64)
    return values.abs() if name.endswith("running_var") else values


def evaluate(
    state_dict: dict[str, torch.Tensor], device: torch.device, fraction: float = 1.0
) -> dict[str, torch.Tensor]:
    """The squared distance from the limit in each place (a metric of examples), and the largest distance."""
    distances = [
        (tensor.double() - limit(name, tensor.shape)).flatten()
        for name, tensor in sorted(state_dict.items())
        if tensor.is_floating_point()
    ]
    distance = torch.cat(distances).to(device)
    places = distance[: len(distance) // PLACES * PLACES].view(PLACES, -1).square().mean(1)
    return {"distance": places[: round(PLACES * fraction)], "largest": distance.abs().max()}
