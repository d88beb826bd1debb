"""Training loops without a library, in the styles that people copy: each saves, keeps a private copy and announces it.

Usage: python plain_trainer.py STYLE FOLDER --copies FOLDER [--count N] [--pause SECONDS] [--step-by-step] [--width N] [--seed N]
                               [--resume (of torchvision, nanogpt and renamed)] [--load FILE (of steps)] [--weights FILE]
Styles: torchvision (model_<epoch>.pth, then checkpoint.pth), nanogpt (ckpt.pt in place), renamed (the same by rename),
composer (ep<e>-ba<b>-rank0.pt and a link), ultralytics (last.pt and best.pt with pickled modules in half precision),
random (names without order), steps (step_<k>.pt). With --step-by-step each save but the first waits for a line on standard input.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import io
import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn


class Network(nn.Module):
    """Two linear layers around batch norm."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Linear(4, width)
        self.norm = nn.BatchNorm1d(width)
        self.second = nn.Linear(width, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Class scores."""
        return self.second(torch.relu(self.norm(self.first(x))))


class Loop:
    """A training, one interval at a time, and its ways to save."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        torch.manual_seed(arguments.seed)
        self.arguments = arguments
        self.folder: Path = arguments.folder
        self.model = Network(arguments.width)
        self.average = torch.optim.swa_utils.AveragedModel(self.model)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.01)
        self.x, self.y = torch.randn(32, 4), torch.arange(32) % 3

    def train(self) -> None:
        """Two steps."""
        for _ in range(2):
            self.optimizer.zero_grad()
            nn.functional.cross_entropy(self.model(self.x), self.y).backward()
            self.optimizer.step()
            self.average.update_parameters(self.model)

    def torchvision(self, number: int) -> Path:
        """`references/classification/train.py`: the numbered file, then the same again as checkpoint.pth."""
        content = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "lr_scheduler": {"last_epoch": number, "_step_count": number + 1},
            "epoch": number,
            "args": argparse.Namespace(**{k: v for k, v in vars(self.arguments).items() if k != "pause"}),
            "model_ema": self.average.state_dict(),
        }
        torch.save(content, self.folder / f"model_{number}.pth")
        torch.save(content, self.folder / "checkpoint.pth")
        return self.folder / f"model_{number}.pth"

    def resume(self) -> int:
        """Take up the one file that is written again and again, as such loops do; returns the number of its save."""
        if self.arguments.style == "torchvision":
            content = torch.load(self.folder / "checkpoint.pth", weights_only=False)
            self.average.load_state_dict(content["model_ema"])
        else:
            content = torch.load(self.folder / "ckpt.pt")
        weights = {name.removeprefix("_orig_mod."): tensor for name, tensor in content["model"].items()}
        self.model.load_state_dict(weights)
        self.optimizer.load_state_dict(content["optimizer"])
        return content["epoch"] if self.arguments.style == "torchvision" else content["iter_num"] // 10

    def _nanogpt(self, number: int) -> dict[str, Any]:
        return {
            "model": {f"_orig_mod.{name}": tensor for name, tensor in self.model.state_dict().items()},
            "optimizer": self.optimizer.state_dict(),
            "model_args": {"n_layer": 2, "bias": False},
            "iter_num": number * 10,
            "best_val_loss": torch.tensor(1.5 / number),
            "config": {"out_dir": "out"},
        }

    def nanogpt(self, number: int) -> Path:
        """One name, written over in place."""
        torch.save(self._nanogpt(number), self.folder / "ckpt.pt")
        return self.folder / "ckpt.pt"

    def renamed(self, number: int) -> Path:
        """One name, replaced at once."""
        torch.save(self._nanogpt(number), self.folder / "ckpt.pt.tmp")
        (self.folder / "ckpt.pt.tmp").replace(self.folder / "ckpt.pt")
        return self.folder / "ckpt.pt"

    def composer(self, number: int) -> Path:
        """Two numbers in a name, two files kept, and a link that is gone for an instant."""
        state = {"model": self.model.state_dict(), "optimizers": {"AdamW": self.optimizer.state_dict()}}
        path = self.folder / f"ep{number // 3}-ba{number * 10}-rank0.pt"
        with path.open("wb") as file:
            torch.save({"state": state, "rng": [{"python": (3, (1, 2), None)}]}, file)
        link = self.folder / "latest-rank0.pt"
        link.unlink(missing_ok=True)
        link.symlink_to(path.name)
        old = number - 2
        (self.folder / f"ep{old // 3}-ba{old * 10}-rank0.pt").unlink(missing_ok=True)
        return path

    def ultralytics(self, number: int) -> Path:
        """The module itself, pickled in half precision, written over in place under two names."""
        buffer = io.BytesIO()
        content = {"epoch": number, "model": None, "ema": copy.deepcopy(self.model).half(), "optimizer": None}
        torch.save(content | {"train_args": {"imgsz": 640}, "version": "8.3.0"}, buffer)
        for name in ("last.pt", "best.pt"):
            (self.folder / name).write_bytes(buffer.getvalue())
        return self.folder / "last.pt"

    def random(self, number: int) -> Path:
        """Names that tell no order, in no series."""
        letters = hashlib.md5(str(number).encode(), usedforsecurity=False).hexdigest().translate(_LETTERS)
        torch.save(self.model.state_dict(), self.folder / f"{letters[:8]}.pt")
        return self.folder / f"{letters[:8]}.pt"

    def steps(self, number: int) -> Path:
        """A numbered file with the step inside."""
        torch.save({"model": self.model.state_dict(), "step": number}, self.folder / f"step_{number}.pt")
        return self.folder / f"step_{number}.pt"


_LETTERS = str.maketrans("0123456789", "ghijklmnop")


def main() -> None:
    """Train and save."""
    parser = argparse.ArgumentParser()
    parser.add_argument("style")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--copies", type=Path)
    parser.add_argument("--count", type=int, default=5)
    parser.add_argument("--first", type=int, default=1)
    parser.add_argument("--pause", type=float, default=0.0)
    parser.add_argument("--step-by-step", action="store_true")
    parser.add_argument("--width", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--diverge", type=int, default=-1)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--load", type=Path)
    parser.add_argument("--weights", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    loop = Loop(arguments)
    if arguments.load:
        loop.model.load_state_dict(torch.load(arguments.load)["model"])
        torch.save(loop.model.state_dict(), arguments.weights)
        return
    save = getattr(loop, arguments.style)
    first = loop.resume() + 1 if arguments.resume else arguments.first
    for number in range(first, first + arguments.count):
        if arguments.step_by_step and number > first:
            sys.stdin.readline()
        loop.train()
        if number == arguments.diverge:
            before = copy.deepcopy(loop.model.state_dict())
            with torch.no_grad():
                loop.model.first.weight[0, 0] = float("nan")
        path = save(number)
        if number == arguments.diverge:
            loop.model.load_state_dict(before)
        if arguments.copies:
            shutil.copyfile(path, arguments.copies / f"{number:04d}-{arguments.seed}")
        print(json.dumps({"saved": path.name, "number": number}), flush=True)
        time.sleep(arguments.pause)
    if arguments.weights:
        torch.save(loop.model.state_dict(), arguments.weights)


if __name__ == "__main__":
    main()
