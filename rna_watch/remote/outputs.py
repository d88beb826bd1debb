"""Models put into the object store beside the originals, below `rna/`: a manifest first, then its model, each object at once."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from rna_watch.layout.artifacts import export_path, is_output, manifest_path
from rna_watch.remote.listing import OUTPUTS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rna_watch.remote.record import Record
    from rna_watch.remote.store import Store


class Outputs:
    """Keeps the store's models like those of the output tree.

    Args:
        store: where they go.
        tree: the output tree.
        record: what was put.
    """

    def __init__(self, store: Store, tree: Path, record: Record) -> None:
        self._store = store
        self._tree = tree
        self._record = record

    def send(self) -> int:
        """Put what is new, then what `best` and `latest` name, and delete what is no longer kept; returns how many models.

        Raises:
            RnaWatchError: the store does not answer.
        """
        models = {str(each.relative_to(self._tree)): each for each in _models(self._tree)}
        new = {
            name: manifest for name, each in models.items() if self._record.put.get(name) != (manifest := _state(each))
        }
        for name, state in new.items():
            self._put(models[name])
            self._record.put[name] = state
            self._record.save()
        self._point(models)
        for name in [each for each in self._record.put if each not in models]:
            self._delete(name)
            del self._record.put[name]
            self._record.save()
        return len(new)

    def _put(self, model: Path) -> None:
        files = [manifest_path(model), *_files(model), *_files(export_path(model))]
        names = [OUTPUTS + str(each.relative_to(self._tree)) for each in files]
        self._record.uploading = names
        self._record.save()
        for name, file in zip(names, files, strict=True):
            self._store.put_file(name, file)
            found = self._store.look(name)
            self._record.objects[name] = found.version if found is not None else ""
        self._record.uploading = []

    def _delete(self, model: str) -> None:
        """Delete a model's objects, the manifest last; one that is not what we put stays."""
        own = [name for name in self._record.objects if _belongs(name, OUTPUTS + model)]
        for name in sorted(own, key=lambda each: each == f"{OUTPUTS}{model}.json"):
            found = self._store.look(name)
            if found is not None and found.version == self._record.objects[name]:
                self._store.delete(name)
            del self._record.objects[name]

    def _point(self, models: dict[str, Path]) -> None:
        """Small objects instead of links: each names the model that the link of its name leads to."""
        links = {
            each.name: target
            for each in (sorted(self._tree.iterdir()) if self._tree.is_dir() else ())
            if each.is_symlink() and (target := os.readlink(each)) in models  # noqa: PTH115
        }
        for name in {**self._record.links, **links}:
            model = links.get(name)
            if model == self._record.links.get(name):
                continue
            place = f"{OUTPUTS}{name}.json"
            if model is None:
                self._store.delete(place)
                del self._record.links[name]
            else:
                said = {"model": model, "manifest": f"{model}.json"}
                self._store.put(place, json.dumps(said).encode() + b"\n")
                self._record.links[name] = model
            self._record.save()


def _models(tree: Path) -> Iterator[Path]:
    """The models of the output tree that are there with their manifests."""
    for folder, folders, files in os.walk(tree):
        folders[:] = [each for each in folders if not is_output(Path(folder, each)) and not each.startswith(".")]
        for name in files:
            model = Path(folder, name.removesuffix(".json"))
            if name.endswith(".json") and model.exists() and is_output(model):
                yield model


def _files(path: Path) -> list[Path]:
    """The files of a model, or of its plain copy, if there is one."""
    if path.is_dir():
        return sorted(each for each in path.rglob("*") if each.is_file())
    return [path] if path.exists() else []


def _state(model: Path) -> str:
    """What a model is, by its manifest, which names its inputs and weights."""
    return hashlib.blake2b(manifest_path(model).read_bytes(), digest_size=16).hexdigest()


def _belongs(name: str, model: str) -> bool:
    return name in {model, f"{model}.json", str(export_path(Path(model)))} or name.startswith(f"{model}/")
