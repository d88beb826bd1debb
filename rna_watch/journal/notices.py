"""The events that are no work on a checkpoint: what a person should know, and calls of the user's hooks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from rna_watch.journal.event import Event


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem(Event):
    """Something that a person should know and can solve: `what`, and `remedy`; `key` identifies it for `Solved`."""

    kind: ClassVar[str] = "problem"
    key: str
    what: str
    remedy: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Solved(Event):
    """The problem of this key is gone."""

    kind: ClassVar[str] = "solved"
    key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Noted(Event):
    """Something worth a line in the log that is not a problem."""

    kind: ClassVar[str] = "noted"
    text: str
    checkpoint: str = field(default="")


@dataclass(frozen=True, slots=True, kw_only=True)
class Hooked(Event):
    """A hook (`on_model`, `on_best`) was called for an output and ended with this status, negative for a signal.

    `of` is the number of the event that it was called for, `published` or `best_moved`. Without a `hooked` behind it a call
    is due: it was not made, or not to its end, and the next start makes it. `reason` says why it failed, "" if it did not;
    `code` is null where nothing could be called.
    """

    kind: ClassVar[str] = "hooked"
    checkpoint: str
    hook: str
    of: int
    seconds: float
    code: int | None
    reason: str = ""
