"""The bell of the main thread: another thread rings it, and so does a signal's handler in the thread that waits."""

from __future__ import annotations

import signal
import threading
import time

import pytest

from rna_watch.daemon.bell import Bell

_LONG_S, _SOON_S = 60.0, 20.0


def _waited_s(bell: Bell, seconds: float) -> float:
    begun = time.monotonic()
    bell.wait(seconds)
    return time.monotonic() - begun


def test_the_handler_of_a_signal_wakes_the_thread_that_it_interrupts() -> None:
    """At once, in the midst of its wait."""
    bell = Bell()
    before = signal.signal(signal.SIGALRM, lambda *_: bell.ring())
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        assert 0.05 < _waited_s(bell, _LONG_S) < _SOON_S
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("rings", [1, 3])
def test_what_rang_before_ends_one_wait(rings: int) -> None:
    """However often it rang; the next wait takes its time."""
    bell = Bell()
    for _ in range(rings):
        bell.ring()
    assert _waited_s(bell, _LONG_S) < _SOON_S
    assert _waited_s(bell, 0.2) >= 0.2


def test_another_thread_wakes_it() -> None:
    """As soon as it rings."""
    bell = Bell()
    threading.Timer(0.1, bell.ring).start()
    assert _waited_s(bell, _LONG_S) < _SOON_S
