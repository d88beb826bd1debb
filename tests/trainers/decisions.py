"""What a trainer's own functions decide about a folder, run as a child process; prints a JSON object.

Usage: python decisions.py rotate FOLDER LIMIT    transformers' rotate_checkpoints, then get_last_checkpoint
       python decisions.py save FOLDER LIMIT      Accelerate's save_state with automatic naming into FOLDER/checkpoints
       python decisions.py last FOLDER            the files that Lightning takes for `last` in FOLDER
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import warnings
from pathlib import Path
from typing import Any

import torch

warnings.simplefilter("ignore")


def rotate(folder: Path, limit: str) -> dict[str, Any]:
    """Delete as the Trainer does after a save, and find what it would resume from."""
    sys.modules["torchvision"] = None  # type: ignore[assignment] - one built for another torch breaks the import
    from transformers.trainer_utils import get_last_checkpoint, rotate_checkpoints

    rotate_checkpoints(str(folder), save_total_limit=int(limit), use_mtime=True)
    return {"last": Path(get_last_checkpoint(str(folder)) or "none").name}


def save(folder: Path, limit: str) -> dict[str, Any]:
    """Save a state, and tell what was deleted for it, and whether the new one was there by then."""
    from accelerate import Accelerator
    from accelerate.utils import ProjectConfiguration

    project = ProjectConfiguration(project_dir=str(folder), automatic_checkpoint_naming=True, total_limit=int(limit))
    project.iteration = 7
    accelerator = Accelerator(cpu=True, project_config=project)
    accelerator.prepare(torch.nn.Linear(2, 2))
    deleted: dict[str, bool] = {}
    real = shutil.rmtree

    def watched(path: str, *arguments: Any, **options: Any) -> None:
        deleted[Path(path).name] = (folder / "checkpoints" / "checkpoint_7").exists()
        real(path, *arguments, **options)

    shutil.rmtree = watched  # type: ignore[assignment]
    accelerator.save_state()
    newest = folder / "checkpoints" / "checkpoint_7"
    order = sorted(newest.iterdir(), key=lambda path: path.stat().st_mtime_ns)
    return {"deleted": deleted, "written": [path.name for path in order]}


def last(folder: Path) -> dict[str, Any]:
    """What `ckpt_path="last"` chooses among."""
    import torchvision_schemas

    torchvision_schemas.declare()
    import lightning
    from lightning.pytorch.callbacks import ModelCheckpoint

    saver = ModelCheckpoint(dirpath=folder, save_last=True)
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=1,
        logger=False,
        callbacks=[saver],
        default_root_dir=folder,
        enable_progress_bar=False,
    )
    return {"last": sorted(os.path.basename(path) for path in saver._find_last_checkpoints(trainer))}


if __name__ == "__main__":
    print(json.dumps({"rotate": rotate, "save": save, "last": last}[sys.argv[1]](Path(sys.argv[2]), *sys.argv[3:])))
