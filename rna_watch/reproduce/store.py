"""The results of an experiment's parts on disk, one JSON file each, so that a stopped run goes on where it was."""

from __future__ import annotations

import contextlib
import fcntl
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rna_watch.errors import UsageError
from rna_watch.layout import disk

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

# beside a part's file: what attempts that did not end took
_UNFINISHED = ".unfinished"


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
    (folder / f"{key}{_UNFINISHED}").unlink(missing_ok=True)
    again: dict[str, Any] = json.loads(text)
    return again


def interrupted(folder: Path, key: str, identity: Mapping[str, Any], seconds: float) -> None:
    """Add the time of an attempt that did not end to what the part has taken so far."""
    before = spent(folder, key, identity)
    text = json.dumps({"identity": dict(identity), "seconds": round(before + seconds, 3)})
    write(folder / f"{key}{_UNFINISHED}", text)


def spent(folder: Path, key: str, identity: Mapping[str, Any]) -> float:
    """What earlier attempts at a part took, with these settings, in seconds."""
    try:
        found = json.loads((folder / f"{key}{_UNFINISHED}").read_text())
        return float(found["seconds"]) if found["identity"] == _plain(identity) else 0.0
    except (OSError, ValueError, TypeError, KeyError):
        return 0.0


@contextlib.contextmanager
def alone(path: Path) -> Iterator[None]:
    """Hold a lock file for as long as this lasts; where the file system knows none, go on without.

    Raises:
        UsageError: another command holds it.
        StoreError: it cannot be made.
    """
    with disk.writing(path, "--out"):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = path.open("w")
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UsageError(
                f"another command works on this experiment in {path.parent}: wait for it, or name another folder with --out"
            ) from error
        except OSError:
            pass
        yield


def write(path: Path, text: str) -> None:
    """Write a file in place of what was there, whole or not at all.

    Raises:
        StoreError: the folder cannot be written.
    """
    with disk.writing(path, "--out"):
        path.parent.mkdir(parents=True, exist_ok=True)
        with disk.replacing(path, durable=True) as temporary:
            Path(temporary).write_text(text)


def _plain(identity: Mapping[str, Any]) -> Any:
    return json.loads(json.dumps(dict(identity)))
