"""An Accelerate training for tests, run as a child process: `save_state` with automatic naming and a limit."""

from __future__ import annotations

import argparse
import json
import shutil
import time
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import ProjectConfiguration, set_seed
from torch import nn


def main() -> None:
    """Train and save, from the newest state with --resume; or load a state, and write next to it what the model then holds."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--saves", type=int, default=7)
    parser.add_argument("--limit", type=int, default=3)
    parser.add_argument("--pause", type=float, default=0.0)
    parser.add_argument("--copies", type=Path)
    parser.add_argument("--bin", action="store_true")
    parser.add_argument("--load", action="store_true")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--weights", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    set_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3))
    if arguments.load:
        accelerator = Accelerator(cpu=True)
        model = accelerator.prepare(model)
        accelerator.load_state(str(arguments.folder))
        torch.save(model.state_dict(), arguments.folder.with_name(f"{arguments.folder.name}.loaded"))
        return
    project = ProjectConfiguration(
        project_dir=str(arguments.folder), automatic_checkpoint_naming=True, total_limit=arguments.limit
    )
    accelerator = Accelerator(cpu=True, project_config=project)
    x, y = torch.randn(64, 8), torch.randint(0, 3, (64,))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=16, shuffle=True)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    first = 0
    if arguments.resume:
        accelerator.load_state()  # the newest, by the numbers of all that lies there
        first = 1 + max(int(path.name.rpartition("_")[2]) for path in (arguments.folder / "checkpoints").iterdir())
        project.iteration = first
    begun = time.perf_counter()
    for number in range(first, first + arguments.saves):
        for inputs, labels in loader:
            optimizer.zero_grad()
            accelerator.backward(nn.functional.cross_entropy(model(inputs), labels))
            optimizer.step()
        accelerator.save_state(safe_serialization=not arguments.bin)
        name = f"checkpoints/checkpoint_{number}"
        if arguments.copies is not None:
            shutil.copytree(arguments.folder / name, arguments.copies / Path(name).name)
        print(json.dumps({"saved": name}), flush=True)
        time.sleep(arguments.pause)
    print(json.dumps({"seconds": time.perf_counter() - begun}), flush=True)
    if arguments.weights is not None:
        torch.save(model.state_dict(), arguments.weights)


if __name__ == "__main__":
    main()
