"""Checkpoints at the ends of the scale, in a process that is measured: many small tensors, one larger than 32 bits count."""

import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rna_watch.formats.probe import probe

MANY = 10_000

CHILD = """
import json, sys, time
from pathlib import Path
from rna_watch.acceleration.gram import merge
from rna_watch.window.combine import Combination
from rna_watch.formats.probe import probe
from rna_watch.window import tasks, tasks_plan
from rna_watch.publishing.write import publish

def value(name):
    return int(next(line for line in open("/proc/self/status") if line.startswith(name)).split()[1]) * 1024

weights, out, *paths = json.load(sys.stdin)
tasks.single_thread()
Path("/proc/self/clear_refs").write_text("5")  # begin a new peak
before, begun = value("VmRSS"), time.process_time()
layouts = tuple(probe(path) for path in paths)
rows = merge([tasks.run(task) for task in tasks_plan.gram_tasks(layouts, len(paths) - 1, 16.0)]).rows
run = lambda work: [tasks.run(task) for task in work]
publish(Combination(layouts=layouts, weights=weights), out, run)
json.dump([value("VmHWM") - before, time.process_time() - begun, rows.tolist()], sys.stdout)
"""


def in_a_child(paths, weights, out):
    """Peak memory in bytes, seconds of the processor and the Gram matrix of one window, measured in a process of its own."""
    child = subprocess.run(
        [sys.executable, "-c", CHILD],
        cwd=Path(__file__).parents[2],
        input=json.dumps([weights, str(out), *map(str, paths)]),
        capture_output=True,
        text=True,
        check=False,
    )
    assert child.returncode == 0, child.stderr
    return json.loads(child.stdout)


def small_tensors(seed):
    """Ten thousand tensors of a few numbers each."""
    numbers = torch.randn(MANY, 8, generator=torch.Generator().manual_seed(seed))
    return {f"blocks.{number // 10}.part{number % 10}.weight": row.clone() for number, row in enumerate(numbers)}


LARGE = 2**30 + 1024  # float32: 4 GiB and 4 KiB
SPOTS = (0, 1, 2**29 - 1, 2**29, 2**30 - 1, 2**30, LARGE - 1)  # about 2 and 4 GiB, and both ends


def large_files(folder):
    """A safetensors file and a torch zip of one such tensor, all zeros, that take no room on the disk."""
    header = json.dumps({"w": {"dtype": "F32", "shape": [LARGE], "data_offsets": [0, 4 * LARGE]}}).encode()
    paths = [folder / "epoch_1.safetensors", folder / "epoch_2.pt"]
    with open(paths[0], "wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.truncate(8 + len(header) + 4 * LARGE)
    os.utime(paths[0], (1e9, 1e9))
    with torch.serialization.skip_data():
        torch.save({"w": torch.empty(LARGE)}, paths[1])
    return paths


@pytest.mark.slow
def test_a_tensor_of_more_than_four_gigabytes(tmp_path):
    """Offsets beyond 32 bits are right in both formats, in memory that does not grow with the tensor."""
    paths = large_files(tmp_path)
    places = [probe(str(path)).extents[0].chunks[0].offset_bytes for path in paths]
    for number, (path, place) in enumerate(zip(paths, places, strict=True), 1):
        with open(path, "r+b") as file:
            for spot in SPOTS:
                os.pwrite(file.fileno(), struct.pack("<f", number * (spot % 97 + 1)), place + 4 * spot)
        os.utime(path, (1e9, 1e9))  # as a copy that left zeros out, which has rested
    out = tmp_path / "out.pt"
    peak, _, rows = in_a_child(paths, (-1.0, 2.0), out)
    assert peak < 64 * 2**20
    assert rows == [[float(sum((spot % 97 + 1) ** 2 for spot in SPOTS))]]
    found = torch.load(out, mmap=True, weights_only=True)["w"]
    assert [float(found[spot]) for spot in SPOTS] == [3.0 * (spot % 97 + 1) for spot in SPOTS]
    assert sum(int(torch.count_nonzero(part)) for part in found.split(2**24)) == len(SPOTS)
    out.unlink()  # pytest keeps its folders
