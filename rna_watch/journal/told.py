"""What the journal told of names, in its order: every admission and alias, from which series and steps are read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rna_watch.journal import events as e

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rna_watch.journal.table import Table


class Told:
    """Admissions and aliases; those of a snapshot are made when they are asked for.

    Args:
        earlier: aliases, and the places of admissions in the table.
        table: of the snapshot.
        later: what came after these.
    """

    def __init__(
        self,
        earlier: Sequence[int | e.Aliased] = (),
        table: Table | None = None,
        later: Sequence[e.Admitted | e.Aliased] = (),
    ) -> None:
        self.earlier = earlier
        self.table = table
        self.later = list(later)

    def append(self, event: e.Admitted | e.Aliased) -> None:
        """Add the newest."""
        self.later.append(event)

    def __iter__(self) -> Iterator[e.Admitted | e.Aliased]:
        """All, in the order of the journal."""
        for each in self.earlier:
            if isinstance(each, e.Aliased):
                yield each
            elif self.table is not None:
                yield self.table.admission(each)
        yield from list(self.later)

    def __copy__(self) -> Told:
        """One that later events do not change."""
        return Told(self.earlier, self.table, self.later)
