"""From the moment a checkpoint is complete to its published model: small and large without evaluation, small with Ray."""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from rna_watch.demo import train_digits
from rna_watch.formats.probe import probe
from tests.benchmarks import resnet152
from tests.benchmarks.goals import judge

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.benchmarks.options import Options

_COUNT = 12
_LIMIT_S = 60.0
_WINDOW = 5
_EVERY_S = 5.0
# the stages of a checkpoint's way; each begins where the one before it ends
STAGES = ("waiting", "probe", "Gram rows", "choice", "combination, write, fsync")


def measure(folder: Path, count: int, engine: str) -> list[float]:
    """Seconds from the end of `torch.save` to the output's appearance, for each checkpoint from the third on."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    evaluator = Path(train_digits.__file__).with_name("evaluate_digits.py")
    command = [sys.executable, "-m", "rna_watch"]
    subprocess.run(
        [
            *command,
            "start",
            str(folder),
            "--evaluator",
            f"{evaluator}:evaluate",
            "--workers",
            "1",
            "--engine",
            engine,
            "--keep",
            str(count),
        ],
        check=True,
        capture_output=True,
    )
    try:
        torch.manual_seed(0)
        model = train_digits.network()
        found = []
        for number in range(1, count + 1):
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.add_(0.01 * torch.randn_like(parameter))
            name = f"epoch_{number:03d}.pt"
            torch.save({"model": model.state_dict()}, folder / name)
            begun = time.perf_counter()
            expected = folder / "rna" / name
            if number < 3:
                expected = None
            while expected is not None and not expected.exists() and time.perf_counter() - begun < _LIMIT_S:
                time.sleep(0.01)
            if expected is not None:
                if not expected.exists():
                    raise RuntimeError(f"{expected} was not published within {_LIMIT_S:.0f} seconds")
                found.append(time.perf_counter() - begun)
        return found
    finally:
        subprocess.run([*command, "stop", str(folder)], check=True, capture_output=True)


def live(folder: Path, checkpoints: Sequence[bytes], pause_s: float) -> tuple[list[float], dict[str, list[float]]]:
    """Seconds from complete to published, and of each stage, for each checkpoint with a whole window; no evaluation.

    Args:
        folder: of the run.
        checkpoints: files, in order; each is closed by its writer, as `torch.save` does.
        pause_s: between two of them.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    command = [sys.executable, "-m", "rna_watch"]
    options = ["--engine", "local", "--window", str(_WINDOW), "--keep", "3"]
    subprocess.run([*command, "start", str(folder), *options], check=True, capture_output=True)
    complete: dict[str, float] = {}
    try:
        for number, data in enumerate(checkpoints, 1):
            name = f"epoch_{number:03d}.pt"
            with (folder / name).open("wb", buffering=0) as file:
                for begin in range(0, len(data), 2**20):
                    file.write(data[begin : begin + 2**20])
            complete[name] = time.time()
            until = time.monotonic() + _LIMIT_S
            while number >= 3 and not (folder / "rna" / name).exists():
                if time.monotonic() > until:
                    raise RuntimeError(f"{name} was not published within {_LIMIT_S:.0f} seconds")
                time.sleep(0.005)
            time.sleep(max(0.0, pause_s - (time.time() - complete[name])))
    finally:
        subprocess.run([*command, "stop", str(folder)], check=True, capture_output=True)
    probe_s = min(_probe_s(folder / name) for _ in range(5))
    times: dict[str, dict[str, float]] = {each: {} for each in complete}
    for line in (folder / ".rna-watch" / "journal.jsonl").read_text().splitlines():
        event = json.loads(line)
        if event.get("checkpoint") in times and event["kind"] not in times[event["checkpoint"]]:
            times[event["checkpoint"]][event["kind"]] = event["time"]
    totals, stages = [], {stage: [] for stage in STAGES}
    for name, begun in list(complete.items())[_WINDOW:]:
        at = times[name]
        ends = [at["admitted"] - probe_s, at["admitted"], at["measured"], at["publishing"], at["published"]]
        totals.append(at["published"] - begun)
        for stage, before, end in zip(STAGES, [begun, *ends], ends, strict=False):
            stages[stage].append(end - before)
    return totals, {stage: found for stage, found in stages.items() if found}


def _probe_s(path: Path) -> float:
    begun = time.perf_counter()
    probe(str(path))
    return time.perf_counter() - begun


def floor(folder: Path, data: bytes) -> tuple[float, float]:
    """Seconds to read a file once, to write one of its size and to wait for the disk; and those of the waiting alone."""
    source, target = folder / "floor-in", folder / "floor-out"
    source.write_bytes(data)
    begun = time.perf_counter()
    with source.open("rb", buffering=0) as read, target.open("wb", buffering=0) as write:
        while block := read.read(2**20):
            write.write(block)
        synced = time.perf_counter()
        os.fsync(write.fileno())
    ended = time.perf_counter()
    return ended - begun, ended - synced


def _show_live(options: Options, what: str, checkpoints: Sequence[bytes], pause_s: float) -> tuple[float, float, float]:
    """Print the stages of a live run; returns the medians of the whole, of its waiting, and of the floor."""
    folder = options.folder / "latency-live"
    floors = [floor(options.folder, checkpoints[-1]) for _ in range(5)]
    totals, stages = live(folder, checkpoints, pause_s)
    shutil.rmtree(folder)
    lowest, synced = (statistics.median(each) for each in zip(*floors, strict=True))
    whole = statistics.median(totals)
    print(f"\n{what}, window {_WINDOW}, no evaluation, local engine, one every {pause_s:g} s: complete -> published")
    print(
        f"median {whole:.3f} s (min {min(totals):.3f}, max {max(totals):.3f}); floor {lowest:.3f} s, {synced:.3f} of it fsync"
    )
    for stage, found in stages.items():
        print(f"{stage:>28} {statistics.median(found):8.3f} s (min {min(found):.3f}, max {max(found):.3f})")
    return whole, statistics.median(stages[STAGES[0]]), lowest


def _files(folder: Path, count: int, base: int) -> list[bytes]:
    return [path.read_bytes() for path in resnet152.write(folder, count, base)]


def show(options: Options) -> None:
    """Print medians, spreads and stages, and judge those of the local engine."""
    options.folder.mkdir(parents=True, exist_ok=True)
    count = 7 if options.small else 12
    small = _files(options.folder / "latency-small", count, 2)
    whole, waiting, _ = _show_live(options, "a small checkpoint", small, 1.0)
    judge("a small checkpoint", whole, 0.25, "s")
    judge("of it waiting", waiting, 0.1, "s")
    if not options.small:
        large = _files(options.folder / "resnet152", 11, 64)
        whole, waiting, lowest = _show_live(options, "a checkpoint of 242 MB", large, _EVERY_S)
        judge("a checkpoint of 242 MB", whole, 0.6, "s")
        judge("of it waiting", waiting, 0.1, "s")
        judge("in floors", whole / lowest, 3.0, "floors")
    engine = "inline" if options.small else "ray"  # to start a cluster takes longer than all else
    seconds = measure(options.folder / "latency", 4 if options.small else _COUNT, engine)
    print(
        f"\nfrom torch.save's end to the published model: small network, {engine} engine, up to 9 evaluations, "
        f"{len(seconds)} checkpoints"
    )
    print(f"median {statistics.median(seconds):.2f} s (min {min(seconds):.2f}, max {max(seconds):.2f})")
