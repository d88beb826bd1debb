"""The engine is healed: closed and started again, as often as it takes, while watching and pinning go on."""

from __future__ import annotations

import shutil
import time
from typing import TYPE_CHECKING

import psutil
import pytest

from rna_watch.config import RunConfig
from rna_watch.daemon import failures, ray_beside, shared
from rna_watch.daemon.loop import Daemon
from rna_watch.daemon.recorder import Recorder
from rna_watch.engine.local import LocalEngine
from rna_watch.errors import ClusterLost, EngineError
from rna_watch.journal import heartbeat
from rna_watch.journal.run_paths import RunPaths
from tests.daemon.in_process import watch
from tests.daemon.runs import EVALUATOR, events, published, start_foreground, train, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from rna_watch.journal.replay import RunState
    from rna_watch.window.tasks import Result
    from rna_watch.window.tasks_plan import Task


class _Losing(LocalEngine):
    """An engine whose every task fails, as on a cluster whose session folder was cleaned away."""

    def map(self, work: Sequence[Task], on_done: Callable[[Task], None] | None = None) -> list[Result]:
        """See `Engine.map`."""
        raise FileNotFoundError(2, "No such file or directory", f"/tmp/session_{time.monotonic_ns()}/worker.out")


def test_after_three_equal_failures_the_engine_is_started_anew_until_it_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tasks that fail alike, whatever numbers they name, and starts that fail: in the end there is an engine, and all models."""
    train(tmp_path, count=5)
    monkeypatch.setattr("rna_watch.daemon.order._FIRST_PAUSE_S", 0.05)
    monkeypatch.setattr("rna_watch.daemon.worker._FIRST_PAUSE_S", 0.05)
    engines: list[LocalEngine] = []

    def start(*_: object) -> LocalEngine:
        engines.append(_Losing(1) if not engines else LocalEngine(1))
        if 2 <= len(engines) <= 3:
            raise EngineError("nothing answers at head:6379")
        return engines[-1]

    monkeypatch.setattr(shared, "start_engine", start)

    def done(state: RunState) -> bool:
        return len(state.outputs) == 3

    state = watch(tmp_path, done)
    assert len(engines) == 4
    assert len(events(tmp_path, "failed")) == 3
    assert all(event.will_retry for event in events(tmp_path, "failed"))
    said = [event.what for event in events(tmp_path, "problem") if event.key == "engine"]
    assert said == ["the engine cannot be started again: nothing answers at head:6379"]
    assert "engine" not in state.problems


class _Breaking(LocalEngine):
    """An engine whose cluster is lost after its first work, as the engine itself finds."""

    def broken(self) -> str:
        """See `Engine.broken`."""
        return "Ray's raylet ended" if self._worked else ""

    _worked = False

    def map(self, work: Sequence[Task], on_done: Callable[[Task], None] | None = None) -> list[Result]:
        """See `Engine.map`."""
        self._worked = True
        return super().map(work, on_done)


@pytest.mark.parametrize("count", [3, 1])
def test_an_engine_that_is_found_broken_is_said_and_solved_with_and_without_work_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    """What broke is a problem before the engine is started again, and solved by work that succeeds, or when none is left."""
    train(tmp_path, count=count)
    engines: list[LocalEngine] = []

    def start(*_: object) -> LocalEngine:
        engines.append(LocalEngine(1) if engines else _Breaking(1))
        return engines[-1]

    monkeypatch.setattr(shared, "start_engine", start)

    def done(state: RunState) -> bool:
        solved = any(event.key == "engine" for event in events(tmp_path, "solved"))
        return solved and len(state.outputs) == max(0, count - 2)

    state = watch(tmp_path, done)
    assert len(engines) == 2
    said = [(event.what, event.remedy) for event in events(tmp_path, "problem") if event.key == "engine"]
    assert said == [("Ray's raylet ended", "the engine is started again; nothing is lost")]
    assert state.problems == {}
    assert events(tmp_path, "failed") == []


class _Cluster(LocalEngine):
    """Stands for Ray, which gives the same bits; it is lost with every work."""

    name = "ray"

    def map(self, work: Sequence[Task], on_done: Callable[[Task], None] | None = None) -> list[Result]:
        """See `Engine.map`."""
        raise ClusterLost("the head at head:6379 did not answer for 10 s")


def test_where_ray_is_lost_this_machine_goes_on_until_it_is_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Models come meanwhile, Ray is tried again and taken when it is there, and its loss is no checkpoint's fault."""
    train(tmp_path, count=4)
    monkeypatch.setattr("rna_watch.daemon.order._FIRST_PAUSE_S", 0.05)
    monkeypatch.setattr(ray_beside, "_PAUSE_S", 0.05)
    starts: list[str] = []

    def start_ray(*_: object) -> LocalEngine:
        starts.append("beside")
        if len(starts) < 3:
            raise EngineError("nothing answers at head:6379")
        back = LocalEngine(1)
        back.name = "ray"  # type: ignore[misc]
        return back

    monkeypatch.setattr(shared, "start_engine", lambda *_: starts.append("at first") or _Cluster(1))
    monkeypatch.setattr(ray_beside, "start_ray", start_ray)

    def done(state: RunState) -> bool:
        return len(state.outputs) == 2 and any("Ray is up" in getattr(each, "text", "") for each in state.recent)

    state = watch(tmp_path, done, engine="ray")
    assert starts == ["at first", "beside", "beside"]
    assert [event.will_retry for event in events(tmp_path, "failed")] == [True]
    said = {event.key: event.what for event in events(tmp_path, "problem")}
    assert said == {"engine": "the head at head:6379 did not answer for 10 s", "ray": "nothing answers at head:6379"}
    assert state.problems == {}


def test_no_checkpoint_is_given_up_for_a_cluster_s_reason() -> None:
    """However often the cluster is lost, there is a next attempt; a child of this machine that dies has its limit."""
    assert failures.of(ClusterLost("lost")).attempts > 10**6
    assert failures.of(EngineError("a child process died")).attempts < 100


def test_once_waits_for_what_it_said_it_would_try_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failed checkpoint pauses before its next attempt: `once` does not end meanwhile."""
    train(tmp_path, count=3)
    monkeypatch.setattr("rna_watch.daemon.order._FIRST_PAUSE_S", 1.0)
    failing = [1]

    class Losing(LocalEngine):
        def map(self, work: Sequence[Task], on_done: Callable[[Task], None] | None = None) -> list[Result]:
            if failing:
                failing.pop()
                raise OSError(5, "Input/output error")
            return super().map(work, on_done)

    monkeypatch.setattr(shared, "start_engine", lambda *_: Losing(1))
    config = RunConfig.model_validate({"engine": "local", "quiet": 0.05, "scan_interval": 0.1})
    paths = RunPaths(run=tmp_path, output=tmp_path)
    paths.create()
    recorder = Recorder(paths.journal)
    Daemon(config, paths, recorder, until_done=True).run()
    recorder.close()
    assert published(tmp_path) == ["step_3.pt"]
    assert [event.will_retry for event in events(tmp_path, "failed")] == [True]


def _part(run: Path, name: str) -> psutil.Process:
    """The process of this name below the daemon."""
    beat = heartbeat.read(run / ".rna-watch" / "heartbeat.json")
    assert beat is not None
    (found,) = (each for each in psutil.Process(beat.pid).children(recursive=True) if each.name() == name)
    return found


def _kill(name: str) -> Callable[[Path], None]:
    return lambda run: _part(run, name).kill()


def _clean_away(run: Path) -> None:
    words = _part(run, "raylet").cmdline()
    (place,) = {word.partition("=")[2] for word in words if word.startswith("--session_dir=")}
    shutil.rmtree(place)


@pytest.mark.xdist_group("ray")
@pytest.mark.parametrize(
    "harm",
    [
        pytest.param(_kill("gcs_server"), id="gcs_server", marks=pytest.mark.slow),
        pytest.param(_kill("raylet"), id="raylet", marks=pytest.mark.slow),
        pytest.param(_clean_away, id="session folder", marks=pytest.mark.slow),
    ],
)
def test_a_cluster_that_is_harmed_is_started_anew(tmp_path: Path, harm: Callable[[Path], None]) -> None:
    """Its control service or its raylet is killed, or its session folder cleaned away: every model comes, evaluated."""
    run = tmp_path / "run"
    train(run, count=3)
    daemon = start_foreground(run, "--engine", "ray", "--workers", 1, "--evaluator", EVALUATOR)
    try:
        wait_until(lambda: published(run) == ["step_3.pt"])
        harm(run)
        train(run, count=2, first=4)
        wait_until(lambda: published(run) == ["step_3.pt", "step_4.pt", "step_5.pt"])
        assert daemon.poll() is None
    finally:
        daemon.terminate()
        said, _ = daemon.communicate(timeout=60)
    assert daemon.returncode == 0
    assert "Traceback" not in said
    assert "SIGTERM handler" not in said, "what Ray remarks is not for a terminal"
    assert events(run, "evaluation_failed") == []
