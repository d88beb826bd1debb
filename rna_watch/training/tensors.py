"""A network as named tensors, and the two things done with several of them: inner products and weighted sums.

Everything stays on the tensors' own device and is computed block by block in float64, so that no network is copied.
Letters: N vectors, n elements of a block. A vector is a dict of tensors by name; a tensor that a vector lacks is zero.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch.optim.swa_utils import AveragedModel

from rna_watch.acceleration.qr_factor import block_factor, stacked_factor

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from torch import Tensor, nn

Float64 = npt.NDArray[np.float64]
Vector = dict[str, torch.Tensor]

LINEAR = frozenset({torch.float64, torch.float32, torch.float16, torch.bfloat16})
_WRAPPERS = (torch.nn.DataParallel, torch.nn.parallel.DistributedDataParallel, AveragedModel)
# elements of a block: N blocks fit in a processor's cache; on an accelerator a block hides the cost of a launch
_BLOCK_CPU, _BLOCK_DEVICE = 2**16, 2**20
# normalization statistics are known by name, as in checkpoints
_VARIANCE = re.compile(r"(^|\.)running_var$")


def unwrapped(network: nn.Module) -> nn.Module:
    """The bare network inside data parallelism, averaging and compilation."""
    while True:
        if isinstance(network, _WRAPPERS):
            network = network.module
        elif isinstance(inner := getattr(network, "_orig_mod", None), torch.nn.Module):
            network = inner
        else:
            return network


def trained(network: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters of the bare network by their names in its state dict; a tied one has its first name only.

    Raises:
        ValueError: a parameter is sharded over processes.
    """
    found = dict(unwrapped(network).named_parameters())
    for name, parameter in found.items():
        if hasattr(parameter, "full_tensor"):
            raise ValueError(f"{name} is sharded over processes: save whole checkpoints and let the daemon watch them")
    return found


def everything(network: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers of the bare network under all their names; a compiled submodule's names are ordinary ones."""
    bare = unwrapped(network)
    named: dict[str, Tensor] = dict(bare.named_parameters(remove_duplicate=False))
    named.update(bare.named_buffers(remove_duplicate=False))
    return {name.replace("_orig_mod.", ""): tensor for name, tensor in named.items()}


def once(named: Mapping[str, Tensor]) -> Vector:
    """The same tensors, a shared one under its first name only."""
    first: dict[int, str] = {}
    for name, tensor in named.items():
        first.setdefault(id(tensor), name)
    return {name: tensor.detach() for name, tensor in named.items() if first[id(tensor)] == name}


def matched(source: nn.Module, target: nn.Module) -> list[tuple[str, Tensor]]:
    """Every tensor of `target`, with the first name of the tensor of `source` that belongs into it.

    Raises:
        ValueError: the networks do not have the same tensors.
    """
    own, other = everything(source), everything(target)
    if own.keys() != other.keys():
        name = min(own.keys() ^ other.keys())
        raise ValueError(
            f"the networks differ: only one of them has {name}; make the other with copy.deepcopy(network)"
        )
    first: dict[int, str] = {}
    pairs: dict[int, tuple[str, Tensor]] = {}
    for name, tensor in own.items():
        canonical, place = first.setdefault(id(tensor), name), other[name]
        if place.shape != tensor.shape:
            raise ValueError(
                f"the networks differ: {name} is {tuple(tensor.shape)} in one, {tuple(place.shape)} in the other"
            )
        if pairs.setdefault(id(place), (canonical, place))[0] != canonical:
            raise ValueError(f"the networks differ: {name} shares its values with another tensor in one of them only")
    return [(name, place.detach()) for name, place in pairs.values()]


def check_loaded(vector: Mapping[str, Tensor], named: Mapping[str, Tensor]) -> None:
    """Check that a saved vector belongs to a network.

    Args:
        vector: tensors of a state, by name.
        named: the network's tensors, by name.

    Raises:
        ValueError: the vector has a tensor that the network does not have, or one of another shape.
    """
    for name, tensor in vector.items():
        if name not in named:
            raise ValueError(f"the state is another network's: it has {name}, which this one has not")
        if tensor.shape != named[name].shape:
            raise ValueError(
                f"the state is another network's: its {name} is {tuple(tensor.shape)}, this one's {tuple(named[name].shape)}"
            )


def widened(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which gradients of parameters of this dtype are summed: float32, or the dtype itself if it is wider."""
    return torch.promote_types(dtype, torch.float32)


def laid_out(tensor: Tensor, like: Tensor) -> Tensor:
    """The tensor with its elements in the order of another's."""
    if tensor.stride() == like.stride() and tensor.device == like.device:
        return tensor
    return torch.empty_like(like, dtype=tensor.dtype).copy_(tensor)


def inner_products(vectors: Sequence[Vector], newest: Vector) -> Float64:
    """The products of every vector with the newest, accumulated in float64: g_i = sum_k r_ik r_Nk.

    Args:
        vectors: N vectors, the newest last.
        newest: the last of them.

    Returns:
        (N,) float64.
    """
    totals: dict[torch.device, Tensor] = {}
    for name in newest:
        rows, blocks = _rows(vectors, name)
        for block_nn in blocks:
            total = totals.setdefault(
                block_nn.device, torch.zeros(len(vectors), dtype=torch.float64, device=block_nn.device)
            )
            total[rows] += block_nn @ block_nn[-1]
    products = np.zeros(len(vectors))
    for total in totals.values():
        products += total.cpu().numpy()
    return products


def triangular_factor(vectors: Sequence[Vector]) -> Float64:
    """T with T'T = R'R, (N, N), by QR of the blocks, for float64 vectors whose products would lose small eigenvalues."""

    def parts() -> Iterator[Float64]:
        for name in dict.fromkeys(name for vector in vectors for name in vector):
            rows, blocks = _rows(vectors, name)
            for block in blocks:
                whole_nn = np.zeros((len(vectors), block.shape[1]))
                whole_nn[rows] = block.cpu().numpy()
                yield block_factor(whole_nn)

    return stacked_factor(parts())


def _rows(vectors: Sequence[Vector], name: str) -> tuple[list[int], Iterator[Tensor]]:
    """The numbers of the M vectors that have a tensor, and their parts of it, block by block, (M, n) float64."""
    rows = [i for i, vector in enumerate(vectors) if name in vector]
    flats = [_flat(vectors[i][name]) for i in rows]
    return rows, (torch.stack([_wide(flat[part]) for flat in flats]) for part in _parts(flats[0]))


def write_sum(tensors: Sequence[Tensor], weights: Sequence[float], name: str, places: Sequence[Tensor]) -> None:
    """Write sum_i w_i y_i, rounded once, computed as y_N + sum_i w_i (y_i - y_N): what does not move keeps its bits.

    Integers are the newest iterate's, and so are tensors that are the same object in all. Running variances are clamped at
    zero.

    Args:
        tensors: y_1..y_N, of one shape, dtype and layout.
        weights: w_1..w_N, sum 1.
        name: the tensor's name, which shows whether it is a running variance.
        places: the tensors to write to; of any dtype, layout and device.
    """
    newest = tensors[-1]
    others = [(y, w) for y, w in zip(tensors[:-1], weights[:-1], strict=True) if w != 0.0 and y is not newest]
    result = newest
    if others and newest.dtype in LINEAR:
        fits = [p for p in places if (p.stride(), p.dtype, p.device) == (newest.stride(), newest.dtype, newest.device)]
        result = fits[0] if fits else torch.empty_like(newest)
        out, last = _flat(result), _flat(newest)
        flats = [(_flat(y), w) for y, w in others]
        for part in _parts(last):
            base = _wide(last[part])
            move = torch.zeros_like(base)
            for flat, w in flats:
                move.add_(_wide(flat[part]).sub_(base), alpha=w)
            total = torch.where(move == 0.0, base, base + move)  # 0.0 + -0.0 would be 0.0
            out[part] = total.clamp_(min=0.0) if _VARIANCE.search(name) else total
    for place in places:
        if place is not result:
            place.copy_(result)


def _flat(tensor: Tensor) -> Tensor:
    """The elements of a dense tensor as they lie in memory."""
    return tensor.as_strided((tensor.numel(),), (1,))


def _parts(flat: Tensor) -> Iterator[slice]:
    size = _BLOCK_CPU if flat.device.type == "cpu" else _BLOCK_DEVICE
    return (slice(start, start + size) for start in range(0, flat.numel(), size))


def _wide(part: Tensor) -> Tensor:
    """A float64 copy; on the processor where the device has no float64."""
    return (part.cpu() if part.device.type == "mps" else part).to(torch.float64, copy=True)
