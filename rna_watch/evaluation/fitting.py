"""Fitting a window's weights with the user's training loss; the window is read into memory once."""

from __future__ import annotations

import math
import time
from itertools import takewhile
from typing import TYPE_CHECKING, Any

import torch

from rna_watch.errors import EvaluationFailed
from rna_watch.evaluation import layered, trained
from rna_watch.evaluation.evaluator import Fit, FitRequest
from rna_watch.evaluation.materialize import compute_dtype, span, views
from rna_watch.evaluation.randomness import seeded
from rna_watch.layout.layout import Role

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from rna_watch.layout.layout import Extent

_OTHER_MODELS = 2  # besides the window's K: the one being fitted, and its gradient
_SEEDS = 2**16  # more than the batches of a fit: no two fits of successive steps share one
_NO_GAIN = "the fitted weights do not lower the training loss of fixed batches"
_ROUNDING = 1e-6  # of a tensor's mean variance: less below zero than that is rounding, and no reason to stop


def fit(request: FitRequest, training_loss: Callable[..., Any], device: torch.device) -> Fit:
    """Weights of a window that lower the user's training loss, by "trained" or "layered".

    Parameters move. Running means and variances are combined anew at each point, as clones that the user's code may
    update; in "layered" with the weights of the parameter with the longest common dotted prefix, the first of several: that of
    the same module, where it has one. Integers are the newest checkpoint's. A step of "trained" that would take a running
    variance below zero is shortened; those of "layered", and those that are below zero at the start, are clamped if the
    combination says so.

    The result is compared with the start on 8 batches, alternately; where its loss is not lower, the start is returned, and
    `notes` say so. The same request gives the same weights, if the user's code draws from the generator or from torch
    alone, and if the device's kernels are deterministic.

    Args:
        request: the window, the weights to start from, the method.
        training_loss: `training_loss(state_dict, device, generator)` returns the loss of one batch, a scalar that can be
            differentiated by the tensors of `state_dict`. These are float32 (float64 if stored so), under plain names.
            The batch is drawn with the generator, a `torch.Generator` on the CPU.
        device: the device of the models.

    Raises:
        EvaluationFailed: the loss is unusable, the window does not fit into memory, or its checkpoints do not differ.
        InputChanged: a checkpoint changed meanwhile.
    """
    begun = time.perf_counter()
    _check_memory(request)
    window = _Window(request, training_loss, device)
    with torch.enable_grad(), seeded(request.seed, device):
        rows, losses, note = _METHODS[request.method](window, request.steps)
        note = note or ("" if bool(rows.any()) and window.lower(rows) else _NO_GAIN)
    rows = torch.zeros_like(rows) if note else rows
    by_extent = window.weights(rows)
    return Fit(
        weights=_mean(window.parameters, by_extent),
        losses=losses,
        seconds=time.perf_counter() - begun,
        layer_weights=by_extent if request.method == LAYERED else {},
        notes=(f"{request.method}: {note}; the start is kept",) if note else (),
    )


class _Window:
    """A window in memory, and the user's loss of a numbered batch.

    `rows` are the coefficients c of the residuals of each parameter extent, `(G, N)` float64 on the CPU.
    """

    def __init__(self, request: FitRequest, training_loss: Callable[..., Any], device: torch.device) -> None:
        self._combination = request.combination
        self._newest = request.combination.layouts[-1]
        self._seed = request.seed
        self._training_loss = training_loss
        self._device = device
        storages, grams = span(request.combination)
        self._storages = [storage.to(device) for storage in storages]
        extents = self._newest.extents
        moving = [number for number, extent in enumerate(extents) if extent.role is Role.PARAMETER]
        self.parameters = [extents[number] for number in moving]
        self.base = [self._storages[number][0] for number in moving]
        self.differences = [self._storages[number][1:] for number in moving]
        self.grams = [torch.from_numpy(grams[number]) for number in moving]
        names = [extent.name for extent in self.parameters]
        # the row of each extent that is combined: its own, or of a buffer its module's
        self._row = {number: row for row, number in enumerate(moving)}
        self._row |= {n: _nearest(each.name, names) for n, each in enumerate(extents) if each.role in _BUFFERS}

    def loss(self, parameters: Sequence[torch.Tensor], rows: torch.Tensor, batch: int) -> object:
        """The user's loss; the number of the batch decides all that is drawn."""
        whole = []
        for number, (storage, extent) in enumerate(zip(self._storages, self._newest.extents, strict=True)):
            if extent.role is Role.PARAMETER:
                whole.append(parameters[self._row[number]])
            elif extent.role is Role.COPIED:
                whole.append(storage.clone())  # a training step counts its batches in here
            else:
                moved = torch.addmv(storage[0], storage[1:].T, rows[self._row[number]].to(storage))
                clamped = extent.role is Role.VARIANCE and self._combination.clamp
                whole.append(moved.clamp_(min=0.0) if clamped else moved)
        seed = (self._seed * _SEEDS + batch) % 2**63
        torch.manual_seed(seed)
        generator = torch.Generator().manual_seed(seed)
        return self._training_loss(views(self._newest, whole), self._device, generator)

    def reach(self, c: torch.Tensor, step: torch.Tensor) -> float:
        """Which part of a step of the coefficients leaves no running variance (further) below zero."""
        part = 1.0
        for storage, extent in zip(self._storages, self._newest.extents, strict=True):
            if extent.role is Role.VARIANCE:
                now = torch.addmv(storage[0], storage[1:].T, c.to(storage))
                fall = -(storage[1:].T @ step.to(storage))
                room = now - storage[0].clamp(max=0.0) + _ROUNDING * storage[0].abs().mean()
                limits = (room / fall)[fall > 0]
                part = min(part, float(limits.min())) if len(limits) else part
        return max(part, 0.0)

    def lower(self, rows: torch.Tensor) -> bool:
        """Whether the loss of fixed batches is lower than at the start; in turns, so that no drift of the loss decides."""
        points = (trained.moved(self.base, self.differences, list(rows)), self.base)
        places = (rows, torch.zeros_like(rows))
        sums: tuple[list[float], list[float]] = ([], [])
        for batch in range(trained.BATCHES):
            for each in (0, 1) if batch % 2 == 0 else (1, 0):
                theta = [tensor.clone() for tensor in points[each]]
                sums[each].append(trained.checked(self.loss(theta, places[each], batch)))
        values = [sum(found) for found in sums]
        return math.isfinite(values[0]) and values[0] < values[1]

    def weights(self, rows: torch.Tensor) -> dict[str, tuple[float, ...]]:
        """The weights of the K inputs, by the extents that are combined."""
        start = self._combination.weights
        made = [trained.weights(start, c) for c in rows]
        return {self._newest.extents[number].name: made[row] for number, row in sorted(self._row.items())}


def _trained(window: _Window, rounds: int | None) -> tuple[torch.Tensor, tuple[float, ...], str]:
    count = len(window.parameters)
    found = trained.fit(
        window.base,
        window.differences,
        lambda theta, c, batch: window.loss(theta, c.expand(count, -1), batch),
        rounds=trained.ROUNDS if rounds is None else rounds,
        grams=window.grams,
        reach=window.reach,
    )
    return found.coefficients.repeat(count, 1), found.losses, ""


def _layered(window: _Window, steps: int | None) -> tuple[torch.Tensor, tuple[float, ...], str]:
    found = layered.fit(
        window.base,
        window.differences,
        lambda theta, c, step: window.loss(theta, c, trained.BATCHES + step),  # the first are those that judge
        steps=layered.STEPS if steps is None else steps,
        grams=window.grams,
    )
    note = f"the training loss or its gradient is not finite at step {len(found.losses)}" if found.stopped else ""
    return found.coefficients, found.losses, note


LAYERED = "layered"
_METHODS = {"trained": _trained, LAYERED: _layered}
_BUFFERS = (Role.STATISTIC, Role.VARIANCE)


def _nearest(name: str, parameters: Sequence[str]) -> int:
    """The number of the first parameter with the longest common dotted prefix."""
    parts = name.split(".")

    def common(other: str) -> int:
        return len(list(takewhile(lambda pair: pair[0] == pair[1], zip(parts, other.split("."), strict=False))))

    return max(range(len(parameters)), key=lambda number: common(parameters[number]))


def _mean(parameters: Sequence[Extent], rows: Mapping[str, tuple[float, ...]]) -> tuple[float, ...]:
    """The mean of rows of weights over the elements of the parameters, of sum 1."""
    own = [rows[extent.name] for extent in parameters]
    if len(set(own)) == 1:
        return own[0]
    total = sum(extent.count for extent in parameters)
    columns = zip(*own, strict=True)
    mean = [
        math.fsum(extent.count * weight for extent, weight in zip(parameters, column, strict=True)) / total
        for column in columns
    ]
    mean[-1] += 1.0 - math.fsum(mean)
    return tuple(mean)


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
    copied = sum(
        layouts[-1].extents[view.extent].count * compute_dtype(layouts[-1].extents[view.extent]).itemsize
        for view in layouts[-1].tensors
        if view.blocks  # put together anew for each pass, and their gradients
    )
    needed = (len(layouts) + _OTHER_MODELS) * size + 2 * copied
    if needed > request.memory_limit_bytes:
        raise EvaluationFailed(
            f"fitting the weights of {len(layouts)} checkpoints takes {needed / 2**20:,.0f} MiB (each of them, the "
            f"model and its gradient: {len(layouts) + _OTHER_MODELS} times {size / 2**20:,.0f} MiB in float32), more than the "
            f"{request.memory_limit_bytes / 2**20:,.0f} MiB allowed; take a smaller window or allow more memory (fit_memory)"
        )
