"""The daemon's log: a bounded file, what the terminal gets of it, and the place of what libraries write past Python."""

from __future__ import annotations

import contextlib
import logging
import logging.handlers
import os
import sys
from io import FileIO, TextIOWrapper
from itertools import pairwise
from typing import TYPE_CHECKING

from rna_watch.journal.echo import Formatter, echo
from rna_watch.journal.words import nameless
from rna_watch.layout import disk

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from rna_watch.journal.run_paths import RunPaths

_LOG_BYTES = 5 * 2**20
_LOG_FILES = 3
_STDERR = 2


class _Log(logging.handlers.RotatingFileHandler):
    """The log file and its older parts, opened and renamed as ours."""

    def _open(self) -> TextIOWrapper:
        return TextIOWrapper(
            disk.appending(self.baseFilename), encoding="utf-8", errors="backslashreplace", write_through=True
        )

    def doRollover(self) -> None:  # noqa: N802 - the name is logging's
        """Begin a new file, and keep the older ones."""
        if self.stream is not None:
            self.stream.close()
        names = [self.baseFilename, *(f"{self.baseFilename}.{number}" for number in range(1, self.backupCount + 1))]
        for older, newer in reversed(list(pairwise(names))):
            with contextlib.suppress(OSError):  # the log goes on in the file that is there
                disk.rename(older, newer)
        self.stream = self._open()


class _Repeated(logging.Filter):
    """Lets the first of equal messages pass, whichever checkpoint they are of; the summary at the end counts them."""

    def __init__(self) -> None:
        super().__init__()
        self._said: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a line is new."""
        line = record.getMessage()
        name, gap, _ = line.partition("  ")
        text = nameless(name if gap else "", line)
        new = text not in self._said
        self._said.add(text)
        return new


class _Terminal(logging.Handler):
    """Prints lines, above a progress bar if there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        """See `logging.Handler.emit`."""
        try:
            echo(self.format(record))
        except Exception:  # noqa: BLE001 - as logging's own handlers: a terminal that is gone ends nothing
            self.handleError(record)


def log_to(paths: RunPaths, *, to_terminal: bool, counted: bool) -> None:
    """Log to the run's file.

    Args:
        paths: the run's paths.
        to_terminal: to the terminal too.
        counted: of equal messages the terminal gets the first only, as a summary counts them at the end.
    """
    logger = logging.getLogger("rna_watch")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logging.raiseExceptions = False  # a full disk must not fill the terminal with errors of the log itself
    handlers: list[logging.Handler] = [
        _Log(paths.log, maxBytes=_LOG_BYTES, backupCount=_LOG_FILES, encoding="utf-8", errors="backslashreplace")
    ]
    handlers[0].setFormatter(Formatter("%(asctime)s %(levelname)-7s %(message)s"))
    if to_terminal:
        handlers.append(_Terminal())
        handlers[-1].setFormatter(Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
        if counted:
            handlers[-1].addFilter(_Repeated())
    logger.handlers = handlers


@contextlib.contextmanager
def stderr_of_libraries(log: Path, *, to_terminal: bool) -> Iterator[None]:
    """What libraries and their processes write past Python goes to the log, not to the terminal; ours goes on to it."""
    try:
        ours = to_terminal and sys.stderr.fileno() == _STDERR
    except (OSError, ValueError, AttributeError):
        ours = False
    if not ours:
        yield
        return
    kept, before = os.dup(_STDERR), sys.stderr
    terminal = TextIOWrapper(FileIO(kept, "w"), encoding=before.encoding, errors="backslashreplace", write_through=True)
    with disk.appending(log) as file, terminal:
        os.dup2(file.fileno(), _STDERR)
        sys.stderr = terminal
        try:
            yield
        finally:
            terminal.flush()
            os.dup2(kept, _STDERR)
            sys.stderr = before
