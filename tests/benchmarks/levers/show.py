"""The measurements: trains or continues the runs, judges their windows, prints the table, and keeps the numbers as JSON."""

from __future__ import annotations

import json
import math
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

from rna_watch.daemon.setup import usable_cores
from tests.benchmarks.levers import tables, train_text
from tests.benchmarks.levers.tables import Window
from tests.benchmarks.levers.tasks import TRAININGS
from tests.benchmarks.levers.windows import judge_windows

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tests.benchmarks.levers.tasks import Training
    from tests.benchmarks.options import Options


def show(name: str, options: Options) -> None:
    """One training of `TRAININGS`: everything lies in --dir/levers/NAME, and what is there is not done again."""
    training = TRAININGS[name]
    folder = options.folder / "levers" / name
    phases = training.small if options.small else training.phases
    if not options.small and (lacks := training.lacks()):
        print(f"\n{training.title}: not measured, {lacks}")
        return
    runs = [
        (schedule, seed)
        for schedule in dict.fromkeys(schedule for schedule, _ in phases.values())
        for seed in range(min(options.seeds, training.seeds))
    ]
    begun = time.perf_counter()
    work = [partial(_windows, name, folder, schedule, seed, options.small) for schedule, seed in runs]
    if len(work) == 1:
        windows = work[0]()
    else:
        with ProcessPoolExecutor(usable_cores(), mp_context=multiprocessing.get_context("spawn")) as pool:
            windows = [each for found in pool.map(_call, work) for each in found]
    seconds = time.perf_counter() - begun
    kinds = ("test_error", "test_loss") if training.unit.startswith("test error") else ("test_loss",)
    print(f"\n{training.title}; {len(runs)} runs, {len(windows)} windows, {seconds:.0f} s; test examples chose nothing")
    print(
        "mean over a phase's windows, then over seeds ± standard error; in brackets against the best average, paired,"
    )
    print(
        "which stands for a method that gave no model; cost: medians over windows, of all models of a method, before judging"
    )
    words = {row: _cost(training, windows, method) for row, method in _COSTLY.items()}
    for kind in kinds:
        unit = training.unit if kind == kinds[0] else "test loss, nats"
        print()
        print(tables.markdown(f"{training.title}: {unit}", windows, list(phases), kind, words), flush=True)
    if options.record is not None:
        record = options.record / f"levers-{name}.json"
        record.write_text(json.dumps(_recorded(name, windows, seconds), indent=1) + "\n")


_COSTLY = {tables.BASE: "average", "RNA": "rna", "layered": "layered", "anneal": "anneal"}


def _call(work: partial[list[Window]]) -> list[Window]:
    return work()


def _windows(name: str, folder: Path, schedule: str, seed: int, small: bool) -> list[Window]:
    """Train a run, and judge the windows of all its phases."""
    training = TRAININGS[name]
    phases = training.small if small else training.phases
    trained = folder / "-".join(filter(None, (schedule, f"seed{seed}")))
    trained.mkdir(parents=True, exist_ok=True)
    checkpoints = training.train(trained, seed, schedule, small)
    wanted = {step: phase for phase, (of, steps) in phases.items() if of == schedule for step in steps}
    judged = folder / f"{trained.name}-judged"
    found = judge_windows(name, trained, checkpoints, judged, list(wanted), small=small)
    return [Window(phase=wanted[step], seed=seed, step=step, models=models) for step, models in found.items()]


def _cost(training: Training, windows: Sequence[Window], method: str) -> str:
    """What all models of a method took in a window."""
    seconds, steps = tables.cost(windows, method)
    if math.isnan(seconds):
        return ""
    if not steps:
        return f"{seconds:.1f} s"
    examples = steps * training.loss_batch
    epochs = f" = {examples / training.epoch:.2f} epochs" if training.epoch else ""
    return f"{seconds:.1f} s; {steps:.0f} steps of {training.loss_batch}{epochs}"


def _recorded(name: str, windows: Sequence[Window], seconds: float) -> dict[str, Any]:
    """The means of every model, and what each row picks; the values of each example stay in the folder."""
    about = {"text": train_text.digest()} if name == "text" else {}
    return {
        "settings": {"training": TRAININGS[name].title, "seconds": round(seconds), **about},
        "windows": [
            {
                "phase": each.phase,
                "seed": each.seed,
                "step": each.step,
                "picked": {row: model.name for row in tables.ROWS if (model := each.picked(row))},
                "models": {
                    model.name: {kind: round(model.mean(kind), 5) for kind in model.values}
                    | {"seconds": round(model.seconds, 2), "steps": model.steps}
                    for model in each.models
                },
            }
            for each in windows
        ],
    }
