"""The results of an experiment's parts on disk, one JSON file each, so that a stopped run goes on where it was."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from rna_watch.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def read(folder: Path, key: str, identity: Mapping[str, Any]) -> dict[str, Any] | None:
    """A kept part (`result`, `seconds`), or None: not run yet, run with other settings, or damaged."""
    try:
        kept = json.loads((folder / f"{key}.json").read_text())
    except (OSError, ValueError):
        return None
    usable = (
        isinstance(kept, dict) and kept.get("identity") == _plain(identity) and {"result", "seconds"} <= kept.keys()
    )
    return kept if usable else None


def keep(folder: Path, key: str, identity: Mapping[str, Any], result: Any, seconds: float) -> dict[str, Any]:
    """Keep a part, whole or not at all; what is returned is what `read` will return."""
    kept = {"identity": dict(identity), "seconds": round(seconds, 3), "result": result}
    text = json.dumps(kept)
    write(folder / f"{key}.json", text)
    again: dict[str, Any] = json.loads(text)
    return again


def write(path: Path, text: str) -> None:
    """Write a file in place of what was there, whole or not at all.

    Raises:
        StoreError: the folder cannot be written.
    """
    temporary = path.with_name(f".{path.name}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error.strerror}; name another folder with --out") from error


def _plain(identity: Mapping[str, Any]) -> Any:
    return json.loads(json.dumps(dict(identity)))
