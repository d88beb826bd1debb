"""Commands that a person is told to type: quoted for a shell, and with all that they need."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from rna_watch.layout import bounded_json

MIRROR = "mirror"  # the folder that checkpoints of an object store are fetched into
REMOTE = "remote.json"  # in the state folder beside it: the address, and what was fetched


def command(name: str, run: str | Path, output: str | Path | None = None, *more: str) -> str:
    """`rna-watch NAME RUN`, which finds the state of this run.

    Args:
        name: of the command.
        run: the run directory.
        output: where outputs and state lie; None, or the run directory, if they lie there.
        more: what follows.
    """
    typed = named(run)
    place = [] if output is None or str(output) == str(run) or typed != str(run) else ["--output", str(output)]
    return " ".join(map(quoted, ("rna-watch", name, typed, *place, *more)))


def named(run: str | Path) -> str:
    """A run as a person names it: its path, or the address that it is fetched from."""
    path = Path(run)
    if path.name == MIRROR:
        try:
            url = bounded_json.read(path.parent / ".rna-watch" / REMOTE).get("url")
        except (OSError, ValueError, AttributeError):
            url = None
        if isinstance(url, str) and url.isprintable():
            return url
    return str(run)


def quoted(text: str) -> str:
    """An argument as a shell reads it; what cannot be printed, or is no text, is spelled as bytes ($'...', which bash reads)."""
    if text.isprintable():
        return shlex.quote(text)
    plain = (
        chr(byte) if 32 <= byte < 127 and chr(byte) not in "\\'" else f"\\{byte:03o}" for byte in os.fsencode(text)
    )
    return "$'" + "".join(plain) + "'"
