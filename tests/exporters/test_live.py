"""Exporters beside the daemon: one that throws, hangs or cannot begin is a problem, and changes nothing of the run."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from rna_watch.cli import app
from rna_watch.config import RunConfig
from rna_watch.daemon import live_exports
from rna_watch.daemon.recorder import Recorder
from rna_watch.journal import log
from rna_watch.journal.run_paths import RunPaths
from tests.daemon.in_process import process
from tests.daemon.runs import events, fingerprints, rna_watch, train

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

ONCE = ("--engine", "local", "--normalization", "clamp")
THROWS = "def init(**_):\n    raise RuntimeError('the tracker is on fire')\n"
HANGS = "import time\ntime.sleep(600)\n"


def _decisions(run: Path) -> dict[str, list[tuple[object, ...]]]:
    """What was decided, by kind and in its order: checkpoints and weights. Two threads write, so kinds come in between."""
    found: dict[str, list[tuple[object, ...]]] = {}
    for each in log.read(run / ".rna-watch" / "journal.jsonl"):
        if each.kind in {"admitted", "searched", "chosen", "publishing", "published", "finished", "best_moved"}:
            found.setdefault(each.kind, []).append((getattr(each, "checkpoint", ""), getattr(each, "weights", None)))
    return found


def _modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trackers' libraries, one that throws and one that hangs, in the place of the real ones."""
    for name, code in {"wandb": THROWS, "mlflow": HANGS}.items():
        (tmp_path / "modules" / name).mkdir(parents=True)
        (tmp_path / "modules" / name / "__init__.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "modules"), prepend=":")


def test_a_tracker_that_throws_or_hangs_changes_nothing_of_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Models to the byte, order and time of the run are those without trackers; the end waits for them a set time only."""
    _modules(tmp_path, monkeypatch)
    monkeypatch.setattr(live_exports, "END_S", 1.0)
    alone, beside = tmp_path / "alone", tmp_path / "beside"
    took = []
    for run, more in ((alone, ()), (beside, ("--exporters", "wandb,mlflow"))):
        train(run, count=6)
        result = rna_watch("once", run, *ONCE, *more)
        assert result.returncode == 0, result.stderr
        took.append(events(run, "published")[-1].time - events(run, "started")[-1].time)
    assert _decisions(alone) == _decisions(beside)
    names = [each.checkpoint for each in events(alone, "published")]
    left, right = (fingerprints(run / "rna") for run in (alone, beside))
    assert {name: left[name][0] for name in names} == {name: right[name][0] for name in names}
    assert took[1] < took[0] + 20.0, "the work waited for a tracker"  # seconds, on a machine that others use too


def test_what_throws_and_what_hangs_are_problems_and_another_exporter_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is named with its reason; a table is written beside them."""
    _modules(tmp_path, monkeypatch)
    run = tmp_path / "run"
    train(run, count=4)
    process(run, run)
    paths = RunPaths(run=run, output=run)
    recorder = Recorder(paths.journal)
    monkeypatch.setattr(live_exports, "END_S", 0.5)
    monkeypatch.setattr(live_exports.LiveExports, "limit_s", lambda _, name: 1.0 if name == "mlflow" else 180.0)
    table = paths.exports / "csv" / "rna-watch.csv"
    wanted = {"exporter wandb", "exporter mlflow"}
    with live_exports.LiveExports(RunConfig(exporters=("csv", "wandb", "mlflow")), paths, recorder):
        until = time.monotonic() + 120.0
        while not (wanted <= recorder.state.problems.keys() and table.exists()) and time.monotonic() < until:
            time.sleep(0.05)
        problems = dict(recorder.state.problems)
    recorder.close()
    assert problems.keys() == wanted
    assert "the tracker is on fire" in problems["exporter wandb"].what
    assert "gives no sign of life for 1 s" in problems["exporter mlflow"].what
    assert len(table.read_text().splitlines()) == 1 + 4


def test_a_failure_is_a_problem_with_a_remedy_and_goes_when_it_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a person reads names the exporter and the reason; the next attempt takes it back."""
    paths = RunPaths(run=tmp_path, output=tmp_path)
    paths.create()
    recorder = Recorder(paths.journal)
    monkeypatch.setattr(live_exports, "_FIRST_PAUSE_S", 0.05)
    said = iter(["it is full", "it is full", ""])

    def watched(self: live_exports.LiveExports, name: str) -> str:
        why = next(said, "")
        if not why:
            recorder.solved(f"exporter {name}")
            self._stopping.wait(5.0)
        return why

    monkeypatch.setattr(live_exports.LiveExports, "_watched", watched)
    with live_exports.LiveExports(RunConfig(exporters=("csv",)), paths, recorder):
        until = time.monotonic() + 20.0
        while not any(each.kind == "solved" for each in list(recorder.state.recent)) and time.monotonic() < until:
            time.sleep(0.02)
    recorder.close()
    (problem,) = events(tmp_path, "problem")
    assert problem.what == "the exporter csv fails: it is full"
    assert "models are made all the same" in problem.remedy
    assert [each.key for each in events(tmp_path, "solved")] == ["exporter csv"]


def test_an_export_afterwards_says_where_it_is(tmp_path: Path) -> None:
    """`export` writes what the journal tells, to a folder of ours or another; a run that was never watched has nothing."""
    train(tmp_path / "run", count=4)
    refused = rna_watch("export", tmp_path / "run", "--to", "csv")
    assert refused.returncode == 3
    assert "was never watched" in refused.stderr
    assert rna_watch("once", tmp_path / "run", *ONCE).returncode == 0
    done = rna_watch("export", tmp_path / "run", "--to", "csv", "-o", tmp_path / "mine")
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"csv: 4 checkpoints, in {tmp_path / 'mine'}\n"
    assert (tmp_path / "mine" / "rna-watch.csv").exists()
    assert rna_watch("export", tmp_path / "run", "--to", "csv").returncode == 0
    assert (tmp_path / "run" / ".rna-watch" / "exports" / "csv" / "rna-watch.csv").exists()
    assert rna_watch("export", tmp_path / "run", "--to", "csv", "--port", "9").returncode == 2


def test_the_old_name_of_the_serving_copy_is_accepted(tmp_path: Path) -> None:
    """`export` in a configuration and `--export` are `serving_copy`."""
    train(tmp_path / "run", count=4)
    assert rna_watch("once", tmp_path / "run", *ONCE, "--export", "safetensors").returncode == 0
    assert list((tmp_path / "run" / "rna").glob("*.export.safetensors"))
    assert "export" in app.commands
