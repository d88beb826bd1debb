"""Folders of DeepSpeed: fp32 master weights that lie, cut over the data-parallel ranks, in the optimizer's shards.

ZeRO-1/2: each rank has a part of each group's flat vector, in which parameters follow each other (with padding). ZeRO-3: each
rank has a part of each parameter. Names, shapes, buffers and frozen parameters are in the model states. The arithmetic is that
of DeepSpeed 0.19's `zero_to_fp32.py`. The model states are an ordinary file where there is no ZeRO.
"""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass, replace
from math import ceil, prod
from typing import TYPE_CHECKING, Any

from rna_watch.errors import IncompleteCheckpoint, RefusedCheckpoint
from rna_watch.formats import deepspeed_save, loading, model_source, storages, torch_zip
from rna_watch.formats.format import FolderFormat, ReadFile, WrittenAs
from rna_watch.formats.safe_pickle import PickledTensor, Storage
from rna_watch.formats.zip_directory import MAGIC
from rna_watch.layout.dtypes import DTYPES
from rna_watch.layout.identity import FileIdentity, identify
from rna_watch.layout.layout import Chunk, Extent, Layout, TensorView
from rna_watch.layout.open_file import OpenFile
from rna_watch.layout.strides import contiguous

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

_OPTIMIZER = re.compile(r"^(?:bf16_|fp16_)?zero_pp_rank_(\d+)_mp_rank_(\d+)_optim_states\.pt$")
_MODEL = re.compile(r"^(?:zero_pp_rank_(\d+)_)?mp_rank_(\d+)_model_states\.pt$")
_OTHER_PARALLELISM = re.compile(r"^layer_\d+.*_(model|optim)_states\.pt$|^expp_rank_\d+.*_optim_states\.pt$")
_NOT_CARRIED = re.compile(
    r"\.pt$|^zero_to_fp32\.py$|^latest$|^\.|\.index\.json$|^(pytorch_|adapter_)?model[-.\w]*\.(bin|safetensors)$"
)
_MODULE = "module"
_STEPS = "global_steps"

_MOST_AXES = 64
_MOST_ELEMENTS = 2**48


@dataclass(frozen=True, slots=True, kw_only=True)
class _File:
    """A rank's file: its number in the layout, its name, what it holds, and the steps that the optimizer in it has taken."""

    number: int
    name: str
    identity: FileIdentity
    tree: dict[Any, Any]
    storages: dict[str, tuple[int, int]]
    fingerprint: str
    optimizer_step: int | None

    def locate(self, storage: Storage) -> tuple[int, int] | None:
        return self.storages.get(storage.key)


def read_layout(folder: str, source: str | None, read_file: ReadFile) -> Layout:
    """The layout of a complete folder.

    Args:
        folder: the checkpoint.
        source: key path of the model in its file, where it is not partitioned.
        read_file: returns the layout of one of its files.

    Raises:
        IncompleteCheckpoint: a rank's file is not there yet, or not whole.
        RefusedCheckpoint: it is cut in a way that is not known.
    """
    names = set(os.listdir(folder))  # noqa: PTH208 - a string crosses process boundaries here
    ranks = {name: found.groups() for name in names if (found := _MODEL.match(name) or _OPTIMIZER.match(name))}
    if any(_OTHER_PARALLELISM.match(name) for name in names):
        raise RefusedCheckpoint("its layers or experts lie in files of their own, which is not supported")
    if len({rank for _, rank in ranks.values()}) > 1:
        raise RefusedCheckpoint("it is cut over tensor-parallel ranks (mp_rank_01 and so on), which is not supported")
    models = _in_order(name for name in names if _MODEL.match(name))
    optimizers = _in_order(name for name in names if _OPTIMIZER.match(name))
    if not models:
        raise IncompleteCheckpoint("the model states are not there yet")
    carried = tuple(identify(os.path.join(folder, name)) for name in sorted(names) if _is_carried(folder, name))  # noqa: PTH118
    states = [_read(folder, name, number) for number, name in enumerate(models)]
    first = states[0]
    if first.tree.get("mp_world_size", 1) not in {1, None}:
        raise RefusedCheckpoint("it is cut over tensor-parallel ranks, which is not supported")
    if not optimizers and first.tree.get("param_shapes") is None:
        layout = read_file(first.identity.path, source if source is not None else _MODULE)
        return replace(
            layout,
            format=WITHOUT_ZERO.name,
            kinds=(layout.format,),
            root=folder,
            carried=carried,
            counters=_counters(first.tree, layout),
        )
    if not optimizers:
        raise IncompleteCheckpoint("the optimizer's shards, which hold the weights, are not there yet")
    if source:
        raise RefusedCheckpoint("its weights lie in the shards of the optimizer, under no key: leave --source out")
    shards = [_read(folder, name, len(models) + number) for number, name in enumerate(optimizers)]
    place = _Placing(states, shards)
    place.run()
    deepspeed_save.check_one_save(
        [(each.name, each.identity.mtime_ns, _counters(each.tree, None).get("step")) for each in states],
        [(each.name, each.identity.mtime_ns, each.optimizer_step) for each in shards],
        first.tree.get("ds_config"),
    )
    digest = hashlib.blake2b("".join(f.fingerprint for f in [*states, *shards]).encode(), digest_size=16)
    return Layout(
        format=FORMAT.name,
        files=tuple(each.identity for each in [*states, *shards]),
        kinds=(torch_zip.FORMAT.name,) * (len(states) + len(shards)),
        source="",
        tensors=tuple(place.views),
        extents=tuple(place.extents),
        counters=_counters(first.tree, None),
        fingerprint=digest.hexdigest(),
        root=folder,
        carried=carried,
    )


def _in_order(names: Iterable[str]) -> list[str]:
    """Names of ranks' files by the number of the rank."""
    return sorted(names, key=lambda name: [int(number) for number in re.findall(r"_rank_(\d+)", name)])


def _is_carried(folder: str, name: str) -> bool:
    return not _NOT_CARRIED.search(name) and os.path.isfile(os.path.join(folder, name))  # noqa: PTH113, PTH118


def _read(folder: str, name: str, number: int) -> _File:
    try:
        with OpenFile(os.path.join(folder, name)) as file:  # noqa: PTH118
            head = file.read(0, min(4, file.size_bytes))
            if head.strip(b"\0") and not MAGIC.startswith(head):
                raise RefusedCheckpoint("it is not in torch's zip format (checkpoint_serialization is off)")
            content = torch_zip.read(file)
            tree = content.tree()
            found = _File(
                number=number,
                name=name,
                identity=file.identity,
                tree=tree if isinstance(tree, dict) else {},
                storages=content.storages(),
                fingerprint=content.fingerprint(),
                optimizer_step=deepspeed_save.optimizer_step(content, tree) if _OPTIMIZER.match(name) else None,
            )
            file.check_unchanged()
            return found
    except (IncompleteCheckpoint, RefusedCheckpoint) as error:
        raise type(error)(f"{name}: {error}") from error


def _counters(tree: dict[Any, Any], layout: Layout | None) -> dict[str, int]:
    steps = tree.get(_STEPS)
    own = {"step": steps} if type(steps) is int and steps >= 0 else {}
    return (layout.counters if layout else model_source.counters(tree)) | own


class _Placing:
    """Finds where each tensor lies: buffers, frozen parameters, trained ones, then other names for those."""

    def __init__(self, states: Sequence[_File], shards: Sequence[_File]) -> None:
        self.extents: list[Extent] = []
        self.views: list[TensorView] = []
        self._states = states
        self._shards = shards
        self._optimizers = [_mapping(shard, shard.tree.get("optimizer_state_dict")) for shard in shards]
        self._stage = _number(self._optimizers[0].get("zero_stage", 1))
        count = self._optimizers[0].get("partition_count")
        self._ranks = max(map(_number, count)) if isinstance(count, list | tuple) and count else _number(count)

    def run(self) -> None:
        """Place all tensors.

        Raises:
            IncompleteCheckpoint: files are missing.
            RefusedCheckpoint: it is cut in a way that is not known, or damaged.
        """
        first = self._states[0]
        if self._stage not in {1, 2, 3} or self._ranks < 1:
            raise RefusedCheckpoint(f"{self._shards[0].name} does not say its ZeRO stage and its number of partitions")
        for files, wanted in ((self._shards, self._ranks), (self._states, self._ranks if self._stage == 3 else 1)):
            if len(files) < wanted:
                raise IncompleteCheckpoint(f"{len(files)} of {wanted} ranks' files such as {files[0].name} are there")
            if len(files) > wanted:
                raise RefusedCheckpoint(f"{len(files)} files such as {files[0].name} are there, {wanted} are right")
        if self._optimizers[0].get("ds_zero_partition_groups") or first.tree.get("ds_autoep_layers"):
            raise RefusedCheckpoint("its experts are partitioned over groups of ranks, which is not supported")
        self._buffers(first)
        self._frozen()
        groups = first.tree.get("param_shapes")
        if not isinstance(groups, list):
            raise RefusedCheckpoint(f"{first.name} does not say the shapes of the parameters")
        groups = [_shapes(first, shapes) for shapes in groups]
        if self._stage == 3:
            self._over_ranks({name: shape for shapes in groups for name, shape in shapes.items()})
        else:
            self._in_groups(groups)
        shared = first.tree.get("shared_params")
        by_name = {view.name: view for view in self.views}
        for alias, name in dict.items(shared) if isinstance(shared, dict) else ():
            if not isinstance(alias, str) or not isinstance(name, str):
                raise RefusedCheckpoint(f"{first.name} names shared parameters by what is no name")
            if name in by_name and alias not in by_name:
                self.views.append(replace(by_name[name], name=alias))

    def _buffers(self, first: _File) -> None:
        module = _mapping(first, first.tree.get(_MODULE))
        names = first.tree.get("buffer_names") or []
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise RefusedCheckpoint(f"{first.name} does not list the names of its buffers")
        for name in names:
            if isinstance(module.get(name), PickledTensor):
                self._whole(first, name, module[name])

    def _frozen(self) -> None:
        shapes = _shapes(self._states[0], self._states[0].tree.get("frozen_param_shapes") or {})
        parts = [_mapping(state, state.tree.get("frozen_param_fragments") or {}) for state in self._states]
        for name, shape in shapes.items():
            if not all(isinstance(part.get(name), PickledTensor) for part in parts):
                raise RefusedCheckpoint(f"the frozen parameter {name} is not in the model states")
            if self._stage != 3:
                self._whole(self._states[0], name, parts[0][name])
                continue
            runs = [run for state, part in zip(self._states, parts, strict=True) for run in _runs(state, [part[name]])]
            self._add(name, parts[0][name].dtype, shape, _joined(runs, 0, prod(shape)))

    def _whole(self, file: _File, name: str, tensor: PickledTensor) -> None:
        """A tensor that lies in the model states as it is."""
        plain = model_source.as_pairs(tensor)
        if plain.dtype not in DTYPES:
            raise RefusedCheckpoint(f"{name} has dtype {tensor.dtype}, which cannot be averaged")
        (extent,), (view,) = storages.place({name: plain}, file.locate)
        if view.stride != contiguous(view.shape) and 0 not in view.shape:
            raise RefusedCheckpoint(f"{name} is not contiguous, so it cannot be consolidated; save a contiguous copy")
        chunks = tuple(replace(chunk, file=file.number) for chunk in extent.chunks)
        self.views.append(replace(view, extent=len(self.extents), start=0))
        self.extents.append(replace(extent, chunks=chunks))

    def _in_groups(self, groups: Sequence[dict[str, tuple[int, ...]]]) -> None:
        """ZeRO-1 and 2: each group is one vector, of which the ranks have consecutive parts."""
        paddings = self._optimizers[0].get("param_alignment_paddings")
        parts = [self._flat(number, "single_partition_of_fp32_groups") for number in range(self._ranks)]
        for group, shapes in enumerate(groups):
            if any(len(part) != len(groups) for part in parts):
                raise RefusedCheckpoint("the optimizer's groups are not those of the model states")
            runs = [
                run
                for shard, part in zip(self._shards, parts, strict=True)
                for run in _runs(shard, part[group : group + 1])
            ]
            behind = paddings[group] if isinstance(paddings, list) else [0] * len(shapes)
            if len(behind) != len(shapes):
                raise RefusedCheckpoint("the paddings of a group are not as many as its parameters")
            offset = 0
            for (name, shape), padding in zip(shapes.items(), behind, strict=True):
                self._add(name, parts[0][group].dtype, shape, _joined(runs, offset, prod(shape)))
                offset += prod(shape) + _number(padding)
            align = 2 * self._ranks
            if ceil(offset / align) != ceil(sum(run[2] for run in runs) / align):
                raise RefusedCheckpoint(f"a group of {offset} elements has {sum(run[2] for run in runs)} in its shards")

    def _over_ranks(self, shapes: dict[str, tuple[int, ...]]) -> None:
        """ZeRO-3: each rank has an equal part of each parameter, the last ones padded."""
        parts = [self._flat(number, "fp32_flat_groups") for number in range(self._ranks)]
        runs = [list(_runs(shard, part)) for shard, part in zip(self._shards, parts, strict=True)]
        offset = 0
        for name, shape in shapes.items():
            count = prod(shape)
            size = ceil(count / self._ranks)
            own = [
                piece
                for rank in range(self._ranks)
                for piece in _slice(runs[rank], offset, max(0, min(size, count - rank * size)))
            ]
            self._add(name, parts[0][0].dtype, shape, _joined(own, 0, count))
            offset += size
        if any(sum(run[2] for run in own) != offset for own in runs):
            raise RefusedCheckpoint(
                f"the shards do not have the {offset} elements of each rank that the shapes ask for"
            )

    def _flat(self, rank: int, key: str) -> list[PickledTensor]:
        found = self._optimizers[rank].get(key)
        name = self._shards[rank].name
        if not isinstance(found, list) or not found or not all(isinstance(each, PickledTensor) for each in found):
            raise RefusedCheckpoint(f"{name} holds no {key}: its fp32 weights are not known")
        if len({each.dtype for each in found}) > 1 or not model_source.linear(found[0].dtype):
            raise RefusedCheckpoint(f"the weights in {name} have dtype {found[0].dtype}, which cannot be averaged")
        return found

    def _add(self, name: str, dtype: str, shape: Sequence[int], chunks: tuple[Chunk, ...]) -> None:
        size = tuple(map(int, shape))
        if sum(chunk.count for chunk in chunks) != prod(size):
            raise RefusedCheckpoint(f"{name} reaches beyond what the ranks' files hold")
        self.views.append(
            TensorView(name=name, dtype=dtype, shape=size, stride=contiguous(size), extent=len(self.extents), start=0)
        )
        self.extents.append(Extent(name=name, dtype=dtype, role=model_source.role(name, dtype), chunks=chunks))


_Run = tuple[int, int, int, int]  # file, byte offset, count of elements, bytes an element


def _shapes(file: _File, value: object) -> dict[str, tuple[int, ...]]:
    """Shapes by name, as a state says them.

    Raises:
        RefusedCheckpoint: they are something else.
    """
    sound = isinstance(value, dict) and all(
        isinstance(name, str)
        and isinstance(shape, tuple)
        and len(shape) <= _MOST_AXES
        and all(type(size) is int and 0 <= size < _MOST_ELEMENTS for size in shape)
        and prod(shape) < _MOST_ELEMENTS
        for name, shape in dict.items(value)
    )
    if not sound or not isinstance(value, dict):
        raise RefusedCheckpoint(f"{file.name} does not say the shapes of the parameters")
    return dict(dict.items(value))


def _runs(file: _File, flat: Iterable[PickledTensor]) -> Iterator[_Run]:
    """Where the elements of flat tensors lie in a file."""
    for tensor in flat:
        found = file.locate(tensor.storage)
        itemsize = DTYPES[tensor.dtype].itemsize
        count = prod(tensor.shape)
        if tensor.stride != contiguous(tensor.shape) and count > 1:
            raise RefusedCheckpoint(f"{file.name} holds weights that are not contiguous")
        if count and (found is None or (tensor.start + count) * itemsize > found[1]):
            raise RefusedCheckpoint(f"{file.name} is damaged: a storage is shorter than its tensor")
        if count and found is not None:
            yield file.number, found[0] + tensor.start * itemsize, count, itemsize


def _slice(runs: Iterable[_Run], start: int, count: int) -> Iterator[_Run]:
    """Elements [start, start + count), counted over the runs."""
    position = 0
    for file, offset, size, itemsize in runs:
        low, high = max(start, position), min(start + count, position + size)
        if low < high:
            yield file, offset + (low - position) * itemsize, high - low, itemsize
        position += size


def _joined(runs: Iterable[_Run], start: int, count: int) -> tuple[Chunk, ...]:
    """The chunks of elements [start, start + count), counted over the runs."""
    chunks: list[Chunk] = []
    done = 0
    for file, offset, size, _ in _slice(runs, start, count):
        chunks.append(Chunk(file=file, offset_bytes=offset, start=done, count=size))
        done += size
    return tuple(chunks)


def _mapping(file: _File, value: object) -> dict[Any, Any]:
    if not isinstance(value, dict):
        raise RefusedCheckpoint(f"{file.name} is not what DeepSpeed writes")
    return value


def _number(value: object) -> int:
    """A whole number, or the one that an enumeration stands for (0: neither)."""
    if not isinstance(value, int):
        value = next(iter(vars(value).get("args", ())), None) if hasattr(value, "__dict__") else None
    return value if type(value) is int else 0


FORMAT = FolderFormat(
    name="deepspeed",
    recognises=lambda _folder, names: any(map(_OPTIMIZER.match, names)),
    read_layout=read_layout,
    written_as=WrittenAs.SAFETENSORS,
    loading=loading.consolidated,
)
# a folder of ZeRO too, until the shards of its optimizer are there
WITHOUT_ZERO = FolderFormat(
    name="deepspeed without ZeRO",
    recognises=lambda _folder, names: any(map(_MODEL.match, names)),
    read_layout=read_layout,
    loading=loading.states_of_deepspeed,
)
