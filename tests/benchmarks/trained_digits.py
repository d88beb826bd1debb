"""The demo's evaluator, with the training loss that fits the weights of a window."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch.func import functional_call
from torch.nn import functional

import rna_watch.demo

sys.path.insert(0, str(Path(rna_watch.demo.__file__).parent))

from evaluate_digits import evaluate
from train_digits import TRAINED_ON, augmented, images, network

__all__ = ["evaluate", "training_loss"]

_BATCH = 128
_MODEL = network()
_X, _Y = (part[:TRAINED_ON] for part in images())


def training_loss(
    state_dict: dict[str, torch.Tensor], device: torch.device, generator: torch.Generator
) -> torch.Tensor:
    """The training's own loss on one random batch, with the statistics that evaluation uses."""
    batch = torch.randint(len(_X), (_BATCH,), generator=generator)
    _MODEL.to(device).eval()
    scores = functional_call(_MODEL, state_dict, augmented(_X[batch]).to(device))
    return functional.cross_entropy(scores, _Y[batch].to(device))
