"""Which files are ours: models that have a manifest, and plain copies of models, wherever they lie."""

from __future__ import annotations

from pathlib import Path

from rna_watch.layout import bounded_json
from rna_watch.layout.trouble import UNREAD

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
    """Whether a file or folder is one of our outputs, whether it is still there or not: its manifest is there.

    Raises:
        OSError: its manifest cannot be looked at for a reason that may pass.
    """
    try:
        return is_manifest(bounded_json.read_bytes(manifest_path(model)))
    except OSError as error:
        if error.errno in UNREAD:
            raise
    except ValueError:
        pass
    return False


def is_manifest(data: bytes) -> bool:
    """Whether a file's content is a manifest of ours."""
    try:
        content = bounded_json.parse(data)
    except ValueError:
        return False
    return isinstance(content, dict) and content.keys() >= {"schema", "inputs", "weights", "coefficients"}
