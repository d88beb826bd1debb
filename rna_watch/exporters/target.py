"""The target of an exporter: the run that it is of, and the folder that is its own."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from rna_watch.exporters.rows import Row
    from rna_watch.journal.replay import RunState


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where an exporter writes, and what it may say of the run.

    `state` returns what the journal adds up to at the moment; `port` is that of Prometheus' endpoint, None for none.
    """

    run: Path
    folder: Path
    state: Callable[[], RunState]
    port: int | None = None

    @property
    def name(self) -> str:
        """The run's name: that of its folder."""
        return self.run.name or "run"

    @property
    def key(self) -> str:
        """A name that no other run has: it stays the same over all starts."""
        return hashlib.blake2b(str(self.run).encode(errors="surrogateescape"), digest_size=6).hexdigest()


class Exporter(Protocol):
    """Shows a run in a tool of the user's."""

    def write(self, rows: Sequence[Row]) -> None:
        """Bring the tool up to date with all rows so far; called again whenever there are more, or others."""

    def close(self) -> None:
        """Nothing comes any more: put all that is left where the tool finds it."""
