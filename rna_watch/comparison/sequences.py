"""Sequences: each is the checkpoints of a folder that belong to one training, as it finally went."""

from __future__ import annotations

import difflib
from collections import Counter
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

from rna_watch.errors import UsageError
from rna_watch.watching.reading import Reading

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from rna_watch.journal.replay import Checkpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointSequence:
    """Checkpoints in the order of their steps; `name` is the pattern of most of their names.

    `taken_back` counts the checkpoints that are left out because a restart or a rerun repeated their steps.
    """

    name: str
    members: tuple[Checkpoint, ...]
    taken_back: int


def sequences(checkpoints: Iterable[Checkpoint]) -> list[CheckpointSequence]:
    """The sequences of all admitted checkpoints, the longest first; of equally long ones, the one with the newest checkpoint.

    Names that differ in their numbers alone are one sequence. A checkpoint with another name (a rewritten `last`) belongs to it
    if it was in one window with them.
    """
    admitted = {each.name: each for each in checkpoints if each.admitted is not None}
    reading = Reading(each.admitted.path for each in admitted.values() if each.admitted)

    def series_of(checkpoint: Checkpoint) -> str:
        assert checkpoint.admitted is not None
        return checkpoint.admitted.series or reading.of(checkpoint.admitted.path).series

    parents = {series: series for series in map(series_of, admitted.values())}

    def root(series: str) -> str:
        while parents[series] != series:
            series = parents[series]
        return series

    for each in admitted.values() if len(parents) > 1 else ():
        for name in _window(each):
            if name in admitted:
                parents[root(series_of(admitted[name]))] = root(series_of(each))
    groups: dict[str, list[Checkpoint]] = {}
    for each in admitted.values():
        groups.setdefault(root(series_of(each)), []).append(each)
    found = [_as_it_went(members, series_of) for members in groups.values()]
    return sorted(found, key=lambda each: (-len(each.members), -max(map(_seq, each.members), default=0)))


def pick(found: Sequence[CheckpointSequence], wanted: str | None) -> CheckpointSequence:
    """The first sequence, or the one whose pattern is wanted or begins so.

    Raises:
        UsageError: no pattern begins so, or several do.
    """
    if wanted is None:
        return found[0]
    named = [each for each in found if each.name == wanted] or [each for each in found if each.name.startswith(wanted)]
    if len(named) == 1:
        return named[0]
    names = [each.name for each in found]
    near = difflib.get_close_matches(wanted, names, n=1)
    hint = f"; did you mean {near[0]}?" if near and not named else ""
    said = "several sequences begin" if named else "no sequence of checkpoints begins"
    raise UsageError(f"{said} with {wanted!r}, there are: {', '.join(names)}{hint}")


def _seq(checkpoint: Checkpoint) -> int:
    return checkpoint.admitted.seq if checkpoint.admitted else 0


def _window(checkpoint: Checkpoint) -> Iterable[str]:
    """The names of the checkpoints that were in one window with this one."""
    measured = chain.from_iterable(checkpoint.measured.residuals) if checkpoint.measured else ()
    return {*measured, *(checkpoint.chosen.inputs if checkpoint.chosen else ())}


def _went_back(before: Checkpoint, after: Checkpoint) -> bool:
    """Whether a file that was written later has no later step."""
    one, other = before.admitted, after.admitted
    return one is not None and other is not None and one.step >= other.step and one.mtime_ns < other.mtime_ns


def _as_it_went(members: Iterable[Checkpoint], series_of: Callable[[Checkpoint], str]) -> CheckpointSequence:
    """One training without the steps that it repeated: what was saved after the point to which it went back is left out."""
    kept: dict[str, Checkpoint] = {}
    names: Counter[str] = Counter()
    count = 0
    for each in sorted(members, key=_seq):
        names[series_of(each)] += 1
        count += 1
        if each.starts_window:
            kept = {name: other for name, other in kept.items() if not _went_back(other, each)}
        kept[each.name] = each
    ordered = sorted(kept.values(), key=lambda each: each.step or 0)
    return CheckpointSequence(name=names.most_common(1)[0][0], members=tuple(ordered), taken_back=count - len(kept))
