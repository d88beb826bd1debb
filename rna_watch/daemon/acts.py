"""Acts: an unexpected error costs the one act that it belongs to, is reported once, and the act is tried again later."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, NamedTuple

from rna_watch.errors import Cancelled, RunIsWatched, StoreAway, StoreError

if TYPE_CHECKING:
    from collections.abc import Callable

    from rna_watch.daemon.recorder import Recorder

_LOG = logging.getLogger("rna_watch")
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 60.0
AGAIN = "it is tried again by itself"


class _Failure(NamedTuple):
    said: str
    pause_s: float
    until: float


class Acts:
    """Does the acts of one thread, each under a key; one that fails is left out for a while, longer each time.

    Args:
        recorder: journal and state.
        clock: seconds that never go back.
    """

    def __init__(self, recorder: Recorder, clock: Callable[[], float] = time.monotonic) -> None:
        self._recorder = recorder
        self._clock = clock
        self._failures: dict[str, _Failure] = {}

    def do(self, key: str, what: str, act: Callable[[], object], remedy: str = AGAIN) -> bool:
        """Do an act unless it failed just now; returns whether it was done.

        Args:
            key: names the act, and the problem that its failure is.
            what: what cannot be done then, in words.
            act: the act.
            remedy: what helps.

        Raises:
            Cancelled: the daemon is stopping.
            StoreAway, StoreError, RunIsWatched: our own store is away, lost, or another's.
        """
        failure = self._failures.get(key)
        if failure is not None and self._clock() < failure.until:
            return False
        try:
            act()
        except (Cancelled, StoreAway, StoreError, RunIsWatched):
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, it costs this act and no other
            self._failed(key, what, error, remedy)
            return False
        if failure is not None:
            del self._failures[key]
            self._recorder.solved(key)
        return True

    def _failed(self, key: str, what: str, error: Exception, remedy: str) -> None:
        before = self._failures.get(key)
        said = in_words(error)
        pause_s = min(2 * before.pause_s, _LONGEST_PAUSE_S) if before else _FIRST_PAUSE_S
        self._failures[key] = _Failure(said, pause_s, self._clock() + pause_s)
        if before is None or before.said != said:
            if not isinstance(error, OSError):
                _LOG.warning("%s", what, exc_info=error)
            self._recorder.problem(key, f"{what}: {said}", remedy)


def in_words(error: BaseException) -> str:
    """An error for a person: its text, with its kind where that is no word of the system or of ours."""
    if isinstance(error, OSError):
        return error.strerror or str(error) or type(error).__name__
    return f"an unexpected error ({type(error).__name__}: {error})"
