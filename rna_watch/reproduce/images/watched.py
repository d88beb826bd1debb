"""One run of a network: trained in a process of its own, while a daemon watches its checkpoints and evaluates them."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from rna_watch.acceleration.methods import AVERAGE, RNA
from rna_watch.comparison.comparison import CHOSEN, compare
from rna_watch.comparison.members import members_of
from rna_watch.daemon import background
from rna_watch.errors import NothingToDo, RnaWatchError
from rna_watch.journal.run_registry import resolve
from rna_watch.journal.status import load, status_of
from rna_watch.reproduce import machine
from rna_watch.reproduce.experiment import Part
from rna_watch.reproduce.images import judge, origin, spec
from rna_watch.reproduce.images.training import CURVE, EPOCHS, STATE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from rna_watch.comparison.comparison import Comparison
    from rna_watch.comparison.members import Member
    from rna_watch.journal.replay import Checkpoint, RunState
    from rna_watch.journal.run_paths import RunPaths
    from rna_watch.reproduce.experiment import Settings
    from rna_watch.reproduce.images.spec import RunSpec

# longer than any evaluation may take: without progress for so long, something is wrong
_STUCK_S = 7200.0
# larger checkpoints of a finished run are removed, in all: their models were evaluated
_LARGE_BYTES = 2**30
# the members that the tables show: averages of 3, 5 and 10, exponential ones and RNA at 5 and 10, RNA at two lambdas
DAEMON: dict[str, Any] = {
    "engine": "inline",  # the former name of `local`: finished runs are known by these very words
    "workers": 1,
    "window": 10,
    "methods": ["average", "ema", "rna"],
    "regularizations": [1e-8, 1e-2],
    "metric": judge.HELD_OUT,
    "mode": "min",
    "lr_saved": "before",
    "learning_rate_jump": 1e9,  # the paper's schedule ends with a jump, and its RNA goes on over it
    "max_candidates": 9,
    "keep": 1,
    "evaluation_timeout": 3600.0,
    "optimizer_state": "drop",
}
# settings that came later, as they were when the runs above were made
_SINCE: dict[str, Any] = {"ema_decays": [0.7]}


def train(run: RunSpec, folder: Path, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """Train a run to its end, or continue it; returns its curve, a row for each epoch.

    Args:
        run: what to train.
        folder: of the run.
        say: called with a line for every epoch.

    Raises:
        RnaWatchError: the training failed.
    """
    spec.write(run, folder)
    if not (folder / CURVE).exists():
        with (folder / "training.log").open("ab") as log:
            child = subprocess.Popen(
                [sys.executable, "-m", "rna_watch.reproduce.images.training", str(folder)],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
            )
            try:
                assert child.stdout is not None
                for line in child.stdout:
                    say(f"{run.key}: {line.strip()}")
            except BaseException:
                os.killpg(child.pid, signal.SIGTERM)  # with the processes that read images for it
                raise
            finally:
                code = child.wait()
        if code != 0:
            said = (folder / "training.log").read_text(errors="replace").strip()[-1000:]
            raise RnaWatchError(f"the training {run.key} ended with status {code}: {said}")
    curve: list[dict[str, Any]] = json.loads((folder / CURVE).read_text())
    return curve


def part(run: RunSpec, key: str, settings: Settings, digests: Mapping[str, str], *, watched: bool) -> Part:
    """A run as a part of an experiment.

    Args:
        run: what to train.
        key: of the part; the name of the run's folder.
        settings: where runs are kept, and what is called with a line for every epoch.
        digests: of the data of the runs, by dataset.
        watched: whether the daemon watches it.
    """

    def train_it(_: Mapping[str, Any]) -> dict[str, Any]:
        origin.keep(digests, settings)
        folder = settings.work / key
        found = train_watched(run, folder, settings.say) if watched else {"curve": train(run, folder, settings.say)}
        return {"device": machine.device_name(), **found}

    return Part(key=key, run=train_it, identity={"run": run.stated()} | ({"daemon": DAEMON} if watched else {}))


def train_watched(run: RunSpec, folder: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """Train a run while the daemon watches; returns the training's `curve`, and what the `daemon` found.

    The checkpoints of a finished run stay, unless they are large. A run is trained again only if they are needed and gone.

    Args:
        run: what to train.
        folder: of the run.
        say: called with a line for every epoch.

    Raises:
        RnaWatchError: the training or the daemon failed.
    """
    spec.write(run, folder)
    epochs = folder / EPOCHS
    epochs.mkdir(exist_ok=True)
    where = resolve(epochs, None)
    settings, text = (
        folder / "daemon.yaml",
        json.dumps({**DAEMON, **_SINCE, "device": machine.device()}, indent=1),
    )  # JSON is YAML
    if settings.exists() and settings.read_text() != text:
        _forget(folder, where)
    (folder / "evaluator.py").write_text(judge.EVALUATOR)
    settings.write_text(text)
    if not status_of(where).alive:
        evaluator = f"{folder / 'evaluator.py'}:evaluate"
        background.start(where, [str(epochs), "--config", str(settings), "--evaluator", evaluator])
    try:
        curve = train(run, folder, say)
        background.catch_up(where, run.epochs, stuck_s=_STUCK_S, say=lambda text: say(f"{run.key}: {text}"))
    finally:
        with contextlib.suppress(NothingToDo):
            background.stop(where)
    state, _ = load(where)
    daemon = found(compare(state, metric=judge.TEST), state)
    lacking = [row["epoch"] for row in curve if row["epoch"] not in daemon["epochs"]]
    if lacking:
        raise RnaWatchError(f"{run.key}: the daemon judged no model of epoch {lacking[0]}; see {where.log}")
    checkpoints = list(epochs.glob("epoch_*.pt"))
    if sum(path.stat().st_size for path in checkpoints) > _LARGE_BYTES:
        for path in checkpoints:
            path.unlink()
    return {"curve": curve, "daemon": daemon}


def _forget(folder: Path, where: RunPaths) -> None:
    """Remove what a daemon of other settings found; remove the training too, if its checkpoints are gone."""
    with contextlib.suppress(NothingToDo):
        background.stop(where)  # left behind by a command that was killed
    for made in (where.models, where.state):
        shutil.rmtree(made, ignore_errors=True)
    if (folder / CURVE).exists() and not any(where.run.glob("epoch_*.pt")):
        for name in (CURVE, STATE):
            (folder / name).unlink(missing_ok=True)


def found(comparison: Comparison, state: RunState) -> dict[str, Any]:
    """The findings of a run's journal by epoch: test error of each kind and recipe, which member it was, and weights.

    `values[key][i]` belongs to `epochs[i]`, and is None if there was none. A kind's member (`picked`) is the one with the
    lowest held-out error. `uniform` is the best uniform average, while `average` may be an exponential one. `weights` are
    those of RNA with the smallest lambda, for comparison with the training's own.
    """
    rows = comparison.rows
    keys = [*comparison.kinds, CHOSEN, *comparison.members]
    uniform = [_best_uniform(state.checkpoints[row.checkpoint]) for row in rows]
    return {
        "epochs": [row.step for row in rows],
        "values": {
            **{key: [_rounded(row.value(key)) for row in rows] for key in keys},
            "uniform": [_rounded(member.metrics.get(judge.TEST)) if member else None for member in uniform],
        },
        "picked": {
            key: [row.points[key].candidate if key in row.points else None for row in rows]
            for key in (*comparison.kinds, CHOSEN)
        },
        "recipes": list(comparison.members),
        "residuals": sorted({c.searched.residuals for c in state.checkpoints.values() if c.searched}),
        "weights": {str(c.step): weights for c in state.checkpoints.values() if (weights := _weights(c))},
    }


def _best_uniform(checkpoint: Checkpoint) -> Member | None:
    """The uniform average with the lowest held-out error, or None."""
    members = [m for m in members_of(checkpoint).values() if m.method == AVERAGE and judge.HELD_OUT in m.metrics]
    return min(members, key=lambda member: member.metrics[judge.HELD_OUT], default=None)


def _weights(checkpoint: Checkpoint) -> dict[str, list[float]]:
    """The weights of every RNA member with the smallest lambda, by name."""
    candidates = checkpoint.searched.candidates if checkpoint.searched else []
    smallest = min(DAEMON["regularizations"])
    return {c["name"]: list(c["weights"]) for c in candidates if c["method"] == RNA and c["regularization"] == smallest}


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
