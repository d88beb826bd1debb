"""Events as JSON objects, by the kinds that this release knows."""

from __future__ import annotations

import dataclasses
from typing import Any

from rna_watch.journal import events as e

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
    )
}


def to_record(event: e.Event) -> dict[str, Any]:
    """The event as a JSON object, without the line's checksum."""
    body = {f.name: getattr(event, f.name) for f in dataclasses.fields(event)}
    return {"v": VERSION, "kind": event.kind} | body


def from_record(record: dict[str, Any]) -> e.Event | None:
    """The event of a JSON object; None for a kind or a version that this release does not know.

    Raises:
        TypeError: a field of a known kind is missing.
    """
    cls = KINDS.get(record.get("kind", ""))
    if cls is None or record.get("v") != VERSION:
        return None
    names = {f.name for f in dataclasses.fields(cls)}
    return cls(**{key: value for key, value in record.items() if key in names})
