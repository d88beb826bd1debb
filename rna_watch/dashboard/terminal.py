"""The terminal of a live frame: single keys without Enter, and its settings restored at the end."""

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

from rich.console import Console
from rich.segment import Segment

from rna_watch.journal.echo import shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from types import FrameType

HUNG_UP = "\x04"
_ESCAPE_S = 0.03  # the bytes of one key come together
_LONGEST_KEY = 6
_NAMED = {
    "[A": "up",
    "[B": "down",
    "[C": "right",
    "[D": "left",
    "[H": "home",
    "[F": "end",
    "[1~": "home",
    "[4~": "end",
    "[5~": "pgup",
    "[6~": "pgdn",
}


class PlainConsole(Console):
    """A console that draws, and passes on nothing of what names, metrics or messages hold that a terminal would obey."""

    def _render_buffer(self, buffer: Iterable[Segment]) -> str:
        return super()._render_buffer(
            each if each.control else Segment(shown(each.text), each.style, each.control) for each in buffer
        )


@contextlib.contextmanager
def keys() -> Iterator[Callable[[float], str]]:
    """Yields a function that waits so many seconds for one key; it returns the key, "", or `HUNG_UP` at the input's end.

    Keys without a character have names: up, down, left, right, pgup, pgdn, home, end, esc. It only waits if standard input is
    no terminal.
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
            # One byte at a time: what is typed after the last key belongs to the shell.
            first = os.read(fd, 1).decode("latin-1") or HUNG_UP
            return first if first != "\x1b" else _named(fd)
        except OSError:
            return HUNG_UP

    try:
        tty.setcbreak(fd, termios.TCSANOW)
        calm = termios.tcgetattr(fd)
        # Ctrl-Z would leave the shell on our screen.
        calm[6][termios.VSUSP] = os.fpathconf(fd, "PC_VDISABLE").to_bytes(1, "little")
        termios.tcsetattr(fd, termios.TCSANOW, calm)
        yield wait
    finally:
        with contextlib.suppress(termios.error):
            termios.tcsetattr(fd, termios.TCSADRAIN, before)


def _named(fd: int) -> str:
    """The name of the key whose bytes follow an escape; "esc" if none follow, "" for a key without a name."""
    text = ""
    while select.select([fd], [], [], _ESCAPE_S)[0] and len(text) < _LONGEST_KEY:
        text += os.read(fd, 1).decode("latin-1")
        if text[1:] and (text[-1].isalpha() or text[-1] == "~"):
            break
    return _NAMED.get(text.replace("O", "[", 1), "") if text else "esc"


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
    """Yields a function that returns whether this process was told to end, so that the terminal can be restored first.

    SIGTERM and SIGHUP take effect at the end of the context. A handler of the calling program is kept.
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
