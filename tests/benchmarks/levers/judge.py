"""The evaluator of a run: loss and error of each held-out example; those of the test examples go to files, and choose nothing."""

from __future__ import annotations

import json
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from tests.benchmarks.levers.tasks import TRAININGS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from torch import Tensor, nn

    from tests.benchmarks.levers.tasks import Batch

# of a run, written into the folder where its models are judged
EVALUATOR = '''"""The evaluator of a run of `python -m tests.benchmarks levers-...`."""

from pathlib import Path

from tests.benchmarks.levers.judge import offered

evaluate, normalization, training_loss = offered(Path(__file__).parent)
'''
RUN = "run.json"
VALUES = "values"
RECORD = "record"  # the metric that is the number of a model's file


def offered(folder: Path) -> tuple[Callable[..., Any], ...]:
    """The functions of an evaluator's file: evaluate, normalization and training_loss.

    A model's file has the values of each example of both parts, the CPU seconds of this process when its evaluation began
    and ended, and how many gradients of the loss were taken before. What passed between two files was the cost of
    making the second's model.
    """
    run = json.loads((folder / RUN).read_text())
    judged = TRAININGS[run["training"]].judged(folder.parent / run["trained"], run["small"])
    values = folder / VALUES
    values.mkdir(exist_ok=True)
    counted = Counter[str]()

    def evaluate(state_dict: dict[str, Tensor], device: torch.device) -> dict[str, Any]:
        began = time.process_time()
        judged.network.load_state_dict(state_dict)
        judged.network.to(device).eval()
        found = {}
        for part, batches in (("held_out", judged.held_out), ("test", judged.test)):
            losses, errors = _of(judged.network, batches, judged.losses, judged.errors)
            found |= {f"{part}_loss": losses} | ({f"{part}_error": errors} if errors is not None else {})
        number = len(list(values.iterdir()))
        np.savez_compressed(
            values / f"{number:05d}.npz",
            **{name: each.astype(np.float32) for name, each in found.items()},
            cpu=np.array([began, time.process_time()]),
            steps=np.array(counted["steps"]),
        )
        error = {"error": found["held_out_error"]} if "held_out_error" in found else {}
        return {**error, "loss": found["held_out_loss"], RECORD: float(number)}

    def normalization(device: torch.device) -> tuple[nn.Module, Sequence[Tensor]]:
        return judged.network.to(device), judged.statistics

    def training_loss(state_dict: dict[str, Tensor], device: torch.device, generator: torch.Generator) -> Tensor:
        inputs, wanted = judged.batch(generator)
        scores = torch.func.functional_call(judged.network.to(device).train(), state_dict, (inputs.to(device),))
        loss = judged.losses(scores, wanted.to(device)).mean()
        if loss.requires_grad:
            loss.register_hook(lambda _: counted.update(steps=1))  # a pass without a backward pass is no step
        return loss

    return evaluate, normalization, training_loss


@torch.no_grad()
def _of(
    network: nn.Module, batches: Sequence[Batch], losses: Callable[..., Tensor], errors: Callable[..., Tensor] | None
) -> tuple[np.ndarray, np.ndarray | None]:
    scored = [(network(x), y) for x, y in batches]
    wrong = torch.cat([errors(*each) for each in scored]).double().numpy() if errors else None
    return torch.cat([losses(*each) for each in scored]).double().numpy(), wrong
