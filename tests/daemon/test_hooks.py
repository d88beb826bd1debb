"""The user's hooks: called for each model beside the work, at least once, and never in its way."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

from rna_watch.daemon import hooks
from rna_watch.journal.run_paths import RunPaths
from tests.daemon import distance
from tests.daemon.in_process import watch
from tests.daemon.runs import (
    alive,
    events,
    published,
    rna_watch,
    start_foreground,
    train,
    wait_until,
)

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from rna_watch.journal.replay import RunState

ONCE = ("--engine", "local", "--normalization", "clamp", "--max-candidates", "2")


def _hooked(run: Path, hook: str) -> list[tuple[str, int | None]]:
    return [(each.checkpoint, each.code) for each in events(run, "hooked") if each.hook == hook]


def test_each_model_and_each_new_best_is_given_with_its_manifest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Standard input is the manifest to the byte; folder and environment are the user's; what is said goes to the log."""
    run, here = tmp_path / "run", tmp_path / "here"
    here.mkdir()
    train(run, count=6)
    monkeypatch.setenv("MY_TOKEN", "a b")
    on_model = 'echo "$RNA_WATCH_MODEL" >>models; cat >"$(basename "$RNA_WATCH_MODEL")"; echo "token $MY_TOKEN"'
    on_best = 'cat >>bests; echo "gpus [$CUDA_VISIBLE_DEVICES]" >&2'
    distance.write(tmp_path / "evaluator.py", run, loss=(1, 2, 3, 4), accuracy=(1, 2))
    evaluator = ("--evaluator", f"{tmp_path / 'evaluator.py'}:evaluate")
    given = ("once", run, *ONCE, *evaluator, "--on-model", on_model, "--on-best", on_best)
    result = rna_watch(*given, cwd=here)
    assert result.returncode == 0, result.stderr
    names = published(run)
    assert len(names) == 4
    assert (here / "models").read_text().splitlines() == [str(run / "rna" / name) for name in names]
    for name in names:
        assert (here / name).read_bytes() == (run / "rna" / f"{name}.json").read_bytes()
    best = [each.checkpoint for each in events(run, "best_moved")]
    assert 1 <= len(best) < len(names)
    parts = (here / "bests").read_text().replace("}\n{", "}\n\0{").split("\0")
    assert [json.loads(part)["checkpoint"] for part in parts] == best
    assert _hooked(run, "on_model") == [(name, 0) for name in names]
    assert _hooked(run, "on_best") == [(name, 0) for name in best]
    log = RunPaths(run=run, output=run).log.read_text()
    assert log.count("on_model: token a b") == len(names)
    assert log.count("on_best: gpus []") == len(best)
    again = rna_watch(*given, cwd=here)
    assert again.returncode == 3, again.stdout
    assert len(_hooked(run, "on_model")) == len(names), "none is called a second time"


def test_a_hook_for_the_best_is_not_called_where_best_did_not_move(tmp_path: Path) -> None:
    """Without an evaluator nothing is best; and a hook that is added later is not called for what was there before."""
    train(tmp_path, count=4)
    assert rna_watch("once", tmp_path, *ONCE, "--on-best", "cat").returncode == 0
    assert published(tmp_path)
    assert not events(tmp_path, "hooked")
    assert rna_watch("once", tmp_path, *ONCE, "--on-model", "cat").returncode == 3
    assert not events(tmp_path, "hooked")


def test_a_hook_that_fails_is_a_problem_and_the_next_model_is_given_to_it(tmp_path: Path) -> None:
    """The problem names the checkpoint and says what the command said last; models are made as without it."""
    train(tmp_path, count=5)
    command = 'grep -q "step_5.pt" || { echo "cannot reach the server"; exit 7; }'
    result = rna_watch("once", tmp_path, *ONCE, "--on-model", command)
    assert result.returncode == 0
    assert published(tmp_path) == ["step_3.pt", "step_4.pt", "step_5.pt"]
    assert _hooked(tmp_path, "on_model") == [("step_3.pt", 7), ("step_4.pt", 7), ("step_5.pt", 0)]
    said = [each.what for each in events(tmp_path, "problem")]
    assert said[0] == "--on-model failed for step_3.pt: it ended with status 7: cannot reach the server"
    assert [each.key for each in events(tmp_path, "solved")] == ["on_model"]


def test_a_hook_that_hangs_holds_no_model_and_is_ended_with_all_that_it_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All models are there while the first call goes on; after its limit the next begins, and what it left is gone."""
    monkeypatch.setattr(hooks, "LIMIT_S", 4.0)
    train(tmp_path, count=5)
    pid = tmp_path / "pid"
    command = f'[ "$(basename "$RNA_WATCH_MODEL")" = step_3.pt ] || exit 0; sleep 300 & echo $! >"{pid}"; wait'
    before: list[int] = []

    def until(state: RunState) -> bool:
        if len(state.outputs) == 3 and not before:
            before.append(len(events(tmp_path, "hooked")))
        return bool(before) and not state.due

    state = watch(tmp_path, until, on_model=command)
    assert before == [0]
    assert _hooked(tmp_path, "on_model") == [("step_3.pt", -9), ("step_4.pt", 0), ("step_5.pt", 0)]
    assert any("it ran longer than 4 s and was ended" in each.what for each in events(tmp_path, "problem"))
    assert "on_model" not in state.problems
    wait_until(lambda: not alive(int(pid.read_text())), 5.0)


def test_what_a_hook_leaves_in_the_background_ends_with_it(tmp_path: Path) -> None:
    """A call ends with its command, and does not wait for what that started."""
    train(tmp_path, count=3)
    pid = tmp_path / "pid"
    begun = time.monotonic()
    assert rna_watch("once", tmp_path, *ONCE, "--on-model", f'sleep 300 & echo $! >"{pid}"').returncode == 0
    assert time.monotonic() - begun < 60
    wait_until(lambda: not alive(int(pid.read_text())), 5.0)


def test_a_daemon_that_was_killed_before_the_hook_was_called_calls_it_after_a_restart(tmp_path: Path) -> None:
    """`kill -9` of the daemon in the call: the call ends with it, and the next start makes it, once."""
    run, called = tmp_path / "run", tmp_path / "called"
    train(run, count=3)
    daemon = start_foreground(run, *ONCE, "--on-model", f'echo $$ >>"{called}"; sleep 300')
    try:
        wait_until(lambda: called.exists() and called.read_text().endswith("\n"))
    finally:
        daemon.kill()
        daemon.communicate()
    assert published(run) == ["step_3.pt"]
    assert not events(run, "hooked")
    wait_until(lambda: not alive(int(called.read_text())), 5.0)
    result = rna_watch("once", run, *ONCE, "--on-model", f'cat >"{called}"')
    assert json.loads(called.read_text())["checkpoint"] == "step_3.pt"
    assert result.returncode == 3, "nothing else was to be done"
    assert _hooked(run, "on_model") == [("step_3.pt", 0)]


def test_a_model_stays_until_its_hook_was_called(tmp_path: Path) -> None:
    """The oldest outputs are removed when their turn has come, at the latest when there are twice as many as are kept."""
    train(tmp_path, count=7)
    go = tmp_path / "go"
    command = f'while [ ! -e "{go}" ]; do sleep 0.05; done; test -e "$RNA_WATCH_MODEL"'

    def until(state: RunState) -> bool:
        if (
            "step_7.pt" in state.checkpoints
            and not (tmp_path / "rna" / "step_3.pt").exists()
            and len(state.outputs) == 4
        ):
            go.touch()
        return go.exists() and not state.due

    state = watch(tmp_path, until, on_model=command, keep=2)
    assert _hooked(tmp_path, "on_model") == [("step_3.pt", 1), *((f"step_{step}.pt", 0) for step in range(4, 8))]
    assert "on_model" not in state.problems
