"""Small trainings on scikit-learn's digits, checkpoint by checkpoint: quiet and violent ones, fine-tunings, adapters, a GAN."""

from __future__ import annotations

import copy
import math
from typing import TYPE_CHECKING, Any

import torch
from sklearn.datasets import load_digits
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    Checkpoint = dict[str, Any]
    Data = tuple[torch.Tensor, torch.Tensor]


def digits(count: int | None = None) -> Data:
    """The first so many images (N, 64), all by default, scaled, and their labels."""
    found = load_digits()
    return (torch.tensor(found.data[:count], dtype=torch.float32) - 4.88) / 6.0, torch.tensor(found.target[:count])


def _mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 64), nn.ReLU(), nn.Linear(64, 10))


def _normalized() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 128), nn.BatchNorm1d(128), nn.ReLU(), nn.Linear(128, 10))


def _convolution(norm: Callable[[int], nn.Module]) -> nn.Module:
    layers: list[nn.Module] = [nn.Unflatten(1, (1, 8, 8))]
    for before, after in ((1, 8), (8, 16), (16, 32)):
        layers += [nn.Conv2d(before, after, 3, 1 if before == 1 else 2, 1), norm(after), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(128, 10))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "MLP": _mlp,
    "MLP, batch norm": _normalized,
    "convolutions": lambda: _convolution(lambda _: nn.Identity()),
    "convolutions, batch norm": lambda: _convolution(nn.BatchNorm2d),
}
Optimizers = dict[str, "Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]"]
OPTIMIZERS: Optimizers = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.05),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=5e-4),
    "decay": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=1e-2),
    "Adam": lambda p: torch.optim.Adam(p, lr=1e-3),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=3e-3, weight_decay=0.1),
}
# rates that no one would keep: some of these trainings blow up and come back
VIOLENT: Optimizers = {
    "SGD at 1": lambda p: torch.optim.SGD(p, lr=1.0, weight_decay=1e-3),
    "momentum at .2": lambda p: torch.optim.SGD(p, lr=0.2, momentum=0.9),
    "Adam at .05": lambda p: torch.optim.Adam(p, lr=5e-2),
}


def network(name: str, seed: int) -> nn.Module:
    """One of `NETWORKS`, initialized by a seed."""
    torch.manual_seed(seed)
    return NETWORKS[name]()


def train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    epochs: int,
    seed: int = 0,
    *,
    data: Data | None = None,
    rate: Callable[[float], float] | None = None,
    batch: int = 32,
    forget: int = 0,
    initial: bool = True,
) -> list[Checkpoint]:
    """Train, and return a checkpoint of each epoch: epoch, model and optimizer.

    Args:
        model: what is trained, in place.
        optimizer: its optimizer.
        epochs: how many.
        seed: of the order of the examples.
        data: examples and labels; all digits if None.
        rate: learning rate as a multiple of the optimizer's, by the part of the training that is done.
        batch: examples a step.
        forget: the optimizer's state is lost after so many epochs, again and again (0: never).
        initial: whether the untrained model is the first checkpoint.
    """
    x, y = data or digits()
    order = torch.Generator().manual_seed(seed)
    first = [group["lr"] for group in optimizer.param_groups]
    steps, done = epochs * math.ceil(len(x) / batch), 0
    found = [_checkpoint(0, model, optimizer)] if initial else []
    for epoch in range(1, epochs + 1):
        model.train()
        for part in torch.randperm(len(x), generator=order).split(batch):
            for group, own in zip(optimizer.param_groups, first, strict=True):
                group["lr"] = own * rate(done / steps) if rate else own
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[part]), y[part]).backward()
            optimizer.step()
            done += 1
        found.append(_checkpoint(epoch, model, optimizer))
        if forget and epoch % forget == 0:
            optimizer.state.clear()
    return found


def _checkpoint(epoch: int, model: nn.Module, optimizer: torch.optim.Optimizer) -> Checkpoint:
    return copy.deepcopy({"epoch": epoch, "model": model.state_dict(), "optimizer": optimizer.state_dict()})


def folds(data: Data, count: int = 10) -> list[Data]:
    """The data without one part of `count`, for each."""
    x, y = data
    part = torch.arange(len(x)) % count
    return [(x[part != fold], y[part != fold]) for fold in range(count)]


class Adapted(nn.Module):
    """A trained network whose first layer alone learns, by a product of two small matrices (LoRA) that its checkpoints hold."""

    def __init__(self, base: nn.Sequential, rank: int = 4) -> None:
        super().__init__()
        self._base = [each.requires_grad_(requires_grad=False) for each in base]
        self.lora_A = nn.Parameter(torch.randn(rank, 64) / 8.0)
        self.lora_B = nn.Parameter(torch.zeros(len(base[0].weight), rank))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scores (B, 10)."""
        first, *rest = self._base
        x = first(x) + x @ self.lora_A.T @ self.lora_B.T
        for layer in rest:
            x = layer(x)
        return x


def gan(
    seed: int, epochs: int, rate: float = 1e-3, data: Data | None = None
) -> tuple[list[Checkpoint], list[Checkpoint]]:
    """Generator and discriminator of digits, from the first epoch on; a checkpoint of each an epoch."""
    torch.manual_seed(seed)
    x, _ = data or digits()
    generator = nn.Sequential(
        *(nn.Linear(8, 96), nn.BatchNorm1d(96), nn.ReLU(), nn.Linear(96, 96), nn.BatchNorm1d(96), nn.ReLU()),
        nn.Linear(96, 64),
    )
    discriminator = nn.Sequential(
        nn.Linear(64, 96), nn.LeakyReLU(0.2), nn.Linear(96, 96), nn.LeakyReLU(0.2), nn.Linear(96, 1)
    )
    models = (generator, discriminator)
    ours, theirs = (torch.optim.Adam(each.parameters(), lr=rate, betas=(0.5, 0.999)) for each in models)
    loss = nn.functional.binary_cross_entropy_with_logits
    found = ([_checkpoint(0, generator, ours)], [_checkpoint(0, discriminator, theirs)])
    for epoch in range(1, epochs + 1):
        for part in torch.randperm(len(x)).split(64):
            made = generator(torch.randn(len(part), 8))
            one, zero = torch.ones(len(part), 1), torch.zeros(len(part), 1)
            theirs.zero_grad()
            (loss(discriminator(x[part]), one) + loss(discriminator(made.detach()), zero)).backward()
            theirs.step()
            ours.zero_grad()
            loss(discriminator(made), one).backward()
            ours.step()
        for kept, model, optimizer in zip(found, models, (ours, theirs), strict=True):
            kept.append(_checkpoint(epoch, model, optimizer))
    return found


def save(folder: Path, checkpoints: Iterable[Checkpoint], name: str = "epoch_{}.pt", first: int = 1) -> None:
    """Write checkpoints one after another, under names that count on from `first`."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, checkpoint in enumerate(checkpoints, first):
        torch.save(checkpoint, folder / name.format(number))


def bare(checkpoints: Iterable[Checkpoint]) -> list[Checkpoint]:
    """The models' state dicts alone, without what counts batches."""
    return [
        {name: tensor for name, tensor in each["model"].items() if tensor.is_floating_point()} for each in checkpoints
    ]
