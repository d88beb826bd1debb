"""Training loops without a library beside a real daemon: files rewritten in place, second names, odd and broken ones."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import torch

from tests.daemon.runs import events, published, status, wait_until
from tests.trainers import plain_trainer
from tests.trainers.live_run import HERE, Run, check_each_once, check_outputs, listing, manifest_of, script, watched

if TYPE_CHECKING:
    from pathlib import Path

TRAINER = "plain_trainer"


def _train(style: str, run: Run, *arguments: object) -> list[dict[str, Any]]:
    return script(TRAINER, style, run.folder, "--copies", run.copies, *arguments)


def _step_by_step(style: str, run: Run, count: int) -> None:
    """Train; each next save comes when the one before is through."""
    command = [sys.executable, HERE / f"{TRAINER}.py", style, run.folder, "--copies", run.copies]
    with subprocess.Popen(
        [*map(str, command), "--count", str(count), "--step-by-step"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    ) as trainer:
        assert trainer.stdin is not None
        for number in range(1, count + 1):
            wait_until(lambda number=number: len(run.worked_off()) == number)
            trainer.stdin.write("\n")
            trainer.stdin.flush()
        assert trainer.wait(timeout=20) == 0


def _reasons(run: Run) -> dict[str, tuple[str, str]]:
    return {each["name"]: (each["state"], each["reason"]) for each in status(run.folder)["checkpoints"]}


@pytest.mark.parametrize("style", ["nanogpt", pytest.param("renamed", marks=pytest.mark.slow)])
def test_one_name_rewritten_gives_each_save_once(tmp_path: Path, style: str) -> None:
    """NanoGPT's ckpt.pt, in place or by rename: a model for each step, keys as they were, the right saves in each window."""
    run = Run.below(tmp_path)
    with watched(run.folder):
        _step_by_step(style, run, 5)
    check_each_once(run)
    assert check_outputs(run, "model") == ["ckpt.step30.pt", "ckpt.step40.pt", "ckpt.step50.pt"]
    content = torch.load(run.folder / "rna" / "ckpt.step50.pt", weights_only=True)
    assert content.keys() == {"model", "optimizer", "model_args", "iter_num", "best_val_loss", "config"}
    assert content["iter_num"] == 50
    assert all(name.startswith("_orig_mod.") for name in content["model"])
    assert listing(run.folder) == ["ckpt.pt"]


@pytest.mark.slow
@pytest.mark.parametrize("style", ["nanogpt", "renamed"])
def test_rewritten_without_a_pause_nothing_is_ever_mixed(tmp_path: Path, style: str) -> None:
    """Hundreds of saves over one name: the daemon lives, says that the file never rests, and what it takes is whole."""
    run = Run.below(tmp_path)
    with watched(run.folder, "--quiet", 0.05, "--scan-interval", 0.05, report_after_s=1):
        _train(style, run, "--count", 150, "--width", 20000, "--pause", 0.02)
        _train(style, run, "--count", 12, "--width", 20000, "--pause", 0.3, "--first", 151)
        last = len(list(run.copies.iterdir())) * 10
        wait_until(lambda: any(event.step == last for event in events(run.folder, "admitted")))
        wait_until(lambda: {event.checkpoint for event in events(run.folder, "admitted")} <= run.worked_off())
        assert [reason for state, reason in _reasons(run).values() if state in {"refused", "failed", "skipped"}] == []
    check_each_once(run)
    assert check_outputs(run, "model")
    assert {event.kind for event in events(run.folder, "problem")} == set()


@pytest.mark.slow
def test_a_file_that_never_rests_is_reported(tmp_path: Path) -> None:
    """Rewritten faster than the quiet period, a file is never taken while that lasts, and the status says so."""
    run = Run.below(tmp_path)
    command = [sys.executable, HERE / f"{TRAINER}.py", "nanogpt", run.folder, "--copies", run.copies]
    with watched(run.folder, "--quiet", 1.0, report_after_s=2):
        with subprocess.Popen(
            [*map(str, command), "--count", "500", "--pause", "0.1"], stdout=subprocess.DEVNULL
        ) as trainer:
            wait_until(lambda: bool(events(run.folder, "waiting")))
            assert _reasons(run)["ckpt.pt"][0] == "waiting"
            assert events(run.folder, "admitted") == []
            trainer.terminate()
        wait_until(lambda: len(events(run.folder, "admitted")) == 1)
        assert _reasons(run)["ckpt.pt"][0] == "alias"


@pytest.mark.slow
def test_the_same_content_under_two_names_is_one(tmp_path: Path) -> None:
    """Torchvision's references: model_<epoch>.pth and checkpoint.pth are one checkpoint; the EMA inside is left alone."""
    run = Run.below(tmp_path)
    with watched(run.folder):
        _train("torchvision", run, "--count", 5, "--pause", 0.9)
        wait_until(run.settled)
    check_each_once(run)
    assert check_outputs(run, "model") == [f"model_{epoch}.pth" for epoch in (3, 4, 5)]
    output, newest = (
        torch.load(folder / "model_5.pth", weights_only=False) for folder in (run.folder / "rna", run.folder)
    )
    assert all(torch.equal(output["model_ema"][name], newest["model_ema"][name]) for name in newest["model_ema"])
    assert vars(output["args"]) == vars(newest["args"])
    assert {event.checkpoint for event in events(run.folder, "aliased")} == {"checkpoint.pth"}
    assert {event.checkpoint for event in events(run.folder, "admitted")} == {f"model_{e}.pth" for e in range(1, 6)}


@pytest.mark.slow
def test_two_numbers_in_a_name_and_a_link_that_comes_and_goes(tmp_path: Path) -> None:
    """Composer's ep1-ba40-rank0.pt is batch 40 across epochs; its link is no second checkpoint; deleted files stay in windows."""
    run = Run.below(tmp_path)
    with watched(run.folder):
        _train("composer", run, "--count", 6, "--pause", 0.9)
        wait_until(run.settled)
    check_each_once(run)
    names = check_outputs(run, "state.model")
    assert names == [f"ep{n // 3}-ba{n * 10}-rank0.pt" for n in (3, 4, 5, 6)]
    assert len(manifest_of(run, names[-1])["inputs"]) >= 3
    assert [event.step for event in events(run.folder, "admitted")] == [10, 20, 30, 40, 50, 60]
    assert {event.checkpoint for event in events(run.folder, "aliased")} <= {"latest-rank0.pt"}


@pytest.mark.slow
def test_pickled_modules_are_read_or_refused_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ultralytics stores the module itself in half precision: nothing of it is run, and the status says what becomes of it."""
    run = Run.below(tmp_path)
    with watched(run.folder):
        _train("ultralytics", run, "--count", 3, "--pause", 1.0)
        wait_until(lambda: len(run.worked_off()) == 3 or "refused" in {state for state, _ in _reasons(run).values()})
        reasons = _reasons(run)
    refused = [reason for state, reason in reasons.values() if state == "refused"]
    if refused:
        assert all("tensors" in reason for reason in refused)
        return
    assert [event.step for event in events(run.folder, "admitted")] == [1, 2, 3]
    monkeypatch.setattr(sys.modules["__main__"], "Network", plain_trainer.Network, raising=False)
    (name,) = check_outputs(run, events(run.folder, "admitted")[0].source)
    ours, newest = (
        torch.load(path, weights_only=False) for path in (run.folder / "rna" / name, run.folder / "last.pt")
    )
    assert ours.keys() == newest.keys()
    assert ours["ema"].state_dict().keys() == newest["ema"].state_dict().keys()
    assert ours["ema"].first.weight.dtype == torch.float16


@pytest.mark.slow
def test_two_trainings_in_one_folder_are_not_mixed(tmp_path: Path) -> None:
    """Another model under the same names begins a new window, with the reason in the status."""
    run = Run.below(tmp_path)
    with watched(run.folder):
        _train("steps", run, "--count", 4, "--pause", 0.7)
        _train("steps", run, "--first", 5, "--count", 4, "--pause", 0.7, "--width", 12, "--seed", 1)
        wait_until(run.settled)
    check_each_once(run)
    for name in check_outputs(run, "model"):
        assert len({each["step"] > 4 for each in manifest_of(run, name)["inputs"]}) == 1
    assert [event.checkpoint for event in events(run.folder, "window_started")] == ["step_5.pt"]
    assert "the model changed" in events(run.folder, "window_started")[0].reason


@pytest.mark.slow
def test_names_without_order_are_reported(tmp_path: Path) -> None:
    """Random names, no step inside: each is taken, none is combined with another, as nobody knows their order."""
    run = Run.below(tmp_path)
    with watched(run.folder):
        _train("random", run, "--count", 4, "--pause", 0.7)
        wait_until(lambda: len(run.worked_off()) == 4)
        reasons = _reasons(run)
    assert published(run.folder) == []
    assert all(state == "finished" and reason for state, reason in reasons.values())


@pytest.mark.slow
def test_a_divergence_and_a_pointer_file_stand_in_the_status(tmp_path: Path) -> None:
    """NaN weights midway and a Git LFS pointer are named with their reasons; the run's other checkpoints are combined."""
    run = Run.below(tmp_path)
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 12345678\n"
    with watched(run.folder):
        (run.folder / "pretrained.pth").write_text(pointer)
        _train("steps", run, "--count", 6, "--pause", 0.7, "--diverge", 3)
        wait_until(run.settled)
        wait_until(lambda: "pretrained.pth" in _reasons(run))
        reasons = _reasons(run)
    assert reasons["step_3.pt"][0] == "skipped"
    assert "NaN" in reasons["step_3.pt"][1]
    assert reasons["pretrained.pth"][0] == "refused"
    assert "git lfs pull" in reasons["pretrained.pth"][1]
    names = check_outputs(run, "model")
    assert names == ["step_4.pt", "step_5.pt", "step_6.pt"]
    assert [each["step"] for each in manifest_of(run, names[-1])["inputs"]] == [1, 2, 4, 5, 6]
    assert json.dumps(reasons)
