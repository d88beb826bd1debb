"""Judging on the device: the error and the loss of each held-out and each test image, and statistics measured anew."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt
    from torch import Tensor

    from rna_watch.reproduce.images.data import Data

    Array = npt.NDArray[Any]

PARTS = ("held_out", "test")


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """By part, `held_out` and `test`.

    `error` and `loss` are means, of the error in percent; `wrong` `(n,)` and `losses` `(n,)`, float16, are those of each image.
    """

    error: dict[str, float]
    loss: dict[str, float]
    wrong: dict[str, Array]
    losses: dict[str, Array]


@torch.no_grad()
def verdict(network: nn.Module, images: Data, *, bf16: bool) -> Verdict:
    """Judge a network in eval mode; its mode is restored.

    Args:
        network: on the device of the images.
        images: the data.
        bf16: whether autocast is used.
    """
    training = network.training
    network.eval()
    error, loss, wrong, losses = {}, {}, {}, {}
    for part in PARTS:
        found, values = [], []
        for x, y in getattr(images, part)():
            with torch.autocast(x.device.type, torch.bfloat16, enabled=bf16):
                logits = network(x)
            found.append(logits.argmax(1) != y)
            values.append(functional.cross_entropy(logits.float(), y, reduction="none"))
        whole = torch.cat(values)
        wrong[part] = torch.cat(found).cpu().numpy()
        losses[part] = whole.clamp(max=float(np.finfo(np.float16).max)).half().cpu().numpy()
        error[part] = 100.0 * float(wrong[part].mean())
        loss[part] = float(whole.double().mean())
    network.train(training)
    return Verdict(error=error, loss=loss, wrong=wrong, losses=losses)


@torch.no_grad()
def re_estimate(network: nn.Module, batches: Sequence[Tensor], *, bf16: bool) -> None:
    """Set running means and variances to the mean of those of some batches, by forward passes in train mode.

    Args:
        network: its mode is restored.
        batches: images on its device.
        bf16: whether autocast is used.
    """
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    before, training = [norm.momentum for norm in norms], network.training
    network.train()
    for number, x in enumerate(batches, start=1):
        for norm in norms:
            norm.momentum = 1.0 / number  # the mean so far, and nothing of what was there
        with torch.autocast(x.device.type, torch.bfloat16, enabled=bf16):
            network(x)
    for norm, momentum in zip(norms, before, strict=True):
        norm.momentum = momentum
    network.train(training)
