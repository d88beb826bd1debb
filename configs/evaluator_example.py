"""An evaluator for a classifier: its error in percent and its mean loss on batches that were saved once.

Two environment variables say what is evaluated:

    VALIDATION_MODEL   module:function that builds the network, such as torchvision.models:resnet152
    VALIDATION_DATA    folder of batches, each a file written by torch.save((inputs, labels), "FOLDER/0001.pt")

Save the batches from your own data loader, so that they went through your own pre-processing. Take examples that were
never trained on, and keep others back for the number you report: what chose a model flatters it.

As a function:   rna-watch start RUN_DIR --evaluator configs/evaluator_example.py:evaluate
As a command:    rna-watch start RUN_DIR --evaluate-command "python configs/evaluator_example.py {checkpoint}"
"""

import importlib
import json
import os
import sys
from pathlib import Path

import torch
from torch.nn import functional

sys.path.insert(0, str(Path.cwd()))  # so that VALIDATION_MODEL may name a module of the folder you started in


def setting(name: str, meaning: str) -> str:
    """The value of an environment variable that must be set."""
    value = os.environ.get(name)
    if not value:
        raise RuntimeError(f"set the environment variable {name} to {meaning}, then start rna-watch again")
    return value


def network() -> torch.nn.Module:
    """The network, as your training script builds it."""
    module, _, function = setting("VALIDATION_MODEL", "module:function that builds the network").partition(":")
    return getattr(importlib.import_module(module), function)()


def batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Inputs (B, ...) and labels (B,) of every batch; mapped from disk, not copied into memory."""
    folder = Path(setting("VALIDATION_DATA", "a folder of batches saved with torch.save((inputs, labels), FILE.pt)"))
    files = sorted(folder.glob("*.pt"))
    if not files:
        raise RuntimeError(f"there are no batches (*.pt) in {folder.absolute()}, the folder that VALIDATION_DATA names")
    return [torch.load(file, map_location="cpu", weights_only=True, mmap=True) for file in files]


# Built once: rna-watch imports this file once and then calls `evaluate` for one model after another.
_NETWORK = network()
_BATCHES = batches()


@torch.no_grad()
def evaluate(state_dict: dict[str, torch.Tensor], device: torch.device) -> dict[str, float]:
    """The metrics of one model; the first is the one that rna-watch chooses by, unless `metric` names another."""
    _NETWORK.load_state_dict(state_dict)
    _NETWORK.to(device).eval()
    wrong = loss = count = 0.0
    for inputs, labels in _BATCHES:
        scores = _NETWORK(inputs.to(device).float())
        expected = labels.to(device)
        wrong += (scores.argmax(1) != expected).sum().item()
        loss += functional.cross_entropy(scores, expected, reduction="sum").item()
        count += len(labels)
    return {"error": 100 * wrong / count, "loss": loss / count}


if __name__ == "__main__":
    checkpoint = torch.load(sys.argv[1], map_location="cpu", weights_only=True)
    print(json.dumps(evaluate(checkpoint.get("model", checkpoint), torch.device("cpu"))))
