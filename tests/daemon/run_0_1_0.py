"""A run as version 0.1.0 left it: its own journal, and checkpoints that the trainer has deleted since, pinned in its folder."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch
from safetensors.torch import save_file

from rna_watch.journal import events as e
from rna_watch.journal import log
from rna_watch.journal.run_paths import RunPaths

JOURNAL = Path(__file__).with_name("run_0_1_0.jsonl")
COUNT = 5


def save(folder: Path, step: int) -> Path:
    """A checkpoint that has the same bytes on every machine: all of its values are sums of powers of two."""
    file = folder / f"step_{step}.safetensors"
    ramp = torch.arange(64, dtype=torch.float32).reshape(8, 8)
    save_file({"weight": ramp + 0.5**step, "bias": ramp[0] - 0.25 * (step % 3)}, file)
    return file


def make(run: Path) -> RunPaths:
    """Write the run; its journal is that of 0.1.0 but for what no two machines share: paths, inodes and times of files."""
    paths = RunPaths(run=run, output=run)
    pins = paths.state / "window"
    pins.mkdir(parents=True)
    paths.models.mkdir()
    lines = []
    for event in log.read(JOURNAL):
        changed = event
        if isinstance(event, e.Started):
            changed = dataclasses.replace(event, run=str(run), output=str(run))
        elif isinstance(event, e.Admitted):
            file = save(run, event.step).rename(run / event.pin_path)
            stat = file.stat()
            changed = dataclasses.replace(event, inode=stat.st_ino, mtime_ns=stat.st_mtime_ns)
        lines.append(log.encode(changed))
    paths.journal.write_bytes(b"".join(lines))
    paths.lock.touch()
    return paths
