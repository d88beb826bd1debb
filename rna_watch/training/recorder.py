"""The gradient recorder: it saves the mean gradient of each interval beside its checkpoint, for the daemon.

The file is CHECKPOINT.gradient, in the safetensors format (8 bytes with the header's length, a JSON header with dtype, shape
and byte range of each tensor, then their bytes): https://huggingface.co/docs/safetensors, "Format".
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

    from torch import nn, optim

SUFFIX = ".gradient"
_DTYPES = {torch.float64: "F64", torch.float32: "F32"}


class GradientRecorder:
    """The mean over the steps between two checkpoints of the gradients that the optimizer used, saved beside the second.

    Two lines in a training loop: make it after the optimizer, and call `save` before each checkpoint is saved. It holds one
    sum of gradients, on the network's device. With several processes, save where the checkpoint is saved.

    Args:
        network: what is trained and saved; bare, or in DDP, or compiled.
        optimizer: of its parameters.
        coupled_decay: whether the optimizer adds weight decay to the gradient; None: known, for the optimizers of torch.

    Raises:
        ValueError: as `GradientMean` says.
    """

    def __init__(self, network: nn.Module, optimizer: optim.Optimizer, coupled_decay: bool | None = None) -> None:
        self._network, self._optimizer = network, optimizer
        self.mean = GradientMean(network, optimizer, coupled_decay)

    def save(self, checkpoint_path: str | os.PathLike[str]) -> Path | None:
        """Write CHECKPOINT.gradient, whole or not at all, and begin a new mean; call it *before* the checkpoint is written.

        It holds every parameter of the optimizer under its name in the state dict, in float32 or the parameter's dtype if
        that is wider, and the number of `steps`. Before the first step there is nothing to write.

        Args:
            checkpoint_path: of the checkpoint, a file or a folder.

        Returns:
            Its path, or None if no step was taken since the last checkpoint.

        Raises:
            OSError: it cannot be written; then none is left beside the checkpoint.
        """
        checkpoint = Path(checkpoint_path)
        path = checkpoint.with_name(checkpoint.name + SUFFIX)
        steps, gradients = self.mean.count, self.mean.take()
        if not steps:
            path.unlink(missing_ok=True)  # an earlier run's, or an earlier content's of a name that is rewritten
            return None
        held = {parameter for group in self._optimizer.param_groups for parameter in group["params"]}
        for name, parameter in trained(self._network).items():
            if parameter in held and parameter.requires_grad and name not in gradients:
                gradients[name] = torch.zeros((), dtype=widened(parameter.dtype)).expand(parameter.shape)
        _write(path, gradients, {"steps": str(steps)})
        return path

    def state_dict(self) -> dict[str, Any]:
        """The mean within an interval."""
        return self.mean.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue it."""
        self.mean.load_state_dict(state)


def _write(path: Path, tensors: Vector, metadata: dict[str, str]) -> None:
    """Write a safetensors file under another name, force it to disk, then rename it."""
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
