"""A window of a large model as a whole process, against a plain read of its files and write of one of that size.

Between runs the inputs are taken out of the page cache, which does not hold all of them where they are large enough.
"""

from __future__ import annotations

import json
import os
import statistics
import struct
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tests.benchmarks import whole

if TYPE_CHECKING:
    from tests.benchmarks.options import Options

_PARAMETERS = {False: 1_560_000_000, True: 300_000}
_COUNT = 4  # checkpoints
_WIDTH = 1600
_TENSORS = 48  # of equal size, and one of 1,600 elements for each


def write(folder: Path, parameters: int) -> list[Path]:
    """Consecutive iterates as safetensors files, oldest first, written block by block; made once, then reused."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"step-{number}.safetensors" for number in range(1, _COUNT + 1)]
    rows = max(1, round(parameters / _TENSORS / _WIDTH))
    header, size = {}, 0
    for number in range(_TENSORS):
        for name, shape in ((f"h.{number}.weight", [rows, _WIDTH]), (f"h.{number}.bias", [_WIDTH])):
            count = int(np.prod(shape))
            header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [size, size + 4 * count]}
            size += 4 * count
    said = json.dumps(header).encode()
    said += b" " * (-len(said) % 8)
    rng = np.random.default_rng(0)
    start, step = rng.standard_normal((2, 2**20), dtype=np.float32)
    for number, path in enumerate(paths):
        if path.exists():
            continue
        block = (start + 0.01 * (number + 1) ** 0.5 * np.roll(step, 17 * number)).astype("<f4").tobytes()
        made = path.with_suffix(".part")
        with made.open("wb") as file:
            file.write(struct.pack("<Q", len(said)) + said)
            for done in range(0, size, len(block)):
                file.write(block[: size - done])
        made.rename(path)
    return paths


def compare(options: Options) -> dict[str, list[dict[str, float]]]:
    """Each contender as a process of its own, in turn."""
    parameters = options.parameters or _PARAMETERS[options.small]
    paths = [str(path) for path in write(options.folder / f"large-{parameters}", parameters)]
    os.sync()
    out = options.folder / "large.safetensors"
    ours = [sys.executable, "-m", "rna_watch", "extrapolate", *paths, "-o", str(out), "--engine", "local"]
    commands = {
        "floor": [sys.executable, "-m", "tests.benchmarks.whole", "floor", str(out), *paths],
        "rna, 2 workers": [*ours, "--workers", "2"],
        "average, 2 workers": [*ours, "--workers", "2", "--method", "average"],
    }
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in commands}
    for _ in range(options.rounds):
        for name, command in commands.items():
            whole.drop(paths)
            runs[name].append(whole.measured(command))
            for each in (out, Path(f"{out}.json")):
                each.unlink(missing_ok=True)
    return runs


def show(options: Options) -> None:
    """Print the table."""
    runs = compare(options)
    parameters = options.parameters or _PARAMETERS[options.small]
    print(
        f"\na large model, {_COUNT} files of {4 * parameters / 1e9:.2f} GB, cold, {options.rounds} rounds in turn; medians"
    )
    print(f"{'':<22}{'seconds':>9}{'CPU s':>8}{'disk read, GB':>15}{'largest process, MB':>21}{'/ floor':>9}")
    for name, found in runs.items():
        seconds, cpu, disk, largest = (
            statistics.median(each[key] for each in found) for key in ("seconds", "cpu_s", "disk_gb", "largest_mb")
        )
        ratio = statistics.median(
            mine["seconds"] / its["seconds"] for mine, its in zip(found, runs["floor"], strict=True)
        )
        print(f"{name:<22}{seconds:>9.2f}{cpu:>8.2f}{disk:>15.2f}{largest:>21.1f}{ratio:>9.2f}")
