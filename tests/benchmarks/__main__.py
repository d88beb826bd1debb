"""`make bench`: prints medians and ratios of everything measured side by side, and the machine it was measured on.

`make bench SMALL=1` runs the same code on tiny shapes.
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tests.benchmarks import (
    arithmetic,
    beside,
    breaks,
    digits,
    evidence,
    first,
    growth,
    kernels,
    large,
    latency,
    layered,
    search,
    slow,
    sweep,
    whole,
    window,
)
from tests.benchmarks.levers import show as levers
from tests.benchmarks.levers.tasks import TRAININGS
from tests.benchmarks.options import Options

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

BENCHMARKS: dict[str, Callable[[Options], None]] = {
    "whole": whole.show,
    "window": window.show,
    "latency": latency.show,
    "first": first.show,
    "large": large.show,
    "kernels": kernels.show,
    "search": search.show,
    "evidence": evidence.show,
    "layered": layered.show,
    "breaks": breaks.show,
    "digits": digits.show,
    "beside": beside.show,
    "growth": growth.show,
    "slow": slow.show,
    "sweep": sweep.show,
    "arithmetic": arithmetic.show,
    **{f"levers-{name}": partial(levers.show, name) for name in TRAININGS},
}
ROUNDS = 5
SEEDS = 5


def parsed(arguments: Sequence[str] | None = None) -> tuple[list[str], Options]:
    """The names and options of a command line (the program's own if None)."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(BENCHMARKS)} (all by default)")
    parser.add_argument(
        "--small", action="store_true", help="tiny shapes, one round: seconds, and figures of no meaning"
    )
    parser.add_argument("--rounds", type=int, help=f"times that all contenders run in turn [{ROUNDS}; small: 1]")
    parser.add_argument("--seeds", type=int, help=f"trainings of `digits` and `levers-...` [{SEEDS}, or 3; small: 1]")
    parser.add_argument("--trainer", choices=beside.TRAINERS, default="loop", help="the training of `beside`")
    parser.add_argument("--parameters", type=int, help="of the model of `large` [1,560,000,000]")
    parser.add_argument("--before", type=Path, help="a folder with the code of another version, for `arithmetic`")
    parser.add_argument("--record", type=Path, help="folder for results as JSON")
    parser.add_argument("--dir", type=Path, default=Path(tempfile.gettempdir()) / "rna-watch-bench")
    given = parser.parse_args(arguments)
    if unknown := sorted(set(given.names) - BENCHMARKS.keys()):
        parser.error(f"no benchmark is named {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}")
    options = Options(
        folder=given.dir,
        rounds=given.rounds or (1 if given.small else ROUNDS),
        seeds=given.seeds or (1 if given.small else SEEDS),
        trainer=given.trainer,
        record=given.record,
        small=given.small,
        parameters=given.parameters,
        before=given.before and given.before.resolve(),
    )
    return given.names or list(BENCHMARKS), options


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmarks that are named."""
    names, options = parsed(arguments)
    print(f"{os.cpu_count()} cores, {platform.system()} {platform.release()}, Python {platform.python_version()}")
    if options.small:
        print("small: tiny shapes, to see that everything runs; the figures mean nothing")
    for name, show in BENCHMARKS.items():
        if name in names:
            show(options)


if __name__ == "__main__":
    main()
