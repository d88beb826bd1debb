"""When a file may be read, by a clock turned by hand."""

from __future__ import annotations

import pytest

from rna_watch.layout.identity import FileIdentity
from rna_watch.watching.readiness import Readiness
from rna_watch.watching.scan import Found


def _found(name: str, mtime: int = 1, ctime: int = 1) -> Found:
    identity = FileIdentity(path=name, inode=1, size_bytes=10, mtime_ns=mtime, ctime_ns=ctime)
    return Found(name=name, identity=identity)


def _names(readiness: Readiness, now: float) -> list[str]:
    return [name for name, _ in readiness.due(now)]


def test_a_file_must_rest() -> None:
    """A new file is due once it has rested; any change of its identity starts the rest again."""
    readiness = Readiness(2.0)
    readiness.update([_found("a_1")], 0.0)
    assert _names(readiness, 1.9) == []
    readiness.update([_found("a_1", mtime=2)], 1.9)
    assert _names(readiness, 3.0) == []
    assert readiness.next_due() == 3.9
    assert _names(readiness, 3.9) == ["a_1"]


def test_a_file_that_rested_before_we_came_is_due_at_once() -> None:
    """Old files need no further rest."""
    readiness = Readiness(2.0, lambda _: 100.0)
    readiness.update([_found("a_1")], 0.0)
    assert _names(readiness, 0.0) == ["a_1"]


def test_a_settled_file_is_left_alone_until_its_content_changes() -> None:
    """A link or a permission (ctime) is no change of content; a rewrite is."""
    readiness = Readiness(1.0)
    readiness.update([_found("a_1")], 0.0)
    readiness.settle("a_1", whole=True)
    readiness.update([_found("a_1", ctime=2)], 5.0)
    assert (_names(readiness, 9.0), readiness.unsettled()) == ([], 0)
    readiness.update([_found("a_1", mtime=2, ctime=3)], 10.0)
    assert _names(readiness, 11.0) == ["a_1"]


def test_an_incomplete_file_is_probed_later_and_later_and_reported_once_a_reason() -> None:
    """The pauses double up to half a minute; a report comes after the limit, again only for another reason."""
    readiness = Readiness(0.0)
    readiness.update([_found("a_1")], 0.0)
    now, pauses, reports = 0.0, [], []
    for number in range(10):
        reports.append(readiness.postpone("a_1", "short" if number < 8 else "other", now))
        due = readiness.next_due()
        assert due is not None
        pauses.append(due - now)
        now = due
    assert pauses == [0.5, 1, 2, 4, 8, 16, 30, 30, 30, 30]
    assert reports.count(True) == 2
    assert reports.index(True) == 5


def test_an_older_file_of_the_sequence_goes_first() -> None:
    """Two files saved at nearly the same moment are taken in their order; another sequence does not wait for them."""
    readiness = Readiness(2.0)
    readiness.update([_found("a_10"), _found("b_1")], 0.0)
    readiness.update([_found("a_10"), _found("b_1"), _found("a_9")], 1.0)
    assert _names(readiness, 2.0) == ["b_1"]
    assert _names(readiness, 3.0) == ["a_9", "a_10", "b_1"]
    readiness.postpone("a_9", "it is cut off", 3.0)
    assert _names(readiness, 3.1) == ["a_10", "b_1"]


def test_names_that_tell_no_step_go_by_time() -> None:
    """Accuracies say nothing of the order; numbered names go first and by their numbers, whatever their times."""
    readiness = Readiness(0.0)
    names = ["model_acc0.9.pt", "model_acc0.71.pt", "model_acc0.85.pt"]
    rest = [_found(name, mtime=time) for name, time in zip(names, (30, 10, 20), strict=True)]
    readiness.update([*rest, _found("net_10.pt", mtime=40), _found("net_9.pt", mtime=50)], 0.0)
    by_time = ["model_acc0.71.pt", "model_acc0.85.pt", "model_acc0.9.pt"]
    assert _names(readiness, 1.0) == ["net_9.pt", "net_10.pt", *by_time]


def test_files_that_are_gone_are_told_and_forgotten() -> None:
    """A name that disappears is returned once."""
    readiness = Readiness(1.0)
    readiness.update([_found("a_1")], 0.0)
    assert readiness.update([], 1.0) == ["a_1"]
    assert readiness.update([], 2.0) == []
    assert readiness.next_due() is None


def _write(readiness: Readiness, name: str, begin: float, seconds: float, *, whole: bool = True) -> None:
    """A file that is seen growing for so long, and is taken then."""
    for tick in range(int(seconds) + 1):
        readiness.update([_found(name, mtime=tick)], begin + tick)
    readiness.settle(name, whole=whole)


def _reported_after(readiness: Readiness) -> float:
    """When a file that stays incomplete is reported, in whole seconds."""
    readiness.update([_found("cut")], 1000.0)
    return next(wait for wait in range(2000) if readiness.postpone("cut", "it is cut off", 1000.0 + wait))


@pytest.mark.parametrize(
    ("seconds", "after"),
    [((), 10), ((3,), 10), ((5,), 10), ((20,), 40), ((20, 7), 40), ((7, 20), 40), ((400,), 600)],
    ids=["none seen", "short", "just the least", "long", "then short", "short before", "very long"],
)
def test_an_incomplete_file_is_reported_after_twice_the_longest_writing(seconds: tuple[int, ...], after: int) -> None:
    """A file that is merely being written is not reported if the run's checkpoints take long, nor before 10 s."""
    readiness = Readiness(1.0)
    for number, each in enumerate(seconds):
        _write(readiness, f"a_{number}", 0.0, each)
    assert _reported_after(readiness) == after


def test_what_is_no_checkpoint_says_nothing_of_how_long_one_takes() -> None:
    """A log that grew for a minute and was refused then delays no report; nor does the rest of a file, or an old one."""
    readiness = Readiness(1.0, lambda _: 500.0)
    _write(readiness, "log", 0.0, 60.0, whole=False)
    readiness.update([_found("a_1")], 100.0)
    readiness.update([_found("a_1")], 900.0)
    readiness.settle("a_1", whole=True)
    assert _reported_after(readiness) == 10


def test_once_reports_at_once() -> None:
    """Nobody waits there for the rest of a file."""
    assert _reported_after(Readiness(1.0, at_once=True)) == 0


def test_a_file_that_cannot_be_read_keeps_its_place_for_a_minute() -> None:
    """Its successors wait, those of other series do not; then they go on, which is told once, and it is tried further on."""
    readiness = Readiness(0.0)
    found = [_found(name, 1) for name in ("a_1.pt", "a_2.pt", "b_1.pt")]
    readiness.update(found, 0.0)
    assert _names(readiness, 0.0) == ["a_1.pt", "a_2.pt", "b_1.pt"]
    readiness.postpone("a_1.pt", "Input/output error", 0.0, unreadable=True)
    assert readiness.waiting  # at once: `once` would end else
    assert _names(readiness, 0.1) == ["b_1.pt"]
    assert readiness.waiting
    assert _names(readiness, 59.0)[0] == "a_1.pt"
    readiness.postpone("a_1.pt", "Input/output error", 59.0, unreadable=True)
    assert "a_2.pt" not in _names(readiness, 59.1)
    assert readiness.pop_let_by() == []
    assert _names(readiness, 60.0)[:2] == ["a_1.pt", "a_2.pt"]  # what is read again takes its place
    assert (readiness.waiting, readiness.pop_let_by(), readiness.pop_let_by()) == (False, ["a_1.pt"], [])
    assert readiness.passed("a_1.pt")
    assert not readiness.passed("a_2.pt")


def test_what_is_incomplete_keeps_no_place() -> None:
    """A file that is still being written is read, and is no reason to wait."""
    readiness = Readiness(0.0)
    readiness.update([_found(name, 1) for name in ("a_1.pt", "a_2.pt")], 0.0)
    readiness.postpone("a_1.pt", "Input/output error", 0.0, unreadable=True)
    readiness.postpone("a_1.pt", "it ends at byte 7", 1.0)
    assert _names(readiness, 1.1) == ["a_2.pt"]
    assert not readiness.waiting


def test_what_a_scan_could_not_look_at_is_not_taken_for_gone() -> None:
    """A folder that cannot be listed keeps its files, and a file of which the system does not tell keeps its place."""
    readiness = Readiness(0.0)
    readiness.update([_found("in/a_1.pt"), _found("b_1.pt")], 0.0)
    assert readiness.update([], 1.0, ["in"]) == ["b_1.pt"]
    unknown = [Found(name=name, identity=None) for name in ("in/a_0.pt", "in/a_1.pt")]
    readiness.update([*unknown, _found("in/a_2.pt")], 2.0)
    assert "in/a_2.pt" not in _names(readiness, 2.0)
    assert readiness.waiting
    names = [f"in/a_{number}.pt" for number in range(3)]
    readiness.update([_found(name) for name in names], 3.0)
    assert _names(readiness, 3.0) == names
    assert sorted(readiness.update([], 4.0)) == names


def test_where_nothing_can_be_read_the_wait_is_a_minute_in_all() -> None:
    """The successors of a file that was waited for do not wait anew, each for the next; once one was read, they do."""
    readiness = Readiness(0.0)
    readiness.update([_found(f"a_{number}.pt", 1) for number in range(1, 5)], 0.0)
    for name, now in (("a_1.pt", 0.0), ("a_2.pt", 60.0), ("a_3.pt", 60.1)):
        assert name in _names(readiness, now)
        readiness.postpone(name, "Input/output error", now, unreadable=True)
        assert readiness.waiting
    assert "a_4.pt" in _names(readiness, 60.2)
    assert readiness.pop_let_by() == ["a_1.pt", "a_2.pt", "a_3.pt"]
    readiness.settle("a_2.pt", whole=True)
    readiness.update([_found(f"a_{number}.pt", 1) for number in range(1, 7)], 70.0)
    for now in (70.0, 129.0):
        readiness.postpone("a_5.pt", "Input/output error", now, unreadable=True)
        assert "a_6.pt" not in _names(readiness, now)
    assert "a_6.pt" in _names(readiness, 130.0)


def test_a_file_that_its_writer_closed_rests_for_a_moment_only() -> None:
    """It is due at once, nearly; where it changes again, it rests as any other until it is closed once more."""
    tracker = Readiness(0.5)
    tracker.update([_found("a_1")], 0.0)
    tracker.written("a_1", 0.0)
    assert _names(tracker, 0.04) == []
    assert _names(tracker, 0.06) == ["a_1"]
    tracker.update([_found("a_1", mtime=2)], 0.05)
    assert _names(tracker, 0.2) == []
    tracker.written("a_1", 0.2)
    assert _names(tracker, 0.26) == ["a_1"]
    tracker.written("b_1", 0.2)


def test_what_goes_before_it_is_taken_is_told_once() -> None:
    """With its inode, by which another name of it is found; what was taken before it went is not told."""
    readiness = Readiness(1.0)
    readiness.update([_found("a_1"), _found("a_2")], 0.0)
    readiness.settle("a_1", whole=True)
    assert readiness.update([], 0.5) == ["a_1", "a_2"]
    ((name, inode),) = readiness.pop_lost()
    identity = _found("a_2").identity
    assert identity is not None
    assert (name, inode) == ("a_2", identity.inode)
    assert readiness.pop_lost() == []
    assert readiness.unsettled() == readiness.resting() == 0
