"""The heartbeat: a small file, replaced every second, with what the journal does not keep (progress, memory, workers)."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

from rna_watch.layout import disk

STALE_AFTER_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """The work at hand and its checkpoint; `done` and `total` count the same unit (bytes or models)."""

    checkpoint: str
    stage: str
    done: int
    total: int
    unit: str
    since: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """One process of ours: its purpose, and its memory that no other process shares."""

    name: str
    pid: int
    memory_bytes: int
    busy: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Heartbeat:
    """A sign of life: `time` is seconds since 1970, `read_bytes_per_s` the rate of the last bulk work."""

    host: str
    pid: int
    time: float
    state: str
    watching: str
    queue: int
    work: Work | None
    workers: tuple[Worker, ...]
    read_bytes_per_s: float

    def fresh(self, now: float) -> bool:
        """Whether it is recent enough to believe that the daemon lives."""
        return now - self.time < STALE_AFTER_S


def write(path: Path, heartbeat: Heartbeat) -> None:
    """Replace the file; a reader sees the old one or the new one, whole."""
    with disk.replacing(path, durable=False) as temporary:
        Path(temporary).write_text(json.dumps(dataclasses.asdict(heartbeat)))


def read(path: Path) -> Heartbeat | None:
    """The last heartbeat, or None if there is none that can be read."""
    try:
        body = json.loads(path.read_text())
        work, workers = body.pop("work"), body.pop("workers")
        return Heartbeat(
            **body, work=Work(**work) if work else None, workers=tuple(Worker(**worker) for worker in workers)
        )
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
