"""Which files are ours: manifests and serving copies, known by what stands beside them."""

from __future__ import annotations

import json
from pathlib import Path

ENDING = ".export.safetensors"  # beside the model; never an input, wherever it lies


def export_name(model: str) -> str:
    """The name of a model's export, which lies beside it."""
    return model + ENDING


def is_manifest(path: str) -> bool:
    """Whether a file is one of our manifests: then what it stands beside is an output, wherever it lies."""
    try:
        if not Path(path).is_file():
            return False  # a pipe would be waited for
        content = json.loads(Path(path).read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(content, dict) and content.keys() >= {"schema", "inputs", "weights", "coefficients"}
