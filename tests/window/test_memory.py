"""Memory while large checkpoints are read and written: bounded, whatever their size."""

import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import torch

BIG = 50_000_000  # float32: 200 MB
SMALL = 10_000

CHILD = """
import sys
from pathlib import Path
from rna_watch.window.combine import Combination
from rna_watch.formats.probe import probe
from rna_watch.window import tasks, tasks_plan
from rna_watch.publishing.write import publish

def value(name):
    return int(next(line for line in open("/proc/self/status") if line.startswith(name)).split()[1]) * 1024

paths = sys.argv[1:]
tasks.single_thread()
Path("/proc/self/clear_refs").write_text("5")  # begin a new peak
before = value("VmRSS")
layouts = tuple(probe(path) for path in paths)
assert len(layouts[0].tensors) == int(sys.stdin.read())
work = tasks_plan.gram_tasks(layouts, 1, 16.0)
assert sum(task.work_bytes for task in work) > 400_000_000
for task in work:
    tasks.run(task)
run = lambda work: [tasks.run(task) for task in work]
out = paths[0] + ".out"
publish(Combination(layouts=layouts, weights=(-1.0, 2.0)), out, run)
print(value("VmHWM") - before)
"""


def sparse_safetensors(path):
    """A file of 10,000 small tensors and a big one, all zeros, that takes no room on the disk."""
    header, at = {}, 0
    for number, count in enumerate([*[4] * SMALL, BIG]):
        header[f"blocks.{number}.weight"] = {"dtype": "F32", "shape": [count], "data_offsets": [at, at + 4 * count]}
        at += 4 * count
    raw = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(raw)) + raw)
        file.truncate(8 + len(raw) + at)
    os.utime(path, (1e9, 1e9))  # as a copy that left zeros out, which has rested


def sparse_torch(path):
    """The same as a torch zip, of which torch reserves the storages without writing them."""
    tensors = {f"blocks.{number}.weight": torch.empty(count) for number, count in enumerate([*[4] * SMALL, BIG])}
    with torch.serialization.skip_data():
        torch.save(tensors, path)


def test_memory_does_not_grow_with_the_model(tmp_path):
    """A Gram matrix and a publication over 10,000 small tensors and one of 200 MB, in either format, take less than 64 MiB."""
    paths = [tmp_path / name for name in ("a", "b")]
    sparse_safetensors(paths[0])
    sparse_torch(paths[1])
    child = subprocess.run(
        [sys.executable, "-c", CHILD, *map(str, paths)],
        cwd=Path(__file__).parents[2],
        input=str(SMALL + 1),
        capture_output=True,
        text=True,
        check=False,
    )
    assert child.returncode == 0, child.stderr
    assert int(child.stdout) < 64 * 2**20
