"""`make bench`: prints medians and ratios of everything measured side by side, and the machine it was measured on.

Usage: python -m tests.benchmarks [window] [latency] [search] [digits] [beside] [readme] [--rounds N] [--seeds N] [--dir FOLDER]
[--record FOLDER] [--trainer loop|hugging-face (the job of `beside`)]; `readme` puts the tables of kept results into the README.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import tempfile
from pathlib import Path

from tests.benchmarks import beside, digits, latency, readme, search, window


def main() -> None:
    """Run the benchmarks that are named (all by default)."""
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*", default=["window", "latency", "search", "digits", "beside"])
    parser.add_argument("--rounds", type=int, default=window.ROUNDS)
    parser.add_argument("--seeds", type=int, default=digits.SEEDS)
    parser.add_argument("--trainer", choices=beside.TRAINERS, default="loop", help="the training of `beside`")
    parser.add_argument("--record", type=Path, help="folder for results as JSON")
    parser.add_argument("--dir", type=Path, default=Path(tempfile.gettempdir()) / "rna-watch-bench")
    arguments = parser.parse_args()
    print(f"{os.cpu_count()} cores, {platform.system()} {platform.release()}, Python {platform.python_version()}")
    if "window" in arguments.names:
        show_window(window.compare(arguments.dir, arguments.rounds))
    if "latency" in arguments.names:
        latency.show(arguments.dir, arguments.rounds)
    if "search" in arguments.names:
        search.show()
    if "beside" in arguments.names:
        beside.show(arguments.dir, arguments.rounds, arguments.trainer)
    if "readme" in arguments.names:
        readme.main()
    if "digits" in arguments.names:
        record = arguments.record / "digits.json" if arguments.record else None
        digits.show(arguments.dir, arguments.seeds, record)


def show_window(results: dict[str, list[dict[str, float]]]) -> None:
    """The table of the window benchmark."""
    rounds = len(results["floor"])
    print(
        f"\none window, N = 10, ResNet-152 (60,192,808 parameters, 932 tensors), page cache warm, {rounds} rounds in turn"
    )
    print("median seconds (min-max), ratio to the average loop and to the floor (medians of the pairs in a round)")
    heading = (
        f"{'':<20}{'seconds':>22}{'/ average':>11}{'/ floor':>9}{'read GB':>9}{'memory MiB':>12}{'worker MiB':>12}"
    )
    print(heading)
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
    main()
