"""One act's failure costs that act: acts by themselves, and a whole daemon whose every part fails for a while."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest

from rna_watch.daemon import pipeline, probes, recorder, watcher
from rna_watch.daemon.acts import Acts
from rna_watch.daemon.recorder import Recorder
from rna_watch.errors import StoreError
from rna_watch.journal import heartbeat, log
from tests.daemon.in_process import watch
from tests.daemon.runs import train

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from rna_watch.journal.replay import RunState


def test_an_act_that_fails_is_reported_once_and_tried_again_later_and_later(tmp_path: Path) -> None:
    """The pause doubles; the same words are recorded once, other words once more; success takes the problem back."""
    journal = Recorder(tmp_path / "journal")
    clock, failures = [0.0], [OSError(errno.EIO, "it broke")] * 3 + [TypeError("no such thing")]
    acts = Acts(journal, lambda: clock[-1])

    def act() -> None:
        if failures:
            raise failures.pop(0)

    def done_at(now: float) -> tuple[bool, int]:
        clock.append(now)
        return acts.do("scan", "the folder cannot be scanned", act), len(failures)

    done = [done_at(now) for now in (0.0, 0.4, 0.6, 1.5, 1.7, 3.0, 4.0, 7.0, 8.0)]
    assert done == [*[(False, 3)] * 2, *[(False, 2)] * 2, (False, 1), (False, 1), (False, 0), (False, 0), (True, 0)]
    said = [event for event in log.read(tmp_path / "journal") if event.kind in {"problem", "solved"}]
    assert [getattr(event, "what", "") for event in said] == [
        "the folder cannot be scanned: it broke",
        "the folder cannot be scanned: an unexpected error (TypeError: no such thing)",
        "",
    ]

    def lost() -> None:
        raise StoreError("the journal is gone")

    with pytest.raises(StoreError):
        acts.do("scan", "the folder cannot be scanned", lost)
    journal.close()


def _failing(real: Callable[..., object], failures: list[Exception]) -> Callable[..., object]:
    """The real function, which fails at first."""

    def call(*arguments: object, **options: object) -> object:
        if failures:
            raise failures.pop(0)
        return real(*arguments, **options)

    return call


def test_whatever_fails_the_daemon_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scans, probes, log lines, signs of life, room and the work itself fail in turn: each is said, and all models come."""
    train(tmp_path, count=6)
    codes = (errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.ETIMEDOUT, errno.EACCES)
    monkeypatch.setattr("rna_watch.daemon.acts._LONGEST_PAUSE_S", 0.1)
    monkeypatch.setattr("rna_watch.daemon.order._FIRST_PAUSE_S", 0.1)
    failures = [OSError(code, os.strerror(code)) for code in codes]
    monkeypatch.setattr(watcher, "scan", _failing(watcher.scan, [*failures, TypeError("a stat of a new kind")]))
    monkeypatch.setattr(heartbeat, "write", _failing(heartbeat.write, [OSError(errno.ENOSPC, "No space left")] * 3))
    monkeypatch.setattr(recorder, "describe", _failing(recorder.describe, [OverflowError("cannot convert")]))
    monkeypatch.setattr(pipeline, "repeats", _failing(pipeline.repeats, [KeyError("a defect")]))
    real = probes.probe

    def probe(path: str, *arguments: object) -> object:
        """A reader that has a defect with one file."""
        if path.endswith("step_4.pt"):
            raise TypeError("unhashable type: 'dict'")
        return real(path, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(probes, "probe", probe)
    monkeypatch.setattr("rna_watch.watching.readiness.KEPT_PLACE_S", 1.0)

    def done(state: RunState) -> bool:
        published = {each.checkpoint for each in list(state.outputs.values())}
        return published == {"step_3.pt", "step_5.pt", "step_6.pt"} and "run" not in state.problems

    state = watch(tmp_path, done)
    assert state.stopped is not None
    assert state.stopped.reason == "rna-watch stop"
    journal = list(log.read(tmp_path / ".rna-watch" / "journal.jsonl"))
    said = {event.key: event.what for event in journal if event.kind == "problem"}  # type: ignore[attr-defined]
    assert "TypeError: unhashable" in said["file step_4.pt"]
    assert "a defect" in said["work"]
    assert "OverflowError" in said["listener write_log_line"]
    assert {"run", "heartbeat"} <= said.keys()
    (failed,) = (event for event in journal if event.kind == "failed")
    assert failed.will_retry  # type: ignore[attr-defined]
    assert len([event for event in journal if event.kind == "problem"]) < 20
