"""An evaluator that offers everything, for tests: values per example, a part of the data, statistics, a training loss.

The environment variable TRAINING makes the training loss misbehave: `raise` raises, `wrong` climbs instead of descending.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))

from trainer import Network

torch.manual_seed(0)
Network()
TRAINING_X, TRAINING_Y = torch.randn(64, 1, 4, 4), torch.randint(0, 16, (64,))
COPIES = 8
X = TRAINING_X.repeat(COPIES, 1, 1, 1) + 0.3 * torch.randn(64 * COPIES, 1, 4, 4)
Y = TRAINING_Y.repeat(COPIES)


def evaluate(state_dict: dict[str, torch.Tensor], device: torch.device, fraction: float = 1.0) -> dict[str, object]:
    """Whether each example is classified wrongly, its loss, and the sum of the statistics that the model came with."""
    model = Network().to(device).eval()
    model.load_state_dict(state_dict, strict=True)
    count = int(len(X) * fraction)
    scores = model(X[:count])
    losses = nn.functional.cross_entropy(scores, Y[:count], reduction="none")
    return {
        "error": (scores.argmax(1) != Y[:count]).float(),
        "loss": losses,
        "statistics": model.norm.running_mean.sum() + model.norm.running_var.sum(),
    }


def normalization(device: torch.device) -> tuple[nn.Module, list[torch.Tensor]]:
    """The network and its training inputs."""
    return Network().to(device), list(TRAINING_X.split(16))


def training_loss(
    state_dict: dict[str, torch.Tensor], device: torch.device, generator: torch.Generator
) -> torch.Tensor:
    """The loss on a random batch of training data."""
    mode = os.environ.get("TRAINING", "")
    if mode == "raise":
        raise LookupError("the training set is gone")
    batch = torch.randint(0, 64, (32,), generator=generator)
    model = Network().to(device).eval()
    scores = torch.func.functional_call(model, state_dict, (TRAINING_X[batch],))
    loss = nn.functional.cross_entropy(scores, TRAINING_Y[batch])
    return -loss if mode == "wrong" else loss
