"""The slow, obvious twins: tensors read through a layout byte by byte, combinations made of whole tensors in float64."""

import os
import shutil
from pathlib import Path

import torch

from rna_watch.formats.probe import probe
from rna_watch.layout.layout import Role
from rna_watch.publishing.write import publish
from rna_watch.window import tasks
from rna_watch.window.combine import Combination


def read(layout):
    """The tensors that a layout describes, by name, from the bytes of its chunks."""
    contents = [Path(file.path).read_bytes() for file in layout.files]
    storages = []
    for extent in layout.extents:
        dtype = getattr(torch, extent.dtype)
        storage = bytearray(extent.storage_count * dtype.itemsize)
        for chunk in extent.chunks:
            assert chunk.offset_bytes >= 0
            end = chunk.offset_bytes + chunk.count * dtype.itemsize
            assert end <= len(contents[chunk.file])
            storage[chunk.start * dtype.itemsize : (chunk.start + chunk.count) * dtype.itemsize] = contents[chunk.file][
                chunk.offset_bytes : end
            ]
        storages.append(torch.frombuffer(storage, dtype=dtype) if storage else torch.empty(0, dtype=dtype))
    return {view.name: _tensor(view, storages[view.extent]) for view in layout.tensors}


def _tensor(view, storage):
    if not view.blocks:
        return torch.as_strided(storage, view.shape, view.stride, view.start)
    whole = torch.empty(view.shape, dtype=storage.dtype)
    for block in view.blocks:
        part = torch.as_strided(storage, block.shape, block.stride, block.start)
        whole[tuple(slice(at, at + size) for at, size in zip(block.offsets, block.shape, strict=True))] = part
    return whole


def combine(models, weights):
    """sum_k w_k y_k in float64 of every floating tensor, running variances kept from below zero; the rest is the newest's."""
    combined = {}
    for name, tensor in models[-1].items():
        if not tensor.is_floating_point():
            combined[name] = tensor
            continue
        total = sum(weight * model[name].double() for weight, model in zip(weights, models, strict=True))
        combined[name] = total.clamp(min=0.0) if name.endswith("running_var") else total
    return combined


def is_rounded(stored, exact):
    """Whether every stored value is the exact one, rounded to its dtype (for float64: to a few last places)."""
    limits = torch.finfo(stored.dtype)
    size = exact.abs().clamp(min=limits.tiny)
    spacing = limits.eps * 2.0 ** size.log2().floor()
    slack = 0.5001 * spacing + 32 * torch.finfo(torch.float64).eps * exact.abs().clamp(min=1.0)
    return bool(((stored.double() - exact).abs() <= slack).all())


def same_bits(a, b):
    """Whether two tensors are equal to the last bit, in value, dtype and shape."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    return bytes(a.contiguous().view(-1).view(torch.uint8).numpy()) == bytes(
        b.contiguous().view(-1).view(torch.uint8).numpy()
    )


def publish_here(paths, weights, destination, *, source=None):
    """Publish a combination of files in this process; returns the destination as a string."""
    layouts = tuple(probe(str(path), source) for path in paths)
    return publish_recipe(Combination(layouts=layouts, weights=tuple(weights)), destination)


def publish_recipe(combination, destination):
    """Publish a combination in this process; returns the destination as a string."""
    if os.path.isdir(destination):
        shutil.rmtree(destination)  # an earlier one: without a manifest nothing shows that it is ours
    publish(combination, str(destination), tasks.run_all)
    return str(destination)


def parameter_names(layout):
    """The tensors that stand in the residuals."""
    return {view.name for view in layout.tensors if layout.extents[view.extent].role is Role.PARAMETER}
