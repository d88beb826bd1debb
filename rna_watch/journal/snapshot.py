"""A snapshot of what a journal adds up to: a cache, so that a long journal need not be read from its beginning.

The file is a line of JSON (what it is bound to, and the sizes and checksums of what follows), the state as JSON, and the
packed bulk of checkpoints (`checkpoint.BULK`), which is read where it is asked for. It is written by the daemon alone. One
that does not fit the journal, is damaged, or was written by another release is ignored; the journal is read instead.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import os
import weakref
import zlib
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import rna_watch
from rna_watch.journal import log, state_record
from rna_watch.journal.checkpoint import packed
from rna_watch.journal.replay import RunState
from rna_watch.layout import disk
from rna_watch.layout.memory import unsearched

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from rna_watch.journal.checkpoint import Checkpoint, Packed
    from rna_watch.journal.told import Told

_VERSION = 3
_LINES_BYTES = 4096  # of the end of the journal, whose digest the snapshot holds
_BLOCK_BYTES = 2**20
_MOST_HEADER_BYTES = 2**16
_MOST_STATE_BYTES = 2**30
_CHANGING = ("problems", "bests", "outputs", "ages", "replaced", "judges", "recent", "told")
NAME = "snapshot"
_MOST_REFUSED = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Folded:
    """What a journal adds up to, how much of it (bytes), and the lines that are left out because of a path in them.

    `kept` is how much of it a snapshot holds.
    """

    state: RunState
    length: int
    refused: list[str]
    kept: int = 0


class _Source:
    """The part of an open snapshot that holds bulk; the file may be replaced meanwhile."""

    def __init__(self, descriptor: int, begin: int) -> None:
        self.descriptor = os.dup(descriptor)
        self.begin = begin
        weakref.finalize(self, os.close, self.descriptor)


class _Stored(NamedTuple):
    """Packed bytes in a snapshot."""

    source: _Source
    offset: int
    length: int

    def read(self) -> bytes:
        """See `Packed`."""
        try:
            return os.pread(self.source.descriptor, self.length, self.source.begin + self.offset)
        except OSError:
            return b""


@unsearched()
def fold(journal: Path) -> Folded:
    """What a journal adds up to; from the snapshot beside it, if there is one that fits, and the lines after it."""
    found = load(journal) or Folded(state=RunState(), length=0, refused=[])
    length = found.length
    try:
        with journal.open("rb") as file:
            file.seek(length)
            for line in log.lines(file):
                if not line.endswith(b"\n"):
                    break
                length += len(line)
                event = log.decode(line, found.refused)
                if event is not None:
                    found.state.apply(event)
    except FileNotFoundError:
        return Folded(state=RunState(), length=0, refused=[])
    return dataclasses.replace(found, length=length, kept=found.length)


def frozen(state: RunState) -> RunState:
    """A copy that later events do not change."""
    copied = {name: copy.copy(getattr(state, name)) for name in _CHANGING}
    checkpoints: Any = dict(state.checkpoints)
    return dataclasses.replace(state, checkpoints=checkpoints, **copied)


def write(journal: Path, folded: Folded) -> tuple[list[Checkpoint], Told]:
    """Replace the snapshot of a journal; a crash may leave none that can be read.

    Args:
        journal: the file; it holds more than `length` bytes by now, perhaps.
        folded: the state, as `frozen` gives it.

    Returns:
        the checkpoints, as rows of this snapshot, and what was told of names.

    Raises:
        OSError: it cannot be written.
        ValueError: the journal is shorter.
    """
    stat, digest = _bound(journal, folded.length)
    checkpoints = [packed(each) for each in folded.state.checkpoints.values()]
    blocks = list(_blocks(each.brief.bulk for each in checkpoints if each.brief is not None))
    sizes = [len(each) for each in blocks]
    table, told = state_record.gathered(folded.state, checkpoints, sizes)
    record = state_record.to_record(folded.state, table, told) | {"refused": folded.refused[:_MOST_REFUSED]}
    state = json.dumps(record, separators=(",", ":")).encode()
    crc = 0
    for block in blocks:
        crc = zlib.crc32(block, crc)
    header = {
        "v": _VERSION,
        "release": rna_watch.__version__,
        "inode": stat.st_ino,
        "length": folded.length,
        "digest": digest,
        "state": [len(state), zlib.crc32(state)],
        "bulk": [sum(sizes), crc],
    }
    content = b"".join([json.dumps(header).encode(), b"\n", state, *blocks])
    with disk.replacing(journal.with_name(NAME), durable=False) as temporary:
        disk.write_new(temporary, content)
        descriptor = os.open(temporary, os.O_RDONLY | os.O_CLOEXEC)
    try:
        source = _Source(descriptor, len(content) - sum(sizes))
    finally:
        os.close(descriptor)
    table.packed = partial(_Stored, source)
    return table.checkpoints(), told


@unsearched()
def load(journal: Path) -> Folded | None:
    """The state in the snapshot of a journal; None if there is none that fits."""
    try:
        descriptor = os.open(journal.with_name(NAME), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        return _load(journal, descriptor)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError):
        return None
    finally:
        os.close(descriptor)


def _load(journal: Path, descriptor: int) -> Folded | None:
    head = os.pread(descriptor, _MOST_HEADER_BYTES, 0).partition(b"\n")[0]
    header = json.loads(head)
    if header["v"] != _VERSION or header["release"] != rna_watch.__version__:
        return None
    length, begin = header["length"], len(head) + 1
    (state_bytes, state_crc), (bulk_bytes, bulk_crc) = header["state"], header["bulk"]
    stat, digest = _bound(journal, length)
    if (stat.st_ino, digest) != (header["inode"], header["digest"]) or not 0 < state_bytes <= _MOST_STATE_BYTES:
        return None
    text = b"".join(_read(descriptor, begin, state_bytes))
    if zlib.crc32(text) != state_crc or os.fstat(descriptor).st_size != begin + state_bytes + bulk_bytes:
        return None
    crc = 0
    for block in _read(descriptor, begin + state_bytes, bulk_bytes):
        crc = zlib.crc32(block, crc)
    if crc != bulk_crc:
        return None
    record = json.loads(text)
    del text
    source = _Source(descriptor, begin + state_bytes)
    state = state_record.from_record(record, partial(_Stored, source))
    return Folded(state=state, length=length, refused=[str(each) for each in record["refused"]])


def _bound(journal: Path, length: int) -> tuple[os.stat_result, str]:
    """What a snapshot is bound to: the journal's file, and the digest of its last lines up to a length.

    Raises:
        ValueError: the journal is shorter.
    """
    with journal.open("rb") as file:
        stat = os.fstat(file.fileno())
        if not 0 < length <= stat.st_size:
            raise ValueError("the journal is shorter")
        begin = max(0, length - _LINES_BYTES)
        return stat, hashlib.blake2b(os.pread(file.fileno(), length - begin, begin), digest_size=16).hexdigest()


def _read(descriptor: int, begin: int, length: int) -> Iterator[bytes]:
    end = begin + length
    while begin < end:
        block = os.pread(descriptor, min(_BLOCK_BYTES, end - begin), begin)
        if not block:
            raise ValueError("the snapshot is cut off")
        begin += len(block)
        yield block


def _blocks(bulk: Iterable[Packed]) -> Iterator[bytes]:
    for each in bulk:
        yield each.read()
