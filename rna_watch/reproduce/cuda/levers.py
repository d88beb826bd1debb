"""What leaves the span of one vector of coefficients, on device tensors: `layered` weights, and `anneal`, a short cooldown.

Letters: K iterates, N = K - 1 differences r_i of neighbours, G groups (a parameter tensor each), q_j an orthonormal basis of
a group's differences. The mathematics of `layered` is that of `evaluation/layered.py`.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor, nn

    from rna_watch.reproduce.cuda.ring import Ring
    from rna_watch.reproduce.images.data import Data
    from rna_watch.reproduce.images.spec import RunSpec

STEPS = 60
# batches of these epochs are drawn for levers; no training has so many
_EPOCHS = 1_000_000
_STEP, _EPSILON = 0.05, 1e-12  # of the root mean square of ||r_i|| of the group; Adam's own, far below any gradient
_RANK = 1e-6  # directions whose squared length is less of the longest's are rounding


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """A model as a vector `(d,)`, the loss at each step before it is taken, and the weights `(G, K)` if it is a combination."""

    flat: Tensor
    losses: tuple[float, ...]
    weights: Tensor | None = None


def batches(images: Data, run: RunSpec, epoch: int, steps: int) -> Iterator[tuple[Tensor, Tensor]]:
    """So many batches of the run's training images, the same for every lever of an epoch."""
    per_epoch = (images.train(_EPOCHS + 1000 * epoch + i, run.seed, run.batch) for i in itertools.count())
    return itertools.islice(itertools.chain.from_iterable(per_epoch), steps)


def layered(
    ring: Ring,
    start: Sequence[float],
    network: nn.Module,
    data: Iterator[tuple[Tensor, Tensor]],
    *,
    count: int,
    steps: int = STEPS,
    bf16: bool,
) -> Fitted:
    """Weights for each parameter tensor, fitted with Adam in the span of its iterates, batch statistics in train mode.

    Buffers are those of the start: their statistics must be re-estimated.

    Args:
        ring: of the iterates.
        start: weights of the newest iterates, oldest first, sum 1, at most `count` of them.
        network: one to compute with; it is overwritten.
        data: at least `steps` batches.
        count: K.
        steps: of Adam; the result is the mean of the last half.
        bf16: whether autocast is used.

    Source: Li et al. 2022 (arXiv 2205.13104), its layer-wise form.
    """
    base = ring.combined([start])[0]
    iterates = ring.newest(count)
    differences = iterates[1:] - iterates[:-1]
    parts = [ring.slices[name] for name in ring.parameters]
    to_coefficients = torch.stack(
        [_basis(differences[:, part]) for part in parts]
    )  # in steps of the group's rms length
    a = torch.zeros(to_coefficients.shape[:2], dtype=torch.float64)
    adam = torch.optim.Adam([a], lr=_STEP, eps=_EPSILON)
    total, losses = torch.zeros_like(a), []
    for step, (x, y) in zip(range(steps), data, strict=False):
        ring.write(_moved(base, differences, parts, to_coefficients, a), network)
        loss = _backward(network, x, y, bf16=bf16)
        named = dict(network.named_parameters())
        slopes = []
        for name, part in zip(ring.parameters, parts, strict=True):
            gradient = named[name].grad
            assert gradient is not None
            slopes.append(differences[:, part] @ gradient.reshape(-1))
        slope = torch.stack(slopes).cpu().double()
        losses.append(float(loss))
        if not (torch.isfinite(loss) and slope.isfinite().all()):
            total.zero_()
            break
        a.grad = torch.einsum("gnr,gn->gr", to_coefficients, slope)
        adam.step()
        if step >= steps // 2:
            total += a / (steps - steps // 2)
    c = torch.einsum("gnr,gr->gn", to_coefficients, total)
    padded = torch.nn.functional.pad(c, (1, 1))
    weights = torch.tensor([0.0] * (count - len(start)) + list(start), dtype=torch.float64)
    return Fitted(
        flat=_moved(base, differences, parts, to_coefficients, total),
        losses=tuple(losses),
        weights=weights + padded[:, :-1] - padded[:, 1:],
    )


def anneal(
    start: Tensor,
    rate: float,
    ring: Ring,
    network: nn.Module,
    data: Iterator[tuple[Tensor, Tensor]],
    *,
    run: RunSpec,
    steps: int = STEPS,
) -> Fitted:
    """Train on from a vector `(d,)` while the learning rate falls linearly to 0; the momentum starts fresh.

    Args:
        start: the point to begin from.
        rate: the first learning rate.
        ring: which knows the vector's parts.
        network: one to compute with; it is overwritten.
        data: at least `steps` batches.
        run: whose optimizer this is.
        steps: of SGD.
    """
    ring.write(start, network)
    optimizer = torch.optim.SGD(network.parameters(), lr=rate, momentum=run.momentum, weight_decay=run.weight_decay)
    losses = []
    for step, (x, y) in zip(range(steps), data, strict=False):
        for group in optimizer.param_groups:
            group["lr"] = rate * (1.0 - step / steps)
        losses.append(_backward(network, x, y, bf16=run.bf16))
        optimizer.step()
    return Fitted(flat=ring.flat(network), losses=tuple(float(loss) for loss in losses))


def _backward(network: nn.Module, x: Tensor, y: Tensor, *, bf16: bool) -> Tensor:
    """The loss of a batch in train mode; its gradients are in the network."""
    network.train()
    network.zero_grad(set_to_none=True)
    with torch.autocast(x.device.type, torch.bfloat16, enabled=bf16):
        loss = functional.cross_entropy(network(x), y)
    torch.autograd.backward(loss)
    return loss.detach()


def _moved(base: Tensor, differences: Tensor, parts: Sequence[slice], to_coefficients: Tensor, a: Tensor) -> Tensor:
    """theta_g0 + sum_i c_gi r_gi in every group g, with c_g of the coordinates a_g; `(d,)`."""
    c = torch.einsum("gnr,gr->gn", to_coefficients, a).to(base)
    moved = base.clone()
    for row, part in zip(c, parts, strict=True):
        moved[part].addmv_(differences[:, part].T, row)
    return moved


def _basis(differences: Tensor) -> Tensor:
    """[q_1 .. q_R] as coefficients of the differences `(N, N)`, times their rms length; columns after R are zero."""
    wide = differences.double()
    gram_nn = (wide @ wide.T).cpu()
    made = torch.zeros_like(gram_nn)
    if bool((gram_nn.diagonal() > 0).any()) and bool(gram_nn.isfinite().all()):
        values, vectors = torch.linalg.eigh(gram_nn)
        kept = values > _RANK * values[-1]
        found = vectors[:, kept] / values[kept].sqrt()
        made[:, : found.shape[1]] = found * gram_nn.diagonal().mean().sqrt()
    return made
