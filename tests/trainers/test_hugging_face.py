"""The Hugging Face Trainer with retention on, watched from before its first checkpoint."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

import pytest
import torch

from tests.daemon.runs import events, published, rna_watch, wait_until
from tests.trainers import watched

if TYPE_CHECKING:
    from pathlib import Path

SCRIPT = "hf_trainer.py"
pytestmark = pytest.mark.skipif(
    not (importlib.util.find_spec("transformers") and importlib.util.find_spec("accelerate")),
    reason="transformers and accelerate are not installed",
)


def _train_beside_us(folder: Path, *flags: str, **options: object) -> list[str]:
    """Train with the daemon beside it; returns the announced checkpoints, all of them through."""
    folder.mkdir()
    with watched.watching(folder):
        archive = folder.with_name(f"{folder.name}.archive")
        names = watched.run(SCRIPT, folder, *flags, pause=0.6, archive=archive, **options)
        wait_until(lambda: len(watched.done(folder)) >= len(names))
    return names


def _check_the_same(alone: Path, run: Path) -> None:
    """Two trainings left the same: names, weights, optimizer and random states, the checkpoint to resume from, the model."""
    assert watched.listing(alone) == watched.listing(run)
    for name in watched.listing(alone):
        if name.endswith((".safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "config.json")):
            assert (alone / name).read_bytes() == (run / name).read_bytes(), name
    assert alone.with_name(f"{alone.name}.last").read_text() == run.with_name(f"{run.name}.last").read_text()
    assert watched.same_tensors(alone.with_name(f"{alone.name}.final"), run.with_name(f"{run.name}.final"))


def _check_loaded(model: Path) -> None:
    """The library's own loader took a folder, and then held the tensors that are in it."""
    loaded = torch.load(model.with_name(f"{model.name}.loaded"), weights_only=True)
    for name, tensor in watched.tensors(model).items():
        assert torch.equal(loaded[name], tensor), name


def test_a_training_with_retention_is_watched_and_is_as_without_us(tmp_path: Path) -> None:
    """Every announced checkpoint becomes a model that loads, and the training, its retention and a resume are as ever."""
    alone, run = tmp_path / "alone", tmp_path / "run"
    without_us = watched.start(SCRIPT, alone)
    names = _train_beside_us(run)
    assert names == watched.announced(without_us) == [f"checkpoint-{step}" for step in range(2, 17, 2)]
    assert watched.done(run) == names
    assert published(run) == names[2:]
    assert not events(run, "refused") + events(run, "failed") + events(run, "problem")
    _check_the_same(alone, run)
    assert [name for name in watched.listing(run) if "/" not in name] == ["checkpoint-14", "checkpoint-16"]
    for name in published(run):
        watched.check_folder(run / "rna" / name, tmp_path / "run.archive")
    model = run / "rna" / names[-1]
    resumed = [
        watched.start(SCRIPT, alone, "resume", saves=9),
        watched.start(SCRIPT, run, "resume", saves=9, load=model),
    ]
    assert [watched.announced(trainer) for trainer in resumed] == [["checkpoint-18"]] * 2
    _check_the_same(alone, run)
    _check_loaded(model)


@pytest.mark.slow
def test_shards_and_tied_weights_are_given_back_as_they_are(tmp_path: Path) -> None:
    """A model in shards, with an output layer that is its embedding, comes back in the same shards, and is verified."""
    run = tmp_path / "run"
    names = _train_beside_us(run, "sharded", kind="gpt2")
    assert watched.done(run) == names
    for name in published(run):
        watched.check_folder(run / "rna" / name, tmp_path / "run.archive")
    assert len(list((run / "rna" / names[-1]).glob("model-*.safetensors"))) > 2
    assert "lm_head.weight" not in watched.tensors(run / "rna" / names[-1])
    watched.run(SCRIPT, run, kind="gpt2", saves=0, load=run / "rna" / names[-1])
    _check_loaded(run / "rna" / names[-1])
    for what in (run / "rna" / names[-1], run / "rna" / "latest"):
        verified = rna_watch("verify", what)
        assert verified.returncode == 0, verified.stdout + verified.stderr
    assert "verified" in rna_watch("verify", run).stdout


@pytest.mark.slow
def test_a_training_that_begins_again_in_its_folder_replaces_the_models(tmp_path: Path) -> None:
    """A run that starts from nothing where another was saves the same names: each is processed and published anew."""
    run = tmp_path / "run"
    first = _train_beside_us(run, saves=4, limit=10)
    with watched.watching(run):
        archive = tmp_path / "second.archive"
        again = watched.run(SCRIPT, run, kind="bert", seed=1, saves=4, limit=10, pause=0.6, archive=archive)
        wait_until(lambda: len(watched.done(run)) >= 8)
    assert watched.done(run) == first + again
    assert "went back" in events(run, "window_started")[-1].reason
    for name in again[2:]:
        watched.check_folder(run / "rna" / name, archive)
