"""The results of an experiment's parts on disk, one JSON file each, so that a stopped run continues where it was.

A part has a `key`, which is the name of its file, and an `identity`: the settings that its result depends on.
"""

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

# next to a part's file: the time of attempts that did not end
_UNFINISHED = ".unfinished"


def read(folder: Path, key: str, identity: Mapping[str, Any]) -> dict[str, Any] | None:
    """A kept part (`result`, `seconds`); None if it was not run, was run with other settings, or is damaged.

    Args:
        folder: of the parts.
        key: of the part.
        identity: of the part.
    """
    try:
        kept = json.loads((folder / f"{key}.json").read_text())
    except (OSError, ValueError):
        return None
    usable = (
        isinstance(kept, dict) and kept.get("identity") == _plain(identity) and {"result", "seconds"} <= kept.keys()
    )
    return kept if usable else None


def keep(folder: Path, key: str, identity: Mapping[str, Any], result: Any, seconds: float) -> dict[str, Any]:
    """Keep a part, whole or not at all; returns what `read` will return.

    Args:
        folder: of the parts.
        key: of the part.
        identity: of the part.
        result: JSON.
        seconds: the time that it took, with attempts that did not end.

    Raises:
        StoreError: the folder cannot be written.
    """
    kept = {"identity": dict(identity), "seconds": round(seconds, 3), "result": result}
    text = json.dumps(kept)
    write(folder / f"{key}.json", text)
    (folder / f"{key}{_UNFINISHED}").unlink(missing_ok=True)
    again: dict[str, Any] = json.loads(text)
    return again


def interrupted(folder: Path, key: str, identity: Mapping[str, Any], seconds: float) -> None:
    """Add the time of an attempt that did not end to the time of the part so far.

    Args:
        folder: of the parts.
        key: of the part.
        identity: of the part.
        seconds: the time of the attempt.

    Raises:
        StoreError: the folder cannot be written.
    """
    before = spent(folder, key, identity)
    text = json.dumps({"identity": dict(identity), "seconds": round(before + seconds, 3)})
    write(folder / f"{key}{_UNFINISHED}", text)


def spent(folder: Path, key: str, identity: Mapping[str, Any]) -> float:
    """The time of earlier attempts at a part that did not end, in seconds; 0 if they had other settings.

    Args:
        folder: of the parts.
        key: of the part.
        identity: of the part.
    """
    try:
        found = json.loads((folder / f"{key}{_UNFINISHED}").read_text())
        return float(found["seconds"]) if found["identity"] == _plain(identity) else 0.0
    except (OSError, ValueError, TypeError, KeyError):
        return 0.0


@contextlib.contextmanager
def alone(path: Path) -> Iterator[None]:
    """Hold a lock file during this block; do without one if the file system has no locks.

    Raises:
        UsageError: another command holds the lock.
        StoreError: the file cannot be made.
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
    """Write or replace a file, whole or not at all.

    Raises:
        StoreError: the folder cannot be written.
    """
    with disk.writing(path, "--out"):
        path.parent.mkdir(parents=True, exist_ok=True)
        with disk.replacing(path, durable=True) as temporary:
            Path(temporary).write_text(text)


def _plain(identity: Mapping[str, Any]) -> Any:
    return json.loads(json.dumps(dict(identity)))
