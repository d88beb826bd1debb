"""The demo's evaluator: what a user writes for a run. `error` is chosen by; `test_error` is reported, on other images.

The loss of every image ranks the models, since it tells more than right or wrong; `training_loss` lets weights be fitted
and normalization statistics be re-estimated, on the images that the network is trained on.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))

from torch.func import functional_call
from torch.nn import functional
from train_digits import TRAINED_ON, augmented, images, network

CHOSEN_ON = 397
BATCH = 128

_MODEL = network()
_X, _Y = images()


def evaluate(state_dict: dict[str, torch.Tensor], device: torch.device) -> dict[str, torch.Tensor]:
    """Error in percent of each of 397 images to choose by, and of 400 others to report; none was trained on.

    rna-watch takes the mean, and compares models image by image. The loss of each of the 397 tells more about a model than
    right or wrong, so that rna-watch ranks and tests models on it.
    """
    _MODEL.load_state_dict(state_dict)
    _MODEL.to(device).eval()
    scores = _MODEL(_X[TRAINED_ON:].to(device)).cpu()
    wrong = scores.argmax(1) != _Y[TRAINED_ON:]
    loss = functional.cross_entropy(scores, _Y[TRAINED_ON:], reduction="none")
    return {
        "error": 100.0 * wrong[:CHOSEN_ON].double(),
        "test_error": 100.0 * wrong[CHOSEN_ON:].double(),
        "loss": loss[:CHOSEN_ON].double(),
    }


def training_loss(
    state_dict: dict[str, torch.Tensor], device: torch.device, generator: torch.Generator
) -> torch.Tensor:
    """The loss of a random batch, in train mode: batch norm takes the batch's statistics, and updates the running ones."""
    batch = torch.randint(TRAINED_ON, (BATCH,), generator=generator)
    _MODEL.to(device).train()
    scores = functional_call(_MODEL, state_dict, (augmented(_X[batch]).to(device),))
    return functional.cross_entropy(scores, _Y[batch].to(device))
