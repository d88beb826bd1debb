"""A trainer that saves in the background with `dcp.async_save`, and removes all but its newest folders.

Usage: python dcp_async_trainer.py RUN COPIES --count N --pause SECONDS --keep M   (COPIES/step-N.pt: each model, whole)
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import get_model_state_dict, get_optimizer_state_dict


def main() -> None:
    """Train, saving while training goes on."""
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=Path)
    parser.add_argument("copies", type=Path)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--pause", type=float, required=True)
    parser.add_argument("--keep", type=int, required=True)
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
    saving = None
    for step in range(1, arguments.count + 1):
        for _ in range(5):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
        if saving is not None:
            saving.result()
        torch.save(model.state_dict(), arguments.copies / f"step-{step}.pt")
        state = {
            "model": get_model_state_dict(model),
            "optimizer": get_optimizer_state_dict(model, optimizer),
            "step": step,
        }
        saving = dcp.async_save(state, checkpoint_id=arguments.run / f"step-{step}")
        old = arguments.run / f"step-{step - arguments.keep}"
        if old.exists():
            shutil.rmtree(old)
        time.sleep(arguments.pause)
    saving.result()


if __name__ == "__main__":
    main()
