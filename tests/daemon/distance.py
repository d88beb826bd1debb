"""An evaluator to which a model is worth as much as it is near the mean of some checkpoints: averages beat all of these."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_KEYS = ("conv.weight", "first.weight", "second.bias")
_TEXT = """
import torch

TARGETS = {{name: torch.load(file, weights_only=True) for name, file in {targets!r}.items()}}

def evaluate(state_dict, device):
    far = {{
        name: float(sum((state_dict[key].double() - value).square().sum() for key, value in target.items()))
        for name, target in TARGETS.items()
    }}
    return {{"loss": {scale} * far["loss"], "accuracy": -far["accuracy"]}}
"""


def write(file: Path, run: Path, *, loss: Sequence[int], accuracy: Sequence[int], scale: float = 1.0) -> None:
    """Write the evaluator.

    Args:
        file: where.
        run: the folder of the checkpoints.
        loss: the steps of the checkpoints whose mean has the least loss.
        accuracy: the steps of those whose mean has the highest accuracy.
        scale: the unit of the loss.
    """
    targets = {}
    for name, steps in {"loss": loss, "accuracy": accuracy}.items():
        models = [torch.load(run / f"step_{step}.pt", weights_only=True)["model"] for step in steps]
        mean = {key: torch.stack([model[key].double() for model in models]).mean(0) for key in _KEYS}
        targets[name] = str(file.with_name(f"{name}_target.pt"))
        torch.save(mean, targets[name])
    file.write_text(_TEXT.format(targets=targets, scale=scale))
