"""From a checkpoint's appearance to its published model: demo sizes, Ray up, with an evaluator."""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from rna_watch.demo import train_digits

if TYPE_CHECKING:
    from tests.benchmarks.options import Options

_COUNT = 12
_LIMIT_S = 60.0


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


def show(options: Options) -> None:
    """Print the median and the spread."""
    engine = "inline" if options.small else "ray"  # to start a cluster takes longer than all else
    seconds = measure(options.folder / "latency", 4 if options.small else _COUNT, engine)
    print(
        f"\nfrom torch.save's end to the published model: small network, {engine} engine, up to 9 evaluations, "
        f"{len(seconds)} checkpoints"
    )
    print(f"median {statistics.median(seconds):.2f} s (min {min(seconds):.2f}, max {max(seconds):.2f})")
