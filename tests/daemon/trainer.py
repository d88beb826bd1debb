"""An ordinary training script for tests: a tiny network with batch norm and tied weights, a checkpoint a step.

Usage: python trainer.py FOLDER [--count N] [--pause SECONDS] [--form zip|nested|safetensors] [--first K] [--in-place] [--keep M]
                         [--optimizer sgd|adam] [--factor F [--at STEP]]: the learning rate is multiplied at one step, or at each
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from torch import nn


class Network(nn.Module):
    """Convolution, batch norm, and two linear layers that share one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.first = nn.Linear(16, 16)
        self.second = nn.Linear(16, 16)
        self.second.weight = self.first.weight
        self.register_buffer("positions", torch.arange(5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Class scores."""
        return self.second(torch.relu(self.first(torch.relu(self.norm(self.conv(x))).flatten(1))))


def main() -> None:
    """Train and save."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=8)
    parser.add_argument("--first", type=int, default=1)
    parser.add_argument("--pause", type=float, default=0.0)
    parser.add_argument("--form", default="nested")
    parser.add_argument("--in-place", action="store_true")
    parser.add_argument("--keep", type=int, default=0)
    parser.add_argument("--optimizer", default="sgd")
    parser.add_argument("--factor", type=float, default=1.0)
    parser.add_argument("--at", type=int, default=0)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = Network()
    optimizer: torch.optim.Optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    if arguments.optimizer == "adam":
        optimizer = torch.optim.Adam(model.parameters(), lr=0.003)
    x, y = torch.randn(64, 1, 4, 4), torch.randint(0, 16, (64,))
    for step in range(1, arguments.first + arguments.count):
        if arguments.at in {0, step}:
            optimizer.param_groups[0]["lr"] *= arguments.factor
        for _ in range(5):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
        if step < arguments.first:
            continue
        name = "last" if arguments.in_place else f"step_{step}"
        if arguments.form == "safetensors":
            from safetensors.torch import save_model

            save_model(model, str(arguments.folder / f"{name}.safetensors"))
        elif arguments.form == "zip":
            torch.save(model.state_dict(), arguments.folder / f"{name}.pt")
        else:
            state = {"step": step, "model": model.state_dict(), "optimizer": optimizer.state_dict()}
            torch.save(state, arguments.folder / f"{name}.pt")
        if arguments.keep:
            (arguments.folder / f"step_{step - arguments.keep}.pt").unlink(missing_ok=True)
        print(f"saved {step}", flush=True)
        time.sleep(arguments.pause)


if __name__ == "__main__":
    main()
