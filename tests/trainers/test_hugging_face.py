"""The Hugging Face Trainer with retention on, watched from before its first checkpoint."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

import pytest
import torch

from tests.daemon.runs import events, published, rna_watch, wait_until
from tests.trainers import live_run, watched

if TYPE_CHECKING:
    from pathlib import Path

SCRIPT = "hf_trainer"
pytestmark = pytest.mark.skipif(
    not (importlib.util.find_spec("transformers") and importlib.util.find_spec("accelerate")),
    reason="transformers and accelerate are not installed",
)


def _train_beside_us(folder: Path, *flags: str, **options: object) -> list[str]:
    """Train with the daemon beside it; returns the announced checkpoints, all of them through."""
    folder.mkdir()
    with live_run.watched(folder):
        archive = folder.with_name(f"{folder.name}.archive")
        names = watched.run(SCRIPT, folder, *flags, pause=0.6, copies=archive, **options)
        wait_until(lambda: len(watched.done(folder)) >= len(names))
    return names


def _check_loaded(model: Path) -> None:
    """The library's own loader took a folder, and then held the tensors that are in it."""
    loaded = torch.load(model.with_name(f"{model.name}.loaded"), weights_only=True)
    for name, tensor in watched.tensors(model).items():
        assert torch.equal(loaded[name], tensor), name


@pytest.mark.slow
def test_a_model_loads_where_the_trainers_own_do(tmp_path: Path) -> None:
    """Every announced checkpoint becomes a model, though two are kept; `from_pretrained` takes it, with its tokenizer."""
    run = tmp_path / "run"
    names = _train_beside_us(run, saves=6)
    assert watched.done(run) == names
    assert published(run) == names[2:]
    assert not events(run, "refused") + events(run, "failed") + events(run, "problem")
    for name in published(run):
        watched.check_folder(run / "rna" / name, tmp_path / "run.archive")
    watched.run(SCRIPT, run, saves=0, load=run / "rna" / names[-1])
    _check_loaded(run / "rna" / names[-1])


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
    """A run that starts from nothing where another was saves the same names: each is processed and published again."""
    run = tmp_path / "run"
    first = _train_beside_us(run, saves=4, limit=10)
    with live_run.watched(run):
        archive = tmp_path / "second.archive"
        again = watched.run(SCRIPT, run, kind="bert", seed=1, saves=4, limit=10, pause=0.6, copies=archive)
        wait_until(lambda: len(watched.done(run)) >= 8)
    assert watched.done(run) == first + again
    assert "went back" in events(run, "window_started")[-1].reason
    for name in again[2:]:
        watched.check_folder(run / "rna" / name, archive)
