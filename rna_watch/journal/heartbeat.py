"""The heartbeat: a small file that is replaced, each second of work and every 5 s else: progress, memory, workers."""

from __future__ import annotations

import dataclasses
import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rna_watch.journal import fields, service
from rna_watch.layout import bounded_json, disk

if TYPE_CHECKING:
    from pathlib import Path

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """What this process saw of files: their content, since when it is this one, and whether it saw another one before."""

    content: tuple[bytes, ...]
    since_s: float
    changed: bool

    @property
    def silent_s(self) -> float:
        """Seconds for which the content was the same."""
        return time.monotonic() - self.since_s


_WATCHED: dict[Path, Watched] = {}


def watch(*files: Path) -> Watched:
    """Read files that a daemon writes, and tell what changed since this process read them first; never raises.

    Each call adds to what the process knows. The clocks of two machines are never compared.
    """
    known = _WATCHED.get(files[0])
    content = tuple(_content(file, known.content[number] if known else b"") for number, file in enumerate(files))
    if known is None or known.content != content:
        known = Watched(content=content, since_s=time.monotonic(), changed=known is not None)
        _WATCHED[files[0]] = known
    return known


def _content(file: Path, before: bytes) -> bytes:
    try:
        return bounded_json.read_bytes(file)
    except FileNotFoundError:
        return b""
    except (OSError, ValueError):  # the file system fails for a moment, which is no sign of life
        return before


def write(path: Path, heartbeat: Heartbeat, *, manager: bool = True) -> None:
    """Replace the file, and tell the service manager too, if told to; a reader sees the old one or the new one, whole."""
    if manager:
        service.tell(heartbeat.state)  # first: it does not depend on the run's disk
    with disk.replacing(path, durable=False) as temporary:
        disk.write_new(temporary, json.dumps(dataclasses.asdict(heartbeat)).encode())


def read(path: Path) -> Heartbeat | None:
    """The last heartbeat, or None if there is none that can be read."""
    try:
        body = bounded_json.read(path)
        work, workers = body.pop("work"), body.pop("workers")
        for kind, values in ((Heartbeat, body), *((Worker, each) for each in workers), (Work, work or {})):
            fields.check(kind, values)
        return Heartbeat(
            **body, work=Work(**work) if work else None, workers=tuple(Worker(**worker) for worker in workers)
        )
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
