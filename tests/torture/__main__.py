"""The torture of the daemon: faults and kills at many points of its work, and power cuts: `python -m tests.torture`."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

from tests.torture import injector
from tests.torture.points import Outcome, Point, count, draw, try_point
from tests.torture.scenario import SCENARIOS, Bench, prepare

_PRELOAD = "LD_PRELOAD"


def main() -> None:
    """Parse, and begin anew with the injector preloaded; then try the points, and end with 1 if something did not hold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--points", type=int, default=2000, help="how many, over all scenarios")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--scenario", action="append", choices=sorted(SCENARIOS), help="which; several times for several"
    )
    parser.add_argument("--jobs", type=int, default=1, help="how many points at once; they mostly wait")
    parser.add_argument("--only", type=int, help="the number of a single point, to see it again")
    parser.add_argument("--keep", type=Path, help="a folder for the runs of points that have problems")
    parser.add_argument("--calls", action="store_true", help="list the calls of each scenario and try nothing")
    options = parser.parse_args()
    if injector.compiler() is None:
        print("skipped: there is no C compiler (cc, gcc or clang) to build the fault injector with")
        return
    if _PRELOAD not in os.environ:
        with tempfile.TemporaryDirectory(prefix="rna-watch-torture-") as folder:
            given = os.environ | {_PRELOAD: str(injector.build(Path(folder))), "OMP_NUM_THREADS": "1"}
            code = os.spawnve(os.P_WAIT, sys.executable, [sys.executable, "-m", "tests.torture", *sys.argv[1:]], given)
        sys.exit(code)
    os.nice(10)
    names = options.scenario or [name for name, each in SCENARIOS.items() if not each.ray]
    failed = 0
    begun = time.monotonic()
    total: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="rna-watch-torture-") as folder:
        os.environ["XDG_STATE_HOME"] = str(Path(folder, "state"))
        for number, name in enumerate(names):
            bench = prepare(Path(os.path.realpath(folder)), SCENARIOS[name])
            listed = Path(folder, f"{name}.calls") if options.calls else None
            calls = count(bench, listed)
            print(
                f"{name}: {calls[injector.ANY]:,} calls below the run, {calls[injector.CHANGES]:,} of them changes",
                flush=True,
            )
            if listed is not None:
                print(listed.read_text())
                continue
            mine = options.points // len(names) + (number < options.points % len(names))
            points = draw(calls, mine, seed=options.seed, power=not (bench.scenario.ray or bench.scenario.live))
            chosen = [index for index in range(len(points)) if options.only in {None, index}]
            with ProcessPoolExecutor(options.jobs, multiprocessing.get_context("fork")) as pool:
                for index, outcome, said in pool.map(partial(_try, bench, points, options.keep), chosen):
                    total["fired" if outcome.fired else "not reached"] += 1
                    total[f"ended with {outcome.code}"] += 1
                    if outcome.problems:
                        failed += 1
                        print(f"{name} {index}: {points[index]}: " + "; ".join(outcome.problems))
                    if outcome.problems or options.only is not None:
                        print(said, flush=True)
    summary = ", ".join(f"{value} {key}" for key, value in sorted(total.items()))
    print(f"{sum(total.values()) // 2} points in {time.monotonic() - begun:.0f} s ({summary}); {failed} with problems")
    sys.exit(bool(failed))


def _try(bench: Bench, points: list[Point], keep: Path | None, index: int) -> tuple[int, Outcome, str]:
    """Try a point in a folder of this process's own: its number, what came of it, and all that was printed."""
    folder = bench.folder / f"job{os.getpid()}"
    os.environ["XDG_STATE_HOME"] = str(folder / "state")
    children = bench.scenario.ray and index % 2 == 1
    outcome = try_point(replace(bench, folder=folder), points[index], children=children)
    if keep is not None and outcome.problems:
        shutil.copytree(folder / "point", keep / f"{bench.scenario.name}-{index}", symlinks=True, dirs_exist_ok=True)
    return index, outcome, (folder / "point" / "output").read_text(errors="replace")


if __name__ == "__main__":
    main()
