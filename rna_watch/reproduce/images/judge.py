"""The error of a network on each held-out and each test image, and the daemon's evaluator of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from rna_watch.reproduce.images import architectures, data
from rna_watch.reproduce.images.spec import read

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from torch import Tensor, nn

HELD_OUT, TEST = "held_out_error", "test_error"
# the evaluator of a run, written into its folder: `rna-watch start RUN/epochs --evaluator RUN/evaluator.py:evaluate`
EVALUATOR = '''"""Error in percent on held-out and on test images; written by `rna-watch reproduce`."""

from pathlib import Path

from rna_watch.reproduce.images.judge import evaluator_of

evaluate = evaluator_of(Path(__file__).parent)
'''


@torch.no_grad()
def errors(network: nn.Module, batches: Iterator[tuple[Tensor, Tensor]], *, bf16: bool) -> Tensor:
    """Error in percent (0 or 100) of each image in eval mode, (n,) float64 on the processor.

    Args:
        network: its mode is restored.
        batches: images and labels on its device.
        bf16: whether autocast is used.
    """
    training = network.training
    network.eval()
    wrong = []
    for x, y in batches:
        with torch.autocast(x.device.type, torch.bfloat16, enabled=bf16):
            wrong.append(network(x).argmax(1) != y)
    network.train(training)
    return 100.0 * torch.cat(wrong).cpu().double()


def verdict(network: nn.Module, images: data.Data, *, bf16: bool) -> dict[str, float]:
    """Mean error in percent on held-out and on test images.

    Args:
        network: its mode is restored.
        images: the data, on its device.
        bf16: whether autocast is used.
    """
    return {
        HELD_OUT: errors(network, images.held_out(), bf16=bf16).mean().item(),
        TEST: errors(network, images.test(), bf16=bf16).mean().item(),
    }


def evaluator_of(folder: Path) -> Callable[[dict[str, Tensor], torch.device], dict[str, Any]]:
    """The evaluator of the run in a folder: per-example errors to choose by (held out) and to report (test)."""
    spec = read(folder)
    held: dict[str, Any] = {}

    def evaluate(state_dict: dict[str, Tensor], device: torch.device) -> dict[str, Any]:
        if not held:
            held["images"] = data.load(spec, device)
            held["network"] = architectures.build(spec.network, held["images"].channels, held["images"].classes).to(
                device
            )
        network, images = held["network"], held["images"]
        network.load_state_dict(state_dict)
        return {
            HELD_OUT: errors(network, images.held_out(), bf16=spec.bf16),
            TEST: errors(network, images.test(), bf16=spec.bf16),
        }

    return evaluate
