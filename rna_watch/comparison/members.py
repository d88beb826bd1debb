"""The members of a checkpoint's family as the journal tells them: what each is, and what the evaluator said of it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rna_watch.acceleration.methods import LAST

if TYPE_CHECKING:
    from rna_watch.journal.events import Metrics
    from rna_watch.journal.replay import Checkpoint

# `rna-5-1e-08`, `decay-sqrt-5`: stem, window, and what follows it
_NAME = re.compile(r"(?P<stem>[a-z0-9]*[a-z](?:-[a-z]+)*)-(?P<window>\d+)(?:-(?P<rest>.+))?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One combination of a checkpoint's window, with its metrics; a duplicate has those of the one that it equals."""

    name: str
    method: str
    metrics: Metrics


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What a name says: `window` checkpoints, combined as `stem` with `rest` (a lambda) as its parameter."""

    stem: str
    window: int
    rest: str

    @property
    def regularization(self) -> float:
        """The lambda; infinite where the name ends in none (the end of the path is the average)."""
        try:
            return float(self.rest)
        except ValueError:
            return float("inf")

    def of_length(self, window: int) -> str:
        """The name of the same recipe over another number of checkpoints."""
        return f"{self.stem}-{window}" + (f"-{self.rest}" if self.rest else "")


def shape_of(name: str) -> Shape | None:
    """The shape of a name, or None for names without a window (`last`, `trained`)."""
    match = _NAME.fullmatch(name)
    return Shape(stem=match["stem"], window=int(match["window"]), rest=match["rest"] or "") if match else None


def members_of(checkpoint: Checkpoint) -> dict[str, Member]:
    """Everything that was evaluated at this checkpoint, by name, in the order of the family; `last` is the original."""
    searched = checkpoint.searched
    methods = {str(c.get("name")): str(c.get("method") or "") for c in searched.candidates} if searched else {}
    duplicates = searched.duplicates if searched else {}
    found = {}
    for name in dict.fromkeys([LAST, *methods, *duplicates, *checkpoint.evaluations]):
        metrics = _metrics(name, checkpoint.evaluations, duplicates)
        if metrics is not None:
            found[name] = Member(name=name, method=methods.get(name) or name.partition("-")[0], metrics=metrics)
    return found


def _metrics(name: str, evaluations: dict[str, Metrics], duplicates: dict[str, str]) -> Metrics | None:
    for _ in range(len(duplicates) + 1):
        if name in evaluations:
            return evaluations[name]
        name = duplicates.get(name, "")
    return None


def length_of(checkpoint: Checkpoint) -> int:
    """How many residuals this checkpoint's window has; the longest that a name tells, where they were not measured."""
    if checkpoint.measured and checkpoint.measured.residuals:
        return len(checkpoint.measured.residuals)
    shapes = (shape_of(name) for name in members_of(checkpoint))
    return max((shape.window for shape in shapes if shape), default=0)


def recipe_at(name: str, members: dict[str, Member], length: int) -> Member | None:
    """The member of this name or, while the window is still shorter than it asks for, the same over the whole window."""
    shape = shape_of(name)
    if name not in members and shape and length < shape.window:
        name = shape.of_length(length)
    return members.get(name)
