"""The demo: a real training process, first alone, then watched; at the end, the gain and its cost."""

from __future__ import annotations

import contextlib
import hashlib
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from rna_watch import config
from rna_watch.comparison.comparison import compare
from rna_watch.comparison.tables import render
from rna_watch.daemon import background
from rna_watch.dashboard.live import watch
from rna_watch.dashboard.terminal import PlainConsole
from rna_watch.errors import NothingToDo, RnaWatchError, UsageError
from rna_watch.journal.run_registry import resolve
from rna_watch.journal.status import load

if TYPE_CHECKING:
    from rich.console import Console

    from rna_watch.journal.run_paths import RunPaths

_SCRIPTS = Path(__file__).parents[1] / "demo"
_REPORTED = "test_error"
_LEVELS = (20.0, 10.0, 5.0, 3.0)
_STUCK_S = 120.0


def run(folder: Path | None, *, epochs: int, engine: str) -> None:
    """Train twice (alone, then watched), show the dashboard, and compare the gain of each method.

    Args:
        folder: where to work, made or empty; None: a new temporary folder.
        epochs: epochs of each training.
        engine: the daemon's engine.

    Raises:
        UsageError: the folder is not empty, or scikit-learn is missing.
        RnaWatchError: the training or the daemon failed.
    """
    _need_scikit_learn()
    console = PlainConsole()
    base = folder or Path(tempfile.mkdtemp(prefix="rna-watch-demo-"))
    if base.is_dir() and any(base.iterdir()):
        raise UsageError(f"{base} is not empty; name a new folder with --dir")
    alone, run_dir = base / "alone", base / "run"
    console.print(f"[1/3] training alone: {epochs} epochs of a small convolutional network on digits, in {alone}")
    seconds_alone = _train(alone, epochs)
    console.print(f"      {seconds_alone:.1f} s")
    run_dir.mkdir(parents=True)
    console.print(f"[2/3] the same training in {run_dir}, watched from its first epoch")
    where = resolve(run_dir, None)
    background.start(where, _arguments(run_dir, engine))
    try:
        seconds_watched = _watched(where, run_dir, epochs, console)
    finally:
        with contextlib.suppress(NothingToDo):
            background.stop(where)
    state, _ = load(where)
    console.print("[3/3] what it gained, on 400 images that chose nothing")
    colour = console.color_system is not None and not console.no_color
    console.print(render(compare(state, metric=_REPORTED, given=_LEVELS), width=console.width, colour=colour))
    same = _digests(alone) == _digests(run_dir)
    console.print(
        f"training process: {seconds_alone:.1f} s alone, {seconds_watched:.1f} s watched "
        f"({100 * (seconds_watched / seconds_alone - 1):+.0f} %; two runs on a shared machine differ by themselves); "
        f"its {len(_digests(run_dir))} checkpoints are {'bitwise the same' if same else 'NOT the same'} both times"
    )
    console.print(f"models: {where.models}   look again: rna-watch dashboard {run_dir}")


def _need_scikit_learn() -> None:
    try:
        import sklearn.datasets  # noqa: F401 - only its presence matters here
    except ImportError as error:
        raise UsageError("the demo needs scikit-learn for its images: pip install 'rna-watch[demo]'") from error


def _arguments(run_dir: Path, engine: str) -> list[str]:
    evaluator = f"{_SCRIPTS / 'evaluate_digits.py'}:evaluate"
    settings = config.load(None, {"evaluator": evaluator, "metric": "error", "engine": engine, "workers": 1, "keep": 3})
    values = settings.model_dump(exclude_defaults=True)
    return [
        str(run_dir),
        *(part for key, value in values.items() for part in (f"--{key.replace('_', '-')}", str(value))),
    ]


def _train(folder: Path, epochs: int) -> float:
    """Run the training script to its end; returns its own seconds."""
    command = [sys.executable, str(_SCRIPTS / "train_digits.py"), str(folder), "--epochs", str(epochs)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise RnaWatchError(f"the training script failed: {result.stderr.strip()[-500:]}")
    return float(result.stdout.rpartition("seconds ")[2])


def _watched(where: RunPaths, run_dir: Path, epochs: int, console: Console) -> float:
    """Train while the daemon watches and the dashboard shows it; returns the training's own seconds."""
    outcome: list[float | RnaWatchError] = []
    finished = threading.Event()

    def train_and_catch_up() -> None:
        try:
            outcome.append(_train(run_dir, epochs))
            background.catch_up(where, epochs, stuck_s=_STUCK_S)
        except RnaWatchError as error:
            outcome.append(error)
        finally:
            finished.set()

    worker = threading.Thread(target=train_and_catch_up, daemon=True)
    worker.start()
    watch(where, console=console, stop=finished)
    worker.join()
    for result in outcome:
        if isinstance(result, RnaWatchError):
            raise result
    assert isinstance(outcome[0], float)
    return outcome[0]


def _digests(folder: Path) -> list[str]:
    return [hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(folder.glob("*.pt"))]
