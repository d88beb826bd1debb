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
from collections import deque
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any, NamedTuple

import rna_watch
from rna_watch.journal import events as e
from rna_watch.journal import log
from rna_watch.journal.checkpoint import LIGHT, Brief, Stage, Verdict, of_brief, packed, stored
from rna_watch.journal.checkpoints import Checkpoints
from rna_watch.journal.hooks import Due
from rna_watch.journal.records import check_path, from_record, to_record
from rna_watch.journal.replay import RECENT_EVENTS, Best, RunState
from rna_watch.layout import disk

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from rna_watch.journal.ages import Age
    from rna_watch.journal.checkpoint import Checkpoint, Packed

_VERSION = 1
_LINES_BYTES = 4096  # of the end of the journal, whose digest the snapshot holds
_BLOCK_BYTES = 2**20
_MOST_HEADER_BYTES = 2**16
_MOST_STATE_BYTES = 2**30
_PLAIN = (
    "first",
    "explained",
    "judge",
    "failed_work",
    "failed_evaluations",
    "seq",
    "read_bytes",
    "written_bytes",
)
_CHANGING = ("problems", "bests", "outputs", "ages", "replaced", "judges", "recent", "told")
_MOST_REFUSED = 100
NAME = "snapshot"


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


def write(journal: Path, folded: Folded) -> list[Checkpoint]:
    """Replace the snapshot of a journal; a crash may leave none that can be read.

    Args:
        journal: the file; it holds more than `length` bytes by now, perhaps.
        folded: the state, as `frozen` gives it.

    Returns:
        the checkpoints, packed into this snapshot.

    Raises:
        OSError: it cannot be written.
        ValueError: the journal is shorter.
    """
    stat, digest = _bound(journal, folded.length)
    checkpoints = [packed(each) for each in folded.state.checkpoints.values()]
    briefs = [each.brief for each in checkpoints]
    blocks = list(_blocks(brief.bulk for brief in briefs if brief is not None))
    sizes = [len(each) for each in blocks]
    state = json.dumps(_to_json(folded, briefs, sizes), separators=(",", ":")).encode()
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
    offsets = accumulate(sizes, initial=0)
    return [
        stored(each, _Stored(source, offset, size))
        for each, offset, size in zip(checkpoints, offsets, sizes, strict=False)
    ]


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
    refused = [str(each) for each in record["refused"]]
    return Folded(state=_state(record, _Source(descriptor, begin + state_bytes)), length=length, refused=refused)


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


# -- the state as JSON: checkpoints and admissions in columns, which are fast to read and to check

_CHECKPOINT = {
    "name": (str,),
    "stage": (str,),
    "reason": (str,),
    "seen_time": (float, int),
    "done_time": (float, int),
    "starts_window": (bool,),
    "repeats": (str,),
    "apart_from": (dict,),
    "output": (str, type(None)),
    "pinned": (bool,),
    "attempts": (int,),
    "judge": (int,),
    "chosen_by": (list, type(None)),
    "under": (int, type(None)),
    "taken_up": (dict, type(None)),
    "before": (str, type(None)),
    "for_now": (bool,),
    "admitted": (int, type(None)),
    "age": (list,),
    "original": (dict, type(None)),
    "verdict": (list, type(None)),
    "evaluated": (bool,),
    "trained": (bool,),
    "bytes": (int,),
}
_ADMITTED = {
    each.name: {"int": (int,), "float": (float, int), "str": (str,), "dict[str, int]": (dict,)}[str(each.type)]
    for each in dataclasses.fields(e.Admitted)
}


def _to_json(folded: Folded, briefs: list[Brief | None], sizes: list[int]) -> dict[str, Any]:
    state = folded.state
    admitted = {id(each): each for each in state.told if isinstance(each, e.Admitted)}
    admitted |= {id(each.admitted): each.admitted for each in state.checkpoints.values() if each.admitted}
    starts = {id(each.under): each.under for each in state.checkpoints.values() if each.under}
    places, started = ({key: number for number, key in enumerate(each)} for each in (admitted, starts))
    columns: dict[str, list[Any]] = {name: [] for name in _CHECKPOINT}
    for checkpoint, brief, size in zip(state.checkpoints.values(), briefs, sizes, strict=True):
        assert brief is not None
        for name in LIGHT:
            columns[name].append(getattr(checkpoint, name))
        columns["admitted"][-1] = places.get(id(checkpoint.admitted))
        columns["under"][-1] = started.get(id(checkpoint.under))
        columns["taken_up"][-1] = checkpoint.taken_up and to_record(checkpoint.taken_up)
        for name, value in (
            ("original", brief.original),
            ("verdict", brief.verdict),
            ("evaluated", brief.evaluated),
            ("trained", brief.trained),
            ("bytes", size),
        ):
            columns[name].append(value)
    return {name: getattr(state, name) for name in _PLAIN} | {
        "ages": state.ages,
        "refused": folded.refused[:_MOST_REFUSED],
        "started": state.started and to_record(state.started),
        "stopped": state.stopped and to_record(state.stopped),
        "metric": state.metric and to_record(state.metric),
        "problems": [to_record(each) for each in state.problems.values()],
        "bests": [[series, to_record(each.moved), each.by] for series, each in state.bests.items()],
        "outputs": [to_record(each) for each in state.outputs.values()],
        "replaced": state.replaced,
        "judges": state.judges,
        "judged": state.judged,
        "due": [[each.hook, to_record(each.of)] for each in state.due],
        "recent": [to_record(each) for each in state.recent],
        "told": [places[id(each)] if isinstance(each, e.Admitted) else to_record(each) for each in state.told],
        "starts": [to_record(each) for each in starts.values()],
        "admitted": {name: [getattr(each, name) for each in admitted.values()] for name in _ADMITTED},
        "checkpoints": columns,
    }


def _state(record: dict[str, Any], source: _Source) -> RunState:
    admitted = list(_admissions(_columns(record.pop("admitted"), _ADMITTED)))
    starts = [_event(each, e.Started) for each in record["starts"]]
    columns = _columns(record.pop("checkpoints"), _CHECKPOINT)
    state = RunState(
        started=_event(record["started"], e.Started),
        stopped=_event(record["stopped"], e.Stopped),
        checkpoints=Checkpoints(_checkpoints(columns, admitted, starts, source)),
        problems={each.key: each for one in record["problems"] if (each := _event(one, e.Problem))},
        metric=_event(record["metric"], e.MetricChosen),
        bests={str(series): Best(_event(moved, e.BestMoved), _decision(by)) for series, moved, by in record["bests"]},
        outputs={each.output: each for one in record["outputs"] if (each := _event(one, e.Published))},
        replaced=[(_key(key), metrics) for key, metrics in record["replaced"]],
        judges=[tuple(map(str, each)) for each in record["judges"]],
        judged=None if record["judged"] is None else _key(record["judged"]),
        due=tuple(Due(str(hook), _event(of, e.Published | e.BestMoved)) for hook, of in record["due"]),
        recent=deque((_event(each, e.Event) for each in record["recent"]), maxlen=RECENT_EVENTS),
        told=[admitted[each] if isinstance(each, int) else _event(each, e.Aliased) for each in record["told"]],
        ages={str(output): _age(age) for output, age in record["ages"].items()},
        **{name: record[name] for name in _PLAIN},
    )
    texts = isinstance(state.first, str) and isinstance(state.explained, str)
    if not texts or not all(isinstance(state.ages[each], tuple) for each in state.outputs):
        raise TypeError("a field of the state is of another type")
    return state


def _columns(columns: dict[str, list[Any]], kinds: dict[str, tuple[type, ...]]) -> Iterator[dict[str, Any]]:
    """The rows of a table.

    Raises:
        TypeError: a value is of another type than its column.
    """
    for name, kind in kinds.items():
        if not set(map(type, columns[name])) <= set(kind):
            raise TypeError(f"{name} holds a value of another type")
    for name in _PATHS & kinds.keys():
        for path in columns[name]:
            if path is not None:
                check_path(path, name)
    alike: dict[str, str] = {}
    for name in (each for each, kind in kinds.items() if str in kind):
        columns[name] = [each and alike.setdefault(each, each) for each in columns[name]]
    return (dict(zip(kinds, row, strict=True)) for row in zip(*(columns[name] for name in kinds), strict=True))


_PATHS = {"name", "checkpoint", "path", "output"}


def _admissions(rows: Iterable[dict[str, Any]]) -> Iterator[e.Admitted]:
    empty: dict[str, int] = {}
    for row in rows:
        if row["pin"] != "none":
            check_path(row["pin_path"], "pin_path")
        yield e.Admitted(**row | {"counters": row["counters"] or empty})


def _checkpoints(
    rows: Iterable[dict[str, Any]], admitted: list[e.Admitted], starts: list[e.Started], source: _Source
) -> Iterator[Checkpoint]:
    stages = {str(stage): stage for stage in Stage}
    decisions: dict[Any, Any] = {}
    empty: dict[str, str] = {}
    offset = 0
    for row in rows:
        verdict = row["verdict"]
        brief = Brief(
            row["original"],
            Verdict(*verdict) if verdict else None,
            row["evaluated"],
            row["trained"],
            _Stored(source, offset, row["bytes"]),
        )
        offset += row["bytes"]
        row["stage"] = stages[row["stage"]]
        row["before"] = row["before"] and stages[row["before"]]
        row["admitted"] = None if row["admitted"] is None else admitted[row["admitted"]]
        row["under"] = None if row["under"] is None else starts[row["under"]]
        row["taken_up"] = _event(row["taken_up"], e.TakenUp)
        decision = _decision(row["chosen_by"])
        row["age"] = _age(row["age"])
        row["chosen_by"] = decisions.setdefault(decision, decision)
        row["apart_from"] = row["apart_from"] or empty
        yield of_brief(brief, row)


def _event(record: Any, kind: Any) -> Any:
    """An event of a kind, or None.

    Raises:
        TypeError: it is something else.
    """
    event = None if record is None else from_record(record)
    if record is not None and not isinstance(event, kind):
        raise TypeError("an event of the state is of another kind")
    return event


def _age(age: Any) -> Age:
    seq, step = age
    return int(seq), int(step)


def _key(key: Any) -> tuple[int, str, str]:
    judge, source, series = key
    return int(judge), str(source), str(series)


def _decision(by: Any) -> Any:
    if by is None:
        return None
    key, metric = by
    return _key(key), None if metric is None else (str(metric[0]), str(metric[1]))
