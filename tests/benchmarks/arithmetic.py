"""The constants of the manual's page of arithmetic: what a window, a checkpoint and a run cost, in this version and another.

All but sizes are CPU seconds, user and system, of a process and its children: differences between a long and a short case, so
that start and imports do not count. Another version is a folder with its code (`--before`), measured in the same run.
"""

from __future__ import annotations

import os
import resource
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from tests.benchmarks import sweep, whole

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.benchmarks.options import Options

ROOT = Path(__file__).parents[2]
WINDOW = 5  # N; the default
# each constant: its words and its unit
CONSTANTS = {
    "cpu_s_per_gb": ("Gram matrix and combination, a GB of the window's checkpoints", "CPU s"),
    "cpu_ms_a_checkpoint": ("a checkpoint of 0.1 MB, from its file to its model", "CPU ms"),
    "idle_ms_per_s": ("a further run with nothing to do", "CPU ms a second"),
    "mb_a_run": ("a further run, private memory", "MB"),
    "processes_a_run": ("a further run, processes", ""),
}


def show(options: Options) -> None:
    """Print the constants of each version; with `--record`, write them with the machine as JSON."""
    versions = {"now": ROOT} | ({"before": options.before} if options.before is not None else {})
    found: dict[str, dict[str, list[float]]] = {name: {} for name in versions}
    for _ in range(options.rounds):
        for name, code in versions.items():
            for key, value in _measure(code, options, shared=name == "now").items():
                found[name].setdefault(key, []).append(value)
    medians = {name: {key: statistics.median(values) for key, values in each.items()} for name, each in found.items()}
    print(f"\nconstants of a window, a checkpoint and a run; medians of {options.rounds} rounds")
    for number, (words, unit) in enumerate(CONSTANTS.values(), 1):
        print(f"({number}) {words}, {unit}".removesuffix(", "))
    print(f"{'':<8}" + "".join(f"{f'({number})':>10}" for number in range(1, len(CONSTANTS) + 1)))
    for name, each in medians.items():
        print(f"{name:<8}" + "".join(f"{each[key]:>10.2f}" for key in CONSTANTS))
    whole.keep(options, "arithmetic", {"machine": whole.machine(), "rounds": options.rounds, **medians})


def _measure(code: Path, options: Options, *, shared: bool) -> dict[str, float]:
    """Each constant once.

    `shared`: many runs are watched by one process; before they were, each had a process of its own.
    """
    elements, few, many, further, look_s = (50_000, 7, 9, 1, 1.0) if options.small else (30_000_000, 7, 12, 8, 20.0)
    folder = options.folder / "arithmetic"
    large = _a_checkpoint(code, folder, elements, few, many)
    small = _a_checkpoint(code, folder, 25_000, few, 3 * many)
    window_gb = (WINDOW + 1) * elements * 2 / 1e9
    idle = _idle_runs(code, folder, further, look_s, shared=shared)
    return {"cpu_s_per_gb": max(0.0, large - small) / window_gb, "cpu_ms_a_checkpoint": 1000 * small, **idle}


def _a_checkpoint(code: Path, folder: Path, elements: int, few: int, many: int) -> float:
    """CPU seconds of `once` for each further checkpoint of so many bfloat16 elements, whose window is full."""
    cpu = []
    for count in (few, many):
        run = _run(folder, elements, count)
        cpu.append(_cpu_s(code, ["once", str(run), "--window", str(WINDOW), "--engine", "local"]))
        shutil.rmtree(folder)
    return (cpu[1] - cpu[0]) / (many - few)


def _run(folder: Path, elements: int, count: int, name: str = "run") -> Path:
    """A folder of consecutive iterates, as torch writes them."""
    run = folder / name
    run.mkdir(parents=True)
    generator = torch.Generator().manual_seed(0)
    start, step = torch.randn(2, elements // 1000, 1000, generator=generator)
    for number in range(1, count + 1):
        weight = start + 0.01 * (1 - 0.8**number) * step + 1e-4 * start.roll(number)
        with sweep.disk_name(run / f"step_{number:04d}.pt") as path:
            torch.save({"layer.weight": weight.bfloat16()}, path)
    return run


def _environment(code: Path, home: Path) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(code), "XDG_STATE_HOME": str(home), "OMP_NUM_THREADS": "1"}


def _cpu_s(code: Path, arguments: Sequence[str]) -> float:
    """CPU seconds of a command and its children; from the folder of its code, which is then imported.

    Raises:
        RuntimeError: it failed.
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-m", "rna_watch", *arguments],
        cwd=code,
        env=_environment(code, Path(arguments[1], "home")),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{arguments}: {done.stdout}{done.stderr}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _idle_runs(code: Path, folder: Path, further: int, look_s: float, *, shared: bool) -> dict[str, float]:
    """What each of `further` runs adds to one that is watched: CPU, memory, processes."""
    for number in range(1 + further):
        _run(folder / "runs", 25_000, 3, f"seed_{number:03d}")
    runs = sorted((folder / "runs").iterdir())
    looked = []
    for some in ([runs[0]], runs):
        given = [[str(each) for each in some]] if shared else [[str(each)] for each in some]
        looked.append(_watched(code, folder / "home", given, some, look_s))
    shutil.rmtree(folder)
    cpu, memory, processes = ((more - less) / further for less, more in zip(*looked, strict=True))
    return {"idle_ms_per_s": 1000 * cpu / look_s, "mb_a_run": memory / 1e3, "processes_a_run": processes}


def _watched(
    code: Path, home: Path, given: list[list[str]], runs: list[Path], look_s: float
) -> tuple[float, float, float]:
    """CPU seconds within `look_s`, anonymous kilobytes and processes of all that watch, once everything is done."""
    options = ["--foreground", "--no-terminal", "--engine", "local"]
    watching = [
        subprocess.Popen(
            [sys.executable, "-m", "rna_watch", "start", *each, *options],
            cwd=code,
            env=_environment(code, home),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for each in given
    ]
    try:
        sweep.wait_for(lambda: sum(sweep.models(each) for each in runs) >= len(runs))
        time.sleep(look_s / 2)
        before = sum(sweep.cpu_s(each.pid) for each in watching)
        time.sleep(look_s)
        cpu = sum(sweep.cpu_s(each.pid) for each in watching) - before
        kilobytes = sum(sweep.anonymous_kb(each.pid) for each in watching)
        return cpu, kilobytes, sum(len(sweep.family(each.pid)) for each in watching)
    finally:
        for each in watching:
            each.terminate()
        for each in watching:
            each.wait(60.0)
