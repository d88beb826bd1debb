"""The members of a checkpoint's family as the journal tells them: what each is, and what the evaluator said of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from rna_watch.acceleration.methods import LAST

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rna_watch.journal.events import Metrics
    from rna_watch.journal.recipe import Recipe
    from rna_watch.journal.replay import Checkpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One combination of a checkpoint's window, with its metrics; a duplicate has those of the one that it equals."""

    name: str
    recipe: Recipe
    metrics: Metrics

    @property
    def method(self) -> str:
        """The method of its recipe."""
        return self.recipe.method


def members_of(checkpoint: Checkpoint) -> dict[str, Member]:
    """Everything that was evaluated at this checkpoint, by name, in the order of the family; `last` is the original."""
    searched, evaluations, recipes = checkpoint.searched, checkpoint.evaluations, checkpoint.recipes
    names = [str(each.get("name")) for each in searched.candidates] if searched else []
    duplicates = searched.duplicates if searched else {}
    found = {}
    for name in dict.fromkeys([LAST, *names, *duplicates, *evaluations]):
        metrics = _metrics(name, evaluations, duplicates)
        if metrics is not None:
            found[name] = Member(name=name, recipe=recipes[name], metrics=metrics)
    return found


def _metrics(name: str, evaluations: dict[str, Metrics], duplicates: dict[str, str]) -> Metrics | None:
    for _ in range(len(duplicates) + 1):
        if name in evaluations:
            return evaluations[name]
        name = duplicates.get(name, "")
    return None


def length_of(checkpoint: Checkpoint, members: Mapping[str, Member]) -> int:
    """How many residuals a checkpoint's window has; the most that a recipe of its members takes, where they were not measured."""
    if checkpoint.measured and checkpoint.measured.residuals:
        return len(checkpoint.measured.residuals)
    return max((m.recipe.window or 0 for name, m in members.items() if name != LAST), default=0)


def recipe_at(name: str, recipe: Recipe, members: dict[str, Member], length: int) -> Member | None:
    """The member of this name or, while the window is still shorter than its recipe asks for, the same over the whole window."""
    if name in members or recipe.window is None or length >= recipe.window:
        return members.get(name)
    shorter = replace(recipe, window=length)
    return next((member for member in members.values() if member.recipe == shorter), None)
