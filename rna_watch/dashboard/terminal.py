"""The terminal that a live frame borrows: single keys without Enter, and everything as it was afterwards."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import termios
import threading
import time
import tty
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

HUNG_UP = "\x04"


@contextlib.contextmanager
def keys() -> Iterator[Callable[[float], str]]:
    """Gives a function that waits so many seconds for one key: the key, nothing, or `HUNG_UP` once the input has ended.

    Without a terminal as standard input it only waits.
    """
    borrowed = _settings()
    if borrowed is None:
        yield _no_key
        return
    fd, before = borrowed

    def wait(seconds: float) -> str:
        if not select.select([fd], [], [], seconds)[0]:
            return ""
        try:
            # One byte, so that what is typed after the last key belongs to the shell.
            return os.read(fd, 1).decode("latin-1") or HUNG_UP
        except OSError:
            return HUNG_UP

    try:
        tty.setcbreak(fd, termios.TCSANOW)
        calm = termios.tcgetattr(fd)
        # Ctrl-Z would leave the shell on the borrowed screen.
        calm[6][termios.VSUSP] = os.fpathconf(fd, "PC_VDISABLE").to_bytes(1, "little")
        termios.tcsetattr(fd, termios.TCSANOW, calm)
        yield wait
    finally:
        with contextlib.suppress(termios.error):
            termios.tcsetattr(fd, termios.TCSADRAIN, before)


def _settings() -> tuple[int, list[Any]] | None:
    try:
        fd = sys.stdin.fileno()
        return fd, termios.tcgetattr(fd)
    except (AttributeError, OSError, ValueError, termios.error):
        return None


def _no_key(seconds: float) -> str:
    time.sleep(seconds)
    return ""


@contextlib.contextmanager
def polite_end() -> Iterator[Callable[[], bool]]:
    """Gives a function that says whether a signal asked this process to end, so that the terminal can be restored first.

    SIGTERM and SIGHUP take effect on leaving; a handler that somebody else set stays.
    """
    received: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        received.append(number)

    taken = []
    if threading.current_thread() is threading.main_thread():
        taken = [n for n in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(n) is signal.SIG_DFL]
    for number in taken:
        signal.signal(number, note)
    try:
        yield lambda: bool(received)
    finally:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)
        if received:
            os.kill(os.getpid(), received[0])
