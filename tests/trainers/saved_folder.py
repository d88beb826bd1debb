"""Checkpoint folders as the Hugging Face Trainer saves them, written without it: shards, index, tokenizer, training state."""

from __future__ import annotations

import json
import pickle
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save_file

if TYPE_CHECKING:
    from pathlib import Path

SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
INDEX = "model.safetensors.index.json"
OLD_SHARDS = ("pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin")
OLD_INDEX = "pytorch_model.bin.index.json"
PARTS = {
    shard: part for pair in (SHARDS, OLD_SHARDS) for shard, part in zip(pair, (slice(1), slice(1, None)), strict=True)
}
# the order in which transformers 5.23 writes them
SHARDED = (
    "config.json",
    "generation_config.json",
    *SHARDS,
    INDEX,
    "tokenizer_config.json",
    "tokenizer.json",
    "training_args.bin",
    "optimizer.pt",
    "scheduler.pt",
    "rng_state.pth",
    "trainer_state.json",
)
CARRIED = ("config.json", "generation_config.json", INDEX, "tokenizer.json", "tokenizer_config.json")
# peft 0.21 and accelerate 1.15, likewise
ADAPTER = ("README.md", "adapter_model.safetensors", "adapter_config.json", *SHARDED[7:])
STATE = ("model.safetensors", "optimizer.bin", "scheduler.bin", "sampler.bin", "scaler.pt", "random_states_0.pkl")


def weights(step: int, seed: int = 0) -> dict[str, torch.Tensor]:
    """A model on its way to a limit, and an integer that counts."""
    generator = torch.Generator().manual_seed(seed)
    limit = {
        "embedding.weight": torch.randn(40, 8, generator=generator),
        "head.weight": torch.randn(8, 3, generator=generator),
    }
    way = {name: torch.randn(tensor.shape, generator=generator) for name, tensor in limit.items()}
    return {name: tensor + way[name] * 0.8**step for name, tensor in limit.items()} | {"count": torch.tensor([step])}


def save(
    folder: Path,
    step: int,
    files: tuple[str, ...] = SHARDED,
    seed: int = 0,
    model: dict[str, torch.Tensor] | None = None,
) -> Path:
    """Write a checkpoint of these files, in their order; the second shard of a model begins with its second tensor."""
    folder.mkdir(parents=True, exist_ok=True)
    model = weights(step, seed) if model is None else model
    digits = folder.name.rpartition("-")[2]
    told = int(digits) if digits.isdecimal() else step  # trainer_state.json tells the step that the folder's name does
    for name in files:
        path = folder / name
        if name in PARTS:
            _save_model({key: model[key] for key in list(model)[PARTS[name]]}, path)
        elif name.endswith(".index.json"):
            shards = [part for part in PARTS if part.endswith("bin") == name.startswith("pytorch")]
            weight_map = {key: shard for shard in shards for key in list(model)[PARTS[shard]]}
            path.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}, indent=2))
        elif name.startswith(("model", "adapter_model", "pytorch_model")):
            _save_model(model, path)
        elif name.endswith(".json"):
            path.write_text(json.dumps({"global_step": told, "of": name, "log_history": [{"loss": 1.0}]}, indent=2))
        elif name.endswith(".pkl"):
            path.write_bytes(pickle.dumps({"step": step, "random_state": (3, (1, 2))}))
        elif name.endswith(".md"):
            path.write_text(f"{name} of step {step}\n" * 20)
        else:
            torch.save({"of": name, "step": step, "state": {0: torch.full((20,), float(step))}}, path)
    return folder


def _save_model(tensors: dict[str, torch.Tensor], path: Path) -> None:
    if path.suffix == ".bin":
        torch.save(tensors, path)
    else:
        save_file(tensors, path, {"format": "pt"})
