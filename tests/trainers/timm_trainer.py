"""A training that saves with timm's CheckpointSaver: EMA, the best few by metric, hard links; announces every save.

Usage: python timm_trainer.py train|resume FOLDER [--epochs N] [--pause SECONDS] [--copies FOLDER] [--weights FILE]
                            | load FILE --weights FILE [--raw]
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
import warnings
from pathlib import Path

import torch
import torchvision_schemas

torchvision_schemas.declare()
warnings.simplefilter("ignore")

import timm  # noqa: E402 - it imports torchvision, which needs its schemas first
from timm.models import load_checkpoint, resume_checkpoint  # noqa: E402
from timm.utils import CheckpointSaver, ModelEmaV3  # noqa: E402

MODEL = "test_resnet"
METRICS = (1.0, 5.0, 2.0, 4.0, 0.0, 3.0, 6.0, 4.5, 0.5, 7.0)


def train(folder: Path, given: argparse.Namespace, arguments: argparse.Namespace) -> None:
    """Train, save each epoch as timm's script does, and announce what was saved; from `last.pth.tar` to resume."""
    torch.manual_seed(0)
    model = timm.create_model(MODEL, num_classes=3)
    average = ModelEmaV3(model, decay=0.5)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    saver = CheckpointSaver(
        model=model,
        optimizer=optimizer,
        args=arguments,
        model_ema=average,
        checkpoint_dir=str(folder),
        recovery_dir=str(folder),
        max_history=3,
    )
    x, y = torch.randn(8, 3, 32, 32), torch.arange(8) % 3
    first = 0
    if given.act == "resume":
        last = str(folder / "last.pth.tar")
        first = resume_checkpoint(model, last, optimizer, log_info=False)
        load_checkpoint(average.module, last, use_ema=True)
        saver.load_state_dict_from_checkpoint(last)
    begun = time.perf_counter()
    for epoch in range(first, first + given.epochs):
        torch.nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()
        average.update(model)
        saver.save_checkpoint(epoch, METRICS[epoch % len(METRICS)])
        if given.copies:
            shutil.copyfile(folder / "last.pth.tar", given.copies / f"{epoch:03d}")
        print(json.dumps({"saved": epoch, "numbered": (folder / f"checkpoint-{epoch}.pth.tar").exists()}), flush=True)
        time.sleep(given.pause)
    print(json.dumps({"seconds": time.perf_counter() - begun}), flush=True)
    if given.weights:
        torch.save({"raw": model.state_dict(), "average": average.module.state_dict()}, given.weights)


def main() -> None:
    """Train, or load a checkpoint as timm's users do."""
    parser = argparse.ArgumentParser()
    parser.add_argument("act")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--pause", type=float, default=0.9)
    parser.add_argument("--copies", type=Path)
    parser.add_argument("--raw", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.act in {"train", "resume"}:
        plain = argparse.Namespace(model=MODEL, lr=0.01, opt="sgd")  # timm loads no paths in it
        train(arguments.folder, arguments, plain)
    elif arguments.raw:
        model = timm.create_model(MODEL, num_classes=3)
        load_checkpoint(model, str(arguments.folder), use_ema=False)
        torch.save(model.state_dict(), arguments.weights)
    else:
        model = timm.create_model(MODEL, num_classes=3, checkpoint_path=str(arguments.folder))
        torch.save(model.state_dict(), arguments.weights)


if __name__ == "__main__":
    main()
