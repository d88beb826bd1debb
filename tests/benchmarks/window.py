"""One window of N = 10 on ResNet-152 shapes, side by side with the fastest averaging loop and with the floor of the disk.

Every contender runs in a fresh process, in turn, several rounds; times are inside the process, after its imports.
"""

from __future__ import annotations

import json
import mmap
import os
import statistics
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.benchmarks.options import Options

_SAMPLE_S = 0.005


@dataclass(frozen=True, slots=True, kw_only=True)
class _Size:
    """Number of checkpoints, and the width of the network's first stage."""

    count: int
    base: int


_SIZES = {False: _Size(count=11, base=64), True: _Size(count=4, base=2)}


def rss_anon() -> int:
    """Private memory of this process in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    return 0


def bytes_read() -> int:
    """Bytes this process has asked the system to read."""
    return int(Path("/proc/self/io").read_text().split("rchar: ")[1].split()[0])


class Meter:
    """Time, growth of private memory and bytes read of a block, as a context."""

    def __enter__(self) -> Meter:
        self._start = rss_anon()
        self._peak = self._start
        self._read = bytes_read()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample)
        self._thread.start()
        self._begun = time.perf_counter()
        return self

    def _sample(self) -> None:
        while not self._ended.wait(_SAMPLE_S):
            self._peak = max(self._peak, rss_anon())

    def __exit__(self, *_: object) -> None:
        self.seconds = time.perf_counter() - self._begun
        self._peak = max(self._peak, rss_anon())
        self._ended.set()
        self._thread.join()
        self.result = {
            "seconds": self.seconds,
            "memory_mib": (self._peak - self._start) / 2**20,
            "read_gb": (bytes_read() - self._read) / 1e9,
        }


def average_loop(paths: list[str], out: str) -> dict[str, float]:
    """What people run today, at its fastest: torch.load one file at a time, add in place, divide, save, fsync."""
    import torch

    torch.set_num_threads(2)
    with Meter() as meter:
        total = torch.load(paths[0], weights_only=True)
        for path in paths[1:]:
            for name, tensor in torch.load(path, weights_only=True).items():
                if tensor.is_floating_point():
                    total[name].add_(tensor)
                else:
                    total[name] = tensor
        for tensor in total.values():
            if tensor.is_floating_point():
                tensor.div_(len(paths))
        with Path(out).open("wb") as file:
            torch.save(total, file)
            file.flush()
            os.fsync(file.fileno())
    return meter.result


def floor(paths: list[str], out: str) -> dict[str, float]:
    """Reading every byte once on two threads, and writing one checkpoint with fsync."""
    with Meter() as meter:

        def read(part: list[str]) -> None:
            # page on page: copies into other places may take four times as long
            buffer = mmap.mmap(-1, 2**18, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            for path in part:
                descriptor = os.open(path, os.O_RDONLY)
                while os.readv(descriptor, [buffer]):
                    pass
                os.close(descriptor)

        threads = [threading.Thread(target=read, args=(paths[start::2],)) for start in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        block = bytes(2**20)
        descriptor = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        remaining = Path(paths[0]).stat().st_size
        while remaining > 0:
            remaining -= os.write(descriptor, block[:remaining])
        os.fsync(descriptor)
        os.close(descriptor)
    return meter.result


def rna(paths: list[str], out: str, *, engine_name: str, new: int | None) -> dict[str, float]:
    """rna-watch: Gram matrix (all rows, or the newest), coefficients, combination, clone and patch, fsync."""
    from rna_watch.acceleration.family import Search, single
    from rna_watch.acceleration.gram import GramRows, merge, rounding_variance
    from rna_watch.acceleration.residuals import Residuals
    from rna_watch.engine.local import LocalEngine
    from rna_watch.engine.ray_engine import RayEngine
    from rna_watch.formats.probe import probe
    from rna_watch.publishing.write import publish
    from rna_watch.window import tasks_plan
    from rna_watch.window.combine import Combination

    engine = LocalEngine(2) if engine_name == "inline" else RayEngine(2)
    known = None
    if new is not None:  # the steady state: older layouts and products are known from the checkpoints before
        layouts = [probe(path) for path in paths[:-1]]
        all_layouts = [*layouts, probe(paths[-1])]
        known = merge(
            p for p in engine.map(tasks_plan.gram_tasks(all_layouts, len(paths) - 1, 64.0)) if isinstance(p, GramRows)
        )
    worker_memory = _Workers(
        [pid for process in engine.processes() if process.name == "worker" for pid in process.pids]
    )
    with Meter() as meter, worker_memory:
        layouts = [*layouts, probe(paths[-1])] if new is not None else [probe(path) for path in paths]
        n = len(layouts) - 1
        tasks = tasks_plan.gram_tasks(layouts, new or n, 64.0)
        parts = engine.map(tasks)
        total = merge(part for part in parts if isinstance(part, GramRows))
        gram = total.rows
        if known is not None:
            gram = known.rows.copy()
            gram[-1] = gram[:, -1] = total.rows[-1]
        residuals = Residuals.of_differences(gram, rounding_variance(total.rounding_energy))
        candidate, note = single(residuals, "rna", 1e-8, Search(windows=()))
        if candidate is None:
            raise RuntimeError(note)
        combination = Combination(layouts=tuple(layouts), weights=candidate.weights).without_zeros()
        publish(combination, out, engine.map)
    planned = sum(task.work_bytes for task in tasks)
    planned += len(combination.layouts) * sum(segment.size_bytes for segment in combination.segments())
    result = meter.result | {"worker_memory_mib": worker_memory.growth_mib, "read_gb": planned / 1e9}
    engine.close()
    return result


class _Workers:
    """The largest growth of private memory among other processes, sampled."""

    def __init__(self, pids: list[int]) -> None:
        self._pids = pids
        self.growth_mib = 0.0

    def __enter__(self) -> _Workers:
        self._start = {pid: self._anon(pid) for pid in self._pids}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample)
        self._thread.start()
        return self

    @staticmethod
    def _anon(pid: int) -> int:
        try:
            text = Path(f"/proc/{pid}/status").read_text()
            return int(text.split("RssAnon:")[1].split()[0]) * 1024
        except (OSError, IndexError):
            return 0

    def _sample(self) -> None:
        while not self._ended.wait(_SAMPLE_S * 4):
            for pid, start in self._start.items():
                self.growth_mib = max(self.growth_mib, (self._anon(pid) - start) / 2**20)

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()


CONTENDERS = {
    "average loop": lambda paths, out: average_loop(paths[1:], out),
    "floor": floor,
    "rna inline": lambda paths, out: rna(paths, out, engine_name="inline", new=None),
    "rna inline, steady": lambda paths, out: rna(paths, out, engine_name="inline", new=1),
    "rna ray": lambda paths, out: rna(paths, out, engine_name="ray", new=None),
    "rna ray, steady": lambda paths, out: rna(paths, out, engine_name="ray", new=1),
}


def compare(options: Options) -> dict[str, list[dict[str, float]]]:
    """Each contender in a fresh process, in turn, after a round that warms the page cache (but small)."""
    from tests.benchmarks import resnet152

    size = _SIZES[options.small]
    folder = options.folder / f"resnet152-{size.base}"
    paths = [str(path) for path in resnet152.write(folder, size.count, size.base)]
    results: dict[str, list[dict[str, float]]] = {name: [] for name in CONTENDERS}
    os.sync()
    warming = 0 if options.small else 1
    for number in range(options.rounds + warming):
        for name in CONTENDERS:
            out = folder / "out.pt"
            out.unlink(missing_ok=True)
            run = subprocess.run(
                [sys.executable, "-m", "tests.benchmarks.window", name, str(out), *paths],
                capture_output=True,
                text=True,
                check=False,
            )
            if run.returncode:
                raise RuntimeError(f"{name}: {run.stderr}")
            if number >= warming:
                results[name].append(json.loads(run.stdout.splitlines()[-1]))
    return results


def show(options: Options) -> None:
    """Print the table."""
    from tests.benchmarks import resnet152

    size = _SIZES[options.small]
    results = compare(options)
    shapes = resnet152.shapes(size.base)
    print(
        f"\none window, N = {size.count - 1}, ResNet-152 ({resnet152.parameters(size.base):,} parameters, {len(shapes)} "
        f"tensors), page cache warm, {options.rounds} rounds in turn"
    )
    print("median seconds (min-max), ratio to the average loop and to the floor (medians of the pairs in a round)")
    print(f"{'':<20}{'seconds':>22}{'/ average':>11}{'/ floor':>9}{'read GB':>9}{'memory MiB':>12}{'worker MiB':>12}")
    for name, runs in results.items():
        seconds = [run["seconds"] for run in runs]

        def ratio(other: str, mine: list[float] = seconds) -> float:
            return statistics.median(a / b["seconds"] for a, b in zip(mine, results[other], strict=True))

        spread = f"{statistics.median(seconds):.2f} ({min(seconds):.2f}-{max(seconds):.2f})"
        memory = statistics.median(run["memory_mib"] for run in runs)
        worker = statistics.median(run.get("worker_memory_mib", 0.0) for run in runs)
        read = statistics.median(run["read_gb"] for run in runs)
        shown = f"{worker:.0f}" if worker else "-"
        print(
            f"{name:<20}{spread:>22}{ratio('average loop'):>11.2f}{ratio('floor'):>9.2f}"
            f"{read:>9.2f}{memory:>12.0f}{shown:>12}"
        )


if __name__ == "__main__":
    contender, target, *inputs = sys.argv[1:]
    print(json.dumps(CONTENDERS[contender](inputs, target)))
