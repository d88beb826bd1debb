"""Damages inputs and reads them: `python -m tests.fuzz --count 1000000 --seed 0` (`make fuzz`).

Ctrl-C, and SIGTERM, end it with a report.
Every input follows from the seed and its number. A reader may raise the errors that it documents and nothing else, takes no
longer than two seconds of the processor, and raises the peak memory of the process by no more than 256 MB.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path

from tests.fuzz.targets import Target, targets

MOST_SECONDS = 2.0
MOST_BYTES = 256 * 2**20
_HANGS_S = 60.0


def main(arguments: list[str] | None = None) -> int:
    """Run, print what was found, and return 1 if there was anything."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1_000_000, help="how many inputs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="the number of the first input")
    parser.add_argument("--only", default="", help="targets whose name has this in it")
    parser.add_argument("--keep", type=Path, help="a folder for the inputs that were found")
    options = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGALRM, _hangs)
    for number in (signal.SIGINT, signal.SIGTERM):  # also in the background of a shell, which ignores Ctrl-C
        signal.signal(number, signal.default_int_handler)
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # a disk takes ten times as long
    with tempfile.TemporaryDirectory(prefix="rna-watch-fuzz-", dir=memory) as folder:
        known = [each for each in targets(Path(folder)) if options.only in each.name]
        for each in known:
            each.put(each.content)
        for each in known:
            each.read()  # sound, and everything is imported
        return _fuzz(known, options)


def _fuzz(known: list[Target], options: argparse.Namespace) -> int:
    found, read, slowest = Counter[str](), Counter[str](), 0.0
    weights = [each.weight for each in known]
    before, begun = _peak(), time.process_time()
    done = 0
    with contextlib.suppress(KeyboardInterrupt):
        for number in range(options.first, options.first + options.count):
            chance = random.Random(f"{options.seed}/{number}")
            (target,) = chance.choices(known, weights)
            data = chance.choice(target.ways)(target.content, chance)
            problem, seconds = _problem(target, data)
            slowest = max(slowest, seconds)
            read[target.name] += not problem and seconds >= 0
            if seconds > MOST_SECONDS:
                problem = problem or f"it took {seconds:.1f} s"
            if _peak() - before > MOST_BYTES:
                problem, before = problem or f"{(_peak() - before) / 2**20:.0f} MB", _peak()
            if problem:
                where = problem.strip().splitlines()
                if not found[where[-1]]:
                    print(
                        f"{target.name}, input {number} of seed {options.seed}:\n{problem}", file=sys.stderr, flush=True
                    )
                    if options.keep:
                        options.keep.mkdir(parents=True, exist_ok=True)
                        (options.keep / f"{number}").write_bytes(data)
                found[where[-1]] += 1
            done += 1
    print(
        f"{done:,} inputs of seed {options.seed} over {len(known)} targets: {found.total()} uncaught, slow or large; "
        f"slowest {slowest:.2f} s; peak memory +{(_peak() - before) / 2**20:.0f} MB; "
        f"{time.process_time() - begun:.0f} s of the processor"
    )
    for words, count in found.most_common():
        print(f"{count:8,}  {words}")
    return 1 if found else 0


def _problem(target: Target, data: bytes) -> tuple[str, float]:
    """What a reader did wrong with an input ("" if nothing), and its seconds."""
    target.put(data)
    begun = time.process_time()
    signal.setitimer(signal.ITIMER_REAL, _HANGS_S)
    problem = ""
    try:
        target.read()
    except target.errors as error:
        str(error)
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        problem = traceback.format_exc(limit=-6)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        seconds = time.process_time() - begun
        target.put(target.content)
    return problem, seconds


def _hangs(*_: object) -> None:
    raise TimeoutError(f"no end after {_HANGS_S:g} s")


def _peak() -> int:
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    sys.exit(main())
