"""Checkpoints that are folders of ordinary weight files: Hugging Face, PEFT, Accelerate; the model in one file or in shards.

They are recognised by the names of their files. The model is complete when every shard that the index names is complete and
what the trainer writes last is there.
"""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rna_watch.errors import IncompleteCheckpoint, RefusedCheckpoint
from rna_watch.formats import loading
from rna_watch.formats.format import FolderFormat, ReadFile
from rna_watch.layout import bounded_json
from rna_watch.layout.artifacts import is_output
from rna_watch.layout.identity import FileIdentity, identify
from rna_watch.layout.layout import Extent, Layout, TensorView
from rna_watch.layout.open_file import open_regular

if TYPE_CHECKING:
    from collections.abc import Sequence

# a model's files, in the order in which loaders look for them; an index names shards
_MODELS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "adapter_model.safetensors",
    "adapter_model.bin",
)
_INDEX_ENDING = ".index.json"
_SHARD = re.compile(r"^(model|pytorch_model)-\d{5}-of-\d{5}\.(safetensors|bin)$")
_HUGGING_FACE = re.compile(r"^checkpoint-\d+$")
_ACCELERATE = re.compile(r"^checkpoint_\d+$")
_RENAMED_LATER = re.compile(r"^tmp-checkpoint-\d+$")  # older versions of transformers
_STATE_FILES = (
    r"(optimizer|scheduler|lr_scheduler|scaler|rng_state|random_states|sampler|dl_state_dict|custom_checkpoint"
    r"|trainer_state|training_args)[\w.]*"
)
# of a resumable training: never part of a model that is written out
_TRAINING = re.compile(rf"^{_STATE_FILES}$|^latest$|^global_step\d+$|^zero_to_fp32\.py$|^\.", re.IGNORECASE)
# files that may be there before the weights: a folder with any other file is not known to become a checkpoint
_BEFORE_WEIGHTS = re.compile(
    rf"^{_STATE_FILES}$|\.(json|jsonl|jinja|txt|md|py|model|tiktoken)$|^\.tmp\w{{6}}$", re.IGNORECASE
)
_WRITTEN_BEFORE_STATE = re.compile(r"^(optimizer\.pt|scheduler\.pt|rng_state(_\d+)?\.pth)$")
_WRITTEN_BEFORE_RANDOM_STATES = re.compile(r"^(optimizer|scheduler|sampler|dl_state_dict)(_\d+)?\.bin$")
_STATE_FOLDER = re.compile(r"^(optimizer|pytorch_model_fsdp|checkpoint)[-_]?\d*$")
_STATE = "trainer_state.json"
_STAGED_FILE = re.compile(r"^\.tmp\w{6}$")  # of safetensors 0.8, renamed when it is whole
_SAME_SAVE_NS = 1_000_000_000  # clocks of network file systems differ a little
_RANDOM_STATES = "random_states_0.pkl"
_ADAPTER_CONFIG = "adapter_config.json"
_CARRIED_LIMIT = 10_000
_TAIL_BYTES = 64


def recognises(folder: str, names: set[str]) -> bool:
    """Whether a folder with these entries is (or is becoming) such a checkpoint."""
    if any(name in _MODELS or _SHARD.match(name) for name in names):
        return True
    named = _name(folder)
    staged = _HUGGING_FACE.match(named) or _ACCELERATE.match(named)
    return bool(staged and names) and all(_BEFORE_WEIGHTS.search(name) for name in names)


def _name(folder: str) -> str:
    return os.path.basename(os.path.normpath(folder))  # noqa: PTH119 - a string crosses process boundaries


def read_layout(folder: str, source: str | None, read_file: ReadFile) -> Layout:
    """The layout of a complete folder.

    Args:
        folder: the checkpoint.
        source: key path of the model inside its files.
        read_file: returns the layout of one of its files.

    Raises:
        IncompleteCheckpoint: something that is written later is not there yet.
        RefusedCheckpoint: it holds no model, or one that cannot be combined.
    """
    names = set(os.listdir(folder))  # noqa: PTH208
    if _RENAMED_LATER.match(_name(folder)):
        raise IncompleteCheckpoint("the trainer has not yet given it its name")
    shards, index, weight_map = _shards(folder, names)
    layouts = []
    for name in shards:
        try:
            layouts.append(read_file(os.path.join(folder, name), source))  # noqa: PTH118
        except (IncompleteCheckpoint, RefusedCheckpoint) as error:
            raise type(error)(f"{name}: {error}") from error
    joined = join(layouts)
    absent = weight_map.keys() - {view.name for view in joined.tensors}
    if absent:
        raise IncompleteCheckpoint(f"{weight_map[min(absent)]} does not hold {min(absent)}, as the index says (yet)")
    state = _trainer_state(folder, names)
    _check_ends(folder, names)
    _check_order(folder, names, shards, index)
    counters = {key: int(state[name]) for key, name in (("step", "global_step"),) if isinstance(state.get(name), int)}
    return replace(
        joined,
        format=f"{FORMAT.name} of {joined.format}",
        kinds=tuple(layout.format for layout in layouts),
        root=folder,
        carried=tuple(_carried(folder, {*shards}, index)),
        counters=counters or joined.counters,
        optimizer=None,
    )


def _trainer_state(folder: str, names: set[str]) -> dict[str, Any]:
    """What trainer_state.json says, if there is one.

    A folder with a model and no state of a training is what `save_pretrained` and `save_model` write: it is complete,
    unless a neighbour of its kind has a state.

    Raises:
        IncompleteCheckpoint: it is to come, or is being written.
    """
    named = _name(folder)
    if _STATE not in names:
        numbered = _HUGGING_FACE.match(named)
        if any(_WRITTEN_BEFORE_STATE.match(name) for name in names) or (numbered and "training_args.bin" in names):
            raise IncompleteCheckpoint(f"{_STATE}, written last, is not there yet")
        if numbered and (other := _neighbour_with(folder, _HUGGING_FACE, _STATE)):
            raise IncompleteCheckpoint(f"{_STATE}, which {other} has, is not there yet")
        if _RANDOM_STATES in names:
            return {}
        if any(_WRITTEN_BEFORE_RANDOM_STATES.match(name) for name in names):
            raise IncompleteCheckpoint(f"{_RANDOM_STATES}, written last, is not there yet")
        if _ACCELERATE.match(named) and (other := _neighbour_with(folder, _ACCELERATE, _RANDOM_STATES)):
            raise IncompleteCheckpoint(f"{_RANDOM_STATES}, which {other} has, is not there yet")
        return {}
    try:
        state = bounded_json.read(os.path.join(folder, _STATE))  # noqa: PTH118
    except (FileNotFoundError, ValueError) as error:
        raise IncompleteCheckpoint(f"{_STATE} cannot be read yet ({error})") from error
    if not isinstance(state, dict):
        raise IncompleteCheckpoint(f"{_STATE} is not whole yet")
    _, _, number = named.rpartition("-")
    step = state.get("global_step")
    if _HUGGING_FACE.match(named) and isinstance(step, int) and number.isdecimal() and int(number) != step:
        raise IncompleteCheckpoint(f"{_STATE} is of step {step}: the folder is being written again")
    return state


def _check_order(folder: str, names: set[str], shards: Sequence[str], index: str) -> None:
    """Check that what is written last is not older than the weights, as it is while a folder is written over an old save.

    Raises:
        IncompleteCheckpoint: it is, and what shows it.
    """
    if any(_STAGED_FILE.match(name) for name in names):
        raise IncompleteCheckpoint("a file in it is still being written")
    newest = max(os.stat(os.path.join(folder, name)).st_mtime_ns for name in shards)  # noqa: PTH118
    for last in (index, _STATE):
        if last in names and os.stat(os.path.join(folder, last)).st_mtime_ns + _SAME_SAVE_NS < newest:  # noqa: PTH118
            raise IncompleteCheckpoint(
                f"its weights are newer than {last}, which is written after them: the folder is being written again (if it is a "
                f"copy that lost its times: touch {last})"
            )


def _neighbour_with(folder: str, pattern: re.Pattern[str], name: str) -> str:
    """The name of another checkpoint of the same training that has a file ("" if none has, or if this one is ours)."""
    if is_output(Path(folder)):
        return ""
    above = os.path.dirname(os.path.abspath(folder))  # noqa: PTH100, PTH120
    try:
        others = sorted(other for other in os.listdir(above) if pattern.match(other))  # noqa: PTH208
    except OSError:
        return ""
    return next((other for other in others if os.path.exists(os.path.join(above, other, name))), "")  # noqa: PTH110, PTH118


def _check_ends(folder: str, names: set[str]) -> None:
    """Check that JSON files, which are written in place, have their ends.

    Raises:
        IncompleteCheckpoint: such a file, and which.
    """
    for name in sorted(names):
        if not name.endswith(".json") or _TRAINING.match(name):
            continue
        with open(os.path.join(folder, name), "rb", opener=open_regular) as file:  # noqa: PTH118
            head = file.read(_TAIL_BYTES).lstrip()[:1]
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
            tail = file.read().rstrip()[-1:]
        if not head or {b"{": b"}", b"[": b"]"}.get(head, tail) != tail:
            raise IncompleteCheckpoint(f"the end of {name} is not there yet")


def _shards(folder: str, names: set[str]) -> tuple[list[str], str, dict[str, str]]:
    """The files that hold the model, the index that names them ("" if none), and what it says: each tensor's file.

    Raises:
        IncompleteCheckpoint: a shard is missing, or the index of the shards is.
        RefusedCheckpoint: there is no model.
    """
    for name in _MODELS:
        if name not in names:
            continue
        if name.startswith("adapter_") and _ADAPTER_CONFIG not in names:
            raise IncompleteCheckpoint(f"{_ADAPTER_CONFIG}, written after {name}, is not there yet")
        if not name.endswith(_INDEX_ENDING):
            return [name], "", {}
        weight_map = _weight_map(folder, name)
        shards = sorted(set(weight_map.values()))
        missing = [shard for shard in shards if shard not in names]
        if missing:
            raise IncompleteCheckpoint(f"{name} names {missing[0]}, which is not there (yet)")
        return shards, name, weight_map
    if any(_SHARD.match(name) for name in names):
        raise IncompleteCheckpoint("the index of its shards, written after them, is not there yet")
    raise IncompleteCheckpoint("it holds no weights (yet): model.safetensors, pytorch_model.bin or an adapter's")


def _weight_map(folder: str, index: str) -> dict[str, str]:
    try:
        weight_map = dict(bounded_json.read(os.path.join(folder, index))["weight_map"])  # noqa: PTH118
    except (FileNotFoundError, ValueError, KeyError, TypeError) as error:
        raise IncompleteCheckpoint(f"{index} cannot be read ({type(error).__name__}: {error})") from error
    files = weight_map.values()
    if not weight_map or any(not isinstance(file, str) or "/" in file or file.startswith(".") for file in files):
        raise RefusedCheckpoint(f"{index} names files outside of the checkpoint")
    return weight_map


def _carried(folder: str, shards: set[str], index: str) -> list[FileIdentity]:
    """Configuration, tokenizer and whatever else a model needs; nothing of the training's state, no other model."""

    def left_out(name: str) -> bool:
        return bool(name in shards or name in _MODELS or _SHARD.match(name) or _TRAINING.match(name))

    found: list[FileIdentity] = []
    for place, folders, files in os.walk(folder):
        top = place == folder
        if top:
            folders[:] = sorted(name for name in folders if not _TRAINING.match(name) and not _STATE_FOLDER.match(name))
        names = sorted(name for name in files if not top or name == index or not left_out(name))
        found += [identify(os.path.join(place, name)) for name in names]  # noqa: PTH118
        if len(found) > _CARRIED_LIMIT:
            raise RefusedCheckpoint(f"it holds more than {_CARRIED_LIMIT} files beside the model")
    return found


def join(layouts: Sequence[Layout]) -> Layout:
    """Several files as one checkpoint: the tensors of all.

    Raises:
        RefusedCheckpoint: two of them hold a tensor of the same name.
    """
    extents: list[Extent] = []
    tensors: list[TensorView] = []
    files: list[FileIdentity] = []
    names: set[str] = set()
    digest = hashlib.blake2b(digest_size=16)
    for layout in layouts:
        twice = names & {view.name for view in layout.tensors}
        if twice:
            raise RefusedCheckpoint(f"two of its files hold {min(twice)}")
        names |= {view.name for view in layout.tensors}
        digest.update(layout.fingerprint.encode())
        tensors += [replace(view, extent=view.extent + len(extents)) for view in layout.tensors]
        extents += [
            replace(
                extent,
                chunks=tuple(replace(chunk, file=chunk.file + len(files)) for chunk in extent.chunks),
            )
            for extent in layout.extents
        ]
        files += layout.files
    return Layout(
        format=layouts[0].format,
        files=tuple(files),
        source=layouts[0].source,
        parts=layouts[0].parts,
        tensors=tuple(tensors),
        extents=tuple(extents),
        counters=layouts[0].counters,
        fingerprint=digest.hexdigest() if len(layouts) > 1 else layouts[0].fingerprint,
    )


FORMAT = FolderFormat(name="folder", recognises=recognises, read_layout=read_layout, loading=loading.hugging_face)
