"""What a benchmark is told: where it writes, how often it runs, and whether it runs small."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How a benchmark runs.

    `folder` is where it writes; `rounds` how often all contenders run in turn; `seeds` the trainings of `digits`, and the most
    of `levers-...`; `trainer` the training of `beside`; `record` a folder for results as JSON; `small`: the same code on tiny
    shapes, to see that it runs; `parameters` those of the model of
    `large`; `before` the code of another version, for `arithmetic`.
    """

    folder: Path
    rounds: int
    seeds: int
    trainer: str
    record: Path | None
    small: bool
    parameters: int | None = None
    before: Path | None = None
