"""What a reading of names may be extended by: a name that changes nothing of how the others of its series are read.

A long run has thousands of names, and reading all of them anew for each would cost more with every checkpoint. A name that is
not sure to change nothing is none of these; then all are read anew.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rna_watch.watching.slots import Kind, Rank

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rna_watch.watching.slots import Slot

LEAST = 16  # fewer names are read anew, which costs nothing


@dataclass(slots=True)
class Extension:
    """The names of one series that are read by one column of numbers.

    `split` are the columns that tell series apart, `step` is that of the step, `kind` and `told` are what it counts and what
    told it. `columns` are the slots of the first name, None where they vary; `largest` are the largest values. `newest_ns` is
    when the newest was written, None if that is not known of all.
    """

    split: tuple[int, ...]
    step: int
    kind: str
    told: str
    first: tuple[Slot, ...]
    varying: frozenset[int]
    largest: list[int]
    newest_ns: int | None

    @classmethod
    def of(
        cls,
        rows: Sequence[tuple[str, tuple[Slot, ...]]],
        times: Mapping[str, int],
        *,
        split: tuple[int, ...],
        step: int,
        kind: str,
        told: str,
    ) -> Extension:
        """That of names that were read.

        Args:
            rows: the paths with their slots.
            times: when some of them were written (ns).
            split: the columns that tell series apart.
            step: the column of the step.
            kind: what it counts.
            told: what told it.
        """
        first, count = rows[0][1], range(len(rows[0][1]))
        known = [times[path] for path, _ in rows if path in times]
        return cls(
            split=split,
            step=step,
            kind=kind,
            told=told,
            first=first,
            varying=frozenset(c for c in count if any(found[c].text != first[c].text for _, found in rows)),
            largest=[max(found[c].value for _, found in rows) for c in count],
            newest_ns=max(known) if len(known) == len(rows) else None,
        )

    def takes(self, found: tuple[Slot, ...], written_ns: int | None) -> bool:
        """Whether one more name leaves the reading of the others as it is; it is taken in then.

        It is a later one: its step is larger than all, no other number that could be a step or an id is smaller than before,
        it was written after the others, and nothing else varies in it than before.

        Args:
            found: its slots.
            written_ns: when it was written, if that is known.
        """
        if self.newest_ns is not None and (written_ns is None or written_ns <= self.newest_ns):
            return False
        if not all(self._fits(column, slot) for column, slot in enumerate(found)):
            return False
        self.largest = [max(pair) for pair in zip(self.largest, (slot.value for slot in found), strict=True)]
        self.newest_ns = written_ns if self.newest_ns is not None else None
        return True

    def _fits(self, column: int, slot: Slot) -> bool:
        first = self.first[column]
        if column not in self.varying:
            return slot.text == first.text
        if slot.kind is not first.kind or slot.rank is not first.rank or slot.kind is Kind.HASH:
            return False
        if slot.kind is not Kind.INTEGER:
            return not (slot.kind is Kind.DATE and slot.in_folder)
        if column == self.step:
            return slot.value > self.largest[column]
        return slot.rank is Rank.METRIC or slot.value >= self.largest[column]
