"""The Python API, for notebooks and scripts: one window by hand, a run that is watched, a run that is looked at.

import rna_watch

model = rna_watch.extrapolate(["epoch_8.pt", "epoch_9.pt", "epoch_10.pt"]).state_dict()

with rna_watch.watch("runs/a", evaluator="eval.py:evaluate") as run:
    train()
network.load_state_dict(run.best.state_dict())

run = rna_watch.open_run("runs/a")
[(each.step, each.metrics["original"]["error"]) for each in run.checkpoints]
"""

from __future__ import annotations

import html
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rna_watch.config import load
from rna_watch.errors import NothingToDo, RnaWatchError
from rna_watch.formats.probe import probe
from rna_watch.integrations.side_car import SideCar, SideCarFailed
from rna_watch.journal.follow import Follower
from rna_watch.journal.quantities import number
from rna_watch.journal.run_registry import resolve
from rna_watch.journal.status import status_of
from rna_watch.layout import artifacts, bounded_json

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Mapping, Sequence

    import torch

    from rna_watch.journal.replay import Checkpoint as Recorded
    from rna_watch.journal.replay import RunState
    from rna_watch.journal.run_paths import RunPaths

    StrPath = str | os.PathLike[str]

Metrics = dict[str, float]
_POLL_S = 0.2
_SHOWN = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A model that was written: its path, and its manifest (weights, method, metrics, inputs)."""

    path: Path
    manifest: Mapping[str, Any]
    _kept: object = field(default=None, repr=False, compare=False)  # a temporary folder lives as long as this

    @property
    def weights(self) -> list[float]:
        """The weight of each input, oldest first; they sum to one."""
        return list(self.manifest.get("weights") or [])

    @property
    def metrics(self) -> Mapping[str, Metrics | None]:
        """The metrics of `original`, `average` and `chosen`, each by name, None where nothing was evaluated."""
        return dict(self.manifest.get("metrics") or {})

    def state_dict(self, device: str = "cpu") -> dict[str, torch.Tensor]:
        """The model under the keys of the plain network (no `module.`), tied tensors tied.

        Args:
            device: the torch device of the tensors.

        Raises:
            RnaWatchError: it is gone, or cannot be read.
        """
        return _tensors(self.path, _source(self.path), device)

    def _repr_html_(self) -> str:
        method = self.manifest.get("candidate") or self.manifest.get("method") or ""
        rows = [
            [name, *(_shown((self.metrics.get(who) or {}).get(name)) for who in _WHO)]
            for name in _names([self.metrics])
        ]
        return _table(f"{self.path}: {method}", ["metric", *_WHO], rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A checkpoint of a run, as the journal tells; `model` is what was made of it, None if nothing was or it is gone.

    `state` and `reason` are those of `rna-watch status`; `metrics` has `original`, `average` and `chosen`.
    """

    name: str
    path: Path
    step: int | None
    series: str
    state: str
    reason: str
    metrics: Mapping[str, Metrics | None]
    better_than_original: bool | None
    significant: bool | None
    model: Model | None

    def state_dict(self, device: str = "cpu") -> dict[str, torch.Tensor]:
        """The checkpoint's own tensors, under the keys of the plain network.

        Raises:
            RnaWatchError: the training removed it, or it cannot be read.
        """
        return _tensors(self.path, None, device)


_WHO = ("original", "average", "chosen")


class Run:
    """A run that is watched, or was; what it says is read anew from the journal at each look, and needs no process.

    Args:
        paths: where it lies.
    """

    def __init__(self, paths: RunPaths) -> None:
        self._paths = paths
        self._follower = Follower(paths.journal)

    def _state(self) -> RunState:
        for _ in self._follower.new():
            pass
        return self._follower.state

    @property
    def path(self) -> Path:
        """The run directory."""
        return self._paths.run

    @property
    def watched(self) -> bool:
        """Whether a process watches it at the moment."""
        return status_of(self._paths).alive

    @property
    def problems(self) -> list[str]:
        """What a person should know, each with what to do about it."""
        return [f"{each.what}; {each.remedy}" for each in self._state().problems.values()]

    @property
    def checkpoints(self) -> list[Checkpoint]:
        """All checkpoints that were taken, in the order of their steps."""
        state = self._state()
        taken = [each for each in state.checkpoints.values() if each.admitted]
        taken.sort(key=lambda each: (state.series().index(each.series), each.step or 0))
        return [self._checkpoint(each) for each in taken]

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """A row for each checkpoint that was evaluated: `checkpoint`, `step`, `series`, and `original/error`, ... by name."""
        return [
            {"checkpoint": each.name, "step": each.step, "series": each.series}
            | {f"{who}/{name}": value for who in _WHO for name, value in (each.metrics.get(who) or {}).items()}
            for each in self.checkpoints
            if any(each.metrics.values())
        ]

    @property
    def best(self) -> Model | None:
        """The model that beats every original and every model before it; None if none does, or it is gone."""
        best = self._state().best
        return self._model(best.output) if best is not None else None

    @property
    def latest(self) -> Model | None:
        """The model of the newest checkpoint that has one."""
        outputs = [each for each in self._state().outputs if self._paths.there(each)]
        return self._model(outputs[-1]) if outputs else None

    def state_dict(self, device: str = "cpu") -> dict[str, torch.Tensor]:
        """The tensors of the best model.

        Raises:
            NothingToDo: there is none.
            RnaWatchError: it cannot be read.
        """
        best = self.best
        if best is None:
            raise NothingToDo(f"{self.path} has no best model: `latest` is the newest, `checkpoints` are the originals")
        return best.state_dict(device)

    def wait(self, seconds: float | None = None) -> None:
        """Wait until nothing watches the run any more.

        Raises:
            TimeoutError: that takes longer than `seconds`.
        """
        until = None if seconds is None else time.monotonic() + seconds
        while self.watched:
            if until is not None and time.monotonic() > until:
                raise TimeoutError(f"{self.path} is still watched after {seconds:g} s")
            time.sleep(_POLL_S)

    def _model(self, output: str) -> Model | None:
        path = self._paths.models / output
        try:
            return (
                Model(path=path, manifest=bounded_json.read(artifacts.manifest_path(path))) if path.exists() else None
            )
        except (OSError, ValueError):
            return None

    def _checkpoint(self, each: Recorded) -> Checkpoint:
        assert each.admitted is not None
        chosen = each.chosen
        return Checkpoint(
            name=each.name,
            path=self._paths.run / each.admitted.path,
            step=each.step,
            series=each.series,
            state=str(each.stage),
            reason=each.reason,
            metrics=chosen.metrics if chosen else {"original": each.evaluations.get("last")},
            better_than_original=chosen.better_than_original if chosen else None,
            significant=chosen.significant if chosen else None,
            model=self._model(each.output) if each.output else None,
        )

    def __repr__(self) -> str:
        return f"<rna_watch run {self.path}: {len(self.checkpoints)} checkpoints>"

    def _repr_html_(self) -> str:
        found = self.checkpoints
        names = _names([each.metrics for each in found])[:3]
        head = ["checkpoint", "step", "state", *(f"{who} {name}" for name in names for who in _WHO)]
        rows = [
            [
                each.name,
                str(each.step),
                each.state,
                *(_shown((each.metrics.get(who) or {}).get(name)) for name in names for who in _WHO),
            ]
            for each in found[-_SHOWN:]
        ]
        best = self.best
        watched = "watched" if self.watched else "not watched"
        more = f", the newest {_SHOWN} of {len(found)} checkpoints" if len(found) > _SHOWN else ""
        said = [f"{self.path} ({watched}{more})", *([f"best: {best.path}"] if best else []), *self.problems]
        return _table("\n".join(said), head, rows)


def open_run(run_dir: StrPath, output: StrPath | None = None) -> Run:
    """A run that is watched, or was.

    Args:
        run_dir: the run directory.
        output: where its models and its state lie, if elsewhere and not remembered.

    Raises:
        UsageError: there is no such folder.
        NothingToDo: it was never watched.
    """
    paths = resolve(Path(run_dir), None if output is None else str(output))
    if not paths.journal.exists():
        raise NothingToDo(
            f"{paths.run} was never watched: `rna-watch start {run_dir}`, or rna_watch.watch({str(run_dir)!r})"
        )
    return Run(paths)


@contextmanager
def watch(run_dir: StrPath, *, wait: float | None = None, **settings: Any) -> Iterator[Run]:
    """Watch a run while the block runs; at its end everything that is there is done first.

    A process of its own does the work, which ends with this one, whatever ends that. Where the block raises, the work goes on
    in the background and is not waited for.

    Args:
        run_dir: the run directory; it need not exist yet.
        wait: seconds to wait at the end for what is left to do; None: as long as it takes.
        settings: those of `rna-watch start`, by the names that a configuration has: `evaluator="eval.py:evaluate"`, `window=10`.

    Yields:
        the run, as far as it got.

    Raises:
        UsageError: a setting is unknown or wrong.
        RnaWatchError: the run cannot be watched, and why.
        TimeoutError: it is not done after `wait` seconds; it goes on in the background.
    """
    load(None, settings)
    side_car = SideCar(run_dir, **settings)
    run = _Unopened(Path(run_dir), settings.get("output"))
    try:
        side_car.start()
        try:
            yield run
        finally:
            side_car.end()
    except SideCarFailed as error:
        raise RnaWatchError(str(error)) from error
    if Path(run_dir).exists():
        run.wait(wait)


class _Unopened(Run):
    """A run whose folder may not be there yet."""

    def __init__(self, run_dir: Path, output: str | None) -> None:
        self._of = run_dir, output

    def __getattr__(self, name: str) -> Any:
        if name not in {"_paths", "_follower"}:
            raise AttributeError(name)
        super().__init__(resolve(*self._of))  # UsageError, as long as the folder is not there
        return vars(self)[name]


def extrapolate(
    checkpoints: Sequence[StrPath],
    out: StrPath | None = None,
    *,
    method: str = "rna",
    window: int | None = None,
    regularization: float | None = None,
    force: bool = False,
    **settings: Any,
) -> Model:
    """Combine checkpoints into one model: one window, nothing is evaluated (Scieur et al. 2018, Algorithm 1).

    Args:
        checkpoints: at least three files or folders of one training, in any order; their steps order them.
        out: the model to write; without it, it lies in a temporary folder that goes with the result.
        method: of `rna-watch extrapolate --help`: rna, average, ema, ...
        window: N, to use the newest N + 1 checkpoints; None: all.
        regularization: lambda, 0 for none; None: the smallest >= 1e-8 that keeps the norm of the coefficients <= 3.
        force: replace `out` if it exists.
        settings: others, by the names that a configuration has, such as `ignore`, `source`, `residuals`.

    Raises:
        UsageError: too few checkpoints, `out` exists or is one of them, or a setting is wrong.
        RefusedCheckpoint: a file cannot be used, or the window cannot be extrapolated so.
    """
    from rna_watch.commands.extrapolate import Request, extrapolate

    request = Request(
        method=method, window=window, regularization=regularization, settings=load(None, settings), force=force
    )
    kept = None if out is not None else tempfile.TemporaryDirectory(prefix="rna-watch-")
    path = Path(out) if out is not None else Path(kept.name if kept else "") / Path(checkpoints[-1]).name
    manifest = extrapolate([Path(each) for each in checkpoints], path, request)
    return Model(path=path, manifest=manifest, _kept=kept)


def _source(path: Path) -> str | None:
    """Where the model lies in an output that is a file with other content, as its manifest says."""
    try:
        found = bounded_json.read(artifacts.manifest_path(path)).get("source")
    except (OSError, ValueError, AttributeError):
        return None
    return found if isinstance(found, str) and found else None


def _tensors(path: Path, source: str | None, device: str) -> dict[str, torch.Tensor]:
    from rna_watch.evaluation.materialize import on_device
    from rna_watch.window.combine import Combination

    try:
        layout = probe(str(path), source)
    except FileNotFoundError as error:
        raise RnaWatchError(f"{path} is gone") from error
    return on_device(Combination(layouts=(layout,), weights=(1.0,)), device)


def _names(metrics: Sequence[Mapping[str, Metrics | None]]) -> list[str]:
    return list(dict.fromkeys(name for each in metrics for values in each.values() for name in values or {}))


def _shown(value: float | None) -> str:
    return number(value, 4)


def _table(caption: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of HTML; every text is escaped."""

    def row(kind: str, cells: Sequence[str]) -> str:
        return "<tr>" + "".join(f"<{kind}>{html.escape(cell)}</{kind}>" for cell in cells) + "</tr>"

    lines = "<br>".join(html.escape(line) for line in caption.splitlines())
    body = "".join(row("td", cells) for cells in rows)
    return f"<table><caption>{lines}</caption><thead>{row('th', head)}</thead><tbody>{body}</tbody></table>"
