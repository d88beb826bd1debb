"""From the tree of a pickle to a layout, wherever a torch format keeps its storages."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from rna_watch.errors import IncompleteCheckpoint, RefusedCheckpoint
from rna_watch.formats import model_source, optimizer_state, training_marks
from rna_watch.layout.dtypes import DTYPES
from rna_watch.layout.layout import Chunk, Extent, Layout, Role, TensorView
from rna_watch.layout.strides import merge_runs, runs

if TYPE_CHECKING:
    from collections.abc import Callable

    from rna_watch.formats.safe_pickle import PickledTensor, Storage
    from rna_watch.layout.open_file import OpenFile

    Locate = Callable[[Storage], tuple[int, int] | None]

_MOST_ELEMENTS = 2**48


def layout(
    file: OpenFile, name: str, tree: object, source: str | None, locate: Locate, fingerprint: Callable[[], str]
) -> Layout:
    """The layout of a file that holds a pickle and storages.

    Args:
        file: the file.
        name: its format's.
        tree: the values of the pickle.
        source: key path of the model in it, or several with commas; found if None.
        locate: the first byte of a storage in the file and its length in bytes, None if it is not there.
        fingerprint: computes the digest of the content.

    Raises:
        RefusedCheckpoint: it holds no model that can be combined.
    """
    path, parts, tensors = model_source.find_model(tree, source)
    value = reader(file, locate)
    extents, views = place(tensors, locate)
    return Layout(
        format=name,
        files=(file.identity,),
        source=path,
        tensors=views,
        extents=extents,
        counters=model_source.counters(tree, value),
        fingerprint=fingerprint(),
        optimizer=optimizer_state.find_optimizer(tree, lambda tensor: first_byte(tensor, locate)),
        sources=model_source.sources(tree),
        parts=parts,
        optimizer_steps=training_marks.optimizer_steps(tree, value),
        saved_to=training_marks.saved_to(tree),
    )


def reader(file: OpenFile, locate: Locate) -> Callable[[PickledTensor], bytes | None]:
    """A function that reads the first element of a tensor in a file; it returns None where that cannot be read."""

    def value(tensor: PickledTensor) -> bytes | None:
        offset = first_byte(tensor, locate)
        return None if offset is None else file.read(offset, DTYPES[tensor.dtype].itemsize)

    return value


def place(tensors: dict[str, PickledTensor], locate: Locate) -> tuple[tuple[Extent, ...], tuple[TensorView, ...]]:
    """Extents and views: one extent for tensors that share elements, covering what they use, in the order of first use.

    Args:
        tensors: the model's, by name.
        locate: the first byte of a storage in the file and its length in bytes, None if it is not there.

    Raises:
        RefusedCheckpoint: a tensor does not fit its storage, or is no plain strided one.
    """
    used = {name: _runs(name, tensor) for name, tensor in tensors.items()}
    extents: list[Extent] = []
    number: dict[str, int] = {}
    first: dict[str, int] = {}
    for names in _sharing(tensors, used):
        tensor = tensors[names[0]]
        itemsize = DTYPES[tensor.dtype].itemsize
        parts = merge_runs(run for name in names for run in used[name])
        begin = parts[0][0] if parts else tensor.start
        offset = 0
        for name in names:
            found = locate(tensors[name].storage)
            if found is None:
                raise RefusedCheckpoint(f"the storage of {name} is missing from the file")
            if used[name] and sum(used[name][-1]) * itemsize > found[1]:
                raise RefusedCheckpoint(f"the storage of {name} is shorter than the tensor: the file is damaged")
            offset = found[0]
            number[name], first[name] = len(extents), begin
        roles = [model_source.role(name, tensor.dtype) for name in names]
        extents.append(
            Extent(
                name=names[0],
                dtype=tensor.dtype,
                role=min(roles, key=list(Role).index),
                chunks=tuple(
                    Chunk(file=0, offset_bytes=offset + start * itemsize, start=start - begin, count=count)
                    for start, count in parts
                ),
            )
        )
    views = tuple(
        TensorView(
            name=name,
            dtype=t.dtype,
            shape=t.shape,
            stride=t.stride,
            extent=number[name],
            start=t.start - first[name],
            pairs=t.pairs,
        )
        for name, t in tensors.items()
    )
    return tuple(extents), views


def first_byte(tensor: PickledTensor, locate: Locate) -> int | None:
    """The byte at which a tensor begins, if all of it lies in the file in one piece."""
    try:
        used = _runs("it", tensor)
        found = locate(tensor.storage)
    except (RefusedCheckpoint, IncompleteCheckpoint):
        return None
    itemsize = DTYPES[tensor.dtype].itemsize
    if found is None or len(used) != 1 or used[0][0] != tensor.start or sum(used[0]) * itemsize > found[1]:
        return None
    return found[0] + tensor.start * itemsize


def _sharing(tensors: dict[str, PickledTensor], used: dict[str, list[tuple[int, int]]]) -> list[list[str]]:
    """The names of tensors that overlap in one storage; adjacent slices of a flat one do not overlap."""
    storages: dict[str, list[str]] = {}
    for name, tensor in tensors.items():
        storages.setdefault(tensor.storage.key, []).append(name)
    groups: list[list[str]] = []
    for names in storages.values():
        other = next((name for name in names if tensors[name].dtype != tensors[names[0]].dtype), None)
        if other is not None:
            raise RefusedCheckpoint(f"{names[0]} and {other} share storage under different dtypes")
        groups += [[name] for name in names if not used[name]]
        end = -1
        for name in sorted((name for name in names if used[name]), key=lambda name: used[name][0]):
            if used[name][0][0] >= end:
                groups.append([])
            groups[-1].append(name)
            end = max(end, sum(used[name][-1]))
    order = {name: number for number, name in enumerate(tensors)}
    return sorted((sorted(group, key=order.__getitem__) for group in groups), key=lambda group: order[group[0]])


def _runs(name: str, tensor: PickledTensor) -> list[tuple[int, int]]:
    count = prod(tensor.shape)
    if count > _MOST_ELEMENTS:
        raise RefusedCheckpoint(f"{name} claims {count} elements: the file is damaged")
    try:
        return runs(tensor.shape, tensor.stride, tensor.start)
    except (ValueError, MemoryError) as error:
        raise RefusedCheckpoint(f"{name} is not a plain strided tensor ({error})") from error
