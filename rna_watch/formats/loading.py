"""The lines of Python that load a model, for each way in which it lies on disk; nothing is imported or opened here but JSON."""

from __future__ import annotations

import contextlib
import os
from typing import Any

from rna_watch.layout import bounded_json


def unknown(path: str, _source: str) -> list[str]:
    """For a format that does not say how: as the original is loaded."""
    return ["# as you load the run's own checkpoints:", f"path = {path!r}"]


def torch_file(path: str, source: str) -> list[str]:
    """For a file of `torch.save`; weights_only reads no code from it."""
    lines = ["import torch", "", f'saved = torch.load({path!r}, map_location="cpu", weights_only=True)']
    if path.endswith(".ckpt") and source == "state_dict":
        lines[:0] = [f"# with Lightning: model = YourModule.load_from_checkpoint({path!r})"]
    return [*lines, *_into_models("saved", source)]


def safetensors_file(path: str, _source: str) -> list[str]:
    """For a safetensors file."""
    return [
        "from safetensors.torch import load_model",
        "",
        f"load_model(model, {path!r})  # tied tensors too; load_file gives the tensors alone",
    ]


def consolidated(path: str, source: str) -> list[str]:
    """For a folder with one safetensors file for the whole model."""
    return safetensors_file(os.path.join(path, "model.safetensors"), source)  # noqa: PTH118 - a string, as in layouts


def hugging_face(path: str, _source: str) -> list[str]:
    """For a folder of transformers, diffusers, PEFT or Accelerate; its config names the class."""
    adapter, config = (_json(os.path.join(path, name)) for name in ("adapter_config.json", "config.json"))  # noqa: PTH118
    if adapter:
        base = adapter.get("base_model_name_or_path")
        named = f"  # the model that was trained from: {base!r}" if isinstance(base, str) else ""
        return [
            "from peft import PeftModel",
            "",
            f"model = PeftModel.from_pretrained(base_model, {path!r}){named}",
        ]
    listed = config.get("architectures")
    for library, name in (
        ("transformers", listed[0] if isinstance(listed, list) and listed else None),
        ("diffusers", config.get("_class_name")),
    ):
        if isinstance(name, str) and name.isidentifier():
            return [f"from {library} import {name}", "", f"model = {name}.from_pretrained({path!r})"]
    if config:
        return ["from transformers import AutoModel", "", f"model = AutoModel.from_pretrained({path!r})"]
    return [
        "from accelerate import load_checkpoint_in_model",
        "",
        f"load_checkpoint_in_model(model, {path!r})",
    ]


def distributed(path: str, source: str) -> list[str]:
    """For a folder of torch.distributed.checkpoint, on one process or many."""
    keys = [key for key in source.split(".") if key]
    state = "model.state_dict()"
    for key in reversed(keys):
        state = f"{{{key!r}: {state}}}"
    return [
        "import torch.distributed.checkpoint as dcp",
        "",
        f"state = {state}",
        f"dcp.load(state, checkpoint_id={path!r})",
        f"model.load_state_dict(state{_subscripts(source)})",
    ]


def states_of_deepspeed(path: str, source: str) -> list[str]:
    """For a folder of DeepSpeed whose model states hold the whole model."""
    return torch_file(os.path.join(path, "mp_rank_00_model_states.pt"), source or "module")  # noqa: PTH118


def stable_baselines(path: str, _source: str) -> list[str]:
    """For a zip of Stable-Baselines3, which does not name the class that wrote it."""
    return [
        "from stable_baselines3 import PPO  # or the class that the run trains",
        "",
        f"model = PPO.load({path!r})",
    ]


def nemo(path: str, _source: str) -> list[str]:
    """For an archive of NeMo, whose configuration names the class."""
    return ["from nemo.core import ModelPT", "", f"model = ModelPT.restore_from({path!r})"]


def _into_models(saved: str, source: str) -> list[str]:
    """A line for each network that the key path names; several stand with commas."""
    parts = [part.strip() for part in source.split(",")]
    if len(parts) == 1:
        return [f"model.load_state_dict({saved}{_subscripts(source)})"]
    return [f"models[{part!r}].load_state_dict({saved}{_subscripts(part)})" for part in parts]


def _subscripts(source: str) -> str:
    return "".join(f"[{key!r}]" for key in source.split(".") if key)


def _json(path: str) -> dict[str, Any]:
    with contextlib.suppress(OSError, ValueError):
        found = bounded_json.read(path)
        return found if isinstance(found, dict) else {}
    return {}
