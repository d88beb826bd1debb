"""Which files are ours: models that have a manifest, and plain copies of models, wherever they lie."""

from __future__ import annotations

import json
from pathlib import Path

ENDING = ".export.safetensors"  # of a plain copy; never an input
TEMPORARY_PREFIX = ".rna-watch-"
TEMPORARY_SUFFIX = ".tmp"


def manifest_path(model: Path) -> Path:
    """The manifest of a model: in the same folder, under the model's full name plus `.json`."""
    return Path(f"{model}.json")


def export_path(model: Path) -> Path:
    """The plain copy of a model: in the same folder, under the model's full name plus `ENDING`."""
    return Path(f"{model}{ENDING}")


def is_output(model: Path) -> bool:
    """Whether a file or folder is one of our outputs, whether it is still there or not: its manifest is there."""
    path = manifest_path(model)
    try:
        if not path.is_file():
            return False  # a pipe would be waited for
        return is_manifest(path.read_bytes())
    except OSError:
        return False


def is_manifest(data: bytes) -> bool:
    """Whether a file's content is a manifest of ours."""
    try:
        content = json.loads(data)
    except (ValueError, RecursionError):
        return False
    return isinstance(content, dict) and content.keys() >= {"schema", "inputs", "weights", "coefficients"}
