"""What every event of a run has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

Metrics = dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """What every event has: its time (seconds since 1970) and its number, both set when it is appended."""

    kind: ClassVar[str] = "event"
    time: float = 0.0
    seq: int = 0
