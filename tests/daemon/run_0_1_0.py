"""A run as version 0.1.0 left it: its own journal, and checkpoints that the trainer has deleted since, pinned in its folder."""

from __future__ import annotations

import json
import os
import shutil
import zlib
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from rna_watch.journal.run_paths import RunPaths

JOURNAL = Path(__file__).with_name("run_0_1_0.jsonl")
JUDGED = Path(__file__).with_name("run_0_1_0_judged")
COUNT = 5


def save(folder: Path, step: int) -> Path:
    """A checkpoint that has the same bytes on every machine: all of its values are sums of powers of two."""
    file = folder / f"step_{step}.safetensors"
    ramp = torch.arange(64, dtype=torch.float32).reshape(8, 8)
    save_file({"weight": ramp + 0.5**step, "bias": ramp[0] - 0.25 * (step % 3)}, file)
    return file


def make(run: Path, *, judged: bool = False) -> RunPaths:
    """Write the run; its journal is that of 0.1.0 but for what no two machines share: paths, inodes and times of files.

    Args:
        run: its folder.
        judged: the run whose models an evaluator judged, with them; its evaluator is written next to the run.
    """
    paths = RunPaths(run=run, output=run)
    pins = paths.state / "window"
    pins.mkdir(parents=True)
    paths.models.mkdir()
    lines, times = [], {}
    for line in (JUDGED / "journal.jsonl" if judged else JOURNAL).read_text().splitlines():
        record: dict[str, Any] = json.loads(line)
        del record["crc"]
        if record["kind"] == "started":
            record |= {"run": str(run), "output": str(run)}
        elif record["kind"] == "admitted":
            stat = save(run, record["step"]).rename(run / record["pin_path"]).stat()
            record |= {"inode": stat.st_ino, "mtime_ns": stat.st_mtime_ns}
            times[record["path"]] = stat.st_mtime_ns
        body = json.dumps(record, separators=(",", ":"), sort_keys=True)
        lines.append(f'{body[:-1]},"crc":{zlib.crc32(body.encode())}}}\n')
    paths.journal.write_text("".join(lines))
    paths.lock.touch()
    if judged:
        shutil.copytree(JUDGED / "rna", paths.models, dirs_exist_ok=True)
        for model in paths.models.glob("*.safetensors"):
            os.utime(model, ns=(times[model.name], times[model.name]))
        for link, name in (("best", "step_4.safetensors"), ("latest", "step_5.safetensors")):
            (paths.models / link).symlink_to(name)
        shutil.copy(JUDGED / "judge.py", run.parent / "judge.py")
    return paths
