"""Many runs in one process: memory and CPU for each further idle run, and whether a sweep falls behind."""

from __future__ import annotations

import contextlib
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from rna_watch.journal import events as e
from rna_watch.journal import log
from rna_watch.journal.run_paths import RunPaths

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.benchmarks.options import Options

_LIMIT_S = 600.0
_TICKS = os.sysconf("SC_CLK_TCK")
_EVALUATOR = """import time


def evaluate(state_dict, device):
    time.sleep({seconds})
    return {{"loss": float(state_dict["layer.weight"].double().square().mean())}}
"""


def show(options: Options) -> None:
    """Print the tables."""
    further, runs, period_s, rounds = (2, 3, 2.0, 4) if options.small else (50, 100, 60.0, 5)
    print(f"\nmany runs in one process: each further idle run of {further}, alone and with an evaluator of 0.1 s")
    print(f"{'evaluator':>10}{'KB a run':>10}{'processes a run':>17}{'CPU ms/s a run':>16}")
    for evaluates in (False, True):
        kilobytes, processes, cpu = _idle(options.folder / "idle", further, evaluates=evaluates, small=options.small)
        print(f"{'0.1 s' if evaluates else 'none':>10}{kilobytes:10.1f}{processes:17.2f}{cpu:16.2f}")
    print(f"\na sweep of {runs} runs, a checkpoint of 0.1 MB each every {period_s:g} s, {rounds} times; none evaluated")
    print(f"{'models':>8}{'of':>6}{'median s':>10}{'slowest s':>11}{'CPU cores':>11}")
    made, expected, delays, cores = _live(options.folder / "live", runs, period_s, rounds)
    print(f"{made:8}{expected:6}{statistics.median(delays):10.2f}{max(delays):11.2f}{cores:11.2f}")


def _idle(folder: Path, further: int, *, evaluates: bool, small: bool) -> tuple[float, float, float]:
    """Kilobytes, processes and CPU milliseconds a second of each further run that has nothing to do."""
    settle_s, look_s = (2.0, 2.0) if small else (15.0, 20.0)
    with _sweeping(folder, evaluates=evaluates) as (root, pid):
        _write(root, 1, 3)
        wait_for(lambda: _made(root) == 1)
        time.sleep(settle_s)
        before = anonymous_kb(pid), len(family(pid))
        cpu = _busy_s(pid, look_s)
        for number in range(1, further + 1):
            _write(root, 1, 3, first_run=number)
        wait_for(lambda: _made(root) == 1 + further)
        time.sleep(settle_s)
        after = anonymous_kb(pid), len(family(pid))
        cpu = (_busy_s(pid, look_s) - cpu) / look_s
    return (after[0] - before[0]) / further, (after[1] - before[1]) / further, 1000 * cpu / further


def _live(folder: Path, runs: int, period_s: float, rounds: int) -> tuple[int, int, list[float], float]:
    """Models that were made, and how many there should be; the seconds that each took; cores in use."""
    with _sweeping(folder, evaluates=False) as (root, pid):
        _write(root, runs, 2)
        wait_for(lambda: len(_journals(root)) == runs)
        begun, busy = time.monotonic(), cpu_s(pid)
        for step in range(rounds):
            for number in range(runs):  # spread over the period, as trainings are
                due = begun + period_s * (step + number / runs)
                time.sleep(max(0.0, due - time.monotonic()))
                _write(root, 1, 1, first_run=number, first_step=3 + step)
        cores = (cpu_s(pid) - busy) / (time.monotonic() - begun)
        with contextlib.suppress(TimeoutError):
            wait_for(lambda: _made(root) == runs * rounds, limit_s=period_s + 30.0)
        delays = [each for paths in _journals(root) for each in _delays(paths)]
    return len(delays), runs * rounds, delays, cores


@contextlib.contextmanager
def _sweeping(folder: Path, *, evaluates: bool) -> Iterator[tuple[Path, int]]:
    """The folder of a sweep, and the process that watches it."""
    shutil.rmtree(folder, ignore_errors=True)
    root = folder / "runs"
    root.mkdir(parents=True)
    command = [
        sys.executable,
        "-m",
        "rna_watch",
        "start",
        str(root),
        "--recursive",
        "--foreground",
        "--engine",
        "local",
    ]
    if evaluates:
        judge = folder / "judge.py"
        judge.write_text(_EVALUATOR.format(seconds=0.1))
        command += ["--evaluator", f"{judge}:evaluate"]
    with (folder / "output").open("w") as output:
        process = subprocess.Popen(
            [*command, "--no-terminal"],
            stdout=output,
            stderr=output,
            env=os.environ | {"XDG_STATE_HOME": str(folder / "home")},
        )
    try:
        yield root, process.pid
    finally:
        process.terminate()
        process.wait(60.0)
        shutil.rmtree(folder, ignore_errors=True)


def _write(root: Path, runs: int, steps: int, *, first_run: int = 0, first_step: int = 1) -> None:
    """Checkpoints of 0.1 MB, written as a trainer does."""
    for number in range(first_run, first_run + runs):
        folder = root / f"seed_{number:03d}"
        folder.mkdir(exist_ok=True)
        for step in range(first_step, first_step + steps):
            weight = torch.full((160, 160), 1.0 / step) + torch.rand(
                160, 160, generator=torch.Generator().manual_seed(step)
            )
            with disk_name(folder / f"step_{step:04d}.pt") as path:
                torch.save({"layer.weight": weight, "layer.bias": weight[0].clone()}, path)


@contextlib.contextmanager
def disk_name(path: Path) -> Iterator[Path]:
    """A temporary name, renamed at the end."""
    temporary = path.with_suffix(".tmp")
    yield temporary
    temporary.rename(path)


def _journals(root: Path) -> list[RunPaths]:
    runs = [RunPaths(run=each, output=each) for each in sorted(root.glob("seed_*"))]
    return [paths for paths in runs if paths.journal.exists()]


def models(run: Path) -> int:
    """How many models the journal of a run tells of; none where there is no journal yet."""
    journal = RunPaths(run=run, output=run).journal
    return journal.read_bytes().count(b'"published"') if journal.exists() else 0


def _made(root: Path) -> int:
    return sum(models(each) for each in root.glob("seed_*"))


def _delays(paths: RunPaths) -> Iterator[float]:
    for event in log.read(paths.journal):
        if isinstance(event, e.Published):
            yield event.time - (paths.run / event.checkpoint).stat().st_mtime


def wait_for(condition: Callable[[], bool], limit_s: float = _LIMIT_S) -> None:
    """Look every 0.2 s whether a condition holds.

    Raises:
        TimeoutError: it does not for so many seconds.
    """
    until = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > until:
            raise TimeoutError("it did not come to its end")
        time.sleep(0.2)


def family(pid: int) -> list[int]:
    """A process and all that it started."""
    children: dict[int, list[int]] = {}
    for each in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parent = int(each.read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(each.parent.name))
    found = [pid]
    for each in found:
        found += children.get(each, [])
    return found


def anonymous_kb(pid: int) -> int:
    """The private memory of a process and all that it started."""
    total = 0
    for each in family(pid):
        with contextlib.suppress(OSError):
            lines = Path(f"/proc/{each}/status").read_text().splitlines()
            total += sum(int(line.split()[1]) for line in lines if line.startswith("RssAnon:"))
    return total


def cpu_s(pid: int) -> float:
    """User and system seconds of a process and all that it started, while they live."""
    total = 0
    for each in family(pid):
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
            total += int(fields[11]) + int(fields[12])
    return total / _TICKS


def _busy_s(pid: int, seconds: float) -> float:
    before = cpu_s(pid)
    time.sleep(seconds)
    return cpu_s(pid) - before
