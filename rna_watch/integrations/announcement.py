"""The announcement of a checkpoint: a small file by which the process that watches looks at once, on every file system."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

_STATE = ".rna-watch"
NAME = "announced"


def announce(run_dir: str | os.PathLike[str], checkpoint: str | os.PathLike[str]) -> None:
    """Say that a checkpoint is whole; nothing happens where no process watches, and no failure reaches the training.

    Args:
        run_dir: the folder that is watched, or where `--output` puts its state.
        checkpoint: the file or folder.
    """
    state = Path(run_dir) / _STATE
    with contextlib.suppress(OSError):
        if state.is_dir() and not state.is_symlink():
            temporary = state / f".rna-watch-{NAME}.{os.getpid()}.tmp"
            temporary.write_text(f"{checkpoint}\n")
            temporary.replace(state / NAME)
