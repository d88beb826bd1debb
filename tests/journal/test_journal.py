"""The journal file and what it adds up to."""

from __future__ import annotations

import dataclasses
import errno
import json
import math
import os
import time
from typing import TYPE_CHECKING

import pytest

from rna_watch.errors import StoreError
from rna_watch.journal import events as e
from rna_watch.journal import heartbeat, log, records
from rna_watch.journal.replay import Stage, replay

if TYPE_CHECKING:
    from pathlib import Path


def _example(kind: type[e.Event]) -> e.Event:
    """An event of any kind, with a value of the right type in each field."""
    values = {
        "str": "text",
        "int": 3,
        "float": 0.1,
        "bool": True,
        "str | None": None,
        "int | None": None,
        "bool | None": None,
        "list[str]": ["a"],
        "list[float]": [0.1, -1e-300],
        "list[list[str]]": [["a", "b"]],
        "list[list[float]]": [[0.1]],
        "Metrics": {"error": 0.1},
        "dict[str, Metrics | None]": {"original": {"error": 0.1}, "chosen": None},
        "dict[str, Any]": {"window": 5},
        "dict[str, int]": {"epoch": 3},
        "dict[str, str]": {"average-2": "rna-2-1e-08"},
        "list[dict[str, Any]]": [{"candidate": "rna-2-1e-08", "gain": 0.1, "standard_error": None}],
    }
    fields = [field for field in dataclasses.fields(kind) if field.name not in {"time", "seq"}]
    return kind(**{field.name: values[str(field.type)] for field in fields})


@pytest.mark.parametrize("kind", records.KINDS.values(), ids=records.KINDS)
def test_every_kind_comes_back_as_it_was_written(tmp_path: Path, kind: type[e.Event]) -> None:
    """What is appended is read again, equal to the last bit, in an object with its kind and version."""
    journal = log.Journal(tmp_path / "journal.jsonl")
    written = journal.append(_example(kind), durable=True)
    journal.close()
    assert list(log.read(tmp_path / "journal.jsonl")) == [written]
    record = json.loads((tmp_path / "journal.jsonl").read_text())
    assert (record["v"], record["kind"], record["seq"]) == (1, kind.kind, 1)


def test_a_damaged_line_is_skipped_and_the_others_stand(tmp_path: Path) -> None:
    """A flipped byte, a line of another version and a line of no kind are passed over."""
    path = tmp_path / "journal.jsonl"
    journal = log.Journal(path)
    for number in range(4):
        journal.append(e.Noted(text=f"number {number}"))
    lines = path.read_bytes().splitlines(keepends=True)
    lines[1] = lines[1].replace(b"number", b"nunber")
    lines.insert(3, b'{"v":2,"kind":"noted","crc":1}\n')
    lines.insert(0, b"not json at all\n")
    path.write_bytes(b"".join(lines))
    assert [event.text for event in log.read(path) if isinstance(event, e.Noted)] == [
        "number 0",
        "number 2",
        "number 3",
    ]


def test_numbers_go_on_after_a_restart(tmp_path: Path) -> None:
    """Sequence numbers never repeat, also behind a line torn by a crash."""
    path = tmp_path / "journal.jsonl"
    log.Journal(path).append(e.Noted(text="one"))
    with path.open("ab") as file:
        file.write(b'{"v":1,"kind":"no')
    again = log.Journal(path)
    assert again.append(e.Noted(text="two")).seq == 2
    assert [event.seq for event in log.read(path)] == [1, 2]


def test_while_the_disk_is_full_lines_wait_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that finds no room leaves no torn line; what waited is written first when there is room again."""
    path = tmp_path / "journal.jsonl"
    journal = log.Journal(path)
    journal.append(e.Noted(text="before"))
    write, full = os.write, True

    def write_half(descriptor: int, data: bytes) -> int:
        """The real `write` on a disk with a few bytes left: it takes what fits."""
        return write(descriptor, data[:7]) if full else write(descriptor, data)

    monkeypatch.setattr(os, "write", write_half)
    journal.append(e.Noted(text="during"))
    assert journal.waiting == 1
    assert [event.seq for event in log.read(path)] == [1]
    full = False
    journal.append(e.Noted(text="after"))
    assert journal.waiting == 0
    assert [event.seq for event in log.read(path)] == [1, 2, 3]


@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE, errno.EDQUOT])
def test_an_error_of_the_disk_that_passes_loses_no_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """Neither a failed write nor a failed sync ends anything: lines wait, in order, and `flush` writes them later."""
    path = tmp_path / "journal.jsonl"
    journal = log.Journal(path)
    for function in ("write", "fdatasync"):
        with monkeypatch.context() as broken:

            def fail(*_: object) -> int:
                """The real call on a disk that fails for a moment."""
                raise OSError(code, os.strerror(code))

            broken.setattr(os, function, fail)
            journal.append(e.Noted(text=function), durable=True)
            assert journal.waiting
            assert os.strerror(code) in journal.trouble
        journal.flush()
        assert (journal.waiting, journal.trouble) == (0, "")
    assert [event.seq for event in log.read(path)] == [1, 2]


def test_a_journal_that_cannot_be_written_says_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error that does not pass by itself is ours to report, with the path; so is one that lasts for ten minutes."""
    journal = log.Journal(tmp_path / "journal.jsonl")
    code = errno.EROFS

    def fail(*_: object) -> int:
        """The real `write` on a broken disk."""
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "write", fail)
    with pytest.raises(StoreError, match=r"journal\.jsonl: Read-only file system"):
        journal.append(e.Noted(text="lost"))
    code, now = errno.EIO, time.monotonic()
    journal.append(e.Noted(text="late"))
    assert "Input/output error" in journal.trouble
    monkeypatch.setattr(time, "monotonic", lambda: now + 610)
    with pytest.raises(StoreError, match=r"journal\.jsonl: Input/output error"):
        journal.append(e.Noted(text="too late"))
    with pytest.raises(StoreError, match="cannot open the journal"):
        log.Journal(tmp_path / "nowhere" / "journal.jsonl")


def _admitted(name: str, step: int) -> e.Admitted:
    return e.Admitted(
        checkpoint=name,
        path=name,
        step=step,
        step_kind="step",
        format="torch zip",
        source="",
        size_bytes=1,
        parameters=1,
        fingerprint=name,
        inode=step,
        mtime_ns=step,
        pin="link",
        pin_path=name,
    )


def test_a_checkpoint_goes_through_its_stages() -> None:
    """Each event moves the checkpoint on; a checkpoint written again starts again."""
    published = e.Published(checkpoint="a", output="a", written_bytes=5, seconds=1.0)
    steps = [
        (e.Waiting(checkpoint="a", reason="it is empty"), Stage.WAITING),
        (_admitted("a", 1), Stage.READY),
        (e.Evaluated(checkpoint="a", candidate="last", metrics={"error": 1.0}, seconds=1.0), Stage.EVALUATING),
        (e.Failed(checkpoint="a", reason="no room", will_retry=True), Stage.READY),
        (e.Publishing(checkpoint="a", output="a", temporary="t", manifest_digest="d"), Stage.PUBLISHING),
        (published, Stage.PUBLISHED),
        (e.Pruned(checkpoint="a", output="a"), Stage.PUBLISHED),
        (_admitted("a", 2), Stage.READY),
        (e.Skipped(checkpoint="a", reason="NaN"), Stage.SKIPPED),
    ]
    for count, (_, stage) in enumerate(steps, 1):
        assert replay(event for event, _ in steps[:count]).checkpoints["a"].stage is stage
    state = replay(event for event, _ in steps)
    assert state.written_bytes == 5
    assert not state.checkpoints["a"].usable
    assert state.checkpoints["a"].evaluations == {}


def test_problems_stand_until_they_are_solved_or_the_daemon_starts_anew() -> None:
    """A problem is shown until its key is solved; a new start forgets those of the one before."""
    problem = e.Problem(key="store", what="the disk is full", remedy="make room")
    assert replay([problem]).problems == {"store": problem}
    assert replay([problem, e.Solved(key="store")]).problems == {}
    started = _example(e.Started)
    assert replay([problem, started]).problems == {}


def test_a_heartbeat_is_read_whole_or_not_at_all(tmp_path: Path) -> None:
    """What is written is read; damage and absence give None; age decides whether it is believed."""
    work = heartbeat.Work(checkpoint="a", stage="measuring", done=1, total=2, unit="bytes", since=1.0)
    worker = heartbeat.Worker(name="daemon", pid=1, memory_bytes=2, busy=True)
    beat = heartbeat.Heartbeat(
        host="h",
        pid=1,
        time=100.0,
        state="working",
        watching="events",
        queue=1,
        work=work,
        workers=(worker,),
        read_bytes_per_s=math.pi,
    )
    path = tmp_path / "heartbeat.json"
    assert heartbeat.read(path) is None
    heartbeat.write(path, beat)
    assert heartbeat.read(path) == beat
    assert [file.name for file in tmp_path.iterdir()] == ["heartbeat.json"]
    path.write_text('{"host": "h"')
    assert heartbeat.read(path) is None


def _begun(evaluator: str = "eval.py:evaluate", digest: str = "", **settings: object) -> e.Started:
    return e.Started(
        host="h",
        pid=1,
        version="0",
        run="r",
        output="r",
        engine="inline",
        evaluator=evaluator,
        settings={"ema_decay": 0.7, **settings},
        evaluator_digest=digest,
    )


@pytest.mark.parametrize("failed", [False, True], ids=["pending", "failed"])
@pytest.mark.parametrize(
    ("again", "kept"),
    [
        (_begun(), True),
        (_begun(workers=9), True),
        (dataclasses.replace(_begun(engine="local"), engine="local"), True),
        (_begun(evaluator="other.py:evaluate"), False),
        (_begun(digest="edited"), False),
        (_begun(ema_decay=0.3), False),
        (_begun(residuals="difference"), False),
        (_begun(normalization="combine"), False),
    ],
    ids=[
        "same",
        "other workers",
        "former name of the engine",
        "other evaluator",
        "edited evaluator",
        "other decay",
        "other residuals",
        "other statistics",
    ],
)
def test_evaluations_are_kept_over_a_restart_only_for_the_same_models_and_judge(
    again: e.Started, kept: bool, failed: bool
) -> None:
    """A candidate's name does not tell the evaluator and some settings: with others, what was evaluated is not it."""
    evaluated = e.Evaluated(checkpoint="a.pt", candidate="ema-5", metrics={"error": 1.0}, seconds=0.1)
    events: list[e.Event] = [_begun(), _admitted("a.pt", 1), evaluated]
    if failed:
        events.append(e.Failed(checkpoint="a.pt", reason="disk full", will_retry=False))
    state = replay([*events, again])
    assert ("ema-5" in state.checkpoints["a.pt"].evaluations) == kept
