"""The command `python3 -m rna_watch.reproduce.cuda`: its options, and its errors in a line."""

from __future__ import annotations

import argparse
import re
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from rna_watch.errors import NothingToDo, RnaWatchError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

DEFAULT_BUDGET = "9m"
_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}


def main(arguments: Sequence[str]) -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python3 -m rna_watch.reproduce.cuda",
        description="The paper's networks on CIFAR-10, SGD with and without momentum side by side on one GPU. "
        "Stop it at any moment; the same command goes on.",
    )
    parser.add_argument("--data", type=Path, help="folder of CIFAR-10's files, which may arrive one after another")
    parser.add_argument(
        "--out", type=Path, default=Path("networks-cuda"), help="where records go (at most 8 files, 64 MB)"
    )
    parser.add_argument("--work", type=Path, help="where images and states to go on from are kept [OUT.work]")
    parser.add_argument(
        "--budget", default=DEFAULT_BUDGET, help="the time to take, such as 540, 540s, 9m (the default)"
    )
    parser.add_argument("--quick", action="store_true", help="a tiny version, on the processor if there is no GPU")
    parser.add_argument(
        "--tables", type=Path, metavar="DIR", help="train nothing: make tables of the records in a folder"
    )
    chosen = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        text = networks(
            data=chosen.data,
            out=chosen.out,
            work=chosen.work,
            budget=chosen.budget,
            quick=chosen.quick,
            tables=chosen.tables,
            say=lambda line: print(line, flush=True),
        )
    except RnaWatchError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    print(text)
    return 0


def networks(
    *,
    data: Path | None,
    out: Path,
    work: Path | None,
    budget: str,
    quick: bool,
    tables: Path | None,
    say: Callable[[str], None],
) -> str:
    """Train as far as the time goes, unless only tables are asked for; returns the tables as text.

    Args:
        data: the folder of the images.
        out: the folder of the records.
        work: the folder of what is needed to go on; None: beside `out`.
        budget: the time to take, in words.
        quick: a tiny version.
        tables: a folder of records to make tables of; nothing is trained then.
        say: called with what happens.

    Raises:
        UsageError: an option is wrong, there is no GPU, or images are missing.
        NothingToDo: no folder of records is there.
        StoreError: a folder cannot be written.
    """
    begun = time.monotonic()  # to load torch takes seconds of it
    from rna_watch.reproduce.cuda.tables import text_of

    if tables is not None:
        if not any(tables.glob("*.records")):
            raise NothingToDo(f"{tables} holds no records of runs: name the folder that was --out")
        return text_of(tables)
    from rna_watch.reproduce.cuda import attempt

    seconds = seconds_of(budget)
    beside = work or out.with_name(f"{out.name}.work")
    attempt.run(attempt.Options(data=data, out=out, work=beside, budget=seconds, quick=quick), begun, say)
    return text_of(out)


def seconds_of(text: str) -> float:
    """A time such as 540, 540s, 9m or 1.5h in seconds.

    Raises:
        UsageError: it is no such time, or not above zero.
    """
    found = re.fullmatch(r"(\d+(?:\.\d*)?)\s*([smh]?)", text.strip())
    seconds = float(found[1]) * _UNITS[found[2]] if found else 0.0
    if seconds <= 0.0:
        raise UsageError(f"--budget is {text!r}: it must be a time such as 540s, 9m or 1.5h")
    return seconds
