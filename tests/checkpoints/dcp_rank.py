"""One rank of a sharded training: FSDP2 on CPU, a tensor cut by columns, and a distributed checkpoint for every seed.

Usage: python dcp_rank.py FOLDER RANK RANKS SEED...   (folders FOLDER/step-SEED; rank 0 also writes FOLDER/whole-SEED.pt)
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import get_model_state_dict, get_optimizer_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Shard, distribute_tensor


class Network(nn.Module):
    """Two layers whose rows do not divide evenly, and statistics that every rank has whole."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 7)
        self.norm = nn.BatchNorm1d(7)
        self.last = nn.Linear(7, 3, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Class scores."""
        return self.last(torch.relu(self.norm(self.first(x))))


def main() -> None:
    """Train one step from each seed and save."""
    folder, rank, ranks, seeds = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), list(map(int, sys.argv[4:]))
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=ranks)
    mesh = init_device_mesh("cpu", (ranks,))
    for seed in seeds:
        torch.manual_seed(seed)
        model = Network()
        column = torch.randn(5, 9).to(torch.bfloat16)
        fully_shard(model, mesh=mesh)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
        nn.functional.cross_entropy(model(torch.randn(8, 6)), torch.arange(8) % 3).backward()
        optimizer.step()
        state = {
            "model": get_model_state_dict(model) | {"column": distribute_tensor(column, mesh, [Shard(1)])},
            "optimizer": get_optimizer_state_dict(model, optimizer),
            "train_state": {"step": torch.tensor(seed, dtype=torch.int32)},
        }
        dcp.save(state, checkpoint_id=folder / f"step-{seed}")
        whole = {
            name: tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
            for name, tensor in state["model"].items()
        }
        if rank == 0:
            torch.save(whole, folder / f"whole-{seed}.pt")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
