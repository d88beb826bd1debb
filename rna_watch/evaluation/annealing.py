"""Annealing: a short branch of the training from a checkpoint or an average, with a learning rate that falls to zero.

This is training, not a combination. The rate begins at the run's own, or at a part of it, and falls linearly; Adam's state is
the checkpoint's (a fresh one loses two thirds of the gain), the momentum of SGD begins anew. Sources: Hägele et al. 2024,
"Scaling Laws and Compute-Optimal Training Beyond Fixed Training Durations" (cooldown branches); facts: levers, section 4.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from rna_watch.errors import EvaluationFailed
from rna_watch.evaluation.evaluator import Annealed, AnnealRequest
from rna_watch.evaluation.materialize import compute_dtype, storages_of, views
from rna_watch.evaluation.normalization import PASSES, TrainingPasses
from rna_watch.evaluation.randomness import seeded
from rna_watch.formats.resumed_optimizer import ADAM, ADAMW
from rna_watch.layout.dtypes import DTYPES, narrow
from rna_watch.layout.layout import Buffer, Role
from rna_watch.layout.open_file import opened
from rna_watch.publishing import made

if TYPE_CHECKING:
    from collections.abc import Callable

    from rna_watch.evaluation.normalization import Normalization
    from rna_watch.formats.resumed_optimizer import Held, Resumed
    from rna_watch.layout.layout import Chunk, Layout

_PROJECTED = 5  # steps after which it is known how long all of them take
_OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "SGD": torch.optim.SGD,
    ADAM: torch.optim.Adam,
    ADAMW: torch.optim.AdamW,
}
_MODELS = {"SGD": 3, ADAM: 4, ADAMW: 4}  # the model, its gradient, and the optimizer's state
_STATISTICS = (Role.STATISTIC, Role.VARIANCE)
_FUNCTION = "training_loss(state_dict, device, generator)"


def anneal(
    request: AnnealRequest,
    training_loss: Callable[..., Any],
    device: torch.device,
    normalization: Normalization | TrainingPasses,
) -> Annealed:
    """Train on from a model, with a learning rate that falls to zero, and write what comes of it to the request's path.

    What the optimizer holds moves. Running statistics are what the forward passes make of them, and are re-estimated at the end.
    Integers are the newest checkpoint's. The same request gives the same model, if the user's code draws from the generator
    or from torch alone, and if the device's kernels are deterministic.

    Args:
        request: where to begin, with which optimizer, and how long.
        training_loss: as `fitting.fit` takes it.
        device: the device of the model.
        normalization: re-estimates the statistics.

    Raises:
        EvaluationFailed: the loss or the model is unusable, does not fit into memory, or would take too long.
        InputChanged: a checkpoint changed meanwhile.
        OSError: the file cannot be written.
    """
    begun = time.perf_counter()
    newest, resumed = request.combination.layouts[-1], request.optimizer
    _check_memory(request)
    storages = [
        storage.to(device, compute_dtype(extent)) if extent.role is not Role.COPIED else storage.to(device)
        for storage, extent in zip(storages_of(request.combination), newest.extents, strict=True)
    ]
    for held in resumed.held:
        storages[held.extent].requires_grad_()
    optimizer = _optimizer(resumed, newest, storages, request.rate)
    generator = torch.Generator().manual_seed(request.seed)
    clock = _Clock(request.seconds, request.steps + PASSES)

    def loss() -> torch.Tensor:
        value = training_loss(views(newest, storages), device, generator)
        clock.tick()
        return _checked(value)

    with torch.enable_grad(), seeded(request.seed, device):
        losses = _descend(optimizer, loss, request.steps)
    passes, notes = _re_estimate(storages, newest, normalization)
    _write(request.path, newest, storages)
    return Annealed(losses=tuple(losses), passes=passes, seconds=time.perf_counter() - begun, notes=notes)


def _descend(optimizer: torch.optim.Optimizer, loss: Callable[[], torch.Tensor], steps: int) -> list[float]:
    """The training loss at each step, before it is taken; the rate falls linearly to zero."""
    rates = [group["lr"] for group in optimizer.param_groups]
    losses = []
    for step in range(steps):
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * (1.0 - step / steps)
        optimizer.zero_grad()
        value = loss()
        if not value.requires_grad:
            raise EvaluationFailed(_no_gradient())
        value.backward()  # type: ignore[no-untyped-call]
        if step == 0 and all(p.grad is None for group in optimizer.param_groups for p in group["params"]):
            raise EvaluationFailed(_no_gradient())
        optimizer.step()
        losses.append(float(value.detach()))
    return losses


def _optimizer(resumed: Resumed, newest: Layout, storages: list[torch.Tensor], rate: float) -> torch.optim.Optimizer:
    """The run's optimizer over the extents that it holds, at a part of its learning rate."""
    groups: list[dict[str, Any]] = []
    for number, arguments in enumerate(resumed.groups):
        own = [storages[held.extent] for held in resumed.held if held.group == number]
        if own:
            groups.append({**arguments, "lr": float(arguments["lr"]) * rate, "params": own})  # type: ignore[arg-type]
    optimizer = _OPTIMIZERS[resumed.kind](groups, lr=groups[0]["lr"])
    with opened(newest.files) as files:
        for held in resumed.held:
            if not held.moments:
                continue
            number = newest.extents[held.extent].chunks[0].file
            optimizer.state[storages[held.extent]] = {
                name: value if name == "step" else _laid_out(value, held, newest, storages[held.extent])
                for name, value in ((n, _read(v, files[number])) for n, v in held.moments.items())
            }
    return optimizer


def _read(value: Buffer | float, file: Any) -> torch.Tensor:
    """A tensor of the optimizer's state, in float32 or wider."""
    if not isinstance(value, Buffer):
        return torch.tensor(float(value))
    span = sum((size - 1) * step for size, step in zip(value.shape, value.stride, strict=True)) + 1
    raw = bytearray(span * DTYPES[value.dtype].itemsize)
    file.read_into(memoryview(raw), value.offset_bytes)
    flat = torch.frombuffer(raw, dtype=getattr(torch, value.dtype))
    return torch.as_strided(flat, value.shape, value.stride).to(torch.promote_types(flat.dtype, torch.float32))


def _laid_out(value: torch.Tensor, held: Held, newest: Layout, storage: torch.Tensor) -> torch.Tensor:
    """A tensor whose elements lie in memory as those of its parameter's storage do."""
    view = newest.tensors[held.view]
    flat = torch.zeros_like(storage, requires_grad=False)
    torch.as_strided(flat, view.shape, view.stride, view.start).copy_(value)
    return flat


def _re_estimate(
    storages: list[torch.Tensor], newest: Layout, by: Normalization | TrainingPasses
) -> tuple[int, tuple[str, ...]]:
    """Re-estimate running statistics, if there are any; the batches that this drew, and what is to be said."""
    if not any(extent.role in _STATISTICS for extent in newest.extents):
        return 0, ()
    try:
        with torch.no_grad():
            by.re_estimate(views(newest, [storage.detach() for storage in storages]), newest)
    except EvaluationFailed as error:
        return 0, (f"the statistics were not re-estimated: {error}",)
    return PASSES if isinstance(by, TrainingPasses) else 0, ()


class _Clock:
    """Ends what takes longer than it may: as soon as that can be told, not when the time is over."""

    def __init__(self, limit_s: float, count: int) -> None:
        self._limit_s, self._count = limit_s, count
        self._begun, self._done, self._warm = time.perf_counter(), 0, 0.0

    def tick(self) -> None:
        """Another pass is done.

        Raises:
            EvaluationFailed: all of them would take longer than they may.
        """
        self._done += 1
        elapsed = time.perf_counter() - self._begun
        if self._done == 1:
            self._warm = elapsed  # the first loads and compiles
        left = self._count - self._done
        known = self._done > _PROJECTED
        expected = elapsed + left * (elapsed - self._warm) / (self._done - 1) if known else elapsed
        if expected > self._limit_s:
            raise EvaluationFailed(
                f"{self._count} passes take about {expected:.3g} s here, more than the {self._limit_s:.3g} s that are left of "
                "anneal_seconds"
            )


def _write(path: str, newest: Layout, storages: list[torch.Tensor]) -> None:
    def part(number: int, chunk: Chunk) -> memoryview:
        values = storages[number].detach()[chunk.start : chunk.start + chunk.count].cpu().double().numpy()
        bits = np.empty(values.shape, dtype=DTYPES[newest.extents[number].dtype].bits)
        narrow(values, newest.extents[number].dtype, bits)
        return bits.data.cast("B")

    if not all(bool(each.detach().isfinite().all()) for each in storages if each.requires_grad):
        raise EvaluationFailed("the steps diverge: the model holds numbers that are not finite")
    made.write(path, newest, part)


def _check_memory(request: AnnealRequest) -> None:
    """Compare the memory that the steps take with the limit.

    Raises:
        EvaluationFailed: they take more.
    """
    extents = request.combination.layouts[-1].extents
    size = sum(e.storage_count * compute_dtype(e).itemsize for e in extents if e.role is not Role.COPIED)
    needed = _MODELS[request.optimizer.kind] * size
    if needed > request.memory_limit_bytes:
        raise EvaluationFailed(
            f"the model, its gradient and the optimizer's state take {needed / 2**20:,.0f} MiB, more than the "
            f"{request.memory_limit_bytes / 2**20:,.0f} MiB allowed; allow more memory"
        )


def _checked(value: object) -> torch.Tensor:
    if not isinstance(value, torch.Tensor) or value.numel() != 1:
        what = f"one of shape {tuple(value.shape)}" if isinstance(value, torch.Tensor) else repr(value)[:100]
        raise EvaluationFailed(f"{_FUNCTION} must return a scalar tensor, not {what}")
    number = float(value.detach())
    if not math.isfinite(number):
        raise EvaluationFailed(f"{_FUNCTION} returned {number}: the steps diverge, or the loss is unusable")
    return value.sum()


def _no_gradient() -> str:
    return (
        f"the loss that {_FUNCTION} returned has no gradient by the tensors of state_dict; compute it with "
        "torch.func.functional_call(model, state_dict, inputs), as load_state_dict copies them"
    )
