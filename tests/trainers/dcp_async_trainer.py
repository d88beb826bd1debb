"""A trainer that saves in the background with `dcp.async_save`, and removes all but its newest folders.

Usage: python dcp_async_trainer.py RUN [--copies FOLDER] [--count N] [--pause SECONDS] [--keep M] [--resume [--from FOLDER]]
                                [--weights FILE]
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
import warnings
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

warnings.simplefilter("ignore")


def main() -> None:
    """Train, saving while training goes on; from the newest folder with --resume."""
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=Path)
    parser.add_argument("--copies", type=Path)
    parser.add_argument("--count", type=int, default=7)
    parser.add_argument("--pause", type=float, default=0.0)
    parser.add_argument("--keep", type=int, default=2)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--from", dest="newest", type=Path)
    parser.add_argument("--weights", type=Path)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    with tempfile.NamedTemporaryFile() as meeting:
        dist.init_process_group("gloo", init_method=f"file://{meeting.name}.meet", rank=0, world_size=1)
        train(arguments)
        dist.destroy_process_group()


def train(arguments: argparse.Namespace) -> None:
    """A step, a save that is waited for before the next one, and the removal of what is too old."""
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.BatchNorm1d(16), nn.Linear(16, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    x, y = torch.randn(64, 8), torch.randint(0, 4, (64,))
    first = 1
    if arguments.resume:
        first = 1 + load(arguments.newest or newest(arguments.run), model, optimizer)
    begun = time.perf_counter()
    saving = None
    for step in range(first, first + arguments.count):
        for _ in range(5):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
        if saving is not None:
            finish(saving, arguments, step - 1)
        weights, state = get_state_dict(model, optimizer)
        content = {"model": weights, "optimizer": state, "step": step}
        saving = dcp.async_save(content, checkpoint_id=arguments.run / f"step-{step}")
        old = arguments.run / f"step-{step - arguments.keep}"
        if old.exists():
            shutil.rmtree(old)
        time.sleep(arguments.pause)
    if saving is not None:
        finish(saving, arguments, step)
    print(json.dumps({"seconds": time.perf_counter() - begun}), flush=True)
    if arguments.weights is not None:
        torch.save(model.state_dict(), arguments.weights)


def finish(saving: object, arguments: argparse.Namespace, step: int) -> None:
    """Wait for a save, keep a private copy of it and announce it."""
    saving.result()
    name = f"step-{step}"
    if arguments.copies is not None:
        shutil.copytree(arguments.run / name, arguments.copies / name)
    print(json.dumps({"saved": name}), flush=True)


def newest(run: Path) -> Path:
    """The folder of the latest step."""
    return max(run.glob("step-*"), key=lambda path: int(path.name.rpartition("-")[2]))


def load(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Take up a folder, as `dcp.load` does it; returns its step."""
    weights, state = get_state_dict(model, optimizer)
    content = {"model": weights, "optimizer": state, "step": 0}
    dcp.load(content, checkpoint_id=folder)
    set_state_dict(model, optimizer, model_state_dict=content["model"], optim_state_dict=content["optimizer"])
    return content["step"]


if __name__ == "__main__":
    main()
