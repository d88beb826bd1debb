"""A torch file with the model alone, at the key where the original has it: the rest of the file is left out.

Counters stay, and what loaders build the model from (Lightning's hyper-parameters and version, `model_args`, `config`).

Written as torch.save does: a plain zip with records aligned to 64 bytes, and a pickle that torch's safe reader takes.
"""

from __future__ import annotations

import hashlib
import pickle
import struct
import zlib
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

from rna_watch.errors import RefusedCheckpoint
from rna_watch.formats import model_source, registry, torch_zip
from rna_watch.formats.format import WrittenAs
from rna_watch.formats.safe_pickle import STORAGES, PickledTensor
from rna_watch.layout.dtypes import DTYPES
from rna_watch.layout.layout import TensorView
from rna_watch.layout.open_file import opened
from rna_watch.publishing.new_file import Rewriting, Skeleton

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rna_watch.layout.layout import Extent, Layout

DROP = "drop"
_ALIGNMENT = 64
_LARGE = 0xFFFFFFFF
_MANY = 0xFFFF
_DATE = 0x21  # 1980-01-01, as torch writes it
_UNKNOWN_CRC = 0xFFFFFFFF  # not 0: that says that there is none
_STORAGE_OF = {dtype: name for name, dtype in STORAGES.items()}
_COUNTERS = {*model_source.STEP_KEYS, *model_source.EPOCH_KEYS}
_LIGHTNING = "pytorch-lightning_version"
_HYPER_PARAMETERS = "hyper_parameters"
# what loaders ask a file for, besides the model: Lightning's `load_from_checkpoint` and `Trainer.test`; nanoGPT; timm
_ABOUT = {_LIGHTNING, _HYPER_PARAMETERS, "hparams_name", "hparams_type", "model_args", "model_config", "config", "arch"}
_MOST_VALUES, _DEEPEST = 100_000, 50


def obstacle(layout: Layout) -> str:
    """In words, why a model cannot be written without the rest of its file ("" if it can, or if there is no rest)."""
    if registry.written_as(layout, alone=True) is WrittenAs.TORCH_ZIP:
        try:
            plan(layout)
        except RefusedCheckpoint as error:
            return str(error)
    return registry.file_format(layout.format).not_alone


def plan(layout: Layout) -> Rewriting:
    """The file to be made of a torch zip file.

    Raises:
        RefusedCheckpoint: the model in it is an object, or is known for an average by the rest of the file.
        InputChanged: the file is gone or changed.
    """
    with opened(layout.files[:1]) as (file,):
        tree = torch_zip.read(file).tree()
    if layout.averaged and layout.source == model_source.RAW_BESIDE_AVERAGE[1]:
        raise RefusedCheckpoint("its average of the weights would pass for the weights without those beside it")
    if isinstance(tree, dict) and _LIGHTNING in tree and not _plain(tree.get(_HYPER_PARAMETERS)):
        raise RefusedCheckpoint("Lightning builds the model from hyper-parameters that are objects of classes")
    content: dict[Any, Any] | None = None
    for part in layout.parts or (layout.source,):
        front = f"{part}." if layout.parts else ""
        views = {view.name.removeprefix(front): view for view in layout.tensors if view.name.startswith(front)}
        own = _lean(tree, part, views, top=True)
        content = own if content is None or own is None or not isinstance(tree, dict) else _united(tree, content, own)
        if content is None:
            break
    if content is None:
        raise RefusedCheckpoint(
            "its model is no state dict of its own, but an object of a class, or within another state dict"
        )
    storages = [f"data/{number}" for number in range(len(layout.extents))]
    data = pickle.PROTO + b"\x02" + _pickled(content, layout.extents) + pickle.STOP
    digest = int.from_bytes(hashlib.blake2b(data).digest(), "big")
    sizes = [extent.storage_count * DTYPES[extent.dtype].itemsize for extent in layout.extents]
    made = archive(
        [
            ("data.pkl", data),
            ("byteorder", b"little"),
            *zip(storages, sizes, strict=True),
            ("version", b"3\n"),
            (".data/serialization_id", f"{digest % 10**40:040d}".encode()),
        ]
    )
    return Rewriting(
        format=torch_zip.FORMAT, name="", skeleton=made, bases=tuple(made.offsets[storage] for storage in storages)
    )


def _lean(value: object, path: str, views: Mapping[str, TensorView], *, top: bool) -> dict[Any, Any] | None:
    """A mapping on the way to the model with that alone; at the top with counters and what it is; None if there is no way."""
    if not isinstance(value, dict):
        return None
    if not path:
        return _model(value, "", views)
    for key, item in dict.items(value):
        if not isinstance(key, str) or not (path == key or path.startswith(f"{key}.")):
            continue
        inner = _lean(item, path[len(key) + 1 :], views, top=False)
        if inner is None:
            continue
        kept = {
            k: v
            for k, v in dict.items(value)
            if top and k != key and ((k in _COUNTERS and type(v) is int) or (k in _ABOUT and _plain(v)))
        }
        return {k: kept.get(k, inner) for k in dict.keys(value) if k == key or k in kept}
    return None


def _united(like: dict[Any, Any], one: dict[Any, Any], other: dict[Any, Any]) -> dict[Any, Any]:
    """The mappings on the way to several models as one, with the keys in the order of the original's."""
    united = {}
    for key in dict.keys(like):
        found = [each[key] for each in (one, other) if key in each]
        both = len(found) == 2 and found[0] is not found[1] and isinstance(found[0], dict)
        if found:
            united[key] = _united(like[key], found[0], found[1]) if both else found[0]
    return united


def _plain(value: object) -> bool:
    """Whether a value is made of texts, numbers, lists and mappings alone, and not of very many or very deep ones."""
    waiting = [(value, 0)]
    for _ in range(_MOST_VALUES):  # a list may hold itself, or the same one many times over
        if not waiting:
            return True
        item, depth = waiting.pop()
        if isinstance(item, dict) and type(item) is dict and all(isinstance(key, str | int) for key in item):
            waiting += [(each, depth + 1) for each in item.values()]
        elif isinstance(item, list | tuple) and type(item) in {list, tuple}:
            waiting += [(each, depth + 1) for each in item]
        elif item is not None and type(item) not in {str, int, float, bool}:
            return False
        if depth > _DEEPEST or len(waiting) > _MOST_VALUES:
            return False
    return False


def _model(value: dict[Any, Any], prefix: str, views: Mapping[str, TensorView]) -> dict[Any, Any] | None:
    """A state dict, or mappings of them, with tensors as the layout describes them; None where one of them is missing."""
    made: dict[Any, Any] = OrderedDict() if isinstance(value, OrderedDict) else {}
    for key, item in dict.items(value):
        if isinstance(item, PickledTensor):
            if f"{prefix}{key}" in views:
                made[key] = views[f"{prefix}{key}"]
        elif isinstance(item, dict):
            inner = _model(item, f"{prefix}{key}.", views)
            if inner:
                made[key] = inner
        elif isinstance(key, str) and (item is None or type(item) in {int, float, bool, str}):
            made[key] = item
    if isinstance(made, OrderedDict) and "_metadata" in vars(value):
        vars(made)["_metadata"] = vars(value)["_metadata"]
    if not prefix and _tensors(made) != len(views):
        return None
    return made


def _tensors(value: dict[Any, Any]) -> int:
    return sum(
        _tensors(item) if isinstance(item, dict) else isinstance(item, TensorView) for item in dict.values(value)
    )


def _pickled(value: object, extents: Sequence[Extent]) -> bytes:
    """The opcodes that build a value; numbers, texts and what is in a state dict's metadata, as the reader gave them."""
    if isinstance(value, dict):
        items = b"".join(
            _pickled(key, extents) + _pickled(item, extents)
            for key, item in dict.items(value)
            if isinstance(key, str | int)
        )
        made = _global("collections", "OrderedDict") + b")R" if isinstance(value, OrderedDict) else pickle.EMPTY_DICT
        made += pickle.MARK + items + pickle.SETITEMS
        metadata = vars(value).get("_metadata") if isinstance(value, OrderedDict) else None
        if isinstance(metadata, dict):
            state = _scalar("_metadata") + _pickled(metadata, extents)
            made += pickle.EMPTY_DICT + state + pickle.SETITEM + pickle.BUILD
        return made
    if isinstance(value, list | tuple):
        items = pickle.MARK + b"".join(_pickled(item, extents) for item in value)
        return pickle.EMPTY_LIST + items + pickle.APPENDS if isinstance(value, list) else items + pickle.TUPLE
    if isinstance(value, TensorView):
        return _tensor(value, extents[value.extent])
    return _scalar(value if isinstance(value, str | int | float) else None)


def _tensor(view: TensorView, extent: Extent) -> bytes:
    step = 2 if view.pairs else 1
    count = extent.storage_count // step
    storage = _STORAGE_OF.get(view.stored_dtype)
    kind = _global("torch", storage) if storage else _global("torch.storage", "UntypedStorage")
    if storage is None:
        count *= DTYPES[view.dtype].itemsize
    reference = b"(" + _scalar("storage") + kind + _scalar(str(view.extent)) + _scalar("cpu") + _scalar(count) + b"tQ"
    strides = tuple(each // step for each in view.stride[: len(view.stored_shape)])
    about = _scalar(view.start // step) + _scalar(view.stored_shape) + _scalar(strides)
    about += pickle.NEWFALSE + _global("collections", "OrderedDict") + b")R"
    if storage:
        return _global("torch._utils", "_rebuild_tensor_v2") + b"(" + reference + about + b"tR"
    about += _global("torch", view.stored_dtype)
    return _global("torch._utils", "_rebuild_tensor_v3") + b"(" + reference + about + b"tR"


def _global(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def _scalar(value: object) -> bytes:
    return pickle.dumps(value, protocol=2)[2:-1]


def archive(records: Sequence[tuple[str, bytes | int]]) -> Skeleton:
    """A zip file of uncompressed, aligned records, each given by its bytes, or by the size of what is to come.

    The checksums of the latter are to be repaired when they are written.
    """
    parts: list[tuple[int, bytes]] = []
    entries: list[bytes] = []
    offsets = {}
    position = 0
    for name, content in records:
        size = len(content) if isinstance(content, bytes) else content
        crc = zlib.crc32(content) if isinstance(content, bytes) else _UNKNOWN_CRC if size else 0
        path = f"archive/{name}".encode()
        large, far = size >= _LARGE, position >= _LARGE
        wide = struct.pack("<HHQQ", 1, 16, size, size) if large else b""
        padding = -(position + 30 + len(path) + len(wide) + 4) % _ALIGNMENT
        extra = wide + struct.pack("<2sH", b"FB", padding) + b"Z" * padding
        shown = _LARGE if large else size
        fixed = (45 if large or far else 20, 0, 0, 0, _DATE, crc, shown, shown, len(path))
        header = struct.pack("<IHHHHHIIIHH", 0x04034B50, *fixed, len(extra)) + path + extra
        values = ([size, size] if large else []) + ([position] if far else [])
        wide = struct.pack(f"<HH{len(values)}Q", 1, 8 * len(values), *values) if values else b""
        entry = struct.pack(
            "<IHHHHHHIIIHHHHHII", 0x02014B50, 0, *fixed, len(wide), 0, 0, 0, 0, _LARGE if far else position
        )
        entries.append(entry + path + wide)
        parts.append((position, header + content if isinstance(content, bytes) else header))
        offsets[name] = position + len(header)
        position += len(header) + size
    directory = b"".join(entries)
    end, count = position + len(directory), len(records)
    tail = b""
    if end >= _LARGE or count >= _MANY:
        tail = struct.pack("<IQHHIIQQQQ", 0x06064B50, 44, 45, 45, 0, 0, count, count, len(directory), position)
        tail += struct.pack("<IIQI", 0x07064B50, 0, end, 1)
    few = min(count, _MANY)
    last = struct.pack("<IHHHHIIH", 0x06054B50, 0, 0, few, few, min(len(directory), _LARGE), min(position, _LARGE), 0)
    parts.append((position, directory + tail + last))
    return Skeleton(size_bytes=end + len(tail) + len(last), parts=tuple(parts), offsets=offsets)
