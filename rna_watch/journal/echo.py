"""What goes out to a terminal: the one place through which all commands print, and where nothing that a terminal obeys passes."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
import traceback

from rna_watch.errors import RnaWatchError
from rna_watch.journal.quantities import printable


def shown(text: str) -> str:
    """The text, of any number of lines, without anything that a terminal would obey."""
    return "\n".join(map(printable, text.split("\n")))


def echo(text: str, *, err: bool = False, end: str = "\n") -> None:
    """Print a text of any number of lines on standard output or standard error."""
    stream = sys.stderr if err else sys.stdout
    stream.write(shown(text) + end)
    stream.flush()


def note(text: str) -> None:
    """Print a text on standard error."""
    echo(text, err=True)


def tell_end(error: Exception) -> int:
    """Say on standard error what ends this process; returns its exit code."""
    if isinstance(error, RnaWatchError):
        note(f"rna-watch: {error}")
        return error.exit_code
    if isinstance(error, OSError):
        where = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str | bytes) else ""
        note(f"rna-watch: {where}{error.strerror or error}; check the disk or mount, and its permissions")
    else:
        note("".join(traceback.format_exception(error)).rstrip("\n"))
    return 1


def tolerate_any_text() -> None:
    """Spell out characters that the terminal's encoding lacks, as in the C locale, instead of ending."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            with contextlib.suppress(ValueError, OSError):
                stream.reconfigure(errors="backslashreplace")


class Formatter(logging.Formatter):
    """Lines of a log without anything that a terminal would obey; those of a traceback stay lines."""

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter.format`."""
        return shown(super().format(record))
