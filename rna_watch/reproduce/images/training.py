"""The training of a run, a program of its own: `python -m rna_watch.reproduce.images.training RUN`.

It writes RUN/epochs/epoch_001.pt, ..., as any trainer does, and does not know that they are watched. RUN/state.pt holds what
it needs to continue: it may be killed at any moment, and continues with the epoch that it was in. RUN/curve.json has a row for
each epoch: learning rate, loss, and the errors of the network and the extrapolated one.
"""

from __future__ import annotations

import copy
import fcntl
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

from rna_watch.errors import RnaWatchError
from rna_watch.layout import disk
from rna_watch.reproduce import machine, store
from rna_watch.reproduce.images import architectures, data
from rna_watch.reproduce.images.judge import verdict
from rna_watch.reproduce.images.spec import read
from rna_watch.training import Rna

if TYPE_CHECKING:
    from torch import Tensor, nn

    from rna_watch.reproduce.images.spec import RunSpec

EPOCHS, CURVE, STATE = "epochs", "curve.json", "state.pt"


def main(folder: Path) -> None:
    """Train the run of a folder to its end; wait first for a process that a killed command left behind."""
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("waiting for a process that trains this run already", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        train(folder)


def train(folder: Path) -> None:
    """Train the run of a folder to its end, from the epoch that it has reached."""
    spec = read(folder)
    torch.set_num_threads(spec.threads)
    device = torch.device(machine.device())
    torch.manual_seed(spec.seed)
    images = data.load(spec, device)
    network = architectures.build(spec.network, images.channels, images.classes).to(device)
    extrapolated = copy.deepcopy(network)
    optimizer = torch.optim.SGD(
        network.parameters(), lr=spec.learning_rate(1), momentum=spec.momentum, weight_decay=spec.weight_decay
    )
    rna = Rna(network, optimizer, spec.n, spec.reg)
    (folder / EPOCHS).mkdir(exist_ok=True)
    curve = _resume(folder, network, rna, device)
    if curve:
        _publish(folder, spec, len(curve), network, optimizer)
    for epoch in range(len(curve) + 1, spec.epochs + 1):
        begun = time.perf_counter()
        for group in optimizer.param_groups:
            group["lr"] = spec.learning_rate(epoch)
        loss = _epoch(network, rna, images, spec, epoch)
        rna.store()
        # online too, statistics are combined: the manual's tables were made so
        found = rna.accelerate(network if spec.online else extrapolated, combine_statistics=True)
        seconds = time.perf_counter() - begun
        row = {
            "epoch": epoch,
            "learning_rate": spec.learning_rate(epoch),
            "loss": loss,
            "seconds": round(seconds, 2),
            "c": list(found.c),
            "network": verdict(network, images, bf16=spec.bf16),
            "extrapolated": None if spec.online else verdict(extrapolated, images, bf16=spec.bf16),
            "averaged": _averaged(rna, extrapolated, images, spec),
        }
        curve.append(row)
        # the state first: with the checkpoint first, a stop between the two would train and write the epoch again
        _save({"network": network.state_dict(), "rna": rna.state_dict(), "curve": curve}, folder / STATE)
        _publish(folder, spec, epoch, network, optimizer)
        print(f"epoch {epoch} of {spec.epochs}", flush=True)
    store.write(folder / CURVE, json.dumps(curve) + "\n")


def _epoch(network: nn.Module, rna: Rna, images: data.Data, spec: RunSpec, epoch: int) -> float:
    """Train one epoch; returns the mean loss over its batches."""
    network.train()
    losses: list[Tensor] = []
    for x, y in images.train(epoch, spec.seed, spec.batch):
        rna.zero_grad()
        with torch.autocast(x.device.type, torch.bfloat16, enabled=spec.bf16):
            loss = functional.cross_entropy(network(x), y)
        torch.autograd.backward(loss)
        rna.step()
        losses.append(loss.detach())
    return float(torch.stack(losses).double().mean())


def _averaged(rna: Rna, network: nn.Module, images: data.Data, spec: RunSpec) -> dict[str, float] | None:
    """The errors of the uniform average of the stored epochs, which is written into the network."""
    if not spec.averaged or not len(rna.history):
        return None
    count = len(rna.history)
    rna.combine(network, [1.0 / count] * count)
    return verdict(network, images, bf16=spec.bf16)


def _publish(folder: Path, spec: RunSpec, epoch: int, network: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Write the epoch's checkpoint, unless it exists; an online run has none, because nobody watches it."""
    path = folder / EPOCHS / f"epoch_{epoch:03d}.pt"
    if not spec.online and not path.exists():
        _save({"epoch": epoch, "model": network.state_dict(), "optimizer": optimizer.state_dict()}, path)


def _resume(folder: Path, network: nn.Module, rna: Rna, device: torch.device) -> list[dict[str, Any]]:
    path = folder / STATE
    if not path.exists():
        return []
    state = torch.load(path, map_location=device, weights_only=True)
    network.load_state_dict(state["network"])
    rna.load_state_dict(state["rna"])
    curve: list[dict[str, Any]] = state["curve"]
    return curve


def _save(content: dict[str, Any], path: Path) -> None:
    with disk.replacing(path, durable=True) as temporary, Path(temporary).open("wb") as file:
        torch.save(content, file)  # under a path, the records' names would begin with the temporary one


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]))
    except RnaWatchError as error:
        sys.exit(str(error))
