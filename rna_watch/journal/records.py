"""Events as JSON objects, by the kinds that this release knows."""

from __future__ import annotations

import dataclasses
import posixpath
import re
from typing import Any

from rna_watch.journal import events as e
from rna_watch.journal import fields
from rna_watch.journal.quantities import as_number

VERSION = 1
KINDS: dict[str, type[e.Event]] = {
    cls.kind: cls
    for cls in (
        e.Started,
        e.Stopped,
        e.Waiting,
        e.Refused,
        e.Vanished,
        e.Aliased,
        e.Admitted,
        e.Reread,
        e.WindowStarted,
        e.Repeated,
        e.Measured,
        e.Searched,
        e.Screened,
        e.Evaluated,
        e.MetricChosen,
        e.EvaluationFailed,
        e.Chosen,
        e.Publishing,
        e.Published,
        e.TakenUp,
        e.Left,
        e.Finished,
        e.Skipped,
        e.Failed,
        e.BestMoved,
        e.BestWithdrawn,
        e.Pruned,
        e.Unpinned,
        e.Problem,
        e.Solved,
        e.Noted,
        e.Hooked,
    )
}

_NAMES = {cls: frozenset(f.name for f in dataclasses.fields(cls)) for cls in KINDS.values()}

# names of checkpoints, and paths below the run, the output folder or the output tree
_PATHS = frozenset({"checkpoint", "path", "pin_path", "output", "temporary"})
_PART = r"(?!\.{1,2}(?:/|\Z))[^/\0]+"
_SOUND = re.compile(f"{_PART}(?:/{_PART})*")  # what passes the check below, but for `..` at its beginning


class PathError(ValueError):
    """A path that leads out of the folder that it is relative to, or is none."""


def check_path(path: object, name: str) -> None:
    """See that a recorded path is relative and normalised, so that it stays below its folder whoever wrote it.

    Args:
        path: as read.
        name: what it is, for the message.

    Raises:
        PathError: it is not.
    """
    if (isinstance(path, str) and _SOUND.fullmatch(path)) or (path == "" and name not in {"output", "temporary"}):
        return
    if not isinstance(path, str) or "\0" in path or path != posixpath.normpath(path) or path == ".":
        raise PathError(f"{name} is {path!r}, which is no path")
    if path.startswith("/") or path.split("/", 1)[0] == "..":
        raise PathError(f"{name} is {path!r}, which leads out of its folder")


def to_record(event: e.Event) -> dict[str, Any]:
    """The event as a JSON object, without the line's checksum."""
    body = {name: getattr(event, name) for name in _NAMES[type(event)]}
    return {"v": VERSION, "kind": event.kind} | body


def from_record(record: dict[str, Any]) -> e.Event | None:
    """The event of a JSON object; None for a kind or a version that this release does not know.

    Raises:
        TypeError: a field of a known kind is missing, or of another type.
        PathError: a path in it is not one that we record.
    """
    kind = record.get("kind") if isinstance(record, dict) else None
    cls = KINDS.get(kind) if isinstance(kind, str) else None
    if cls is None or record.get("v") != VERSION:
        return None
    for name in _PATHS & record.keys() if cls is not e.Started else ():
        if (
            name != "pin_path" or record.get("pin") != "none"
        ):  # without a pin it is the checkpoint's own path, for a reader
            check_path(record[name], name)
    names = _NAMES[cls]
    values = {key: value for key, value in record.items() if key in names}
    if isinstance(values.get("metrics"), dict):
        found = values["metrics"]
        of_several = cls is e.Chosen
        values["metrics"] = {key: _metrics(each) for key, each in found.items()} if of_several else _metrics(found)
    fields.check(cls, values)
    event = cls(**values)
    if isinstance(event, e.Measured) and any(len(pair) != 2 for pair in event.residuals):
        raise TypeError("a residual lies between two checkpoints")
    return event


def _metrics(found: object) -> e.Metrics | None:
    """Names with numbers; what is no number is left out, since all else reckons with them."""
    if not isinstance(found, dict):
        return None
    return {name: as_number(value) for name, value in found.items() if isinstance(value, int | float)}
