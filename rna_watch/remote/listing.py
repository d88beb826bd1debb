"""The checkpoints in a listing of an object store: which objects belong to each, as the scan of a folder would find them."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rna_watch.formats import registry
from rna_watch.watching.scan import is_candidate

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from rna_watch.remote.store import Object

OUTPUTS = "rna/"
# what no reader asks for, and is larger than the model
_NOT_NEEDED = re.compile(r"^optimizer(_\d+)?\.(pt|bin)$")
_SAFE = re.compile(r"^[^/\0]+(/[^/\0]+)*$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Remote:
    """A checkpoint in the store: its name, its objects in the order in which they were written, and its version."""

    name: str
    objects: tuple[Object, ...]
    version: str

    @property
    def changed_s(self) -> float:
        """When the last of them was written (s since 1970)."""
        return self.objects[-1].changed_s

    @property
    def size_bytes(self) -> int:
        """The size of all of them."""
        return sum(each.size_bytes for each in self.objects)


def checkpoints(objects: Mapping[str, Object], patterns: Sequence[str] = ()) -> list[Remote]:
    """The checkpoints among objects, the one that was written last at the end; what we put there is none.

    Args:
        objects: all below the run's address, by name.
        patterns: the setting of that name.
    """
    safe = [each for each in objects.values() if _is_safe(each.name)]
    found = [_remote(name, own) for name, own in _grouped(safe, patterns)]
    return sorted(found, key=lambda each: (each.changed_s, each.name))


def _is_safe(name: str) -> bool:
    """Whether a name may be one below our folder: others can write to the store."""
    parts = name.split("/")
    hidden = any(part in {"", ".", ".."} or (part.startswith(".") and part != ".metadata") for part in parts)
    return not hidden and not name.startswith(OUTPUTS) and _SAFE.match(name) is not None


def _grouped(objects: Iterable[Object], patterns: Sequence[str]) -> Iterator[tuple[str, list[Object]]]:
    inside: dict[str, list[Object]] = {}  # by folder, with all that is below it
    entries: dict[str, set[str]] = {}
    for each in objects:
        parts = each.name.split("/")
        for depth in range(1, len(parts)):
            folder = "/".join(parts[:depth])
            inside.setdefault(folder, []).append(each)
            entries.setdefault(folder, set()).add(parts[depth])
    whole = {folder for folder, names in entries.items() if registry.recognised_folder(folder, names) is not None}
    outermost = {folder for folder in whole if not any(folder.startswith(f"{other}/") for other in whole)}
    for folder in sorted(outermost):
        if is_candidate(folder, patterns, whole=True):
            yield folder, [each for each in inside[folder] if not _NOT_NEEDED.match(each.name.rpartition("/")[2])]
    for each in objects:
        within = any(each.name.startswith(f"{folder}/") for folder in outermost)
        if not within and is_candidate(each.name, patterns, whole=False):
            yield each.name, [each]


def _remote(name: str, objects: Sequence[Object]) -> Remote:
    ordered = tuple(sorted(objects, key=lambda each: (each.changed_s, each.name)))
    digest = hashlib.blake2b("\n".join(f"{each.name}|{each.version}" for each in ordered).encode(), digest_size=16)
    return Remote(name=name, objects=ordered, version=digest.hexdigest())
