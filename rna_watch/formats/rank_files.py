"""Folders with one file for each rank of FSDP: `model_world_size_N_rank_R.pt`, as verl and its family write them.

Each file is a state dict whose tensors are DTensors: a rank's block of a tensor, with the mesh of ranks and how the tensor lies
on it. The arithmetic is that of torch's `compute_local_shape_and_global_offset`: over each axis of the mesh in turn, a sharded
axis of the tensor is cut into chunks as `torch.chunk` does. Tensors that are none lie whole in each file.
"""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING, Any

from rna_watch.errors import IncompleteCheckpoint, RefusedCheckpoint
from rna_watch.formats import dcp_pieces, loading, model_source, torch_zip
from rna_watch.formats.dcp_items import Part, opened
from rna_watch.formats.dcp_metadata import Item
from rna_watch.formats.format import FolderFormat, WrittenAs
from rna_watch.formats.safe_pickle import DistributedTensor, Inert, PickledTensor, Storage
from rna_watch.formats.zip_directory import MAGIC
from rna_watch.layout.dtypes import DTYPES
from rna_watch.layout.identity import FileIdentity, identify
from rna_watch.layout.layout import Layout

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rna_watch.formats.format import ReadFile

_RANK = re.compile(r"^(?P<stem>.*?)world_size_(?P<size>\d+)_rank_(?P<rank>\d+)\.pt$")
_MODEL = "model_"
_NOT_CARRIED = re.compile(r"_rank_\d+\.pt$|^\.|\.(bin|safetensors|pt|pth)$|\.index\.json$")
_CARRIED_LIMIT = 10_000
_MOST_RANKS = 2**16


@dataclass(frozen=True, slots=True, kw_only=True)
class _File:
    """A rank's file: what it holds, and where its storages lie."""

    name: str
    identity: FileIdentity
    tree: dict[Any, Any]
    storages: dict[str, tuple[int, int]]
    fingerprint: str


def _is_model(name: str) -> bool:
    found = _RANK.match(name)
    return found is not None and found["stem"] == _MODEL


def read_layout(folder: str, source: str | None, _read_file: ReadFile) -> Layout:
    """The layout of a complete folder.

    Args:
        folder: the checkpoint.
        source: key path of the model in what each rank saved.

    Raises:
        IncompleteCheckpoint: a rank's file is not there yet, or not whole.
        RefusedCheckpoint: it holds no model, or one that is cut in a way that is not known.
    """
    names = _in_order(set(os.listdir(folder)))  # noqa: PTH208 - a string crosses process boundaries here
    files = [_read(folder, name) for name in names]
    first = files[0]
    tree = _whole(first.tree, ())
    path, parts, tensors = model_source.find_model(tree, source)
    if len(files) > 1 and not any(isinstance(_at(first, tensor), DistributedTensor) for tensor in tensors.values()):
        raise RefusedCheckpoint(
            f"{first.name} and the other ranks' files hold plain tensors, so nothing says how they belong together; save one "
            "of them where each is a whole model"
        )
    parts_of = {name: list(_blocks(name, tensor, files)) for name, tensor in tensors.items()}
    # the model becomes one file, where elements stand in their own order
    extents, views = dcp_pieces.extents(tensors, parts_of, blocks=False)
    digest = hashlib.blake2b("".join(each.fingerprint for each in files).encode(), digest_size=16)
    return Layout(
        format=FORMAT.name,
        files=tuple(each.identity for each in files),
        kinds=(torch_zip.FORMAT.name,) * len(files),
        source=path,
        tensors=tuple(views),
        extents=tuple(extents),
        counters=model_source.counters(first.tree),
        fingerprint=digest.hexdigest(),
        root=folder,
        carried=tuple(_carried(folder)),
        sources=model_source.sources(tree),
        parts=parts,
    )


def _in_order(names: set[str]) -> list[str]:
    """The names of all ranks' files, by rank.

    Raises:
        IncompleteCheckpoint: one is not there yet.
        RefusedCheckpoint: they are of several world sizes.
    """
    found = {name: match for name in names if _is_model(name) and (match := _RANK.match(name))}
    sizes = sorted({int(match["size"]) for match in found.values()})
    if len(sizes) != 1:
        raise RefusedCheckpoint(
            f"it holds files of {' and '.join(map(str, sizes))} ranks, of which one is left over from another save; remove it"
        )
    (size,) = sizes
    by_rank = {int(match["rank"]): name for name, match in found.items()}
    if not 0 < size <= _MOST_RANKS or max(by_rank) >= size or len(by_rank) != len(found):
        raise RefusedCheckpoint(f"{max(found)} is no file of one of {size} ranks")
    missing = [rank for rank in range(size) if rank not in by_rank]
    if missing:
        listed = ", ".join(map(str, missing[:4])) + (f" and {len(missing) - 4} more" if missing[4:] else "")
        ranks = "rank" if len(missing) == 1 else "ranks"
        raise IncompleteCheckpoint(f"of {size} ranks' files, that of {ranks} {listed} is not there yet")
    return [by_rank[rank] for rank in range(size)]


def _read(folder: str, name: str) -> _File:
    try:
        with opened(os.path.join(folder, name)) as file:  # noqa: PTH118
            head = file.read(0, min(4, file.size_bytes))
            if head.strip(b"\0") and not MAGIC.startswith(head):
                raise RefusedCheckpoint("it is not in torch's zip format")
            content = torch_zip.read(file)
            tree = content.tree()
            found = _File(
                name=name,
                identity=file.identity,
                tree=tree if isinstance(tree, dict) else {},
                storages=content.storages(),
                fingerprint=content.fingerprint(),
            )
            file.check_unchanged()
            return found
    except (IncompleteCheckpoint, RefusedCheckpoint) as error:
        raise type(error)(f"{name}: {error}") from error


def _whole(value: Any, path: tuple[str, ...]) -> Any:
    """What a rank saved, with each tensor as the whole of it; the keys of its storage are its place in the file."""
    if isinstance(value, DistributedTensor):
        storage = Storage(key="\0".join(path), dtype=value.local.dtype, count=prod(value.shape))
        return PickledTensor(
            storage=storage,
            dtype=value.local.dtype,
            start=0,
            shape=value.shape,
            stride=dcp_pieces.strides(value.shape),
        )
    if isinstance(value, PickledTensor):
        return replace(value, storage=replace(value.storage, key="\0".join(path)))
    if isinstance(value, dict):
        return {key: _whole(each, (*path, str(key))) for key, each in dict.items(value)}
    return value


def _at(file: _File, tensor: PickledTensor) -> object:
    """What stands in a rank's file where a tensor of the whole lies."""
    found: object = file.tree
    for key in tensor.storage.key.split("\0"):
        found = {str(name): each for name, each in dict.items(found)}.get(key) if isinstance(found, dict) else None
    return found


def _blocks(name: str, tensor: PickledTensor, files: Sequence[_File]) -> Iterator[Part]:
    """The blocks of a tensor in the ranks' files; of copies, the first."""
    held = [_at(file, tensor) for file in files]
    if isinstance(held[0], PickledTensor):
        yield _part(name, files, 0, held[0], (0,) * len(held[0].shape))
        return
    seen: set[tuple[int, ...]] = set()
    for rank, own in enumerate(held):
        if not isinstance(own, DistributedTensor) or own.shape != tensor.shape or own.local.dtype != tensor.dtype:
            raise RefusedCheckpoint(
                f"{files[rank].name} holds another {name} than {files[0].name}: they are of two saves"
            )
        first = held[0]
        assert isinstance(first, DistributedTensor)
        if tensor.pairs:
            raise RefusedCheckpoint(f"{name} is complex and lies on several ranks, which is not supported")
        if _lies(name, own) != _lies(name, first):
            raise RefusedCheckpoint(f"{name} lies in another way in {files[rank].name} than in {files[0].name}")
        by = _field(_field(own.spec, "mesh"), "_rank")
        if type(by) is int and by != rank:
            raise RefusedCheckpoint(f"{files[rank].name} holds the part of rank {by}")
        offsets, sizes = _block(name, own, rank, len(files))
        if own.local.shape != sizes:
            raise RefusedCheckpoint(
                f"{files[rank].name} holds {list(own.local.shape)} of {name}, where {list(sizes)} belong to rank {rank}"
            )
        if 0 not in sizes and offsets not in seen:
            seen.add(offsets)
            yield _part(name, files, rank, own.local, offsets)


def _block(name: str, tensor: DistributedTensor, rank: int, ranks: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The offsets and sizes of a rank's block.

    Raises:
        RefusedCheckpoint: the mesh is not over these ranks, or the tensor is not sharded or replicated over it.
    """
    mesh, placements = _lies(name, tensor)
    if prod(mesh) != ranks:
        raise RefusedCheckpoint(f"{name} lies on {prod(mesh)} ranks, and there are files of {ranks}")
    listed = _field(_field(tensor.spec, "mesh"), "_flatten_rank_map")
    if isinstance(listed, tuple) and listed != tuple(range(ranks)):
        raise RefusedCheckpoint(f"{name} lies on a mesh that lists its ranks in another order than 0 to {ranks - 1}")
    offsets, sizes = [0] * len(tensor.shape), list(tensor.shape)
    behind = ranks  # ranks are counted over the mesh with its last axis first
    for count, (kind, axis) in zip(mesh, placements, strict=True):
        behind //= count
        if kind == "Replicate":
            continue
        if kind != "Shard" or not -len(sizes) <= axis < len(sizes):
            raise RefusedCheckpoint(f"{name} lies on its ranks as {kind}, and only Shard and Replicate are supported")
        size = -(-sizes[axis] // count)
        begin = min(rank // behind % count * size, sizes[axis])
        offsets[axis] += begin
        sizes[axis] = min(size, sizes[axis] - begin)
    return tuple(offsets), tuple(sizes)


def _lies(name: str, tensor: DistributedTensor) -> tuple[tuple[int, ...], tuple[tuple[str, int], ...]]:
    """How a tensor lies on its ranks: the sizes of their mesh, and for each axis of it the kind of placement and its axis.

    Raises:
        RefusedCheckpoint: it does not say so in a way that is known.
    """
    placed = _field(tensor.spec, "placements")
    placements = tuple(
        (type(each).__name__, _field(each, "dim") if isinstance(_field(each, "dim"), int) else 0)
        for each in (placed if isinstance(placed, tuple) else ())
    )
    mesh = _mesh(_field(tensor.spec, "mesh"))
    if not placements or len(mesh) != len(placements) or any(type(size) is not int or size < 1 for size in mesh):
        raise RefusedCheckpoint(
            f"{name} does not say how it lies on its ranks, as the DTensors of torch 2.4 to 2.13 do"
        )
    return mesh, placements


def _mesh(mesh: object) -> tuple[Any, ...]:
    """The sizes of a mesh, which torch has described in three ways."""
    ranks = _field(mesh, "mesh")  # up to 2.8: a tensor of the ranks
    if isinstance(ranks, PickledTensor):
        return ranks.shape
    layout = _field(mesh, "_layout")
    axes = _field(layout, "axes")
    if isinstance(axes, tuple):
        return tuple(_size(_field(axis, "shape")) for axis in axes)
    shape = _field(layout, "shape")
    return shape if isinstance(shape, tuple) else (shape,)


def _size(shape: object) -> object:
    """The ranks along an axis of a mesh, which may be joined of several."""
    return prod(shape) if isinstance(shape, tuple) and all(type(each) is int for each in shape) else shape


def _field(value: object, name: str) -> Any:
    """An attribute of an inert object, None if it has none of that name."""
    state = vars(value).get("state") if isinstance(value, Inert) else None
    if isinstance(state, tuple) and len(state) == 2:
        state = state[1] if isinstance(state[1], dict) else state[0]
    return dict.get(state, name) if isinstance(state, dict) else None


def _part(name: str, files: Sequence[_File], rank: int, tensor: PickledTensor, offsets: tuple[int, ...]) -> Part:
    found = files[rank].storages.get(tensor.storage.key)
    plain = model_source.as_pairs(tensor)
    used = plain.start + 1 + sum((size - 1) * step for size, step in zip(plain.shape, plain.stride, strict=True))
    itemsize = DTYPES[plain.dtype].itemsize
    if 0 not in plain.shape and (found is None or min(plain.stride, default=0) < 0 or used * itemsize > found[1]):
        raise RefusedCheckpoint(f"{files[rank].name} is damaged: the storage of {name} is shorter than its tensor")
    item = Item(file=files[rank].name, offset_bytes=0, size_bytes=0, offsets=offsets, sizes=tensor.shape)
    return Part(item=item, tensor=plain, file=rank, start_bytes=found[0] if found else 0)


def _carried(folder: str) -> list[FileIdentity]:
    """The small files around the model: settings, and the config and tokenizer in `huggingface/`."""
    found: list[FileIdentity] = []
    for at, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [identify(os.path.join(at, name)) for name in sorted(files) if not _NOT_CARRIED.search(name)]  # noqa: PTH118
        if len(found) > _CARRIED_LIMIT:
            raise RefusedCheckpoint(f"it holds more than {_CARRIED_LIMIT} files beside the model")
    return found


FORMAT = FolderFormat(
    name="FSDP ranks",
    recognises=lambda _folder, names: any(map(_is_model, names)),
    read_layout=read_layout,
    written_as=WrittenAs.SAFETENSORS,
    loading=loading.consolidated,
)
