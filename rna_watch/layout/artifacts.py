"""Which files are ours: a model of ours has a manifest next to it, and its export has the model's name and an ending."""

from __future__ import annotations

import json
from pathlib import Path

ENDING = ".export.safetensors"  # next to the model; never an input, wherever it lies


def export_name(model: str) -> str:
    """The name of a model's export, which lies next to it."""
    return model + ENDING


def is_manifest(path: str) -> bool:
    """Whether a file is one of our manifests: the model next to it is an output then, wherever it lies."""
    try:
        if not Path(path).is_file():
            return False  # a pipe would be waited for
        content = json.loads(Path(path).read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(content, dict) and content.keys() >= {"schema", "inputs", "weights", "coefficients"}
