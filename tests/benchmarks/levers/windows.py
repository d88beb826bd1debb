"""The product on chosen windows of a run, in this process, with the evaluator in a child; and what it found."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rna_watch.acceleration.methods import METHODS
from rna_watch.config import RunConfig
from rna_watch.daemon.recorder import Recorder
from rna_watch.daemon.setup import evaluator_spec
from rna_watch.engine.local import LocalEngine
from rna_watch.journal.replay import DONE
from rna_watch.journal.run_paths import RunPaths
from rna_watch.watching import steps
from rna_watch.watching.scan import scan
from tests.benchmarks.levers import judge
from tests.benchmarks.levers.tasks import TRAININGS
from tests.daemon.in_process import assemble

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from rna_watch.journal.replay import Checkpoint

WANTED = ("average", "ema", "rna", "layered", "anneal")
_SETTINGS: dict[str, Any] = {
    "engine": "local",
    "workers": 1,
    "window": 5,
    "windows": (3, 5),
    "regularizations": (1e-8,),
    "ema_decays": (0.5, 0.7, 0.85),
    "methods": tuple(name for name in WANTED if name in METHODS),
    "normalization": "re-estimate",
    "anneal_seconds": 3600.0,
    "max_candidates": 12,
    "learning_rate_jump": math.inf,
    "mode": "min",
    "keep": 1,
    "evaluation_timeout": 3600.0,
    "optimizer_state": "drop",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A model of a window: its name and method, whether it was chosen, and the value of each example by part and kind.

    `seconds` of CPU and `steps` of the training loss are what it took to make it (fits and statistics, no evaluation).
    """

    name: str
    method: str
    chosen: bool
    values: dict[str, np.ndarray]
    seconds: float
    steps: int

    def mean(self, kind: str) -> float:
        """The mean over the examples of `held_out_loss`, `test_error` or the like."""
        return float(self.values[kind].mean())


def judge_windows(
    name: str, trained: Path, run: Path, folder: Path, wanted: Sequence[int], *, small: bool
) -> dict[int, list[Model]]:
    """The models of the windows that end at the wanted steps, by step; what is done is not done again.

    Args:
        name: of the training.
        trained: the run's folder.
        run: the folder of its checkpoints.
        folder: beside the run's, where its models are judged.
        wanted: the steps.
        small: to see that everything runs.
    """
    training = TRAININGS[name]
    metric = "loss" if training.unit.startswith("test loss") else "error"
    settings = {**_SETTINGS, "metric": metric, "evaluator": f"{folder / 'evaluator.py'}:evaluate", **training.settings}
    config = RunConfig.model_validate({key: settings[key] for key in settings if key in RunConfig.model_fields})
    stated = {"training": name, "trained": trained.name, "small": small, "settings": config.model_dump(mode="json")}
    kept = folder / judge.RUN
    if folder.exists() and not (kept.exists() and json.loads(kept.read_text()) == stated):
        shutil.rmtree(folder)
    folder.mkdir(exist_ok=True)
    kept.write_text(json.dumps(stated, indent=1) + "\n")
    (folder / "evaluator.py").write_text(judge.EVALUATOR)
    paths = RunPaths(run=run, output=folder)
    paths.create()
    recorder = Recorder(paths.journal)
    engine = LocalEngine(1)
    spec = evaluator_spec(config, paths.scratch)
    assert spec is not None
    try:
        admission, pipeline = assemble(config, paths, recorder, engine, [engine.evaluator(spec)])
        found, _ = scan(run, exclude=(paths.models, paths.state))
        for each in sorted(found, key=lambda each: steps.natural_key(each.name)):
            assert each.identity is not None
            if each.name not in recorder.state.checkpoints:
                admission.consider(each.name, each.identity)
        for checkpoint in recorder.checkpoints():
            if checkpoint.step in wanted and checkpoint.stage not in DONE:
                pipeline.process(checkpoint.name)
                print(f"{folder.name}: the window that ends with {checkpoint.name} was worked on", flush=True)
    finally:
        engine.close()
        recorder.close()
    return {each.step: _models(each, folder) for each in recorder.checkpoints() if each.step in wanted}


def _models(checkpoint: Checkpoint, folder: Path) -> list[Model]:
    """The judged models of a window, in the order in which they were made."""
    numbers = {name: int(metrics[judge.RECORD]) for name, metrics in checkpoint.evaluations.items()}
    found = []
    for name, number in sorted(numbers.items(), key=lambda item: item[1]):
        values = dict(np.load(folder / judge.VALUES / f"{number:05d}.npz"))
        (began, _), made = values.pop("cpu"), int(values.pop("steps"))
        before, made_before = began, made  # what is judged first was made by the training
        if number - 1 in numbers.values():
            earlier = np.load(folder / judge.VALUES / f"{number - 1:05d}.npz")
            before, made_before = earlier["cpu"][1], int(earlier["steps"])
        found.append(
            Model(
                name=name,
                method=checkpoint.recipes[name].method,
                chosen=checkpoint.chosen is not None and checkpoint.chosen.candidate == name,
                values=values,
                seconds=began - before,
                steps=made - made_before,
            )
        )
    return found
