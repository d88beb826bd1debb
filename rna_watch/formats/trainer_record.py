"""What a trainer recorded in a checkpoint besides the model: who it is, the network's class, settings, where its data lay.

Only plain values are taken (numbers, texts, lists of them): they are written into Python that a person runs.
"""

from __future__ import annotations

import contextlib
import os
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rna_watch.errors import RnaWatchError
from rna_watch.formats import torch_zip
from rna_watch.formats.safe_pickle import Inert
from rna_watch.layout import bounded_json
from rna_watch.layout.open_file import OpenFile

if TYPE_CHECKING:
    from rna_watch.layout.layout import Layout

HUGGING_FACE, LIGHTNING, TIMM, PLAIN = "Hugging Face", "Lightning", "timm", "plain PyTorch"
_CONFIG = "config.json"
_TOKENIZERS = {"tokenizer.json", "tokenizer_config.json", "vocab.json", "vocab.txt"}
# names that can be written into Python and mean nothing but a network there
_CLASS = re.compile(r"[A-Z][A-Za-z0-9_]*(?:Model|For[A-Z][A-Za-z0-9]*)")
_ARCHITECTURE = re.compile(r"[A-Za-z0-9_]+(?:\.[A-Za-z0-9_]+)?")
_MOST_SETTINGS = 200
_MOST_CHARACTERS = 500
_DEEPEST = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What was found.

    `network` is the name of its class or architecture, "" if it is not recorded (of Lightning's, `module.Class`, a text that is
    shown and never imported). `settings` are those that the network was made with, or the training script's; `data` those of
    Lightning's data module, None if it has none.
    """

    trainer: str
    network: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] | None = None
    tokenizer: bool = False


def of(layout: Layout) -> Record:
    """The record in a checkpoint.

    Args:
        layout: the checkpoint's.
    """
    if layout.root:
        return _of_folder(layout.root)
    tree = _tree(layout.path)
    if "pytorch-lightning_version" in tree:
        hyper = _plain_values(tree.get("hyper_parameters"))
        data = tree.get("datamodule_hyper_parameters")
        path = hyper.pop("_class_path", "")
        hyper.pop("_instantiator", None)
        named = isinstance(path, str) and path.count(".") > 0 and all(part.isidentifier() for part in path.split("."))
        return Record(
            trainer=LIGHTNING,
            network=path if named else "",
            settings=hyper,
            data=None if data is None else _plain_values(data),
        )
    settings = (
        _plain_values(tree.get("args")) or _plain_values(tree.get("config")) or _plain_values(tree.get("hparams"))
    )
    arch = tree.get("arch") or settings.get("arch") or settings.get("model")
    network = arch if isinstance(arch, str) and len(arch) <= _MOST_CHARACTERS else ""
    timm = _ARCHITECTURE.fullmatch(network) and {"state_dict", "version", "arch"} <= tree.keys()
    return Record(trainer=TIMM if timm else PLAIN, network=network, settings=settings)


def _of_folder(folder: str) -> Record:
    config: dict[str, Any] = {}
    with contextlib.suppress(OSError, ValueError):
        found = bounded_json.read(os.path.join(folder, _CONFIG))  # noqa: PTH118 - a string, as in layouts
        config = found if isinstance(found, dict) else {}
    listed = config.get("architectures")
    name = listed[0] if isinstance(listed, list) and listed else ""
    if not isinstance(name, str) or not _CLASS.fullmatch(name):
        return Record(trainer=HUGGING_FACE if config.get("model_type") else PLAIN)
    return Record(trainer=HUGGING_FACE, network=name, tokenizer=not _TOKENIZERS.isdisjoint(os.listdir(folder)))  # noqa: PTH208


def _tree(path: str) -> dict[Any, Any]:
    """What a file of torch's holds besides tensors; nothing of it is run, and a file of another kind holds nothing."""
    with contextlib.suppress(OSError, ValueError, RnaWatchError), OpenFile(path) as file:
        tree = torch_zip.read(file).tree()
        return tree if isinstance(tree, dict) else {}
    return {}


def _plain_values(value: object) -> dict[str, Any]:
    """The plain values of a mapping, or of a Namespace, by names that Python takes as keywords."""
    found: Any = value
    if isinstance(value, Inert):
        found = value.state if isinstance(value.state, dict) else dict(_pairs(value.items))
    if not isinstance(found, dict):
        return {}
    taken = {
        name: plain
        for name, each in list(found.items())[:_MOST_SETTINGS]
        if isinstance(name, str) and name.isidentifier() and (plain := _literal(each, 0)) is not ...
    }
    return {name: each for name, each in taken.items() if len(repr(each)) <= _MOST_CHARACTERS}


def _pairs(items: list[object]) -> list[tuple[Any, Any]]:
    return [each for each in items if isinstance(each, tuple) and len(each) == 2]


def _literal(value: object, depth: int) -> Any:
    """A plain value as it is, `...` for anything else."""
    if value is None or type(value) in {bool, int, float, str}:
        return value
    if depth < _DEEPEST and type(value) in {list, tuple}:
        inner = [_literal(each, depth + 1) for each in value]  # type: ignore[attr-defined]
        if ... in inner:
            return ...
        return inner if type(value) is list else tuple(inner)
    if depth < _DEEPEST and type(value) is dict:
        pairs = {key: _literal(each, depth + 1) for key, each in value.items() if isinstance(key, str)}
        return ... if ... in pairs.values() or len(pairs) < len(value) else pairs
    return ...
