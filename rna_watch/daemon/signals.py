"""Signals: those that end us, and those of a batch system that are meant for the training."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

_ENDS = (signal.SIGTERM, signal.SIGINT)
_WARNINGS = (signal.SIGUSR1, signal.SIGUSR2)  # a batch system's to all of a job (`--signal`), meant for the training


def handlers() -> dict[int, Any]:
    """What happens at these signals now, for `restore`."""
    return {number: signal.getsignal(number) for number in (*_ENDS, *_WARNINGS)}


def take(end: Callable[[int, FrameType | None], None]) -> None:
    """Have a function called at the signals that end us; the warnings are ignored, and so by processes that are started here."""
    for number in _ENDS:
        signal.signal(number, end)
    for number in _WARNINGS:
        signal.signal(number, signal.SIG_IGN)


def restore(before: dict[int, Any]) -> None:
    """Have happen what happened before."""
    for number, handler in before.items():
        signal.signal(number, handler)
