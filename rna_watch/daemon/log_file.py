"""The daemon's log: a bounded file, what the terminal gets of it, and the place of what libraries write past Python."""

from __future__ import annotations

import contextlib
import logging
import logging.handlers
import os
import sys
import threading
from contextvars import ContextVar, copy_context
from io import FileIO, TextIOWrapper
from itertools import pairwise
from typing import TYPE_CHECKING

from rna_watch.journal.echo import Formatter, echo
from rna_watch.journal.words import nameless
from rna_watch.layout import disk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from rna_watch.journal.run_paths import RunPaths

_LOG_BYTES = 5 * 2**20
_LOG_FILES = 3
_STDERR = 2
_RUN: ContextVar[RunPaths | None] = ContextVar("run", default=None)  # that the lines of a thread are of; None: of all


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


class _OfRun(logging.Filter):
    """Lets the lines of one run pass, where several have a log in this process."""

    def __init__(self, paths: RunPaths | None) -> None:
        super().__init__()
        self._paths = paths

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a line is of this run."""
        return _RUN.get() == self._paths


class _WithRun(Formatter):
    """Begins a line on the terminal with the run that it is of."""

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter.format`."""
        run = _RUN.get()
        return super().format(record) if run is None else f"{run.run.name}  {super().format(record)}"


def thread(target: Callable[..., object], *, name: str, args: tuple[object, ...] = ()) -> threading.Thread:
    """A thread whose lines go to the log that the calling thread's go to."""
    return threading.Thread(target=copy_context().run, args=(target, *args), name=name, daemon=True)


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
    handlers: list[logging.Handler] = [_file(paths)]
    if to_terminal:
        handlers.append(_Terminal())
        handlers[-1].setFormatter(Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
        if counted:
            handlers[-1].addFilter(_Repeated())
    logger.handlers = handlers


def log_of_many(paths: RunPaths, *, to_terminal: bool) -> None:
    """Log to the file of a process that watches many runs; what is of one of them goes to that one's (`log_of`)."""
    log_to(paths, to_terminal=to_terminal, counted=False)
    file, *terminal = logging.getLogger("rna_watch").handlers
    file.addFilter(_OfRun(None))
    for each in terminal:
        each.setFormatter(_WithRun("%(asctime)s %(message)s", "%H:%M:%S"))


@contextlib.contextmanager
def log_of(paths: RunPaths) -> Iterator[None]:
    """Lines of this thread, and of those that it starts by `thread`, go to the run's file meanwhile."""
    logger, file = logging.getLogger("rna_watch"), _file(paths)
    file.addFilter(_OfRun(paths))
    logger.addHandler(file)
    before = _RUN.set(paths)
    try:
        yield
    finally:
        _RUN.reset(before)
        logger.removeHandler(file)
        file.close()


def _file(paths: RunPaths) -> logging.Handler:
    file = _Log(paths.log, maxBytes=_LOG_BYTES, backupCount=_LOG_FILES, encoding="utf-8", errors="backslashreplace")
    file.setFormatter(Formatter("%(asctime)s %(levelname)-7s %(message)s"))
    return file


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
