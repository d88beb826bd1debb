"""Events as JSON objects, by the kinds that this release knows."""

from __future__ import annotations

import dataclasses
from typing import Any

from rna_watch.journal import events as e
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
    fields = {key: value for key, value in record.items() if key in names}
    if isinstance(fields.get("metrics"), dict):
        found = fields["metrics"]
        of_several = cls is e.Chosen
        fields["metrics"] = {key: _metrics(each) for key, each in found.items()} if of_several else _metrics(found)
    return cls(**fields)


def _metrics(found: object) -> e.Metrics | None:
    """Names with numbers; what is no number is left out, since all else reckons with them."""
    if not isinstance(found, dict):
        return None
    return {name: as_number(value) for name, value in found.items() if isinstance(value, int | float)}
