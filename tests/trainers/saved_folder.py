"""Checkpoint folders as the Hugging Face Trainer saves them, written without it: shards, index, tokenizer, training state."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save_file

if TYPE_CHECKING:
    from pathlib import Path

SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
INDEX = "model.safetensors.index.json"
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


def save(folder: Path, step: int, files: tuple[str, ...] = SHARDED, seed: int = 0) -> Path:
    """Write a checkpoint of these files."""
    folder.mkdir(parents=True, exist_ok=True)
    model = weights(step, seed)
    digits = folder.name.rpartition("-")[2]
    told = int(digits) if digits.isdecimal() else step  # trainer_state.json tells the step that the folder's name does
    parts = {SHARDS[0]: ["embedding.weight"], SHARDS[1]: ["head.weight", "count"]}
    for name in files:
        path = folder / name
        if name in parts:
            save_file({key: model[key] for key in parts[name]}, path, {"format": "pt"})
        elif name.endswith(".safetensors"):
            save_file(model, path, {"format": "pt"})
        elif name == INDEX:
            weight_map = {key: shard for shard, keys in parts.items() for key in keys}
            path.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}, indent=2))
        elif name.endswith(".json"):
            path.write_text(json.dumps({"global_step": told, "of": name, "log_history": [{"loss": 1.0}]}, indent=2))
        else:
            path.write_text(f"{name} of step {step}\n" * 20)
    return folder
