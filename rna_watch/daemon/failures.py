"""Failures of work on a checkpoint: what each error means, how often it is tried again, and which problem it is."""

from __future__ import annotations

import re
from dataclasses import dataclass

from rna_watch.errors import (
    ClusterLost,
    EngineError,
    IncompleteCheckpoint,
    RefusedCheckpoint,
    RnaWatchError,
    StoreError,
    Unreadable,
)
from rna_watch.layout.trouble import OURS, in_words

ATTEMPTS = 3
_ENDLESS = 2**31  # a cluster's trouble is none of the checkpoint
_PATIENT = 30  # a full disk often gets room again, for example by the trainer's own retention; a server comes back
ENGINE = "engine"
PROBLEMS = ("store", ENGINE, "inputs", "work")  # solved by the next success
_VARYING = re.compile(r"[0-9a-f]{6,}|\d+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """One failure: its reason, how many attempts a checkpoint gets, and the problem to report (`key` is "" if none)."""

    reason: str
    attempts: int = ATTEMPTS
    key: str = ""
    remedy: str = ""
    engine_lost: bool = False
    unexpected: bool = False

    @property
    def alike(self) -> str:
        """The reason without what differs from time to time: numbers and digests."""
        return _VARYING.sub("", self.reason)


def of(error: Exception) -> Failure:
    """What an error of the work on a checkpoint means."""
    match error:
        case Unreadable():
            return Failure(reason=str(error), attempts=_PATIENT, key="inputs", remedy="it is tried again by itself")
        case StoreError() | OSError():
            ours = isinstance(error, OSError) and error.errno in OURS
            said = in_words(error) if ours and isinstance(error, OSError) else str(error)
            remedy = "outputs go on as soon as they can be written"
            return Failure(reason=said, attempts=_PATIENT, key="store", remedy=remedy)
        case EngineError():
            remedy = "the engine is started again, and the checkpoint tried again"
            attempts = _ENDLESS if isinstance(error, ClusterLost) else _PATIENT
            return Failure(reason=str(error), attempts=attempts, key=ENGINE, remedy=remedy, engine_lost=True)
        case RefusedCheckpoint() | IncompleteCheckpoint():
            # damage outside the model shows only when the whole file is written
            return Failure(reason=f"it cannot be written out: {error}", attempts=1)
        case MemoryError():
            return Failure(reason="there is not enough memory; lower --workers")
    said = str(error) if isinstance(error, RnaWatchError) else f"an unexpected error ({error!r})"
    remedy = "it is tried again; report it with the lines of the log"
    return Failure(reason=said, key="work", remedy=remedy, unexpected=True)
