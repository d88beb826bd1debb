"""What the records of a folder say: for every run the models of its judged epochs, and the choice among them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from rna_watch.reproduce.cuda import records
from rna_watch.reproduce.cuda.run import LAST, OWN

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    import numpy.typing as npt

    from rna_watch.reproduce.cuda.records import Record

    Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A judged model: its record, and where it is another one's twin, that one's record as `judged`."""

    name: str
    statistics: str
    own: Record
    judged: Record

    def value(self, quantity: str, part: str) -> float:
        """The mean `error` in percent or `loss` on the part `held_out` or `test`; NaN as infinity, which nobody chooses."""
        value = float(self.judged.header[quantity][part])
        return math.inf if math.isnan(value) else value

    def wrong(self, part: str) -> Float64 | None:
        """The error in percent of each image `(n,)`, 0 or 100; None if there was no room for them."""
        packed = self.judged.arrays.get(f"{part}_wrong")
        if packed is None:
            return None
        return np.unpackbits(packed, count=self.judged.header["images"][part]).astype(np.float64) * 100.0


@dataclass(slots=True, kw_only=True)
class RunFound:
    """A run: its settings, the header of each epoch, its models by epoch, and whether it came to its end."""

    spec: dict[str, Any]
    epochs: dict[int, dict[str, Any]] = field(default_factory=dict)
    models: dict[int, list[Model]] = field(default_factory=dict)
    finished: bool = False
    timing: dict[str, Any] = field(default_factory=dict)

    @property
    def reached(self) -> int:
        """The last epoch of which all is known."""
        return max(self.epochs, default=0)

    def chosen(self, epoch: int, kind: Callable[[Model], bool]) -> Model | None:
        """The model of a kind with the lowest held-out loss at a judged epoch; None if there is none."""
        found = [model for model in self.models.get(epoch, ()) if kind(model)]
        return min(found, key=lambda model: model.value("loss", "held_out"), default=None)

    def curve(self, kind: Callable[[Model], bool]) -> list[float]:
        """The test error of the choice of a kind by epoch; that of the last judged epoch stands where none was judged."""
        values: list[float] = []
        for epoch in range(1, self.reached + 1):
            model = self.chosen(epoch, kind) or self.chosen(epoch, lambda each: each.statistics == OWN)
            values.append(model.value("error", "test") if model else values[-1] if values else math.inf)
        return values


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The runs by network and optimizer, the networks that were meant to be run, the last attempt's notes, and devices."""

    runs: dict[tuple[str, str], RunFound]
    networks: tuple[str, ...]
    notes: dict[str, str]
    devices: tuple[str, ...]


def read(folder: Path) -> Found:
    """The findings of a folder of records. Epochs that were trained again count as they were trained last."""
    runs: dict[str, RunFound] = {}
    networks: dict[str, None] = {}
    notes: dict[str, str] = {}
    devices: dict[str, None] = {}
    for writer in records.writers(folder):
        for record in records.read(folder, writer):
            header = record.header
            match header["kind"]:
                case "attempt":
                    networks |= dict.fromkeys(header["networks"])
                    devices[f"{header['device']}, torch {header['torch']}"] = None
                case "notes":
                    notes = header["notes"]
                case "timing":
                    runs.setdefault(header["run"], RunFound(spec={})).timing = header
                case _:
                    _add(runs, record)
    by_network = {(each.spec["network"], each.spec["optimizer"]): each for each in runs.values() if each.spec}
    return Found(runs=by_network, networks=tuple(networks), notes=notes, devices=tuple(devices))


def _add(runs: dict[str, RunFound], record: Record) -> None:
    header = record.header
    run = runs.setdefault(header["run"], RunFound(spec={}))
    match header["kind"]:
        case "begin":
            run.spec = header["spec"]
            for kept in (run.epochs, run.models):
                for epoch in [epoch for epoch in kept if epoch > header["epoch"]]:
                    del kept[epoch]
        case "model":
            models = run.models.setdefault(header["epoch"], [])
            twin = _named(models, header["same_as"]) if "same_as" in header else record
            models.append(Model(name=header["name"], statistics=header["statistics"], own=record, judged=twin))
        case "epoch":
            run.epochs[header["epoch"]] = header
        case "end":
            run.finished = True


def _named(models: Iterable[Model], which: list[str]) -> Record:
    return next(model.judged for model in models if [model.name, model.statistics] == which)


def is_last(model: Model) -> bool:
    """Whether it is the training's own network."""
    return (model.name, model.statistics) == (LAST, OWN)
