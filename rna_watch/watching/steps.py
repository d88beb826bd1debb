"""The names of checkpoints as text: stem, ending, natural order."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

from rna_watch.formats import registry

VERSION = re.compile(r"-v\d+$")  # Lightning's, for a name that was taken
_ARCHIVE = ".tar"  # only with a pattern that asks for it


def stem(name: str) -> str:
    """The last part of a path without the ending of a checkpoint."""
    last = PurePosixPath(name).name
    return last.removesuffix(ending(last))


def ending(name: str) -> str:
    """What `stem` removes: the longest ending of a format that the name has, as it is spelled there; "" if it has none."""
    lower = name.lower()
    found = [each for each in (*registry.endings(), _ARCHIVE) if lower.endswith(each)]
    return name[-max(map(len, found)) :] if found else ""


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """A key that sorts `epoch_9` before `epoch_10`."""
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", name) if part]
