"""The gradient recorder: it saves the mean gradient of each interval next to its checkpoint, for the daemon.

The file is CHECKPOINT.gradient, in the safetensors format (8 bytes with the header's length, a JSON header with dtype, shape
and byte range of each tensor, then their bytes): https://huggingface.co/docs/safetensors, "Format". Its metadata hold the
number of `steps`, and as JSON `order` and `weights`. `order` has the axes of tensors that are written in another order of
axes than the parameter's (elements lie as in the checkpoint). `weights` are some elements of the parameters, by which the
file is recognized as its checkpoint's.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from rna_watch.training.mean import GradientMean
from rna_watch.training.tensors import Vector, trained, widened

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn, optim

SUFFIX = ".gradient"
_DTYPES = {torch.float64: "F64", torch.float32: "F32"}
# the most tensors whose first, middle and last element are stated
_STATED = 32
_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class GradientRecorder:
    """The mean over the steps between two checkpoints of the gradients that the optimizer used, saved next to the second.

    It takes two lines in a training loop: make it after the optimizer, and call `save` before each checkpoint is saved. It
    holds one sum of gradients, on the network's device. Of several processes, the one that saves the checkpoint saves it.

    Args:
        network: what is trained and saved; bare, or in DDP, or compiled.
        optimizer: of its parameters.
        coupled_decay: whether the optimizer adds weight decay to the gradient; None: looked up, for the optimizers of torch.

    Raises:
        ValueError: as `GradientMean` says.
    """

    def __init__(self, network: nn.Module, optimizer: optim.Optimizer, coupled_decay: bool | None = None) -> None:
        self._network, self._optimizer = network, optimizer
        self.mean = GradientMean(network, optimizer, coupled_decay)

    def save(self, checkpoint_path: str | os.PathLike[str]) -> Path | None:
        """Write CHECKPOINT.gradient, whole or not at all, and begin a new mean; call it *before* the checkpoint is written.

        The file holds every parameter of the optimizer under its name in the state dict, in float32 or the parameter's dtype
        if that is wider, and the number of `steps`. Elements lie as `torch.save` writes them (channels_last stays so); for a
        `.safetensors` checkpoint they lie in rows. Nothing is written before the first step.

        Args:
            checkpoint_path: where the checkpoint, one file, will be saved.

        Returns:
            The path of the file, or None if no step was taken since the last checkpoint.

        Raises:
            OSError: the file cannot be written; none is left next to the checkpoint then.
        """
        checkpoint = Path(checkpoint_path)
        path = checkpoint.with_name(checkpoint.name + SUFFIX)
        steps, gradients = self.mean.count, self.mean.take()
        if not steps:
            path.unlink(missing_ok=True)  # an earlier run's, or an earlier content's of a name that is rewritten
            return None
        held = {parameter for group in self._optimizer.param_groups for parameter in group["params"]}
        parameters = trained(self._network)
        moving = {name: p for name, p in parameters.items() if p in held and p.requires_grad}
        for name, parameter in moving.items():
            if name not in gradients:
                gradients[name] = torch.zeros((), dtype=widened(parameter.dtype)).expand(parameter.shape)
        metadata = {"steps": str(steps), "weights": json.dumps(_stated(moving), separators=(",", ":"))}
        orders = {} if checkpoint.suffix == ".safetensors" else {name: _order(parameters[name]) for name in gradients}
        if odd := {name: order for name, order in orders.items() if order != sorted(order)}:
            metadata["order"] = json.dumps(odd, separators=(",", ":"))
            gradients |= {name: gradients[name].permute(order) for name, order in odd.items()}
        _write(path, gradients, metadata)
        return path

    def state_dict(self) -> dict[str, Any]:
        """The mean within an interval."""
        return self.mean.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue the mean of an interval."""
        self.mean.load_state_dict(state)


def _order(tensor: Tensor) -> list[int]:
    """The axes in the order of memory, the slowest first; in their usual order if the tensor is no such permutation."""
    counted = list(range(tensor.dim()))
    lying = sorted(counted, key=lambda axis: -tensor.stride()[axis])
    return counted if tensor.is_contiguous() or not tensor.permute(lying).is_contiguous() else lying


def _stated(parameters: Mapping[str, Tensor]) -> dict[str, dict[str, Any]]:
    """The dtype of some parameters, and the bits of their first, middle and last element (in row order) as integers."""
    names = sorted(name for name, parameter in parameters.items() if parameter.numel())
    stated = {}
    for name in names[:: -(-len(names) // _STATED) or 1]:
        parameter = parameters[name].detach()
        n = parameter.numel()
        at = torch.tensor([0, n // 2, n - 1], device=parameter.device)
        found = parameter[torch.unravel_index(at, parameter.shape)] if parameter.dim() else parameter.expand(3)
        bits = found.contiguous().view(_BITS[parameter.element_size()])
        stated[name] = {"dtype": str(parameter.dtype).removeprefix("torch."), "bits": bits.tolist()}
    return stated


def _write(path: Path, tensors: Vector, metadata: dict[str, str]) -> None:
    """Write a safetensors file under a temporary name, sync it to disk, then rename it."""
    ordered = sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0]))  # so that all are aligned
    header: dict[str, Any] = {"__metadata__": metadata}
    position = 0
    for name, tensor in ordered:
        end = position + tensor.numel() * tensor.element_size()
        offsets = [position, end]
        header[name] = {"dtype": _DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": offsets}
        position = end
    raw = json.dumps(header, separators=(",", ":")).encode()
    raw += b" " * (-len(raw) % 8)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(len(raw).to_bytes(8, "little") + raw)
            for _, tensor in ordered:
                values = tensor.detach().cpu().contiguous().numpy()
                file.write(values.astype(values.dtype.newbyteorder("<"), copy=False).reshape(-1).data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        path.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
