"""A training with Lightning: a tiny module, checkpoints by metric with retention and `last.ckpt`; announces every save.

Usage: python lightning_trainer.py fit|resume|test|load FOLDER [--steps N] [--every N] [--pause SECONDS] [--copies FOLDER]
                                   [--last true|link|false] [--top K] [--slow-copy SECONDS]
                                   [--seed N] [--filename PATTERN] [--checkpoint PATH] [--weights FILE]
"""

from __future__ import annotations

import argparse
import functools
import json
import logging
import os
import shutil
import time
import warnings
from pathlib import Path
from typing import Any

import torch
import torchvision_schemas
from torch import nn

torchvision_schemas.declare()
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
warnings.simplefilter("ignore")

import lightning  # noqa: E402 - it imports torchvision, which needs its schemas first
from lightning.pytorch.callbacks import ModelCheckpoint  # noqa: E402


class Module(lightning.LightningModule):
    """A linear layer with batch norm, and a metric that goes up and down so that retention picks and drops."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.body = nn.Sequential(nn.Linear(4, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, 2))

    def training_step(self, batch: Any, _index: int) -> torch.Tensor:
        """The loss; logs a metric that prefers every third step."""
        x, y = batch
        loss = nn.functional.cross_entropy(self.body(x), y)
        self.log("score", float((self.global_step * 7) % 5))
        return loss

    def test_step(self, *arguments: Any) -> None:
        """Logs the loss on the test data."""
        x, y = arguments[0]
        self.log("test_loss", nn.functional.cross_entropy(self.body(x), y))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam."""
        return torch.optim.Adam(self.parameters(), lr=0.01)


class Trainer(lightning.Trainer):
    """Announces every file that it has saved, keeps a private copy, and paces itself."""

    copies: Path
    pause_s: float
    count = 0

    def save_checkpoint(self, filepath: Any, *args: Any, **kwargs: Any) -> None:
        """Save, copy, announce."""
        super().save_checkpoint(filepath, *args, **kwargs)
        type(self).count += 1
        if self.copies != Path():
            shutil.copyfile(filepath, self.copies / f"{self.global_step:04d}-{self.count}")
        print(json.dumps({"saved": os.fspath(filepath), "step": self.global_step}), flush=True)


class Paced(ModelCheckpoint):
    """The library's own callback; waits after each round of saving, as longer epochs would."""

    pause_s: float

    def _remove_checkpoint(self, trainer: Any, filepath: str) -> None:
        super()._remove_checkpoint(trainer, filepath)
        print(json.dumps({"removed": os.path.basename(filepath)}), flush=True)

    def _save_last_checkpoint(self, trainer: Any, monitor_candidates: Any) -> None:
        super()._save_last_checkpoint(trainer, monitor_candidates)
        time.sleep(self.pause_s)


def _slow_move(source: str, destination: str, pause_s: float) -> str:
    """`shutil.move` to another device, as it is there: pieces into the final name, then the older modification time."""
    with Path(source).open("rb") as reader, Path(destination).open("wb") as writer:
        writer.write(reader.read(4096))
        while piece := reader.read(4096):
            writer.flush()
            time.sleep(pause_s)
            writer.write(piece)
    shutil.copystat(source, destination)
    Path(source).unlink()
    return destination


def data() -> torch.utils.data.DataLoader[Any]:
    """The same batches every time."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(32, 4, generator=generator)
    return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, (x[:, 0] > 0).long()), batch_size=8)


def main() -> None:
    """Train, continue, or use a checkpoint."""
    parser = argparse.ArgumentParser()
    parser.add_argument("act")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--every", type=int, default=4)
    parser.add_argument("--pause", type=float, default=0.0)
    parser.add_argument("--copies", type=Path, default=Path())
    parser.add_argument("--last", default="true")
    parser.add_argument("--top", type=int, default=2)
    parser.add_argument("--filename", default=None)
    parser.add_argument("--slow-copy", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--width", type=int, default=8)
    parser.add_argument("--checkpoint", default="last")
    parser.add_argument("--weights", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    lightning.seed_everything(arguments.seed, verbose=False)
    if arguments.slow_copy:
        shutil.move = functools.partial(_slow_move, pause_s=arguments.slow_copy)
    saver = Paced(
        dirpath=arguments.folder,
        filename=arguments.filename,
        monitor="score",
        mode="max",
        save_top_k=arguments.top,
        save_last={"true": True, "link": "link", "false": False}[arguments.last],
        every_n_train_steps=arguments.every,
    )
    saver.pause_s = arguments.pause
    trainer = Trainer(
        max_steps=arguments.steps,
        callbacks=[saver],
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=arguments.folder.parent,
    )
    trainer.copies = arguments.copies
    module = Module(arguments.width)
    if arguments.act in {"fit", "resume"}:
        begun = time.perf_counter()
        trainer.fit(module, data(), ckpt_path=arguments.checkpoint if arguments.act == "resume" else None)
        print(json.dumps({"seconds": time.perf_counter() - begun}), flush=True)
        print(json.dumps({"kept": sorted(saver.best_k_models), "best": saver.best_model_path}), flush=True)
    elif arguments.act == "test":
        print(json.dumps(trainer.test(module, data(), ckpt_path=arguments.checkpoint, verbose=False)[0]))
    else:
        module = Module.load_from_checkpoint(arguments.checkpoint)
    if arguments.weights:
        torch.save(module.state_dict(), arguments.weights)


if __name__ == "__main__":
    main()
