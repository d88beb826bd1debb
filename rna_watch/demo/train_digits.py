"""An ordinary training script: a small convolutional network on scikit-learn's digits. It knows nothing of rna-watch.

Usage: python train_digits.py FOLDER [--epochs N] [--seed S]; writes FOLDER/epoch_001.pt, ...
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional

TRAINED_ON = 1000


def network() -> nn.Sequential:
    """Three convolutions with batch norm, and a linear layer."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1, stride=2, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3, padding=1, stride=2, bias=False),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, 10),
    )


def images() -> tuple[torch.Tensor, torch.Tensor]:
    """All 1797 images (N, 1, 8, 8) and labels (N,), in one fixed random order."""
    digits = load_digits()
    order = torch.randperm(len(digits.target), generator=torch.Generator().manual_seed(0))
    x = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16.0
    return x[order], torch.tensor(digits.target)[order]


def augmented(x: torch.Tensor) -> torch.Tensor:
    """A batch (B, 1, 8, 8), each image moved by up to one pixel, with noise."""
    padded = functional.pad(x, (1, 1, 1, 1))
    top, left = torch.randint(0, 3, (2,)).tolist()
    return padded[..., top : top + 8, left : left + 8] + 0.2 * torch.randn_like(x)


def main() -> None:
    """Train, and save after every epoch."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    torch.manual_seed(arguments.seed)
    x, y = (part[:TRAINED_ON] for part in images())
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    begun = time.perf_counter()
    for epoch in range(1, arguments.epochs + 1):
        model.train()
        for batch in torch.randperm(len(x)).split(8):
            optimizer.zero_grad()
            functional.cross_entropy(model(augmented(x[batch])), y[batch]).backward()
            optimizer.step()
        state = {"epoch": epoch, "model": model.state_dict(), "optimizer": optimizer.state_dict()}
        torch.save(state, arguments.folder / f"epoch_{epoch:03d}.pt")
        print(f"epoch {epoch}", flush=True)
    print(f"seconds {time.perf_counter() - begun:.3f}", flush=True)


if __name__ == "__main__":
    main()
