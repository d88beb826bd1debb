"""Who listens to the recorder, and what happens to one that fails."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from rna_watch.daemon.recorder import Recorder, write_log_line
from rna_watch.journal import events as e
from rna_watch.journal import log

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from rna_watch.journal.replay import RunState


def test_listeners_get_each_event_with_its_state_in_order(tmp_path: Path) -> None:
    """Every listener gets each event of the journal, as it is there, once it is part of the state."""
    heard: list[tuple[str, int, list[str]]] = []

    def one(event: e.Event, state: RunState) -> None:
        heard.append(("one", event.seq, list(state.problems)))

    def two(event: e.Event, state: RunState) -> None:
        heard.append(("two", event.seq, list(state.problems)))

    recorder = Recorder(tmp_path / "journal.jsonl", (one, two))
    recorder.problem("disk", "it is full", "make room")
    recorder.solved("disk")
    recorder.close()
    assert heard == [("one", 1, ["disk"]), ("two", 1, ["disk"]), ("one", 2, []), ("two", 2, [])]


def test_a_listener_that_raises_costs_its_own_act_only(tmp_path: Path) -> None:
    """It is reported once, behind the event that it failed at; the journal, the state and the others go on."""
    heard: list[tuple[str, int]] = []

    def tracker(event: e.Event, _state: RunState) -> None:
        raise ConnectionError("the server is away")

    def other(event: e.Event, _state: RunState) -> None:
        heard.append((event.kind, event.seq))

    recorder = Recorder(tmp_path / "journal.jsonl", (tracker, other))
    for number in range(3):
        recorder.record(e.Noted(text=f"number {number}"))
    recorder.close()
    assert heard == [("noted", 1), ("problem", 2), ("noted", 3), ("noted", 4)]
    assert [(event.kind, event.seq) for event in log.read(tmp_path / "journal.jsonl")] == heard
    problem = recorder.state.problems["listener tracker"]
    assert (
        problem.what
        == "the listener tracker failed at an event of the kind noted: ConnectionError('the server is away')"
    )


def test_the_log_is_a_listener(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """One line for an event that is worth one, a warning where a person should act."""
    recorder = Recorder(tmp_path / "journal.jsonl", (write_log_line,))
    with caplog.at_level(logging.INFO, "rna_watch"):
        recorder.record(e.Noted(text="all is well"))
        recorder.record(e.Unpinned(checkpoint="a.pt", reason=""))
        recorder.problem("disk", "it is full", "make room")
    recorder.close()
    assert [(each.levelname, each.message) for each in caplog.records] == [
        ("INFO", "all is well"),
        ("WARNING", "problem: it is full; make room"),
    ]
