"""A run that saves ten times faster than it is evaluated: the real admission, pins and journal, with a clock of saves."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from rna_watch.config import RunConfig
from rna_watch.daemon.admission import Admission
from rna_watch.daemon.backlog import Backlog
from rna_watch.daemon.disk_reserve import DiskReserve
from rna_watch.daemon.pins import Pins
from rna_watch.daemon.publication import Publication
from rna_watch.daemon.rebuilt import Rebuilt
from rna_watch.daemon.recorder import Recorder
from rna_watch.daemon.second_pass import SecondPass
from rna_watch.daemon.sequences import Sequences
from rna_watch.journal import events as e
from rna_watch.journal.run_paths import RunPaths
from rna_watch.layout.identity import identify


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """What is held after one save: pinned steps, the step in work, and what the process uses."""

    step: int
    pinned: tuple[int, ...]
    in_work: int | None
    journal_bytes: int
    descriptors: int
    threads: int
    memory_bytes: int


class SlowEvaluator:
    """A run directory, and the daemon's parts on it; an evaluation takes as long as ten saves.

    Args:
        folder: the run directory.
        window: the setting `window`.
        kept: how many checkpoints the trainer keeps; 0: all.
        thins: whether checkpoints may be left out for lack of time.
    """

    def __init__(self, folder: Path, *, window: int, kept: int = 0, thins: bool = True) -> None:
        self.folder = folder
        self._kept = kept
        config = RunConfig(window=window, reserve=0)
        self.paths = RunPaths(run=folder, output=folder)
        self.paths.create()
        self.recorder = Recorder(self.paths.journal, ())
        self.sequences = Sequences(self.recorder)
        disk_reserve = DiskReserve(config, folder, self.recorder)
        self.pins = Pins(config, self.paths, self.recorder, disk_reserve, lambda: None)
        self.admission = Admission(
            config, self.recorder, self.sequences, self.pins, lambda: None, Rebuilt(self.recorder, self.paths)
        )
        self.backlog = Backlog(config, self.recorder, self.sequences, self.pins, disk_reserve, thins=thins)
        publication = Publication(config, self.paths, self.recorder)
        self._begin = partial(SecondPass, config, publication, self.recorder, self.sequences, self.pins)
        self.second = self._begin()
        self.in_work: str | None = None
        self.windows: dict[str, list[str]] = {}

    def begin_again(self) -> None:
        """What a new start knows of work that was done before: what the journal says."""
        self.second = self._begin()

    def write(self, step: int) -> None:
        """What the trainer does."""
        torch.save({"model": {"weight": torch.full((4,), float(step))}}, self.folder / f"step_{step}.pt")
        if self._kept and step > self._kept:
            (self.folder / f"step_{step - self._kept}.pt").unlink()

    def take(self, step: int) -> None:
        """What the thread that watches does then."""
        name = f"step_{step}.pt"
        self.admission.consider(name, identify(str(self.folder / name)))
        self.backlog.tidy()

    def save(self, step: int) -> None:
        """Both."""
        self.write(step)
        self.take(step)

    def work(self) -> str | None:
        """End the evaluation in work, and begin the next; returns what is in work then."""
        if self.in_work is not None:
            self.recorder.record(e.Finished(checkpoint=self.in_work, reason="evaluated"))
        name = self.backlog.next(1e9)
        if name is None and (name := self.second.next()) is not None:
            self.backlog.begin(name)
        self.in_work = name
        if name is not None:
            checkpoint = self.recorder.current(name)
            members = [*self.sequences.history(checkpoint, 3), checkpoint]
            self.windows[name] = [each.name for each in members if self.pins.layout(each) is not None]
        return name

    def held(self, step: int) -> Held:
        """What is held now."""
        in_work = self.recorder.checkpoint(self.in_work) if self.in_work else None
        status = Path("/proc/self/statm").read_text().split()
        return Held(
            step=step,
            pinned=tuple(c.step or 0 for c in self.recorder.checkpoints() if c.pinned),
            in_work=in_work.step if in_work else None,
            journal_bytes=self.paths.journal.stat().st_size,
            descriptors=len(os.listdir("/proc/self/fd")),
            threads=threading.active_count(),
            memory_bytes=int(status[1]) * os.sysconf("SC_PAGESIZE"),
        )

    def run(self, saves: int, ratio: int = 10) -> list[Held]:
        """Save so many checkpoints; one is evaluated in the time of `ratio` saves."""
        found = []
        for step in range(1, saves + 1):
            self.save(step)
            if step % ratio == 1:
                self.work()
            found.append(self.held(step))
        return found


def growth(values: list[int]) -> float:
    """The slope of the second half of a series, per save."""
    half = np.array(values[len(values) // 2 :], dtype=float)
    return float(np.polyfit(np.arange(len(half)), half, 1)[0])
