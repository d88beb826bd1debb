"""The snapshot of a journal: it gives the state that the journal adds up to, or it is ignored."""

from __future__ import annotations

import dataclasses
import json
import zlib
from typing import TYPE_CHECKING

import pytest

from rna_watch.daemon.recorder import Recorder
from rna_watch.journal import events as e
from rna_watch.journal import log, snapshot
from rna_watch.journal.checkpoint import BULK, packed
from rna_watch.journal.checkpoints import UNPACKED, Series
from rna_watch.journal.follow import Follower
from rna_watch.journal.replay import RunState, replay
from rna_watch.journal.run_paths import RunPaths
from tests.benchmarks.growth import made

if TYPE_CHECKING:
    from pathlib import Path

COUNT = UNPACKED + 20


@pytest.fixture(name="journal")
def _journal(tmp_path: Path) -> Path:
    """The journal of a run with more checkpoints than stay unpacked."""
    paths = RunPaths(run=tmp_path, output=tmp_path)
    paths.create()
    with paths.journal.open("wb") as file:
        for number, event in enumerate(made(paths, COUNT), 1):
            file.write(log.encode(dataclasses.replace(event, time=1e9 + number, seq=number)))
    return paths.journal


def _plain(state: RunState) -> dict[str, object]:
    """A state as plain values, whatever is packed."""
    found = {each.name: getattr(state, each.name) for each in dataclasses.fields(state)}
    return found | {
        "checkpoints": list(state.checkpoints.values()),
        "recent": list(state.recent),
        "told": list(state.told),
    }


def _kept(journal: Path) -> snapshot.Folded:
    """The state of a journal whose snapshot was just written."""
    folded = snapshot.fold(journal)
    snapshot.write(journal, dataclasses.replace(folded, state=snapshot.frozen(folded.state)))
    return folded


def test_a_snapshot_gives_the_state_of_the_journal(journal: Path) -> None:
    """Every field of every checkpoint is the same, and the indexes find the same; later lines are added."""
    wanted = replay(log.read(journal))
    assert _kept(journal).kept == 0
    found = snapshot.load(journal)
    assert found is not None
    assert _plain(found.state) == _plain(wanted)
    assert found.state.checkpoints.series() == wanted.checkpoints.series()
    for index in (
        "stages",
        "pinned",
        "left_behind",
        "trained",
        "verdicts",
        "admitted",
        "_paths",
        "_fingerprints",
        "_inodes",
    ):
        assert getattr(found.state.checkpoints, index) == getattr(wanted.checkpoints, index), index
    for series in wanted.checkpoints.series():
        ours, theirs = (each.checkpoints.of_series(series) for each in (found.state, wanted))
        assert all(getattr(ours, name) == getattr(theirs, name) for name in Series.__slots__)
    with journal.open("ab") as file:
        file.write(log.encode(e.Unpinned(checkpoint="epoch_00001.pt", reason="", seq=wanted.seq + 1)))
        file.write(b"an unfinished line")
    folded = snapshot.fold(journal)
    assert folded.kept == found.length
    assert _plain(folded.state) == _plain(replay(log.read(journal)))


def test_a_snapshot_of_what_was_read_from_one_is_the_journal_again(journal: Path) -> None:
    """Rows that did not change are taken over, what changed since and what is new comes behind them."""
    _kept(journal)
    recorder = Recorder(journal, ())
    recorder.record(e.Unpinned(checkpoint="epoch_00002.pt", reason=""))
    recorder.record(e.Reread(checkpoint="epoch_00003.pt", series="other", step_kind="epoch", step=7, told="the file"))
    admitted = recorder.state.checkpoints["epoch_00005.pt"].admitted
    assert admitted is not None
    recorder.record(dataclasses.replace(admitted, checkpoint="late.pt", path="late.pt", series="epoch_#.pt", step=900))
    recorder.record(dataclasses.replace(admitted, mtime_ns=5, fingerprint="f" * 32))
    recorder.record(
        e.Started(**{f.name: getattr(recorder.state.started, f.name) for f in dataclasses.fields(e.Started)})
    )
    recorder.record(e.Finished(checkpoint="late.pt", reason="alone"))
    for _ in range(2):
        recorder.keep_snapshot(least_bytes=1)
        assert _plain(recorder.state) == _plain(replay(log.read(journal)))
        found = snapshot.load(journal)
        assert found is not None
        assert _plain(found.state) == _plain(recorder.state)
        recorder.record(e.Vanished(checkpoint="gone.pt"))
    recorder.close()


@pytest.mark.parametrize("what", ["another journal", "a shorter one", "other lines", "state", "bulk", "cut", "nothing"])
def test_a_snapshot_that_does_not_fit_is_ignored(journal: Path, what: str) -> None:
    """The journal is read instead, whatever is wrong, and no error comes of it."""
    _kept(journal)
    file = journal.with_name(snapshot.NAME)
    data = file.read_bytes()
    lines = journal.read_bytes()
    if what == "another journal":
        journal.rename(journal.with_name("old"))
        journal.write_bytes(lines)
    elif what == "a shorter one":
        journal.write_bytes(lines[: len(lines) // 2])
    elif what == "other lines":
        journal.write_bytes(lines[:-200] + bytes(200))
    else:
        at = {"state": data.index(b"\n") + 50, "bulk": len(data) - 5, "cut": 0, "nothing": 0}[what]
        damaged = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        file.write_bytes({"cut": data[:-1], "nothing": b""}.get(what, damaged))
    assert snapshot.load(journal) is None
    assert _plain(snapshot.fold(journal).state) == _plain(replay(log.read(journal)))


@pytest.mark.parametrize(
    ("table", "column", "value"),
    [
        ("checkpoints", "name", "../epoch.pt"),
        ("checkpoints", "output", "/etc/passwd"),
        ("checkpoints", "stage", "elsewhere"),
        ("checkpoints", "attempts", "1"),
        ("admitted", "path", "../epoch.pt"),
        ("admitted", "pin_path", "../../epoch.pt"),
        ("admitted", "step", 1.5),
    ],
)
def test_a_snapshot_holds_only_what_a_journal_may(journal: Path, table: str, column: str, value: object) -> None:
    """A path that leads out of our folders, or a value of another type, costs the whole snapshot, checksums or not."""
    _kept(journal)
    file = journal.with_name(snapshot.NAME)
    head, _, rest = file.read_bytes().partition(b"\n")
    header = json.loads(head)
    state, bulk = rest[: header["state"][0]], rest[header["state"][0] :]
    record = json.loads(state)
    found = record[table][column]
    if isinstance(found, dict):
        found["of"][0] = value
    else:
        found[3] = value
    state = json.dumps(record).encode()
    header["state"] = [len(state), zlib.crc32(state)]
    file.write_bytes(json.dumps(header).encode() + b"\n" + state + bulk)
    assert snapshot.load(journal) is None


def test_bulk_that_is_damaged_later_says_nothing(journal: Path) -> None:
    """What is unpacked from other bytes than were written is empty, not an error."""
    _kept(journal)
    found = snapshot.load(journal)
    assert found is not None
    file = journal.with_name(snapshot.NAME)
    size = file.stat().st_size
    with file.open("r+b") as stream:
        stream.seek(size - 200_000 if size > 400_000 else size // 2)
        stream.write(bytes(100_000))
    values = [getattr(each, name) for each in found.state.checkpoints.values() for name in sorted(BULK)]
    assert any(not value for value in values)
    assert any(value for value in values)


def test_packing_changes_nothing_of_a_checkpoint(journal: Path) -> None:
    """A packed checkpoint equals the one that it was, and stays so when its other fields change."""
    state = replay(log.read(journal))
    for each in list(state.checkpoints.values())[-5:]:
        assert each.brief is None
        small = packed(each)
        assert small.brief is not None
        assert small == each
        assert (small.original, small.verdict, small.evaluated) == (each.original, each.verdict, each.evaluated)


def test_the_daemon_writes_one_and_readers_do_not(journal: Path) -> None:
    """It is written when the journal grew enough; from then on bulk is read from it, and the state goes on as before."""
    folder = sorted(each.name for each in journal.parent.iterdir())
    assert list(Follower(journal, history=False).new())
    snapshot.fold(journal)
    assert sorted(each.name for each in journal.parent.iterdir()) == folder
    recorder = Recorder(journal, ())
    recorder.keep_snapshot(least_bytes=journal.stat().st_size + 1)
    assert not journal.with_name(snapshot.NAME).exists()
    recorder.keep_snapshot(least_bytes=1)
    recorder.record(e.Unpinned(checkpoint="epoch_00002.pt", reason=""))
    assert _plain(recorder.state) == _plain(replay(log.read(journal)))
    follower = Follower(journal, history=False)
    assert [event.kind for event in follower.new()] == ["unpinned"]
    assert _plain(follower.state) == _plain(recorder.state)
    recorder.close()


def test_no_snapshot_is_made_of_a_journal_that_others_write_to(journal: Path) -> None:
    """Lines that this process did not write are not in its state, so that the next start has to read them."""
    recorder = Recorder(journal, ())
    with journal.open("ab") as file:
        file.write(log.encode(e.Noted(text="from elsewhere", seq=10**6)))
    recorder.record(e.Noted(text="ours"))
    recorder.keep_snapshot(least_bytes=1)
    assert not journal.with_name(snapshot.NAME).exists()
    recorder.close()
