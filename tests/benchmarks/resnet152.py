"""Checkpoints with the names, shapes and dtypes of torchvision's ResNet-152, made here: consecutive iterates of a random walk."""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from pathlib import Path

_BLOCKS = (3, 8, 36, 3)


def parameters(base: int = 64) -> int:
    """The number of parameters: 60,192,808 at full width."""
    kinds = ("running_mean", "running_var")
    return sum(math.prod(shape) for name, shape in shapes(base).items() if shape and not name.endswith(kinds))


def shapes(base: int = 64) -> OrderedDict[str, tuple[int, ...] | None]:
    """The state dict's keys; None stands for an int64 counter. `base` is the width of the first stage."""
    found: OrderedDict[str, tuple[int, ...] | None] = OrderedDict()

    def norm(name: str, width: int) -> None:
        for part in ("weight", "bias", "running_mean", "running_var"):
            found[f"{name}.{part}"] = (width,)
        found[f"{name}.num_batches_tracked"] = None

    found["conv1.weight"] = (base, 3, 7, 7)
    norm("bn1", base)
    width_in = base
    for stage, blocks in enumerate(_BLOCKS):
        width = base * 2**stage
        for block in range(blocks):
            name = f"layer{stage + 1}.{block}"
            found[f"{name}.conv1.weight"] = (width, width_in, 1, 1)
            norm(f"{name}.bn1", width)
            found[f"{name}.conv2.weight"] = (width, width, 3, 3)
            norm(f"{name}.bn2", width)
            found[f"{name}.conv3.weight"] = (4 * width, width, 1, 1)
            norm(f"{name}.bn3", 4 * width)
            if block == 0:
                found[f"{name}.downsample.0.weight"] = (4 * width, width_in, 1, 1)
                norm(f"{name}.downsample.1", 4 * width)
            width_in = 4 * width
    found["fc.weight"] = (1000, 32 * base)
    found["fc.bias"] = (1000,)
    return found


def write(folder: Path, count: int, base: int = 64) -> list[Path]:
    """`count` checkpoints of a slow random walk, oldest first; made once, then reused."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"epoch_{number:03d}.pt" for number in range(count)]
    if all(path.exists() for path in paths):
        return paths
    generator = torch.Generator().manual_seed(0)
    state: OrderedDict[str, torch.Tensor] = OrderedDict()
    for name, shape in shapes(base).items():
        if shape is None:
            state[name] = torch.zeros((), dtype=torch.int64)
        else:
            start = 0.02 * torch.randn(shape, generator=generator)
            state[name] = start.abs() + 1.0 if name.endswith("running_var") else start
    for path in paths:
        for tensor in state.values():
            if tensor.is_floating_point():
                tensor.add_(torch.randn(tensor.shape, generator=generator), alpha=1e-4)
            else:
                tensor.add_(100)
        torch.save(state, path)
    return paths
