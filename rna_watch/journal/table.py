"""The checkpoints and admissions of a snapshot, in columns: each checkpoint is made when it is asked for."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from rna_watch.journal import events as e
from rna_watch.journal.checkpoint import LIGHT, Brief, Checkpoint, InMemory, Key, Verdict, of_row

if TYPE_CHECKING:
    from collections.abc import Callable

    from rna_watch.journal.checkpoint import Packed

ADMITTED = tuple(each.name for each in dataclasses.fields(e.Admitted))
BRIEF = ("original", "verdict", "evaluated", "trained", "bytes")


class Table:
    """Checkpoints in columns, one list for each name of `LIGHT` and `BRIEF`, in the order in which they were first seen.

    Args:
        columns: those of the checkpoints; `admitted` and `under` are places in the next two.
        admitted: columns of admissions, one for each field.
        starts: the starts whose settings applied.

    `packed` gives the packed bytes at an offset; it is set once they are written.
    """

    def __init__(
        self,
        columns: dict[str, list[Any]],
        admitted: dict[str, list[Any]],
        starts: list[e.Started],
    ) -> None:
        self.columns = columns
        self.admitted = admitted
        self.starts = starts
        self.keys: list[Key] = list(
            zip(columns["judge"], self._of_admitted("source"), self._of_admitted("series"), strict=True)
        )
        self.packed: Callable[[int, int], Packed] = lambda _, __: InMemory(b"")
        self._admissions: list[e.Admitted | None] = [None] * len(admitted["seq"])
        self.trained: list[bool] = columns["trained"]
        self._offsets = [0]
        for size in columns["bytes"]:
            self._offsets.append(self._offsets[-1] + size)

    def _of_admitted(self, name: str) -> list[str]:
        """A field of the checkpoints' admissions, "" for those that were not admitted."""
        column = self.admitted[name]
        return ["" if place is None else column[place] for place in self.columns["admitted"]]

    def checkpoints(self) -> list[Checkpoint]:
        """All of them."""
        return [of_row(Row(self, number)) for number in range(len(self.columns["name"]))]

    def admission(self, number: int) -> e.Admitted:
        """One admission, the same object each time."""
        found = self._admissions[number]
        if found is None:
            found = e.Admitted(**{name: self.admitted[name][number] for name in ADMITTED})
            self._admissions[number] = found
        return found

    def value(self, name: str, number: int) -> Any:
        """A field of `LIGHT`."""
        value = self.columns[name][number]
        if name == "admitted":
            return None if value is None else self.admission(value)
        if name == "under":
            return None if value is None else self.starts[value]
        return value

    def row(self, number: int) -> tuple[Any, ...]:
        """All columns of one checkpoint, as they are."""
        return tuple([self.columns[name][number] for name in (*LIGHT, *BRIEF)])

    def bulk(self, number: int) -> Packed:
        """The packed bytes of a checkpoint."""
        return self.packed(self._offsets[number], self.columns["bytes"][number])


class Row:
    """A checkpoint of a table; has what `Brief` has."""

    __slots__ = ("number", "table")

    def __init__(self, table: Table, number: int) -> None:
        self.table = table
        self.number = number

    def light(self, name: str) -> Any:
        """A field of `LIGHT`."""
        return self.table.value(name, self.number)

    @property
    def original(self) -> e.Metrics | None:
        """See `Brief`."""
        found: e.Metrics | None = self.table.columns["original"][self.number]
        return found

    @property
    def verdict(self) -> Verdict | None:
        """See `Brief`."""
        found: Verdict | None = self.table.columns["verdict"][self.number]
        return found

    @property
    def evaluated(self) -> bool:
        """See `Brief`."""
        return bool(self.table.columns["evaluated"][self.number])

    @property
    def trained(self) -> bool:
        """See `Brief`."""
        return bool(self.table.columns["trained"][self.number])

    @property
    def key(self) -> Key:
        """See `Checkpoint`."""
        return self.table.keys[self.number]

    @property
    def bulk(self) -> Packed:
        """See `Brief`."""
        return self.table.bulk(self.number)

    def brief(self) -> Brief:
        """The same without the table."""
        return Brief(self.original, self.verdict, self.evaluated, self.trained, self.bulk)
