"""The `.metadata` of a torch.distributed.checkpoint folder: which tensors there are, how they are cut, where the pieces lie.

It is a pickle. Nothing in it is imported or called: the few classes that it may hold are recognised by their names, their
states are plain values, and each is checked against the others.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import Any

from rna_watch.errors import IncompleteCheckpoint, RefusedCheckpoint
from rna_watch.formats import safe_pickle
from rna_watch.formats.safe_pickle import Inert

_MODULE = "torch.distributed.checkpoint.metadata."
_INFO = "torch.distributed.checkpoint.filesystem._StorageInfo"
_MOST_AXES = 64
_MOST_ELEMENTS = 2**48


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """A piece of a tensor, or a value: bytes [offset, offset + size) of a file.

    `offsets` and `sizes` say which block of the tensor it is; a value has neither.
    """

    file: str
    offset_bytes: int
    size_bytes: int
    offsets: tuple[int, ...] = ()
    sizes: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """A tensor or (with no dtype) a value: its key path in what was saved, and its items."""

    name: str
    path: tuple[str | int, ...]
    dtype: str
    shape: tuple[int, ...]
    items: tuple[Item, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Metadata:
    """All that a folder holds, by name, and the identity of the save that wrote it ("" in old ones)."""

    stored: dict[str, Stored]
    save_id: str

    @property
    def by_file(self) -> dict[str, list[tuple[Stored, Item]]]:
        """What each file holds, in the order of its bytes."""
        files: dict[str, list[tuple[Stored, Item]]] = {}
        for each in self.stored.values():
            for item in each.items:
                files.setdefault(item.file, []).append((each, item))
        for parts in files.values():
            parts.sort(key=lambda part: part[1].offset_bytes)
        return files


def read(data: bytes) -> Metadata:
    """The metadata in the bytes of a `.metadata` file.

    Raises:
        IncompleteCheckpoint: it is cut off, or no pickle.
        RefusedCheckpoint: it is something else, or contradicts itself.
    """
    try:
        tree = safe_pickle.read(io.BytesIO(data), lambda _: None)
    except ValueError as error:
        raise IncompleteCheckpoint(f".metadata cannot be read (yet): {error}") from error
    state = _state(tree, _MODULE + "Metadata")
    tensors, places = state.get("state_dict_metadata"), state.get("storage_data")
    if not isinstance(tensors, dict) or not isinstance(places, dict):
        raise _damaged("it lists no tensors")
    if "planner_data" not in state:  # there, if only to say that no keys were joined
        raise _damaged("it does not say whether keys were joined")
    items = _items(places)
    paths = state.get("planner_data")
    stored = {}
    for name, described in dict.items(tensors):
        if not isinstance(name, str) or not _is_text(name):
            raise _damaged("a name is no text")
        stored[name] = _stored(name, described, items.pop(name, {}), paths if isinstance(paths, dict) else {})
    if items:
        raise _damaged(f"it says where {next(iter(items))} lies, but not what that is")
    _check_apart(stored)
    identity = state.get("storage_meta")
    save_id = _state(identity, _MODULE + "StorageMeta").get("save_id") if identity is not None else None
    return Metadata(stored=stored, save_id=save_id if isinstance(save_id, str) else "")


def _damaged(what: str) -> RefusedCheckpoint:
    return RefusedCheckpoint(f".metadata is not what torch.distributed.checkpoint writes: {what}")


def _is_text(name: str) -> bool:
    """Whether a terminal and a file system take a name: not half of a surrogate pair, no control characters."""
    return name.isprintable()


def _state(value: object, name: str) -> dict[str, Any]:
    """The state of an object of one class."""
    state = vars(value).get("state") if isinstance(value, Inert) and value.qualified_name == name else None
    if not isinstance(state, dict):
        raise _damaged(f"there is no {name.rpartition('.')[2]} where one belongs")
    return state


def _sizes(value: object, what: str) -> tuple[int, ...]:
    """A `torch.Size`."""
    if not (
        isinstance(value, tuple)
        and len(value) <= _MOST_AXES
        and all(type(each) is int and 0 <= each <= _MOST_ELEMENTS for each in value)
    ):
        raise _damaged(f"the {what} is no list of sizes")
    return tuple(value)


def _items(places: dict[Any, Any]) -> dict[str, dict[str | None, tuple[str, int, int]]]:
    """The places of all items: by name, then by the first element of a tensor's piece.

    That is kept as a text: tuples of numbers can be made up whose hashes are equal, which takes time without end.
    """
    found: dict[str, dict[str | None, tuple[str, int, int]]] = {}
    for key, value in dict.items(places):
        index, info = _state(key, _MODULE + "MetadataIndex"), _state(value, _INFO)
        name, offsets = index.get("fqn"), index.get("offset")
        file, offset, length = (info.get(each) for each in ("relative_path", "offset", "length"))
        if not isinstance(name, str) or not isinstance(file, str) or not _is_text(name + file):
            raise _damaged("a name is no text")
        if not (type(offset) is int and type(length) is int and 0 <= offset < 2**62 and 0 <= length < 2**62):
            raise _damaged(f"the place of {name} is no number")
        if info.get("transform_descriptors"):
            raise RefusedCheckpoint(
                f"{name} is stored compressed or otherwise transformed (storage extensions); save without them"
            )
        if not file or "/" in file or "\0" in file or file.startswith("."):
            raise RefusedCheckpoint(f".metadata names a file outside of the checkpoint: {file!r}")
        start = None if offsets is None else str(_sizes(offsets, f"place of {name}"))
        own = found.setdefault(name, {})
        if start in own:
            raise _damaged(f"a piece of {name} lies at two places")
        own[start] = (file, offset, length)
    return found


def _stored(
    name: str, described: object, places: dict[str | None, tuple[str, int, int]], paths: dict[Any, Any]
) -> Stored:
    path = _path(name, paths)
    if isinstance(described, Inert) and described.qualified_name == _MODULE + "BytesStorageMetadata":
        if set(places) - {None}:
            raise _damaged(f"{name} is no tensor, but is cut into pieces")
        values = tuple(Item(file=f, offset_bytes=at, size_bytes=size) for f, at, size in places.values())
        return Stored(name=name, path=path, dtype="", shape=(), items=values)
    state = _state(described, _MODULE + "TensorStorageMetadata")
    shape = _sizes(state.get("size"), f"shape of {name}")
    if prod(shape) > _MOST_ELEMENTS:
        raise _damaged(f"{name} claims {prod(shape)} elements")
    chunks = state.get("chunks")
    if not isinstance(chunks, list):
        raise _damaged(f"{name} has no pieces")
    items: list[Item] = []
    left = dict(places)
    seen = set()
    for chunk in chunks:
        piece = _state(chunk, _MODULE + "ChunkStorageMetadata")
        offsets = _sizes(piece.get("offsets"), f"place of a piece of {name}")
        sizes = _sizes(piece.get("sizes"), f"shape of a piece of {name}")
        fits = len(offsets) == len(sizes) == len(shape) and all(
            at + size <= whole for at, size, whole in zip(offsets, sizes, shape, strict=True)
        )
        if not fits:
            raise _damaged(f"a piece of {name} lies outside of it")
        start = str(offsets)
        place = left.pop(start, None)
        if place is not None:
            file, at, size = place
            items.append(Item(file=file, offset_bytes=at, size_bytes=size, offsets=offsets, sizes=sizes))
            seen.add(start)
        elif start not in seen and 0 not in sizes:  # saved by several ranks, it is listed once a rank
            raise _damaged(f"a piece of {name} lies nowhere")
    if left:
        raise _damaged(f"a piece of {name} is no part of it")
    return Stored(name=name, path=path, dtype=_dtype(name, state.get("properties")), shape=shape, items=tuple(items))


def _path(name: str, paths: dict[Any, Any]) -> tuple[str | int, ...]:
    """The keys under which a value stood in the state dict before its planner joined them with dots."""
    if not paths:  # the planner joined none
        return (name,)
    path = dict.get(paths, name)
    if path is None:
        raise _damaged(f"the keys of {name} are missing")
    keys = isinstance(path, tuple) and all(isinstance(key, str) or type(key) is int for key in path)
    if not keys or not path or ".".join(map(str, path)) != name:
        raise _damaged(f"the keys of {name} are other ones")
    return tuple(path)


def _dtype(name: str, properties: object) -> str:
    kind = isinstance(properties, Inert) and properties.qualified_name == _MODULE + "TensorProperties"
    state = vars(properties).get("state") if kind else None
    if not isinstance(state, tuple) or len(state) < 2:
        raise _damaged(f"{name} has no dtype")
    dtype, layout = state[:2]
    if getattr(layout, "args", None) != ("torch.strided",):
        raise RefusedCheckpoint(
            f"{name} is a sparse tensor, which cannot be averaged; save the model with plain tensors"
        )
    module, _, short = str(getattr(dtype, "qualified_name", "")).rpartition(".")
    if module != "torch":
        raise _damaged(f"{name} has no dtype")
    return short


def _check_apart(stored: dict[str, Stored]) -> None:
    """Two items never share bytes.

    Raises:
        RefusedCheckpoint: two do.
    """
    places = sorted(
        (item.file, item.offset_bytes, item.size_bytes, each.name) for each in stored.values() for item in each.items
    )
    for (file, start, size, name), (next_file, next_start, _, next_name) in pairwise(places):
        if file == next_file and start + size > next_start:
            raise _damaged(f"{name} and {next_name} lie at one place")
