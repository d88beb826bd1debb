"""An evaluator for a classifier: its error in percent and its loss on batches that were saved once.

Environment variables say what is evaluated:

    VALIDATION_MODEL   module:function that builds the network, such as torchvision.models:resnet152
    VALIDATION_DATA    folder of batches, each a file written by torch.save((inputs, labels), "FOLDER/0001.pt")
    TRAINING_DATA      the same for batches of the training data, if weights are to be trained, or the statistics of
                       batch norm re-estimated; leave it out otherwise

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
from torch.func import functional_call
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


def batches(variable: str) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Inputs (B, ...) and labels (B,) of every batch; mapped from disk, not copied into memory."""
    folder = Path(setting(variable, "a folder of batches saved with torch.save((inputs, labels), FILE.pt)"))
    files = sorted(folder.glob("*.pt"))
    if not files:
        raise RuntimeError(f"there are no batches (*.pt) in {folder.absolute()}, the folder that {variable} names")
    return [torch.load(file, map_location="cpu", weights_only=True, mmap=True) for file in files]


# Built once: rna-watch imports this file once and then calls its functions for one model after another.
_NETWORK = network()
_BATCHES = batches("VALIDATION_DATA")


@torch.no_grad()
def evaluate(
    state_dict: dict[str, torch.Tensor], device: torch.device, fraction: float = 1.0
) -> dict[str, torch.Tensor]:
    """The metrics of one model; the first is the one that rna-watch chooses by, unless `metric` names another.

    A metric may be one number, or one for each example: then rna-watch takes the mean, and tells by the same examples of
    two models whether one is better by more than noise. A loss of each example beside another metric, under a name with the
    word loss, nll, ce or cross_entropy, ranks and tests the models, because it tells more than right or wrong; what is worse
    by the metric is not taken. `fraction` is asked for by `first_round` only.
    """
    _NETWORK.load_state_dict(state_dict)
    _NETWORK.to(device).eval()
    wrong, loss = [], []
    for inputs, labels in _BATCHES[: max(1, round(fraction * len(_BATCHES)))]:
        scores = _NETWORK(inputs.to(device).float())
        expected = labels.to(device)
        wrong.append((scores.argmax(1) != expected).float())
        loss.append(functional.cross_entropy(scores, expected, reduction="none"))
    return {"error": 100 * torch.cat(wrong), "loss": torch.cat(loss)}


if os.environ.get("TRAINING_DATA"):
    _TRAINING = batches("TRAINING_DATA")

    def normalization(device: torch.device) -> tuple[torch.nn.Module, list[torch.Tensor]]:
        """The network and training inputs, to re-estimate the statistics of batch norm (`normalization`)."""
        return _NETWORK, [inputs.to(device).float() for inputs, _ in _TRAINING]

    def training_loss(
        state_dict: dict[str, torch.Tensor], device: torch.device, generator: torch.Generator
    ) -> torch.Tensor:
        """The loss on one random batch of training data, to fit weights (`layered`, `trained`), or to train on (`anneal`).

        In training mode, so that batch norm uses the batch and measures it into the buffers of `state_dict`.
        """
        number = int(torch.randint(len(_TRAINING), (1,), generator=generator))
        inputs, labels = _TRAINING[number]
        _NETWORK.to(device).train()
        return functional.cross_entropy(
            functional_call(_NETWORK, state_dict, inputs.to(device).float()), labels.to(device)
        )


if __name__ == "__main__":
    checkpoint = torch.load(sys.argv[1], map_location="cpu", weights_only=True)
    metrics = evaluate(checkpoint.get("model", checkpoint), torch.device("cpu"))
    print(json.dumps({name: values.tolist() for name, values in metrics.items()}))
