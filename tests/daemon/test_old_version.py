"""A run that version 0.1.0 watched is gone on with: its pins are found, wherever a crash left them."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import math
from typing import TYPE_CHECKING

import pytest

from rna_watch.comparison.comparison import compare
from rna_watch.config import RunConfig
from rna_watch.daemon.background import serve
from rna_watch.daemon.disk_reserve import DiskReserve
from rna_watch.daemon.pins import Pins
from rna_watch.daemon.recorder import Recorder
from rna_watch.errors import RunIsWatched, StoreError
from rna_watch.journal import events as e
from rna_watch.journal import log
from rna_watch.journal.replay import replay
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


def _once(paths: RunPaths, *settings: str, edited: bool = False) -> None:
    file = paths.run.parent / "judge.py"
    if edited:
        file.write_text(f"{file.read_text()}\n# edited\n")
    result = rna_watch("once", paths.run, "--engine", "local", "--evaluator", f"{file}:evaluate", *settings)
    assert result.returncode == 0, result.stdout + result.stderr


def _judged(paths: RunPaths, *, since: int) -> list[e.Event]:
    return [event for event in log.read(paths.journal) if event.seq > since]


LAST_SEQ = len((run_0_1_0.JUDGED / "journal.jsonl").read_text().splitlines())


def test_a_judged_run_goes_on_with_all_that_was_kept(tmp_path: Path) -> None:
    """One row of the Gram matrix is measured, only the new checkpoint is evaluated, and `best` is beaten or stays."""
    paths = run_0_1_0.make(tmp_path / "run", judged=True)
    run_0_1_0.save(paths.run, 6)
    _once(paths)
    added = _judged(paths, since=LAST_SEQ)
    assert {event.checkpoint for event in added if isinstance(event, e.Evaluated)} == {"step_6.safetensors"}
    assert not any(isinstance(event, e.TakenUp | e.EvaluationFailed) for event in added)
    (measured,) = [event for event in added if isinstance(event, e.Measured)]
    assert [len(row) for row in measured.rows] == [5]
    (chosen,) = [event for event in added if isinstance(event, e.Chosen)]
    assert chosen.inputs == [f"step_{step}.safetensors" for step in range(1, 7)]
    state = replay(log.read(paths.journal))
    assert [row.checkpoint for row in compare(state).rows] == chosen.inputs
    values = [state.checkpoints[name].chosen for name in ("step_4.safetensors", "step_6.safetensors")]
    old, new = ((each.metrics["chosen"] or {})["loss"] for each in values if each)
    moved = [event.output for event in added if isinstance(event, e.BestMoved)]
    assert moved == (["step_6.safetensors"] if new < old else [])
    assert state.best is not None
    assert (paths.models / "best").resolve() == paths.models / state.best.output
    assert rna_watch("verify", paths.run).returncode == 0


def test_rows_of_another_model_are_not_taken_for_those_of_a_judged_run(tmp_path: Path) -> None:
    """The keys of 0.1.0's rows are those of the checkpoints that it admitted: one that was written anew has none."""
    paths = run_0_1_0.make(tmp_path / "run", judged=True)
    state = replay(log.read(paths.journal))
    measured = state.checkpoints["step_5.safetensors"].measured
    assert measured is not None
    admitted = [state.checkpoints[f"step_{step}.safetensors"].admitted for step in range(1, 6)]
    assert measured.inputs == [each.fingerprint for each in admitted if each]


@pytest.mark.parametrize("metric", ["loss", "accuracy"])
def test_another_metric_uses_the_values_of_a_judged_run(tmp_path: Path, metric: str) -> None:
    """Nothing is evaluated or measured again; `best` is what an undisturbed run with that metric would have."""
    paths = run_0_1_0.make(tmp_path / "run", judged=True)
    arguments = ("once", paths.run, "--engine", "local", "--evaluator", f"{tmp_path / 'judge.py'}:evaluate")
    known = replay(log.read(paths.journal)).checkpoints
    result = rna_watch(*arguments, "--metric", metric, "--mode", "min" if metric == "loss" else "max")
    assert result.returncode == (3 if metric == "loss" else 0), result.stdout
    added = _judged(paths, since=LAST_SEQ)
    assert not any(isinstance(event, e.Measured) for event in added)
    # the family has members of other decays now
    evaluated = [event for event in added if isinstance(event, e.Evaluated)]
    assert not [event for event in evaluated if event.candidate in known[event.checkpoint].evaluations]
    assert all(event.candidate.startswith("ema-") for event in evaluated)
    state = replay(log.read(paths.journal))
    sign = 1 if metric == "accuracy" else -1
    record, best = -math.inf, None
    for name, checkpoint in state.checkpoints.items():
        record = max(record, sign * checkpoint.evaluations["last"][metric])
        chosen = checkpoint.chosen.metrics["chosen"] if checkpoint.chosen else None
        if chosen is not None and sign * chosen[metric] > record:
            record, best = sign * chosen[metric], name
    assert (state.best.checkpoint if state.best else None) == best
    assert (paths.models / "best").is_symlink() == (best is not None)


def test_an_edited_evaluator_judges_the_run_again(tmp_path: Path) -> None:
    """Pins are the inputs of every model: each original and each family is evaluated anew, and `best` is confirmed."""
    paths = run_0_1_0.make(tmp_path / "run", judged=True)
    before = replay(log.read(paths.journal))
    _once(paths, edited=True)
    state = replay(log.read(paths.journal))
    assert {checkpoint.judge for checkpoint in state.checkpoints.values()} == {1}
    for name, checkpoint in before.checkpoints.items():
        again = state.checkpoints[name].evaluations
        kept = {key: value for key, value in checkpoint.evaluations.items() if not key.startswith("ema-")}
        assert {key: again[key] for key in kept} == kept  # of ema, other decays may take the places
    assert state.best is not None
    assert before.best is not None
    assert (state.best.output, state.best.value) == (before.best.output, before.best.value)


@pytest.mark.parametrize("settings", [(), ("--ema-decay", "0.2")], ids=["as it was", "other models"])
def test_an_interrupted_judged_run_evaluates_only_what_is_not_known(tmp_path: Path, settings: tuple[str, ...]) -> None:
    """The settings of 0.1.0 stand in its `started`: what they made is the same now, or stale."""
    paths = run_0_1_0.make(tmp_path / "run", judged=True)
    lines = paths.journal.read_text().splitlines(keepends=True)
    last = max(n for n, line in enumerate(lines) if '"kind":"searched"' in line)
    paths.journal.write_text("".join(lines[:last]))
    known = set(replay(log.read(paths.journal)).checkpoints["step_5.safetensors"].evaluations)
    assert {"last", "ema-4", "rna-4-1e-08"} <= known
    _once(paths, *settings)
    again = {event.candidate for event in _judged(paths, since=last) if isinstance(event, e.Evaluated)}
    assert again >= known - {"ema-4", "ema-2"} if settings else not again & known
