"""What was fetched from an object store and what was put there: a file in the state folder, by which a restart goes on."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rna_watch.layout import bounded_json, disk

if TYPE_CHECKING:
    from pathlib import Path

_MAPPINGS = ("fetched", "put", "links", "objects")


@dataclass(slots=True, kw_only=True)
class Record:
    """Of one run.

    Attributes:
        file: where it lies.
        url: the address that it is about.
        fetched: by the name of each checkpoint, the version that was fetched.
        put: by the name of each model, what it was when it was put.
        links: by the name of each link, the model that its object names.
        objects: by the name of each object of a model, the version that it got.
        uploading: the objects that are being put.
    """

    file: Path
    url: str
    fetched: dict[str, str] = field(default_factory=dict)
    put: dict[str, str] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)
    objects: dict[str, str] = field(default_factory=dict)
    uploading: list[str] = field(default_factory=list)

    def save(self) -> None:
        """Write it, whole.

        Raises:
            OSError: it cannot be written.
        """
        kept = {name: getattr(self, name) for name in ("url", "uploading", *_MAPPINGS)}
        with disk.replacing(self.file, durable=True) as temporary:
            disk.write_new(temporary, json.dumps(kept).encode())


def read(file: Path, url: str) -> Record:
    """The record of a run, an empty one if there is none of this address: everything is fetched again then."""
    found = Record(file=file, url=url)
    try:
        known = bounded_json.read(file)
    except (OSError, ValueError):
        return found
    if not isinstance(known, dict) or known.get("url") != url:
        return found
    for name in _MAPPINGS:
        value = known.get(name)
        if isinstance(value, dict) and all(isinstance(each, str) for each in value.values()):
            setattr(found, name, value)
    if isinstance(known.get("uploading"), list):
        found.uploading = [each for each in known["uploading"] if isinstance(each, str)]
    return found
