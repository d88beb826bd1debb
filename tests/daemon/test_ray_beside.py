"""`engine: auto`: work begins on this machine at once, and goes on on Ray where that pays, with the same bits."""

from __future__ import annotations

import hashlib
import shutil
import threading
from typing import TYPE_CHECKING

import pytest

from rna_watch.config import RunConfig
from rna_watch.daemon import ray_beside
from rna_watch.daemon.ray_beside import why_ray
from rna_watch.engine.local import LocalEngine
from rna_watch.errors import EngineError
from tests.daemon.in_process import watch
from tests.daemon.runs import events, train

if TYPE_CHECKING:
    from pathlib import Path

    from rna_watch.journal.replay import RunState


@pytest.mark.parametrize(
    ("settings", "window_bytes", "why"),
    [
        ({}, 2**30, ""),
        ({"ray_address": "head:6379"}, 0, "a cluster is named, head:6379"),
        ({"gpus": 0.5}, 0, "evaluators have GPUs"),
        ({"evaluators": 2}, 0, "2 models are evaluated at a time"),
        ({"ray_from": 1.0}, 2**30, "a window has 1.07 GB"),
        ({"ray_from": 1.0}, 2**30 - 1, ""),
        ({}, 2**50, ""),
    ],
)
def test_ray_is_taken_where_it_pays(settings: dict[str, object], window_bytes: int, why: str) -> None:
    """A named cluster, GPUs, several evaluators or a window of a size that is set; no size by itself."""
    assert why_ray(RunConfig.model_validate(settings), window_bytes) == why


class _Cluster(LocalEngine):
    """Stands for Ray, which gives the same bits (`tests/engine/contract.py`)."""

    name = "ray"


def _digests(run: Path) -> dict[str, str]:
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in (run / "rna").glob("step_*.pt")
        if path.is_file()
    }


def test_work_begins_here_and_goes_on_on_ray_with_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray comes up after the first model: a line says so, and all models are those of one engine."""
    train(tmp_path / "a", count=6)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    up, started = threading.Event(), []

    def start_ray(*_: object) -> LocalEngine:
        started.append(1)
        if len(started) == 1:
            raise EngineError("Ray cannot be used on this machine")
        assert up.wait(60)
        return _Cluster(1)

    monkeypatch.setattr(ray_beside, "start_ray", start_ray)
    monkeypatch.setattr(ray_beside, "_PAUSE_S", 0.05)

    def done(state: RunState) -> bool:
        if state.outputs and not up.is_set():
            up.set()
        return len(state.outputs) == 4 and any("Ray is up" in getattr(each, "text", "") for each in state.recent)

    state = watch(tmp_path / "a", done, engine="auto", evaluators=2)
    assert state.problems == {}
    assert state.started is not None
    assert state.started.engine == "local"
    said = [event.text for event in events(tmp_path / "a", "noted")]
    assert said == [
        "Ray is started beside the work, as 2 models are evaluated at a time",
        "Ray is up: work goes on there",
    ]
    assert [event.what for event in events(tmp_path / "a", "problem")] == ["Ray cannot be used on this machine"]
    watch(tmp_path / "b", lambda state: len(state.outputs) == 4, engine="local")
    assert _digests(tmp_path / "a") == _digests(tmp_path / "b")


def test_what_ray_would_cost_is_not_paid_where_it_gains_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a reason, Ray is never started."""
    train(tmp_path, count=3)
    monkeypatch.setattr(ray_beside, "start_ray", pytest.fail)
    state = watch(tmp_path, lambda state: len(state.outputs) == 1, engine="auto")
    assert state.problems == {}
