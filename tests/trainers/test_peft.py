"""Adapters (LoRA) that the Hugging Face Trainer saves, watched from before its first checkpoint."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

import pytest
import torch

from tests.daemon.runs import published, rna_watch, wait_until
from tests.trainers import live_run, watched

if TYPE_CHECKING:
    from pathlib import Path

SCRIPT = "hf_trainer"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not all(importlib.util.find_spec(name) for name in ("transformers", "accelerate", "peft")),
        reason="transformers, accelerate and peft are not installed",
    ),
]


def test_adapters_are_given_back_as_adapters(tmp_path: Path) -> None:
    """Every adapter of a training becomes one that `PeftModel.from_pretrained` loads, its configuration with it."""
    run, archive = tmp_path / "run", tmp_path / "archive"
    run.mkdir()
    with live_run.watched(run):
        names = watched.run(SCRIPT, run, kind="lora", saves=6, pause=0.7, copies=archive)
        wait_until(lambda: len(watched.done(run)) >= len(names))
    assert watched.done(run) == names
    assert published(run) == names[2:]
    for name in published(run):
        watched.check_folder(run / "rna" / name, archive)
    model = run / "rna" / names[-1]
    assert (model / "adapter_config.json").is_file()
    watched.run(SCRIPT, run, kind="lora", saves=0, load=model)
    loaded = torch.load(model.with_name(f"{model.name}.loaded"), weights_only=True)
    for name, tensor in watched.tensors(model).items():
        inside = name.replace(".lora_A.", ".lora_A.default.").replace(".lora_B.", ".lora_B.default.")
        assert torch.equal(loaded[inside], tensor), name
    assert rna_watch("verify", model).returncode == 0
