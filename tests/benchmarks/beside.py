"""A training's own time, alone and beside us: the same fixed job in turn.

The job is a plain loop, with its time in `torch.save` told apart, or a real trainer with its retention on (`--trainer`).
"""

from __future__ import annotations

import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from torch import nn

_SAVES = 12
_STEPS = 50
_TRAINER_STEPS = 100
_BATCH = 128
_WIDTH = 768
_LIMIT_S = 120.0
_TRAINING_LIMIT_S = 3600.0  # on a busy machine
CASES: dict[str, list[str] | None] = {
    "alone": None,
    "inline": ["--engine", "inline", "--workers", "1"],
    "Ray": ["--workers", "1"],
}


# trainers of tests/trainers: script, what it is given for a job of some seconds, and the name of its last checkpoint
TRAINERS: dict[str, tuple[str, tuple[object, ...], str]] = {
    "loop": ("", (), f"epoch_{_SAVES:03d}.pt"),
    "hugging-face": (
        "hf_trainer",
        ("--saves", _SAVES, "--every", _TRAINER_STEPS, "--limit", 3, "--hidden", 192),
        f"checkpoint-{_SAVES * _TRAINER_STEPS}",
    ),
}


def train(folder: Path) -> dict[str, float]:
    """The job: about 1.2 million parameters, Adam, 12 checkpoints of 14 MB; returns seconds in all and in `torch.save`."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = nn.Sequential(nn.Linear(_WIDTH, _WIDTH), nn.ReLU(), nn.Linear(_WIDTH, _WIDTH), nn.Linear(_WIDTH, 10))
    optimizer = torch.optim.Adam(model.parameters())
    x, y = torch.randn(_BATCH, _WIDTH), torch.arange(_BATCH) % 10
    begun, saving = time.perf_counter(), 0.0
    for number in range(1, _SAVES + 1):
        for _ in range(_STEPS):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
        before = time.perf_counter()
        content = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": number}
        torch.save(content, folder / f"epoch_{number:03d}.pt")
        (folder / f"epoch_{number - 3:03d}.pt").unlink(missing_ok=True)
        saving += time.perf_counter() - before
    return {"seconds": time.perf_counter() - begun, "saving": saving}


def measure(folder: Path, settings: list[str] | None, trainer: str = "loop") -> dict[str, float]:
    """The job in a process of its own, with a daemon beside it unless `settings` is None; `published` counts its models."""
    name, given, newest = TRAINERS[trainer]
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    command = [sys.executable, "-m", "rna_watch"]
    if settings is not None:
        start = [*command, "start", str(folder), "--keep", str(_SAVES), *settings]
        subprocess.run(start, check=True, capture_output=True)
    try:
        if name:
            from tests.trainers.live_run import script  # not in the loop's own process

            said = script(name, folder, *given, limit_s=_TRAINING_LIMIT_S)
            result = {"saving": math.nan} | next(each for each in said if "seconds" in each)
        else:
            job = [sys.executable, "-m", "tests.benchmarks.beside", str(folder)]
            result = json.loads(subprocess.run(job, check=True, capture_output=True, text=True).stdout)
        last, until = folder / "rna" / newest, time.perf_counter() + _LIMIT_S
        while settings is not None and not last.exists() and time.perf_counter() < until:
            time.sleep(0.05)
    finally:
        if settings is not None:
            subprocess.run([*command, "stop", str(folder)], check=True, capture_output=True)
    published = [path for path in folder.glob("rna/*") if path.suffix != ".json" and not path.is_symlink()]
    return result | {"published": float(len(published))}


def compare(folder: Path, rounds: int, trainer: str = "loop") -> dict[str, list[dict[str, float]]]:
    """All cases in turn, so many rounds; each round begins with another case."""
    results: dict[str, list[dict[str, float]]] = {name: [] for name in CASES}
    names = list(CASES)
    for number in range(rounds):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            results[name].append(measure(folder, CASES[name], trainer))
    return results


def show(folder: Path, rounds: int, trainer: str = "loop") -> None:
    """Print medians, spread, and the ratio to the training alone (median of the pairs in a round)."""
    results = compare(folder / "beside", rounds, trainer)
    print(f"\na training ({trainer}) alone and beside us: one thread, {_SAVES} checkpoints, {rounds} rounds in turn")
    print(f"load of the machine before: {os.getloadavg()[0]:.1f}; the trainer's own seconds, median (min-max)")
    print(f"{'':<8}{'seconds':>22}{'/ alone':>9}{'saving':>9}{'models':>8}")
    for name, runs in results.items():
        seconds = [run["seconds"] for run in runs]
        ratio = statistics.median(a / b["seconds"] for a, b in zip(seconds, results["alone"], strict=True))
        spread = f"{statistics.median(seconds):.2f} ({min(seconds):.2f}-{max(seconds):.2f})"
        saving = statistics.median(run["saving"] for run in runs)
        models = statistics.median(run["published"] for run in runs)
        told = "-" if math.isnan(saving) else f"{saving:.2f}"
        print(f"{name:<8}{spread:>22}{ratio:>9.3f}{told:>9}{models:>8.0f}")


if __name__ == "__main__":
    print(json.dumps(train(Path(sys.argv[1]))))
