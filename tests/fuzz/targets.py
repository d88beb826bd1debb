"""What is damaged and who reads it: a small specimen of every format, and of each file of our own state."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from rna_watch.errors import IncompleteCheckpoint, InputChanged, RefusedCheckpoint, Unreadable
from rna_watch.formats.probe import probe
from rna_watch.journal import heartbeat, owner
from rna_watch.journal.follow import Follower
from rna_watch.journal.log import read
from rna_watch.journal.replay import RunState
from rna_watch.journal.words import describe
from rna_watch.layout.artifacts import is_manifest
from rna_watch.publishing.verification import VerificationEnded, read_manifest
from tests.checkpoints.forms import FORMS
from tests.checkpoints.writers import model
from tests.fuzz.mutations import in_header, in_lines, in_zip, mutated, mutated_json

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterator

    Mutate = Callable[[bytes, random.Random], bytes]

_READ = (
    ".pt",
    ".pth",
    ".ckpt",
    ".bin",
    ".safetensors",
    ".zip",
    ".nemo",
    ".distcp",
    ".metadata",
    "index.json",
    "state.json",
    "metadata.json",
)
_HERE = Path(__file__).parents[1] / "daemon"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A file that is damaged in ways that may happen to it, its reader, and the errors that the reader may raise."""

    name: str
    file: Path
    content: bytes
    ways: tuple[Mutate, ...]
    read: Callable[[], object]
    errors: tuple[type[Exception], ...] = ()
    written_ns: int = 10**18
    weight: int = 4

    def put(self, data: bytes) -> None:
        """Write the file, with the time that it had: a folder tells by times whether it is whole."""
        self.file.write_bytes(data)
        os.utime(self.file, ns=(self.written_ns, self.written_ns))


def targets(folder: Path) -> list[Target]:
    """All of them, written below a folder."""
    return [*_checkpoints(folder), *_state(folder)]


def _checkpoints(folder: Path) -> Iterator[Target]:
    tensors = model(1)
    for number, form in enumerate(FORMS.values()):
        path = folder / f"form{number}" / form.path.format(1)
        path.parent.mkdir(parents=True)
        form.write(path, dict(tensors), 1)
        files = sorted(each for each in path.rglob("*") if each.is_file()) if path.is_dir() else [path]
        for file in files:
            content = file.read_bytes()
            if not content or not file.name.endswith(_READ):
                continue
            yield Target(
                name=f"{form.name}, {file.name}" if path.is_dir() else form.name,
                file=file,
                content=content,
                ways=_ways(content),
                read=lambda path=path: probe(str(path)),
                errors=(IncompleteCheckpoint, RefusedCheckpoint, InputChanged, Unreadable),
                written_ns=file.stat().st_mtime_ns,
                weight=1 if path.is_dir() else 8,  # a folder takes ten times as long
            )


def _ways(content: bytes) -> tuple[Mutate, ...]:
    if content.startswith(b"PK\x03\x04") and content.count(b"data.pkl") == 2:
        return (mutated, in_zip, in_zip)
    if content[8:9] == b"{":
        return (mutated, in_header, in_header)
    return (mutated_json,) if content[:1] in {b"{", b"["} else (mutated,)


def _state(folder: Path) -> Iterator[Target]:
    for number, journal in enumerate((_HERE / "run_0_1_0.jsonl", _HERE / "run_0_1_0_judged" / "journal.jsonl")):
        file = folder / f"journal{number}"
        yield Target(
            name=f"journal {number}",
            file=file,
            content=journal.read_bytes(),
            ways=(in_lines,),
            read=lambda file=file: _replayed(file),
        )
    manifest = next(iter(sorted((_HERE / "run_0_1_0_judged" / "rna").glob("*.json"))))
    file = folder / "manifest.json"
    yield Target(
        name="manifest",
        file=file,
        content=manifest.read_bytes(),
        ways=(mutated_json,),
        read=lambda: (is_manifest(file.read_bytes()), read_manifest(file)),
        errors=(VerificationEnded,),
    )
    lock, beside = folder / "lock", folder / "owner"
    first, second = owner.encoded(owner.this_process(1))
    for path, content in ((lock, first), (beside, second)):
        path.write_bytes(content)
        yield Target(
            name=path.name,
            file=path,
            content=content,
            ways=(mutated_json,),
            read=lambda: owner.look(lock, beside).proof(),
        )
    beat = heartbeat.Heartbeat(
        host="host",
        pid=os.getpid(),
        time=1.0,
        state="watching",
        watching="hints",
        queue=0,
        work=heartbeat.Work(checkpoint="a", stage="measuring", done=1, total=2, unit="bytes", since=1.0),
        workers=(heartbeat.Worker(name="worker", pid=1, memory_bytes=1, busy=True),),
        read_bytes_per_s=1.0,
    )
    alive = folder / "heartbeat"
    yield Target(
        name="heartbeat",
        file=alive,
        content=json.dumps(dataclasses.asdict(beat)).encode(),
        ways=(mutated_json,),
        read=lambda: (heartbeat.read(alive), heartbeat.watch(alive)),
    )


def _replayed(file: Path) -> object:
    """A journal, read, added up and put into words."""
    state = RunState()
    for event in read(file):
        state.apply(event)
        describe(event, state)
    follower = Follower(file)
    return list(follower.new()), state
