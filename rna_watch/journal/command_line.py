"""Commands that a person is told to type: quoted for a shell, and with all that they need."""

from __future__ import annotations

import os
import shlex
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def command(name: str, run: str | Path, output: str | Path | None = None, *more: str) -> str:
    """`rna-watch NAME RUN`, which finds the state of this run.

    Args:
        name: of the command.
        run: the run directory.
        output: where outputs and state lie; None, or the run directory, if they lie there.
        more: what follows.
    """
    place = [] if output is None or str(output) == str(run) else ["--output", str(output)]
    return " ".join(map(quoted, ("rna-watch", name, str(run), *place, *more)))


def quoted(text: str) -> str:
    """An argument as a shell reads it; what cannot be printed, or is no text, is spelled as bytes ($'...', which bash reads)."""
    if text.isprintable():
        return shlex.quote(text)
    plain = (
        chr(byte) if 32 <= byte < 127 and chr(byte) not in "\\'" else f"\\{byte:03o}" for byte in os.fsencode(text)
    )
    return "$'" + "".join(plain) + "'"
