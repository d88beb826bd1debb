"""A run that version 0.1.0 watched is gone on with: its pins are found, wherever a crash left them."""

from __future__ import annotations

import dataclasses
import fcntl
import json
from typing import TYPE_CHECKING

import pytest

from rna_watch.config import RunConfig
from rna_watch.daemon.background import serve
from rna_watch.daemon.disk_reserve import DiskReserve
from rna_watch.daemon.pins import Pins
from rna_watch.daemon.recorder import Recorder
from rna_watch.errors import RunIsWatched, StoreError
from rna_watch.journal import events as e
from rna_watch.journal import log
from rna_watch.journal.run_paths import adopt_pins
from rna_watch.journal.status import status_of
from tests.daemon import run_0_1_0
from tests.daemon.runs import rna_watch

if TYPE_CHECKING:
    from pathlib import Path

    from rna_watch.journal.run_paths import RunPaths


def _renamed(paths: RunPaths) -> None:
    """A crash right behind the rename: the journal names the old folder."""
    pins, old = paths.pin_folders
    old.rename(pins)


def _empty(paths: RunPaths) -> None:
    """A folder for pins was made, and not yet put in the place of the old one."""
    paths.pins.mkdir()


def _both(paths: RunPaths) -> None:
    """A later version pinned step 5 in its folder, then 0.1.0 worked on: the journal names both."""
    paths.pins.mkdir()
    lines = []
    for event in log.read(paths.journal):
        changed = event
        if isinstance(event, e.Admitted) and event.step == run_0_1_0.COUNT:
            changed = dataclasses.replace(event, pin_path=event.pin_path.replace("/window/", "/pins/"))
            (paths.run / event.pin_path).rename(paths.run / changed.pin_path)
        lines.append(log.encode(changed))
    paths.journal.write_bytes(b"".join(lines))


def _half(paths: RunPaths) -> None:
    """The same, and a crash while the folders were put together: one pin was moved, its record names the old folder."""
    _both(paths)
    pins, old = paths.pin_folders
    pin = min(old.iterdir())
    pin.rename(pins / pin.name)


def _pins_found(paths: RunPaths) -> list[str]:
    recorded = [event.pin_path for event in log.read(paths.journal) if isinstance(event, e.Admitted)]
    return [path.name for path in map(paths.pinned, recorded) if path.is_file()]


@pytest.mark.parametrize("left", [None, _renamed, _empty, _both, _half])
def test_every_pin_is_found_before_and_after_it_is_taken_over(tmp_path: Path, left: object) -> None:
    """Whatever was done of the renaming when the power went: nothing is lost, a second time changes nothing."""
    paths = run_0_1_0.make(tmp_path)
    if callable(left):
        left(paths)
    names = _pins_found(paths)
    assert len(names) == run_0_1_0.COUNT
    paths.create()
    assert _pins_found(paths) == names
    for _ in range(2):
        adopt_pins(paths)
        assert _pins_found(paths) == names
        assert sorted(path.name for path in paths.pins.iterdir()) == sorted(names)
        assert not (paths.state / "window").exists()
    (paths.pins / "step__9.pt.00000000.pinned").touch()
    recorder = Recorder(paths.journal)
    kept = Pins(RunConfig(), paths, recorder, DiskReserve(RunConfig(), tmp_path, recorder), lambda: None)
    kept.sweep()  # what no record explains goes, and only that
    recorder.close()
    assert sorted(path.name for path in paths.pins.iterdir()) == sorted(names)
    assert all(kept.layout(checkpoint) is not None for checkpoint in recorder.checkpoints())


def test_the_next_checkpoint_s_window_is_made_of_the_old_pins(tmp_path: Path) -> None:
    """The trainer has deleted what 0.1.0 pinned: the first model of the new version is still made of six checkpoints."""
    paths = run_0_1_0.make(tmp_path)
    run_0_1_0.save(tmp_path, 6)
    result = rna_watch("once", tmp_path, "--engine", "inline")
    assert result.returncode == 0, result.stderr
    manifest = json.loads((paths.models / "step_6.safetensors.json").read_text())
    assert [each["step"] for each in manifest["inputs"]] == [1, 2, 3, 4, 5, 6]
    verified = rna_watch("verify", paths.models / "step_6.safetensors")
    assert verified.returncode == 0, verified.stdout
    assert not (paths.state / "window").exists()


def test_pins_that_nobody_took_over_serve_a_reader(tmp_path: Path) -> None:
    """`verify` finds the inputs of a model in the old folder and renames nothing."""
    paths = run_0_1_0.make(tmp_path / "old")
    run_0_1_0.save(paths.run, 6)
    assert rna_watch("once", paths.run, "--engine", "inline").returncode == 0
    (paths.run / "step_6.safetensors").unlink()
    paths.pins.rename(paths.state / "window")
    before = sorted(str(path) for path in paths.state.rglob("*"))
    assert rna_watch("verify", paths.models / "step_6.safetensors").returncode == 0
    assert sorted(str(path) for path in paths.state.rglob("*")) == before


def test_while_a_daemon_of_0_1_0_lives_nothing_is_renamed(tmp_path: Path) -> None:
    """Its lock is held: a new start says so, and leaves its folder where it looks for it."""
    paths = run_0_1_0.make(tmp_path)
    before = sorted(str(path) for path in paths.output.rglob("*"))
    with paths.lock.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert status_of(paths).alive
        with pytest.raises(RunIsWatched):
            serve(RunConfig(engine="inline"), paths)
    assert sorted(str(path) for path in paths.output.rglob("*")) == before


def test_a_folder_that_cannot_be_renamed_is_named(tmp_path: Path) -> None:
    """Something of another's in its place: one line says which, and the pins stay where they are."""
    paths = run_0_1_0.make(tmp_path)
    paths.pins.write_text("mine")
    with pytest.raises(StoreError, match=r"cannot rename .*window to .*pins"):
        adopt_pins(paths)
    assert len(_pins_found(paths)) == run_0_1_0.COUNT
    assert paths.pins.read_text() == "mine"
