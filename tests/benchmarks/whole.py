"""One window as whole processes, ours and others in turn: what a person waits for, and what the machine gives for it.

`seconds` are those of the process; `after imports` what is left of them once its libraries are loaded (ours loads while it
works); `CPU s` are of the process and its children; `private MB` is the most that all of them had at once of anonymous memory
(RssAnon, sampled). Cold: the inputs are taken out of the page cache before.
"""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import re
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.benchmarks import window

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.benchmarks.options import Options

_COUNTS = {False: (11, 6), True: (4,)}  # checkpoints: N = 10 and 5
_BASE = {False: 64, True: 2}
_SAMPLE_S = 0.01
_CASES = {False: ("warm", "cold"), True: ("cold",)}
_RATIOS = ("mmap average", "average loop", "floor")


def mmap_average(paths: list[str], out: str) -> dict[str, float]:
    """The best loop that people run: torch.load(mmap=True), tensor by tensor, save, fsync."""
    import torch

    torch.set_num_threads(2)
    with window.Meter() as meter:
        models = [torch.load(path, weights_only=True, mmap=True) for path in paths]
        total = {}
        for name, first in models[0].items():
            if first.is_floating_point():
                total[name] = first.clone()
                for model in models[1:]:
                    total[name].add_(model[name])
                total[name].div_(len(models))
            else:
                total[name] = models[-1][name]
        with Path(out).open("wb") as file:
            torch.save(total, file)
            file.flush()
            os.fsync(file.fileno())
    return meter.result


LOOPS: dict[str, Callable[[list[str], str], dict[str, float]]] = {
    "average loop": window.average_loop,
    "mmap average": mmap_average,
    "floor": window.floor,
}


# one worker, as its children would load the loops
_BY_NUMPY = "import sys; sys.modules['rna_watch.kernels._loops'] = None; from rna_watch.cli import main; main()"


def _commands(paths: list[str], out: str) -> dict[str, list[str]]:
    """The command line of each contender; averages leave out the oldest checkpoint, which has no weight in them."""
    ours = [sys.executable, "-m", "rna_watch", "extrapolate", *paths, "-o", out, "--engine", "local", "--workers"]
    loop = [sys.executable, "-m", "tests.benchmarks.whole"]
    found = {
        "rna, 2 workers": [*ours, "2"],
        "rna, 1 worker": [*ours, "1"],
        "rna by numpy, 1 worker": [sys.executable, "-c", _BY_NUMPY, *ours[3:], "1"],
        "average, 2 workers": [*ours, "2", "--method", "average"],
        "average loop": [*loop, "average loop", out, *paths[1:]],
        "mmap average": [*loop, "mmap average", out, *paths[1:]],
        "floor": [*loop, "floor", out, *paths],
    }
    if importlib.util.find_spec("mergekit"):
        config = Path(out).with_suffix(".yml")
        models = "".join(f"  - model: {path}\n    parameters: {{weight: 1.0}}\n" for path in paths[1:])
        config.write_text(f"merge_method: linear\ndtype: float32\nmodels:\n{models}")
        found["mergekit"] = [sys.executable, "-m", "mergekit.scripts.run_pytorch", str(config), out]
    return found


def _private_bytes(pid: int) -> tuple[int, int]:
    """The anonymous memory of a process and of all below it, and that of the largest of them."""
    found, todo = [0], [pid]
    while todo:
        each = todo.pop()
        try:
            text = Path(f"/proc/{each}/status").read_text()
            found.append(int(text.partition("RssAnon:")[2].split()[0]) * 1024)
            for children in Path(f"/proc/{each}/task").glob("*/children"):
                todo += map(int, children.read_text().split())
        except (OSError, IndexError, ValueError):
            continue
    return sum(found), max(found)


def measured(command: list[str]) -> dict[str, float]:
    """Run a command; seconds, CPU seconds, and the most private memory of all processes and of one."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    begun = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    most = largest = 0
    while process.poll() is None:
        together, one = _private_bytes(process.pid)
        most, largest = max(most, together), max(largest, one)
        time.sleep(_SAMPLE_S)
    seconds = time.perf_counter() - begun
    said, complaint = process.communicate()
    if process.returncode:
        raise RuntimeError(f"{command}: {complaint}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    found = {"seconds": seconds, "cpu_s": cpu, "private_mb": most / 1e6, "largest_mb": largest / 1e6}
    lines = [line for line in said.splitlines() if line.startswith("{")]
    found["disk_gb"] = (after.ru_inblock - before.ru_inblock) * 512 / 1e9
    return found | ({"after_imports": json.loads(lines[-1])["seconds"]} if lines else {})


def drop(paths: Sequence[str]) -> None:
    """Take files out of the page cache."""
    for path in paths:
        with Path(path).open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def compare(options: Options) -> dict[str, Any]:
    """Every contender in turn, so many rounds, each round beginning with another; after one that warms the page cache."""
    from tests.benchmarks import resnet152  # it loads torch, which the floor is to do without

    base = _BASE[options.small]
    folder = options.folder / f"resnet152-{base}"
    every = [str(path) for path in resnet152.write(folder, max(_COUNTS[options.small]), base)]
    out = folder / "whole.pt"
    os.sync()
    results: dict[str, dict[str, list[dict[str, float]]]] = {}
    for count in _COUNTS[options.small]:
        paths = every[:count]
        commands = _commands(paths, str(out))
        names = list(commands)
        for case in _CASES[options.small]:
            runs: dict[str, list[dict[str, float]]] = {name: [] for name in names}
            for number in range(-1 if case == "warm" and not options.small else 0, options.rounds):
                for name in names[number % len(names) :] + names[: number % len(names)]:
                    for each in (out, Path(f"{out}.json")):
                        each.unlink(missing_ok=True)
                    if case == "cold":
                        drop(paths)
                    found = measured(commands[name])
                    if number >= 0:
                        runs[name].append(found)
            results[f"N = {count - 1}, {case}"] = runs
    return {
        "machine": machine(),
        "parameters": resnet152.parameters(base),
        "rounds": options.rounds,
        "results": results,
    }


def machine() -> dict[str, Any]:
    """What a figure depends on besides the code."""
    names = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if "model name" in line
    ]
    return {
        "processor": names[0] if names else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "load": os.getloadavg()[0],
    }


def imports(command: str, rounds: int) -> tuple[float, list[tuple[int, str]]]:
    """What a command loads: CPU seconds in the median, and the modules, slowest first: microseconds of their own, and names."""
    program = ["-c", f"import rna_watch.cli, rna_watch.commands.{command}"]
    cpu = statistics.median(measured([sys.executable, *program])["cpu_s"] for _ in range(rounds))
    said = subprocess.run(
        [sys.executable, "-X", "importtime", *program], capture_output=True, text=True, check=True
    ).stderr
    rows = [line.removeprefix("import time:").split("|") for line in said.splitlines()[1:]]
    return cpu, sorted(((int(own), name.strip()) for own, _, name in rows), reverse=True)


def rows(runs: dict[str, list[dict[str, float]]]) -> list[tuple[str, ...]]:
    """A row for each contender: medians, and the medians of the ratios within a round."""
    table = []
    for name, found in runs.items():

        def median(what: str, of: list[dict[str, float]] = found) -> str:
            values = [each[what] for each in of if what in each]
            return f"{statistics.median(values):.2f}" if values else "-"

        ratios = []
        for other in _RATIOS:
            pairs = [mine["seconds"] / its["seconds"] for mine, its in zip(found, runs[other], strict=True)]
            ratios.append(f"{statistics.median(pairs):.2f}")
        table.append((name, median("seconds"), median("after_imports"), median("cpu_s"), median("private_mb"), *ratios))
    return table


HEADING = ("", "seconds", "after imports", "CPU s", "private MB", *(f"/ {name}" for name in _RATIOS))


def show(options: Options) -> None:
    """Print a table for each window, warm and cold; with `--record`, write all runs with the machine as JSON."""
    record = compare(options)
    print(f"\nwhole processes in turn, ResNet-152 ({record['parameters']:,} parameters), {record['rounds']} rounds")
    print(", ".join(f"{key} {value}" for key, value in record["machine"].items()))
    for title, runs in record["results"].items():
        print(f"\n{title}: medians; ratios are medians of those within a round")
        for row in [HEADING, *rows(runs)]:
            print(f"{row[0]:<20}" + "".join(f"{cell:>16}" for cell in row[1:]))
    for command in ("extrapolate", "status"):
        cpu, modules = imports(command, options.rounds)
        slowest = ", ".join(f"{name} {own / 1000:.1f}" for own, name in modules[:8])
        print(f"\nimports of {command}: {cpu:.2f} CPU s; milliseconds of the slowest of {len(modules)}: {slowest}")
    keep(options, "whole", record)


def keep(options: Options, name: str, record: dict[str, Any]) -> None:
    """With `--record`, write what a benchmark has measured as JSON, a line for each run."""
    if options.record is not None:
        options.record.mkdir(parents=True, exist_ok=True)
        text = json.dumps(record, indent=1, default=float)
        flat = re.sub(r"\{[^{}]*\}", lambda found: " ".join(found[0].split()), text)
        (options.record / f"{name}.json").write_text(
            re.sub(r"\d+\.\d{4,}", lambda found: f"{float(found[0]):.3f}", flat) + "\n"
        )


if __name__ == "__main__":
    loop, target, *inputs = sys.argv[1:]
    print(json.dumps(LOOPS[loop](inputs, target)))
