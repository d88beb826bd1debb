"""The demo's evaluator: what a user writes for a run. `error` is chosen by; `test_error` is reported, on other images."""

from __future__ import annotations

import sys
from pathlib import Path

import torch  # noqa: TC002 - a user's file imports plainly
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).parent))

from train_digits import TRAINED_ON, images, network

CHOSEN_ON = 397

_MODEL = network()
_X, _Y = images()


def evaluate(state_dict: dict[str, torch.Tensor], device: torch.device) -> dict[str, torch.Tensor]:
    """Error in percent of each of 397 images to choose by, and of 400 others to report; none was trained on.

    rna-watch takes the mean, and compares models image by image. The loss of each of the 397 tells more about a model than
    right or wrong, so that rna-watch ranks and tests models on it.
    """
    _MODEL.load_state_dict(state_dict)
    _MODEL.to(device).eval()
    scores, digits = _MODEL(_X[TRAINED_ON:].to(device)).detach().cpu(), _Y[TRAINED_ON:]
    wrong = scores.argmax(1) != digits
    return {
        "error": 100.0 * wrong[:CHOSEN_ON].double(),
        "test_error": 100.0 * wrong[CHOSEN_ON:].double(),
        "loss": functional.cross_entropy(scores[:CHOSEN_ON], digits[:CHOSEN_ON], reduction="none"),
    }
