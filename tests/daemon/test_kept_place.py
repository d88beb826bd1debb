"""Order survives trouble: a file that cannot be read for a while keeps its place among its successors."""

from __future__ import annotations

import errno
import os
import time
from typing import TYPE_CHECKING

import pytest

from rna_watch.daemon import pins, probes
from rna_watch.daemon.measurement import Measuring
from rna_watch.errors import InputChanged
from rna_watch.journal import log
from tests.daemon.in_process import watch
from tests.daemon.runs import events, rna_watch, train

if TYPE_CHECKING:
    from pathlib import Path

    from rna_watch.daemon.window import Window
    from rna_watch.journal.replay import RunState
    from rna_watch.layout.layout import Layout


class _Broken:
    """The real probe on a disk that fails for one file."""

    def __init__(self, name: str, code: int, times: float) -> None:
        self._name = name
        self._code = code
        self.times = times
        self.asked = False
        self._real = probes.probe

    def __call__(self, path: str, *arguments: object) -> Layout:
        """See `probe`."""
        if self._name in path and self.times > 0:
            self.times, self.asked = self.times - 1, True
            raise OSError(self._code, os.strerror(self._code), path)
        return self._real(path, *arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("code", [errno.EIO, errno.EMFILE, errno.ESTALE])
def test_a_file_that_cannot_be_read_for_a_moment_keeps_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """Its successors wait for it, so that every window is whole; nothing is called incomplete."""
    train(tmp_path, count=5)
    monkeypatch.setattr(probes, "probe", _Broken("step_3.pt", code, 2))
    watch(tmp_path, lambda state: "step_5.pt" in state.outputs)
    assert [event.checkpoint for event in events(tmp_path, "admitted")] == [f"step_{n}.pt" for n in range(1, 6)]
    (first, *_) = events(tmp_path, "chosen")
    assert first.inputs == ["step_1.pt", "step_2.pt", "step_3.pt"]
    assert events(tmp_path, "waiting") == []


def test_once_waits_for_a_file_that_cannot_be_read_for_a_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not end while successors wait; every window is whole."""
    train(tmp_path, count=5)
    monkeypatch.setattr(probes, "probe", _Broken("step_2.pt", errno.EIO, 3))
    assert rna_watch("once", tmp_path, "--engine", "local").returncode == 0
    assert [len(event.inputs) for event in events(tmp_path, "chosen")] == [3, 4, 5]


def test_what_comes_late_is_put_into_the_windows_that_went_on_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the wait the successors go on, which is said; when the file can be read again their models are made anew."""
    train(tmp_path, count=5)
    broken = _Broken("step_3.pt", errno.EIO, float("inf"))
    monkeypatch.setattr(probes, "probe", broken)
    monkeypatch.setattr("rna_watch.watching.readiness.KEPT_PLACE_S", 0.8)

    def done(state: RunState) -> bool:
        chosen = {name: each.chosen for name, each in list(state.checkpoints.items()) if each.chosen}
        if "step_5.pt" in state.outputs:
            broken.times = 0
        return all("step_3.pt" in each.inputs for each in chosen.values()) and len(chosen) == 3

    state = watch(tmp_path, done)
    journal = list(log.read(tmp_path / ".rna-watch" / "journal.jsonl"))
    assert ["goes on without it" in event.text for event in journal if event.kind == "noted"] == [True]  # type: ignore[attr-defined]
    assert {event.checkpoint for event in events(tmp_path, "taken_up")} == {"step_4.pt", "step_5.pt"}
    assert events(tmp_path, "window_started") == []
    newest = state.checkpoints["step_5.pt"].chosen
    assert newest is not None
    assert newest.inputs == [f"step_{number}.pt" for number in range(1, 6)]


def test_what_comes_late_after_a_restart_is_put_into_the_windows_that_went_on_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A command ends without a file that it could not read; the next one makes anew the models whose windows lack it."""
    train(tmp_path, count=5)
    broken = _Broken("step_2.pt", errno.EIO, float("inf"))
    monkeypatch.setattr(probes, "probe", broken)
    monkeypatch.setattr("rna_watch.watching.readiness.KEPT_PLACE_S", 0.3)
    assert rna_watch("once", tmp_path, "--engine", "local").returncode == 0
    assert [len(event.inputs) for event in events(tmp_path, "chosen")] == [3, 4]
    broken.times = 0
    assert rna_watch("once", tmp_path, "--engine", "local").returncode == 0
    made = {event.checkpoint: event.inputs for event in events(tmp_path, "chosen")}
    assert made == {f"step_{n}.pt": [f"step_{k}.pt" for k in range(1, n + 1)] for n in (3, 4, 5)}
    assert rna_watch("once", tmp_path, "--engine", "local").returncode == 3


def test_a_run_that_is_unreadable_for_longer_than_the_wait_is_taken_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the first file's wait is over while nothing can be read, it is tried before its successors go on."""
    train(tmp_path, count=5)
    monkeypatch.setattr("rna_watch.watching.readiness.KEPT_PLACE_S", 0.6)
    until = time.monotonic() + 1.2
    real = probes.probe

    def probe(path: str, *arguments: object) -> Layout:
        if time.monotonic() < until:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return real(path, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(probes, "probe", probe)
    watch(tmp_path, lambda state: "step_5.pt" in state.outputs)
    assert [event.checkpoint for event in events(tmp_path, "admitted")] == [f"step_{n}.pt" for n in range(1, 6)]
    assert [len(event.inputs) for event in events(tmp_path, "chosen")] == [3, 4, 5]


def test_an_input_that_seems_changed_while_the_disk_fails_stays_in_its_window(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What cannot be looked at is not called gone: the attempt fails, and the next one has the whole window."""
    train(tmp_path, count=5)
    broken = _Broken("_2.pt", errno.EIO, 0)  # the pin too, by whatever name
    real = Measuring.residuals

    def residuals(self: Measuring, window: Window, *arguments: object) -> object:
        if window.names[-1] == "step_3.pt" and not broken.asked:
            broken.times = 4  # the pin and the original, at two looks
            raise InputChanged("step_2.pt changed")
        return real(self, window, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(pins, "probe", broken)
    monkeypatch.setattr(Measuring, "residuals", residuals)
    assert rna_watch("once", tmp_path, "--engine", "local").returncode == 0
    assert broken.asked
    assert broken.times == 0
    assert [event.checkpoint for event in events(tmp_path, "failed")] == ["step_3.pt"] * 2
    assert events(tmp_path, "skipped") == []
    assert {event.checkpoint: len(event.inputs) for event in events(tmp_path, "chosen")} == {
        "step_3.pt": 3,
        "step_4.pt": 4,
        "step_5.pt": 5,
    }


@pytest.mark.parametrize("late", [1, 4])
def test_what_comes_late_is_older_than_what_was_saved_after_it(tmp_path: Path, late: int) -> None:
    """`latest` and the models that are kept go by the order of the saves; nothing is left to be done afterwards."""
    run, whole = tmp_path / "run", tmp_path / "whole"
    for folder in (run, whole):
        train(folder, count=5)
    assert rna_watch("once", whole, "--engine", "local", "--keep", "2").returncode == 0
    hidden = (run / f"step_{late}.pt").rename(tmp_path / "hidden")
    rna_watch("once", run, "--engine", "local", "--keep", "2")
    hidden.rename(run / f"step_{late}.pt")
    assert rna_watch("once", run, "--engine", "local", "--keep", "2").returncode == 0
    for name in ("latest", "step_4.pt", "step_5.pt"):
        assert (run / "rna" / name).read_bytes() == (whole / "rna" / name).read_bytes()
    assert not (run / "rna" / "step_3.pt").exists()
    assert rna_watch("once", run, "--engine", "local", "--keep", "2").returncode == 3
