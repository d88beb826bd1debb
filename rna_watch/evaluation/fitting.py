"""Fitting a window's weights with the user's training loss; the window is read into memory once."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import torch

from rna_watch.errors import EvaluationFailed
from rna_watch.evaluation import trained
from rna_watch.evaluation.evaluator import Fit, FitRequest
from rna_watch.evaluation.materialize import compute_dtype, span, views
from rna_watch.evaluation.randomness import seeded
from rna_watch.layout.layout import Role

if TYPE_CHECKING:
    from collections.abc import Callable

_OTHER_MODELS = 2  # besides the window's K: the one being trained, and its gradient


def fit(request: FitRequest, training_loss: Callable[..., Any], device: torch.device) -> Fit:
    """Weights of a window that lower the user's training loss.

    Parameters move. Running means and variances are combined with the weights of each step; variances are kept from going
    below zero if the combination says so. Integers are the newest checkpoint's. The same request gives the same weights,
    if the user's code draws from the generator or from torch alone, and if the device's kernels are deterministic.

    Args:
        request: the window, the weights to start from, the number of steps.
        training_loss: `training_loss(state_dict, device, generator)` returns the loss of one batch, a scalar that can be
            differentiated by the tensors of `state_dict`. These are float32 (float64 if stored so), under plain names.
            The batch is drawn with the generator, a `torch.Generator` on the CPU.
        device: the device of the models.

    Raises:
        EvaluationFailed: the loss is unusable, the window does not fit into memory, or its checkpoints do not differ.
        InputChanged: a checkpoint changed meanwhile.
    """
    begun = time.perf_counter()
    combination = request.combination
    newest = combination.layouts[-1]
    _check_memory(request)
    storages = [storage.to(device) for storage in span(combination)]
    roles = [extent.role for extent in newest.extents]
    moving = [number for number, role in enumerate(roles) if role is Role.PARAMETER]
    generator = torch.Generator().manual_seed(request.seed)

    def loss(parameters: list[torch.Tensor], c: torch.Tensor) -> object:
        own = dict(zip(moving, parameters, strict=True))
        whole = []
        for number, (storage, role) in enumerate(zip(storages, roles, strict=True)):
            if number in own:
                whole.append(own[number])
            elif role is Role.COPIED:
                whole.append(storage.clone())  # a training step counts its batches in here
            else:
                moved = torch.addmv(storage[0], storage[1:].T, c.to(storage))
                whole.append(moved.clamp_(min=0.0) if role is Role.VARIANCE and combination.clamp else moved)
        return training_loss(views(newest, whole), device, generator)

    with torch.enable_grad(), seeded(request.seed, device):
        found = trained.fit(
            [storages[number][0] for number in moving],
            [storages[number][1:] for number in moving],
            loss,
            steps=request.steps,
        )
    return Fit(
        weights=trained.weights(combination.weights, found.coefficients),
        losses=found.losses,
        seconds=time.perf_counter() - begun,
    )


def _check_memory(request: FitRequest) -> None:
    """Compare the memory that the window takes with the limit.

    Raises:
        EvaluationFailed: it takes more.
    """
    layouts = request.combination.layouts
    size = sum(
        extent.storage_count * compute_dtype(extent).itemsize
        for extent in layouts[-1].extents
        if extent.role is not Role.COPIED
    )
    needed = (len(layouts) + _OTHER_MODELS) * size
    if needed > request.memory_limit_bytes:
        raise EvaluationFailed(
            f"training the weights of {len(layouts)} checkpoints takes {needed / 2**20:,.0f} MiB (each of them, the "
            f"model and its gradient: {len(layouts) + _OTHER_MODELS} times {size / 2**20:,.0f} MiB in float32), more than the "
            f"{request.memory_limit_bytes / 2**20:,.0f} MiB allowed; take a smaller window or allow more memory"
        )
