"""What a long journal costs: start, `status`, a dashboard, the daemon's memory, the next checkpoint, and a daemon at rest."""

from __future__ import annotations

import dataclasses
import fcntl
import os
import pty
import random
import resource
import select
import shutil
import statistics
import struct
import subprocess
import sys
import termios
import time
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from rna_watch.config import RunConfig, as_json
from rna_watch.demo import train_digits
from rna_watch.journal import events as e
from rna_watch.journal import log
from rna_watch.journal.run_paths import RunPaths
from tests.benchmarks.first import environment
from tests.benchmarks.goals import judge

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.benchmarks.options import Options

EVALUATIONS = 9
_WINDOW = 10
_LIMIT_S = 120.0
_TICKS = os.sysconf("SC_CLK_TCK")
_NAMES = (
    "last",
    "average-5",
    "average-10",
    *(f"rna-{n}-{lam}" for n in (5, 10) for lam in ("1e-08", "1e-06", "1e-04")),
)


def made(paths: RunPaths, count: int, evaluations: int = EVALUATIONS) -> Iterator[e.Event]:
    """The events of a run of so many checkpoints, each with a window of ten and so many evaluations."""
    rng = random.Random(0)
    digest = f"{0:032x}"
    yield e.Started(
        host="host",
        pid=1,
        version="0.2.0",
        run=str(paths.run),
        output=str(paths.output),
        engine="local",
        evaluator="eval.py:evaluate",
        settings=as_json(RunConfig.model_validate({"evaluator": "eval.py:evaluate", "engine": "local"})),
        evaluator_digest=digest,
    )
    yield e.MetricChosen(metric="error", mode="min")
    names = [f"epoch_{number:05d}.pt" for number in range(1, count + 1)]
    keys = [f"{rng.getrandbits(128):032x}" for _ in names]
    best = 1.0
    for number, name in enumerate(names):
        window = names[max(0, number - _WINDOW) : number + 1]
        yield e.Admitted(
            checkpoint=name,
            path=name,
            step=number + 1,
            step_kind="epoch",
            format="torch zip",
            source="model",
            size_bytes=104_015,
            parameters=24_058,
            fingerprint=keys[number],
            inode=1_000_000 + number,
            mtime_ns=1_700_000_000_000_000_000 + number * 10**9,
            pin="link",
            pin_path=f".rna-watch/pins/{name}.{keys[number][:8]}.pinned",
            series="epoch_#.pt",
            counters={"epoch": number + 1},
            told="the epoch in the name",
        )
        if len(window) < 3:
            yield e.Finished(checkpoint=name, reason="extrapolation begins with 3")
            continue
        yield e.Measured(
            checkpoint=name,
            residuals=[list(pair) for pair in pairwise(window)],
            rows=[[rng.random() for _ in window[1:]]],
            rounding_energy=rng.random(),
            read_bytes=200_000,
            seconds=rng.random(),
            inputs=[f"{key}@model" for key in keys[max(0, number - _WINDOW) : number + 1]],
            matrices=[[rng.random() for _ in range(3)]],
        )
        candidates = _NAMES[:evaluations]
        weights = {each: [rng.random() for _ in window] for each in candidates}
        recipe = {"method": "rna", "window": 5, "regularization": 1e-8, "parameters": {}, "statistics": "clamped"}
        metrics = {each: {"error": rng.random() * 0.5 + 0.3, "loss": rng.random()} for each in candidates}
        for candidate in candidates:
            yield e.Evaluated(
                checkpoint=name,
                candidate=candidate,
                metrics=metrics[candidate],
                seconds=rng.random(),
                recipe=recipe,
                model=f"{rng.getrandbits(64):016x}",
            )
        yield e.Searched(
            checkpoint=name,
            residuals="difference",
            candidates=[{"name": each, **recipe, "weights": weights[each], "sentence": ""} for each in candidates],
            duplicates={},
            left_out=[],
            notes=[],
        )
        chosen = candidates[-1]
        value = metrics[chosen]["error"]
        yield e.Chosen(
            checkpoint=name,
            candidate=chosen,
            method="rna",
            inputs=window,
            weights=weights[chosen],
            metrics={"original": metrics["last"], "average": None, "rna": metrics[chosen], "chosen": metrics[chosen]},
            better_than_original=value < metrics["last"]["error"],
            significant=None,
            reason="it has the best error",
            residuals="difference",
            diagnostics={"condition": rng.random(), "norm2": rng.random(), "sentence": "acts as an average"},
        )
        yield e.Publishing(
            checkpoint=name, output=name, temporary=f".rna-watch-{name}.tmp", manifest_digest=keys[number]
        )
        yield e.Published(checkpoint=name, output=name, written_bytes=104_015, seconds=rng.random())
        if value < min(best, metrics["last"]["error"]):
            best = value
            yield e.BestMoved(checkpoint=name, output=name, value=value)
        if number >= _WINDOW:
            yield e.Unpinned(checkpoint=names[number - _WINDOW], reason="")
            yield e.Pruned(checkpoint=names[number - _WINDOW], output=names[number - _WINDOW])


def write(folder: Path, count: int) -> RunPaths:
    """A run directory with the journal of so many checkpoints."""
    shutil.rmtree(folder, ignore_errors=True)
    paths = RunPaths(run=folder, output=folder)
    folder.mkdir(parents=True)
    paths.create()
    with paths.journal.open("wb") as file:
        for number, event in enumerate(made(paths, count), 1):
            file.write(log.encode(dataclasses.replace(event, time=1.7e9 + number, seq=number)))
    return paths


def _cpu_s(pid: int) -> float:
    """CPU seconds of a process and of its children that have ended."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / _TICKS


def _private_mb(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("RssAnon:")[2].split()[0]) / 1024


def _wait(condition: Path, process: subprocess.Popen[bytes], newer_than: float = 0.0) -> None:
    until = time.monotonic() + _LIMIT_S
    while not (
        condition.exists() and condition.stat().st_mtime >= newer_than and b'"watching"' in condition.read_bytes()
    ):
        if process.poll() is not None or time.monotonic() > until:
            raise RuntimeError("the daemon did not begin to watch")
        time.sleep(0.02)


def _daemon(command: Sequence[str], paths: RunPaths) -> subprocess.Popen[bytes]:
    around = environment(paths.run.parent)
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=around)


def start(paths: RunPaths, first: int, count: int) -> tuple[float, float, list[float]]:
    """A daemon on a run: CPU seconds until it watches, its private memory in MB, and CPU seconds for each new checkpoint.

    Args:
        paths: of the run.
        first: the number of the first new checkpoint.
        count: how many there are.
    """
    command = [sys.executable, "-m", "rna_watch", "start", str(paths.run), "--foreground", "--engine", "local"]
    begun = time.time()
    process = _daemon([*command, "--workers", "1"], paths)
    try:
        _wait(paths.heartbeat, process, begun)
        until_it_watches = _cpu_s(process.pid)
        model = train_digits.network()
        costs = []
        for number in range(first, first + count):
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.add_(0.01 * torch.randn_like(parameter))
            before = _cpu_s(process.pid)
            torch.save({"model": model.state_dict(), "epoch": number}, paths.run / f"epoch_{number:05d}.pt")
            time.sleep(1.5)
            costs.append(_cpu_s(process.pid) - before)
        return until_it_watches, _private_mb(process.pid), costs[2:]
    finally:
        process.terminate()
        process.wait()


def run(paths: RunPaths, command: str, *arguments: str) -> float:
    """CPU seconds of a command on a run."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    line = [sys.executable, "-m", "rna_watch", command, str(paths.run), *arguments]
    subprocess.run(line, check=True, capture_output=True, env=environment(paths.run.parent))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def dashboard(paths: RunPaths, seconds: float) -> tuple[float, float]:
    """A dashboard on a terminal: CPU seconds until its first whole frame, and the share of a core that it takes after it."""
    controller, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 45, 140, 0, 0))
    command = [sys.executable, "-m", "rna_watch", "dashboard", str(paths.run)]
    around = environment(paths.run.parent)
    streams = dict.fromkeys(("stdin", "stdout", "stderr"), terminal)
    process = subprocess.Popen(command, **streams, start_new_session=True, env=around)
    os.close(terminal)
    try:
        seen, until = b"", time.monotonic() + _LIMIT_S
        while b"published" not in seen:
            if process.poll() is not None or time.monotonic() > until:
                raise RuntimeError("the dashboard showed no checkpoints")
            seen += os.read(controller, 2**16)
        opened, since = _cpu_s(process.pid), time.monotonic()
        while time.monotonic() - since < seconds:
            if select.select([controller], [], [], 0.2)[0]:
                os.read(controller, 2**16)
        return opened, (_cpu_s(process.pid) - opened) / (time.monotonic() - since)
    finally:
        process.terminate()
        process.wait()
        os.close(controller)


def idle(paths: RunPaths, seconds: float) -> tuple[float, float]:
    """A daemon that has nothing to do: the share of a core that it takes, and its private memory in MB."""
    command = [sys.executable, "-m", "rna_watch", "start", str(paths.run), "--foreground", "--engine", "local"]
    begun = time.time()
    process = _daemon(command, paths)
    try:
        _wait(paths.heartbeat, process, begun)
        _settle(paths.journal, min(seconds, 5.0))
        before, since = _cpu_s(process.pid), time.monotonic()
        time.sleep(seconds)
        return (_cpu_s(process.pid) - before) / (time.monotonic() - since), _private_mb(process.pid)
    finally:
        process.terminate()
        process.wait()


def _settle(journal: Path, seconds: float) -> None:
    """Wait until nothing was recorded for so long: files that are no checkpoints are told of one by one."""
    until, size = time.monotonic() + _LIMIT_S, -1
    while (now := journal.stat().st_size) != size and time.monotonic() < until:
        size = now
        time.sleep(seconds)


def _folder(folder: Path, files: int) -> RunPaths:
    """A run with so many files that are no checkpoints, for all that their names say."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for number in range(files):
        (folder / f"epoch_{number:05d}.pt").write_bytes(b"no checkpoint")
    return RunPaths(run=folder, output=folder)


def show(options: Options) -> None:
    """Print what a daemon and the views cost with a short and with a long journal, and judge it."""
    torch.manual_seed(0)
    short, long = 10, 300 if options.small else 10_000
    new = 3 if options.small else 12
    print(f"\na run with a long journal: {EVALUATIONS} evaluations a checkpoint, no evaluator now; CPU seconds")
    names = ("first start", "start", "status", "each new one", "dashboard", "open, share", "compare", "report")
    print(f"{'checkpoints':>12}" + "".join(f"{name:>13}" for name in (*names, "MB, first", "MB")))
    costs: dict[int, float] = {}
    for length in (short, long):
        paths = write(options.folder / f"growth-{length}", length)
        cold, at_first, _ = start(paths, length + 1, new)  # it leaves a snapshot
        warm, private, each = start(paths, length + 1 + new, new)
        costs[length] = statistics.median(each)
        status = statistics.median(run(paths, "status") for _ in range(3))
        opened, share = dashboard(paths, 2.0 if options.small else 30.0)
        compared = run(paths, "compare")
        reported = run(paths, "report", "-o", str(options.folder / f"report-{length}.html"), "--force")
        figures = (cold, warm, status, costs[length], opened, share, compared, reported, at_first, private)
        print(f"{length:12}" + "".join(f"{figure:13.3f}" for figure in figures))
    events = sum(1 for _ in paths.journal.open("rb"))
    print(f"{long} checkpoints, {events} events:")
    judge("a start", warm, 2.0, "CPU s")
    judge("private memory of the daemon, after its first start", at_first, 120.0, "MB")
    judge("private memory of the daemon", private, 120.0, "MB")
    judge(f"each new checkpoint, more than with {short}", costs[long] - costs[short], 0.01, "CPU s")
    judge("status", status, 0.6, "CPU s")
    judge("the dashboard, until it is open", opened, 1.0, "CPU s")
    judge("the dashboard, once it is open", 100 * share, 2.0, "% of a core")
    seconds = 2.0 if options.small else 60.0
    for files in (0, long):
        share, private = idle(_folder(options.folder / "growth-idle", files), seconds)
        print(f"a daemon at rest for {seconds:g} s, local engine, {files} files in the folder:")
        judge("time", 100 * share, 0.3, "% of a core")
        judge("private memory", private, 40.0, "MB")
