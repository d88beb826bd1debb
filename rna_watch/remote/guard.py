"""One owner of a run in an object store: an object that names it, made only where there is none, and renewed."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import time
from typing import TYPE_CHECKING

from rna_watch.errors import RnaWatchError
from rna_watch.layout import bounded_json
from rna_watch.remote.listing import OUTPUTS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rna_watch.remote.store import Store

NAME = f"{OUTPUTS}.owner.json"
STALE_S = 120.0
RENEWED_S = 30.0


class Guard:
    """The claim of this process on a run in a store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._nonce = secrets.token_hex(8)
        self._renewed = 0.0

    def _content(self) -> bytes:
        said = {"host": socket.gethostname(), "pid": os.getpid(), "nonce": self._nonce, "renewed": time.time()}
        return json.dumps(said).encode()

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
            if owner is not None and owner.get("nonce") != self._nonce:
                raise RnaWatchError(self._taken(owner))
            self._store.put(NAME, self._content())
            self._renewed = time.monotonic()

    def release(self) -> None:
        """Let the run go."""
        owner = self._owner()
        if owner is not None and owner.get("nonce") == self._nonce:
            self._store.delete(NAME)

    def _check_gone(self) -> None:
        owner = self._owner()
        renewed = owner.get("renewed") if owner is not None else None
        if owner is not None and isinstance(renewed, int | float) and abs(time.time() - renewed) < STALE_S:
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
