"""Following a journal: each event once, whatever becomes of the file."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from rna_watch.journal import events as e
from rna_watch.journal import log
from rna_watch.journal.follow import Follower

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(name="path")
def _path(tmp_path: Path) -> Path:
    """The path of the journal."""
    return tmp_path / "journal.jsonl"


def _write(path: Path, *texts: str) -> None:
    journal = log.Journal(path)
    for text in texts:
        journal.append(e.Problem(key=text, what=text, remedy=""))
    journal.close()


def _new(follower: Follower) -> list[str]:
    return [event.key for event in follower.new() if isinstance(event, e.Problem)]


def test_each_event_comes_once_and_whole(path: Path) -> None:
    """A reader next to the writer waits for the file, then for the end of each line; the state holds what was given."""
    follower = Follower(path)
    assert (_new(follower), follower.caught_up) == ([], False)
    _write(path, "one")
    assert (_new(follower), follower.caught_up) == (["one"], True)
    line = log.encode(e.Problem(key="two", what="", remedy="", seq=2))
    with path.open("ab", buffering=0) as file:
        file.write(line[:10])
        assert _new(follower) == []
        file.write(line[10:])
    assert _new(follower) == ["two"]
    assert _new(follower) == []
    assert list(follower.state.problems) == ["one", "two"]


def test_a_reader_that_pauses_goes_on_where_it_was(path: Path) -> None:
    """Leaving the loop in the middle loses nothing and repeats nothing; each event is in the state when it is given."""
    _write(path, "one", "two", "three")
    follower = Follower(path)
    for event in follower.new():
        assert list(follower.state.problems) == [event.key]
        break
    assert not follower.caught_up
    assert _new(follower) == ["two", "three"]


def test_following_begins_after_a_number(path: Path) -> None:
    """What is known already is in the state, but not given again."""
    _write(path, "one", "two", "three")
    follower = Follower(path, after=2)
    assert _new(follower) == ["three"]
    assert list(follower.state.problems) == ["one", "two", "three"]
    _write(path, "four")
    assert _new(follower) == ["four"]


@pytest.mark.parametrize("how", ["replaced", "moved away", "cut"])
def test_a_journal_made_anew_is_given_from_its_beginning(path: Path, how: str) -> None:
    """Another file under the name, at once or after a while, and one cut to nothing: state and events start again."""
    _write(path, "one", "two", "three")
    follower = Follower(path, after=3)
    assert _new(follower) == []
    if how == "replaced":
        _write(path.with_name("fresh"), "other")
        path.with_name("fresh").replace(path)
    elif how == "moved away":
        path.rename(path.with_name("old"))
        assert _new(follower) == []
        _write(path, "other")
    else:
        os.truncate(path, 0)
        _write(path, "other")
    assert _new(follower) == ["other"]
    assert list(follower.state.problems) == ["other"]


def test_a_torn_line_that_is_cut_off_begins_nothing_anew(path: Path) -> None:
    """A writer whose disk was full takes half a line back: what was read stands."""
    _write(path, "one")
    size = path.stat().st_size
    follower = Follower(path)
    with path.open("ab") as file:
        file.write(b'{"v":1,"kind":"pro')
    assert _new(follower) == ["one"]
    os.truncate(path, size)
    assert _new(follower) == []
    _write(path, "two")
    assert _new(follower) == ["two"]
    assert list(follower.state.problems) == ["one", "two"]


def test_a_journal_that_cannot_be_read_for_a_moment_is_waited_for(path: Path) -> None:
    """A folder in its place, as while a file system is away: nothing is given, and nothing is lost."""
    _write(path, "one")
    follower = Follower(path)
    assert _new(follower) == ["one"]
    path.rename(path.with_name("kept"))
    path.mkdir()
    assert _new(follower) == []
    path.rmdir()
    path.with_name("kept").rename(path)
    _write(path, "two")
    assert _new(follower) == ["two"]
