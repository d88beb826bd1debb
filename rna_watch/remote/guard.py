"""One owner of a run in an object store: an object that names it, made only where there is none, and renewed."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import time
from typing import TYPE_CHECKING

from rna_watch.errors import RnaWatchError
from rna_watch.journal.owner import of_values, this_process
from rna_watch.layout import bounded_json
from rna_watch.remote.listing import OUTPUTS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rna_watch.remote.store import Store

NAME = f"{OUTPUTS}.owner.json"
STALE_S = 120.0
RENEWED_S = 30.0
_RENEWED = "renewed"  # when, in s since 1970; the other fields are those of a lock's owner


class Guard:
    """The claim of this process on a run in a store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._self = this_process()
        self._renewed = 0.0

    def _content(self) -> bytes:
        return json.dumps(dataclasses.asdict(self._self) | {_RENEWED: time.time()}).encode()

    def take(self) -> bool:
        """Take the run; whether the store makes sure that nobody else does at the same moment.

        Raises:
            RnaWatchError: somebody else has it.
        """
        sure = self._store.put_new(NAME, self._content())
        if sure is False:
            self._check_gone()
            self._store.delete(NAME)  # of who is gone; of two that find this, one makes the new one
            sure = self._store.put_new(NAME, self._content())
            if sure is False:
                self._check_gone()
        elif sure is None:
            self._check_gone()
            self._store.put(NAME, self._content())
        self._renewed = time.monotonic()
        return sure is True

    def renew(self) -> None:
        """Say now and then that this process lives.

        Raises:
            RnaWatchError: the run was taken by somebody else.
        """
        if time.monotonic() - self._renewed > RENEWED_S:
            owner = self._owner()
            if owner is not None and owner.get("nonce") != self._self.nonce:
                raise RnaWatchError(self._taken(owner))
            self._store.put(NAME, self._content())
            self._renewed = time.monotonic()

    def release(self) -> None:
        """Let the run go."""
        owner = self._owner()
        if owner is not None and owner.get("nonce") == self._self.nonce:
            self._store.delete(NAME)

    def _check_gone(self) -> None:
        """Raises: RnaWatchError: the owner renewed its claim lately, and no process of this machine that has ended made it."""
        owner = self._owner()
        if owner is None:
            return
        renewed = owner.get(_RENEWED)
        process = of_values({name: value for name, value in owner.items() if name != _RENEWED})
        if process is not None and process.lives() is False:
            return
        if isinstance(renewed, int | float) and abs(time.time() - renewed) < STALE_S:
            raise RnaWatchError(self._taken(owner))

    def _taken(self, owner: dict[str, object]) -> str:
        return (
            f"{self._store.url} is watched by process {owner.get('pid')} on {owner.get('host')}: stop it there, or wait "
            f"{STALE_S:g} s if it is gone"
        )

    def _owner(self) -> dict[str, object] | None:
        try:
            found = bounded_json.parse(self._store.read(NAME))
        except (FileNotFoundError, ValueError):
            return None
        return found if isinstance(found, dict) else {}


@contextlib.contextmanager
def owned(store: Store, say: Callable[[str], None]) -> Iterator[Guard]:
    """The run in a store as this process's own; says so where the store cannot make sure of it.

    Raises:
        RnaWatchError: somebody else has it.
    """
    guard = Guard(store)
    if not guard.take():
        say(
            f"{store.url}: this store has no conditional writes, so two owners that start at one moment are not noticed"
        )
    try:
        yield guard
    finally:
        with contextlib.suppress(RnaWatchError):
            guard.release()
