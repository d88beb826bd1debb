"""What each method gains on digits, over seeds: test error early, in the middle and late, with standard errors.

The demo's own training script runs once a seed, then `rna-watch once` goes through its checkpoints; models are chosen on 397
images, and errors are reported on 400 others. Batch-norm statistics are combined and nothing is fitted, as in the paper;
`levers-digits` measures what goes beyond that. Mean gradients from the optimizer's state are the default form of the
residuals; a second pass takes plain differences.
"""

from __future__ import annotations

import json
import math
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from rna_watch.comparison.comparison import compare
from rna_watch.demo import train_digits
from rna_watch.journal import log
from rna_watch.journal.replay import replay

if TYPE_CHECKING:
    from tests.benchmarks.options import Options

# small: windows end with epoch 3, and begin to hold all that they can with 6
_PHASES = {
    False: {"early": range(4, 9), "middle": range(16, 25), "late": range(33, 41)},
    True: {"early": range(4, 6), "late": range(6, 8)},
}
# statistics combined as the parameters are, nothing fitted, chosen by right and wrong: what the methods of the paper give alone
_AS_THE_PAPER = (
    *("--normalization", "clamp", "--choose-by", "metric", "--ema-decays", "0.7"),
    *("--methods", "average,ema,decay,cumulative,rna,simplex,capped"),
)
LEVELS = (10.0, 5.0, 3.0)
_PAPER = "rna-5-1e-08"
_COLUMNS = {
    "last iterate": ("gradient", "original"),
    "average of 5": ("gradient", "average-5"),
    "best plain average": ("gradient", "average"),
    "RNA N=5, 1e-8, differences": ("difference", _PAPER),
    "RNA N=5, 1e-8, mean gradients": ("gradient", _PAPER),
    "best RNA": ("gradient", "rna"),
    "chosen": ("gradient", "chosen"),
}
Curves = dict[str, dict[int, float | None]]


def measure(folder: Path, seed: int, epochs: int) -> Curves:
    """Test error in percent at every epoch, of every column, for one seed."""
    run = folder / f"seed{seed}"
    shutil.rmtree(run, ignore_errors=True)
    script = Path(train_digits.__file__)
    command = [sys.executable, str(script), str(run), "--epochs", str(epochs), "--seed", str(seed)]
    subprocess.run(command, check=True, capture_output=True)
    evaluator = f"{script.with_name('evaluate_digits.py')}:evaluate"
    curves: Curves = {}
    for form in ("gradient", "difference"):
        output = run / form
        subprocess.run(
            [
                *(sys.executable, "-m", "rna_watch", "once", str(run), "--output", str(output), "--engine", "inline"),
                *("--evaluator", evaluator, "--metric", "error", "--residuals", form, "--keep", "1"),
                *_AS_THE_PAPER,
            ],
            check=True,
            capture_output=True,
        )
        found = compare(replay(log.read(output / ".rna-watch" / "journal.jsonl")), metric="test_error")
        for name, (wanted, key) in _COLUMNS.items():
            if wanted == form:
                curves[name] = dict(found.curve(key))
    return curves


def epochs_to(curve: dict[int, float | None], level: float) -> int | None:
    """The first epoch at or below a level."""
    return next((epoch for epoch, value in sorted(curve.items()) if value is not None and value <= level), None)


def show(options: Options) -> None:
    """Run all seeds, print the tables, and keep the numbers as JSON if a file is named."""
    seeds, phases = options.seeds, _PHASES[options.small]
    epochs = max(phase[-1] for phase in phases.values())
    begun = time.perf_counter()
    runs = [measure(options.folder / "digits", seed, epochs) for seed in range(seeds)]
    seconds = time.perf_counter() - begun
    print(
        f"\ndigits, {seeds} seeds, {epochs} epochs, {seconds:.0f} s; test error in percent on 400 images that chose nothing"
    )
    print(
        "mean over epochs of the phase, then over seeds ± standard error; in brackets the paired difference to the best"
    )
    print("plain average ± its standard error (negative: better)")
    print(f"{'':<32}" + "".join(f"{f'{name} ({r[0]}-{r[-1]})':>30}" for name, r in phases.items()))
    table: dict[str, dict[str, object]] = {}
    for column in _COLUMNS:
        cells, table[column] = [], {}
        for phase, span in phases.items():
            means = [_mean(run[column], span) for run in runs]
            rivals = [_mean(run["best plain average"], span) for run in runs]
            paired = [mine - other for mine, other in zip(means, rivals, strict=True)]
            table[column][phase] = {"seeds": means, "mean": statistics.fmean(means), "standard_error": _error(means)}
            cell = f"{statistics.fmean(means):.2f} ± {_error(means):.2f}"
            cells.append(f"{cell} [{statistics.fmean(paired):+.2f} ± {_error(paired):.2f}]")
        print(f"{column:<32}" + "".join(f"{cell:>30}" for cell in cells))
    print("\nfirst epoch at or below a test error, by seed (- never)")
    for column in _COLUMNS:
        reached = {level: [epochs_to(run[column], level) for run in runs] for level in LEVELS}
        table[column]["epochs_to"] = {f"{level:g}": values for level, values in reached.items()}
        shown = "   ".join(
            f"{level:g} %: " + " ".join("-" if value is None else str(value) for value in values)
            for level, values in reached.items()
        )
        print(f"{column:<32}{shown}")
    if options.record is not None:
        settings = {
            "seeds": seeds,
            "epochs": epochs,
            "seconds": round(seconds),
            "phases": {k: [r[0], r[-1]] for k, r in phases.items()},
        }
        record = options.record / "digits.json"
        record.write_text(json.dumps({"settings": settings, "results": table}, indent=1) + "\n")


def _mean(curve: dict[int, float | None], epochs: range) -> float:
    values = [curve.get(epoch) for epoch in epochs]
    return statistics.fmean(value for value in values if value is not None)


def _error(values: list[float]) -> float:
    return statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
