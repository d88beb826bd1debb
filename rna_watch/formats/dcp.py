"""Folders of torch.distributed.checkpoint (DCP): `.metadata` and `__R_N.distcp` shards, with a small torch zip for each piece.

Lightning's sharded `*.ckpt/`, torchtitan's `step-N/`, Megatron's `iter_N/` and Accelerate's `pytorch_model_fsdp_0/` are such.
A tensor is an extent in the order of its logical elements, whatever blocks the ranks saved it in; one in very many pieces, in the
order of its blocks.
"""

from __future__ import annotations

import os
import re
from math import prod
from typing import TYPE_CHECKING, Any

from rna_watch.errors import IncompleteCheckpoint, RefusedCheckpoint
from rna_watch.formats import dcp_metadata, dcp_pieces, dcp_shard, loading, model_source, torch_zip
from rna_watch.formats.dcp_items import Reading, opened
from rna_watch.formats.dcp_shard import ENDING, METADATA
from rna_watch.formats.format import FolderFormat
from rna_watch.formats.safe_pickle import PickledTensor, Storage
from rna_watch.formats.zip_directory import MAGIC
from rna_watch.layout import bounded_json
from rna_watch.layout.dtypes import DTYPES
from rna_watch.layout.identity import FileIdentity, identify
from rna_watch.layout.layout import Layout

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rna_watch.formats.dcp_metadata import Metadata, Stored
    from rna_watch.formats.format import ReadFile

_LIGHTNING = "meta.pt"
_MEGATRON = ("metadata.json", "common.pt")
_ITERATION = re.compile(r"^(iter_\d{7}|release)$")
_OF_ONE_RANK = re.compile(r"^__\d+\.metadata$")
_FSDP = re.compile(r"^pytorch_model_fsdp(_\d+)?$")
_WEIGHTS = re.compile(r"^(model|pytorch_model|adapter_model)\b.*\.(safetensors|bin)(\.index\.json)?$")
_STATE = re.compile(
    r"^(optimizer|scheduler|sampler|scaler|random_states|rng_state|dl_state_dict|trainer_state|training_args|custom_checkpoint)",
    re.IGNORECASE,
)
_OPTIMIZER = re.compile(r"^(lr_?)?(optim|sched|opt$)", re.IGNORECASE)
_CARRIED_LIMIT = 10_000
_COUNTERS_LIMIT = 8


def recognises(folder: str, names: set[str]) -> bool:
    """Whether a folder with these entries is (or is becoming) such a checkpoint."""
    if any(name.endswith(ENDING) for name in names):
        return True
    if names & {*_MEGATRON, _LIGHTNING} and (METADATA in names or _ITERATION.match(os.path.basename(folder))):  # noqa: PTH119
        return True
    if METADATA in names and all(name.startswith(".") for name in names):
        return os.path.isfile(os.path.join(folder, METADATA))  # noqa: PTH113, PTH118 - its shards are gone
    return _inner(names) != "" and not any(_WEIGHTS.match(name) for name in names)


def _inner(names: Iterable[str]) -> str:
    """The folder below a trainer's own that holds the model ("" if there is none)."""
    return min((name for name in names if _FSDP.match(name)), default="")


def read_layout(folder: str, source: str | None, _read_file: ReadFile) -> Layout:
    """The layout of a complete folder.

    Args:
        folder: the checkpoint.
        source: key path of the model in what was saved.

    Raises:
        IncompleteCheckpoint: something that is written later is not there yet, or is being written again.
        RefusedCheckpoint: it holds no model, or one that cannot be combined.
    """
    outer = set(os.listdir(folder))  # noqa: PTH208 - a string crosses process boundaries here
    place = os.path.join(folder, _inner(outer)) if METADATA not in outer else folder  # noqa: PTH118
    names = set(os.listdir(place))  # noqa: PTH208
    _check_written(folder, outer, names)
    with opened(os.path.join(place, METADATA)) as file:  # noqa: PTH118
        metadata = dcp_metadata.read(file.read(0, file.size_bytes))
        file.check_unchanged()
        written_ns = file.identity.mtime_ns
    tree = _tree(metadata)
    path, parts, tensors = model_source.find_model(tree, source)
    reading = Reading(
        place,
        names,
        written_ns,
        metadata,
        {tensor.storage.key for tensor in tensors.values()},
        _counter_names(metadata),
    )
    parts_of = {name: reading.tensors[tensor.storage.key] for name, tensor in tensors.items()}
    extents, views = dcp_pieces.extents(tensors, parts_of, blocks=True)
    counters = _counters(reading.numbers)
    for small in (_LIGHTNING, _MEGATRON[1]):
        if small in names:
            counters = _counters_in(os.path.join(place, small)) | counters  # noqa: PTH118
    return Layout(
        format=FORMAT.name,
        files=tuple(reading.files),
        kinds=(dcp_shard.FORMAT.name,) * len(reading.files),
        source=path,
        tensors=tuple(views),
        extents=tuple(extents),
        counters=counters,
        fingerprint=reading.fingerprint,
        root=folder,
        carried=tuple(_carried(folder, place, {file.path for file in reading.files})),
        sources=model_source.sources(tree),
        parts=parts,
    )


def _check_written(folder: str, outer: set[str], names: set[str]) -> None:
    """Whether all that a writer writes last is there.

    Raises:
        IncompleteCheckpoint: it is not.
        RefusedCheckpoint: it never will be.
    """
    own = os.path.basename(folder)  # noqa: PTH119
    if METADATA not in names:
        if any(_OF_ONE_RANK.match(name) for name in names):
            raise RefusedCheckpoint(
                "each rank wrote a .metadata of its own (use_collectives=False), so nothing says whether all are there; "
                "save with collectives"
            )
        raise IncompleteCheckpoint(f"{METADATA}, written last, is not there yet")
    if own.endswith(".ckpt") and _LIGHTNING not in names:
        raise IncompleteCheckpoint(f"{_LIGHTNING}, which Lightning writes last, is not there yet")
    if _MEGATRON[1] in names or _ITERATION.match(own):
        _check_megatron(folder, names)
    training = {name for name in outer if _STATE.match(name)} if outer != names else set()
    if training and "trainer_state.json" not in outer:
        if re.match(r"^checkpoint-\d+$", own):
            raise IncompleteCheckpoint("trainer_state.json, written last, is not there yet")
        if not any(name.startswith("random_states_") for name in training):
            raise IncompleteCheckpoint("random_states_0.pkl, written last, is not there yet")


def _check_megatron(folder: str, names: set[str]) -> None:
    if _MEGATRON[0] not in names:
        raise IncompleteCheckpoint(f"{_MEGATRON[0]}, which Megatron writes last, is not there yet")
    try:
        content = bounded_json.read(os.path.join(folder, _MEGATRON[0]))  # noqa: PTH118
    except ValueError as error:
        raise IncompleteCheckpoint(f"{_MEGATRON[0]} cannot be read yet ({error})") from error
    backend = content.get("sharded_backend") if isinstance(content, dict) else None
    if backend != "torch_dist":
        raise RefusedCheckpoint(f"Megatron's format {backend!r} is not known; save with --ckpt-format torch_dist")


def _tree(metadata: Metadata) -> dict[str, Any]:
    """What was saved, as nested mappings with a description of each tensor; optimizers are left out.

    Some writers join keys themselves; an optimizer's entries are recognised there by how their names begin.

    Raises:
        RefusedCheckpoint: a name is a tensor's and a mapping's.
    """
    tensors = [each for each in metadata.stored.values() if each.dtype]
    tensors = [each for each in tensors if not any(_OPTIMIZER.match(str(key)) for key in _containers(each))]
    paths = {each.name: tuple(map(str, each.path)) for each in tensors}
    first = {name.partition(".")[0] for name in paths}
    if all(len(path) == 1 for path in paths.values()) and len(first) == 1 and first & set(model_source.MODEL_KEYS):
        paths = {name: (*first, name.partition(".")[2]) for name in paths if "." in name}
    if any(len(paths[each.name]) == 1 and _linear(each) for each in tensors if each.name in paths):
        models = {paths[each.name][0] for each in tensors if each.name in paths and _linear(each)}
        paths = {
            name: path
            for name, path in paths.items()
            if len(path) == 1 or (path[0] in models and not model_source.NOT_MODELS.search(path[0]))
        }
    tree: dict[str, Any] = {}
    for each in tensors:
        if each.name not in paths:
            continue
        *containers, last = paths[each.name]
        place = tree
        for key in containers:
            place = place.setdefault(key, {})
            if not isinstance(place, dict):
                raise RefusedCheckpoint(f".metadata has a tensor where the mapping of {each.name} belongs")
        if last in place:
            raise RefusedCheckpoint(f".metadata has two entries for {each.name}")
        place[last] = PickledTensor(
            storage=Storage(key=each.name, dtype=each.dtype, count=prod(each.shape)),
            dtype=each.dtype,
            start=0,
            shape=each.shape,
            stride=dcp_pieces.strides(each.shape),
        )
    return tree


def _containers(each: Stored) -> Sequence[str | int]:
    """The keys of the mappings that an entry lies in; of a joined name, its first part may be one."""
    return each.path[:-1] if len(each.path) > 1 else each.name.split(".")[:1]


def _linear(each: Stored) -> bool:
    return each.dtype in DTYPES and DTYPES[each.dtype].linear


def _counter_names(metadata: Metadata) -> set[str]:
    """The names of entries that are step or epoch counters, by their keys."""
    known = {*model_source.STEP_KEYS, *model_source.EPOCH_KEYS}
    found = [
        each
        for each in metadata.stored.values()
        if each.path[-1] in known
        and len(each.path) < 4
        and len(each.items) == 1
        and not each.shape
        and not any(model_source.NOT_MODELS.search(str(key)) for key in each.path[:-1])
    ]
    return {each.name for each in sorted(found, key=lambda each: len(each.path))[:_COUNTERS_LIMIT]}


def _counters(numbers: Iterable[tuple[Stored, int]]) -> dict[str, int]:
    found: dict[str, int] = {}
    for each, number in sorted(numbers, key=lambda pair: len(pair[0].path)):
        found.setdefault(str(each.path[-1]), number)
    return model_source.counters(found)


def _counters_in(path: str) -> dict[str, int]:
    """The counters in a small torch file next to the shards.

    Raises:
        IncompleteCheckpoint: it is not whole (yet).
    """
    with opened(path) as file:
        try:
            head = file.read(0, min(4, file.size_bytes))
            if MAGIC.startswith(head) and head != MAGIC:
                raise IncompleteCheckpoint(f"it has only {len(head)} bytes so far")
            return model_source.counters(torch_zip.read(file).tree()) if head == MAGIC else {}
        except (IncompleteCheckpoint, RefusedCheckpoint) as error:
            raise IncompleteCheckpoint(f"{os.path.basename(path)} is not whole (yet): {error}") from error  # noqa: PTH119
        finally:
            file.check_unchanged()


def _carried(folder: str, place: str, model: set[str]) -> list[FileIdentity]:
    """All other files, but for the training's state in a trainer's folder around it."""
    found: list[FileIdentity] = []
    for at, folders, files in os.walk(folder):
        around = at == folder and place != folder
        folders[:] = sorted(name for name in folders if not (around and _STATE.match(name)))
        for name in sorted(files):
            path = os.path.join(at, name)  # noqa: PTH118
            if path not in model and not (around and _STATE.match(name)):
                found.append(identify(path))
        if len(found) > _CARRIED_LIMIT:
            raise RefusedCheckpoint(f"it holds more than {_CARRIED_LIMIT} files beside the model")
    return found


def _loading(path: str, source: str) -> list[str]:
    names = os.listdir(path) if os.path.isdir(path) else []  # noqa: PTH112, PTH208
    place = path if METADATA in names else os.path.join(path, _inner(names))  # noqa: PTH118
    return loading.distributed(place.rstrip("/"), source)


FORMAT = FolderFormat(name="dcp", recognises=recognises, read_layout=read_layout, loading=_loading)
