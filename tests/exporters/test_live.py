"""Exporters beside the daemon: one that throws, hangs or cannot begin is a problem, and changes nothing of the run."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from rna_watch.cli import app
from rna_watch.daemon import live_exports
from rna_watch.journal import log
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


def test_a_tracker_that_throws_or_hangs_changes_nothing_of_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Models to the byte, order and time of the run are those without trackers; both failures are problems; CSV is whole."""
    modules = tmp_path / "modules"
    for name, code in {"wandb": THROWS, "mlflow": HANGS}.items():
        (modules / name).mkdir(parents=True)
        (modules / name / "__init__.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(modules), prepend=":")
    monkeypatch.setattr(live_exports, "LIMIT_S", 3.0)
    monkeypatch.setattr(live_exports, "END_S", 4.0)
    alone, beside = tmp_path / "alone", tmp_path / "beside"
    for run in (alone, beside):
        train(run, count=6)
    begun = time.monotonic()
    assert rna_watch("once", alone, *ONCE).returncode == 0
    alone_s = time.monotonic() - begun
    result = rna_watch("once", beside, *ONCE, "--exporters", "csv,wandb,mlflow")
    assert result.returncode == 0, result.stderr
    assert _decisions(alone) == _decisions(beside)
    names = [each.checkpoint for each in events(alone, "published")]
    left, right = (fingerprints(run / "rna") for run in (alone, beside))
    assert {name: left[name][0] for name in names} == {name: right[name][0] for name in names}
    first, last = (
        max(each.time for each in events(run, "published")) - events(run, "started")[-1].time for run in (alone, beside)
    )
    assert last < first + 5.0 + 2 * alone_s, "the work waited for a tracker"
    table = (beside / ".rna-watch" / "exports" / "csv" / "rna-watch.csv").read_text().splitlines()
    assert len(table) == 1 + 6
    said = (beside / ".rna-watch" / "log").read_text()
    assert "the tracker is on fire" in said
    assert "gives no sign of life" in said


def test_a_failure_is_a_problem_with_a_remedy_and_goes_when_it_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a person reads names the exporter and the reason; the next attempt takes it back."""
    from rna_watch.config import RunConfig
    from rna_watch.daemon.recorder import Recorder
    from rna_watch.journal.run_paths import RunPaths

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
