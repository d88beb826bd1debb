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
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from tests.benchmarks.options import Options

_BATCH = 128
_ALTERNATIONS = 4  # times the rounds of others: a single pair differs from itself by a tenth
_LIMIT_S = 120.0
_TRAINING_LIMIT_S = 3600.0  # on a busy machine
CASES: dict[str, list[str] | None] = {
    "alone": None,
    "inline": ["--engine", "inline", "--workers", "1"],
    "Ray": ["--engine", "ray", "--workers", "1"],
}
# the jobs: a plain loop, and trainers of tests/trainers by their scripts
TRAINERS = {"loop": "", "hugging-face": "hf_trainer"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """Checkpoints and the steps between them, the width of the loop's layers, that of the trainer's, and who runs beside it."""

    saves: int = 12
    steps: int = 50
    trainer_steps: int = 100
    width: int = 768
    hidden: int = 192
    cases: tuple[str, ...] = tuple(CASES)


# to start Ray takes longer than the small job
_JOBS = {False: Job(), True: Job(saves=4, steps=2, trainer_steps=2, width=16, hidden=16, cases=("alone", "inline"))}


def train(folder: Path, job: Job) -> dict[str, float]:
    """The loop: about 1.2 million parameters, Adam, 12 checkpoints of 14 MB; returns seconds in all and in `torch.save`."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    width = job.width
    model = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.Linear(width, 10))
    optimizer = torch.optim.Adam(model.parameters())
    x, y = torch.randn(_BATCH, width), torch.arange(_BATCH) % 10
    begun, cpu, saving = time.perf_counter(), time.process_time(), 0.0
    for number in range(1, job.saves + 1):
        for _ in range(job.steps):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
        before = time.perf_counter()
        content = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": number}
        torch.save(content, folder / _name(number))
        (folder / _name(number - 3)).unlink(missing_ok=True)
        saving += time.perf_counter() - before
    return {"seconds": time.perf_counter() - begun, "cpu": time.process_time() - cpu, "saving": saving}


def measure(folder: Path, job: Job, settings: list[str] | None, trainer: str = "loop") -> dict[str, float]:
    """The job in a process of its own, with a daemon beside it unless `settings` is None; `published` counts its models."""
    name = TRAINERS[trainer]
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    command = [sys.executable, "-m", "rna_watch"]
    if settings is not None:
        start = [*command, "start", str(folder), "--keep", str(job.saves), *settings]
        subprocess.run(start, check=True, capture_output=True)
    try:
        if name:
            from tests.trainers.live_run import script  # not in the loop's own process

            given = ("--saves", job.saves, "--every", job.trainer_steps, "--limit", 3, "--hidden", job.hidden)
            said = script(name, folder, *given, limit_s=_TRAINING_LIMIT_S)
            result = {"saving": math.nan, "cpu": math.nan} | next(each for each in said if "seconds" in each)
        else:
            loop = [sys.executable, "-m", "tests.benchmarks.beside", str(folder), json.dumps(asdict(job))]
            result = json.loads(subprocess.run(loop, check=True, capture_output=True, text=True).stdout)
        newest = f"checkpoint-{job.saves * job.trainer_steps}" if name else _name(job.saves)
        last, until = folder / "rna" / newest, time.perf_counter() + _LIMIT_S
        while settings is not None and not last.exists():
            if time.perf_counter() > until:
                raise RuntimeError(f"{last} was not published within {_LIMIT_S:.0f} seconds")
            time.sleep(0.05)
    finally:
        if settings is not None:
            subprocess.run([*command, "stop", str(folder)], check=True, capture_output=True)
    published = [path for path in folder.glob("rna/*") if path.suffix != ".json" and not path.is_symlink()]
    return result | {"published": float(len(published))}


def _name(number: int) -> str:
    return f"epoch_{number:03d}.pt"


def compare(folder: Path, job: Job, rounds: int, trainer: str = "loop") -> dict[str, list[dict[str, float]]]:
    """All cases in turn, so many rounds; each round begins with another case."""
    names = job.cases
    results: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for number in range(rounds):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            results[name].append(measure(folder, job, CASES[name], trainer))
    return results


def show(options: Options) -> None:
    """Print medians, spread, and the ratio to the training alone (median of the pairs in a round)."""
    job = _JOBS[options.small]
    rounds = options.rounds if options.small else _ALTERNATIONS * options.rounds
    results = compare(options.folder / "beside", job, rounds, options.trainer)
    print(f"\na training ({options.trainer}) alone and beside us: one thread, {job.saves} checkpoints, {rounds} rounds")
    print(f"load of the machine before: {os.getloadavg()[0]:.1f}; the trainer's own seconds, median (min-max)")
    print(
        "CPU s: of the training's own process, / alone with its standard error: what is within two of them is no difference"
    )
    print(f"{'':<8}{'seconds':>22}{'/ alone':>9}{'CPU s':>8}{'/ alone':>16}{'saving':>9}{'models':>8}")
    for name, runs in results.items():
        seconds = [run["seconds"] for run in runs]
        ratio = statistics.median(a / b["seconds"] for a, b in zip(seconds, results["alone"], strict=True))
        spread = f"{statistics.median(seconds):.2f} ({min(seconds):.2f}-{max(seconds):.2f})"
        saving = statistics.median(run["saving"] for run in runs)
        models = statistics.median(run["published"] for run in runs)
        ratios = [a["cpu"] / b["cpu"] for a, b in zip(runs, results["alone"], strict=True)]
        spread_of = statistics.stdev(ratios) / math.sqrt(len(ratios)) if len(ratios) > 1 else math.nan
        cpu = f"{statistics.median(run['cpu'] for run in runs):.2f}"
        beside = f"{statistics.fmean(ratios):.3f} ± {spread_of:.3f}"
        told = "-" if math.isnan(saving) else f"{saving:.2f}"
        print(f"{name:<8}{spread:>22}{ratio:>9.3f}{cpu:>8}{beside:>16}{told:>9}{models:>8.0f}")


if __name__ == "__main__":
    print(json.dumps(train(Path(sys.argv[1]), Job(**json.loads(sys.argv[2])))))
