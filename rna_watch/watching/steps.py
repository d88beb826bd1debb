"""Steps and epochs in names, and the natural order of names."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

_STEP = re.compile(r"(?:global[_-]?step|steps?|iter(?:ation)?s?|it|ba|batch|updates?)[=_\-.]?(\d+)", re.IGNORECASE)
_EPOCH = re.compile(r"(?:epochs?|ep|e)[=_\-.]?(\d+)", re.IGNORECASE)
_COUNTED = re.compile(r"(?:checkpoint|ckpt|chkpt|model|net|weights|snapshot|save|state)s?[=_\-.]?(\d+)", re.IGNORECASE)
_BARE = re.compile(r"(?<![A-Za-z0-9])\d+")
_NUMBER = re.compile(r"\d+")
_VERSION = re.compile(r"-v\d+$")
_METRIC = re.compile(r"[=_-]?[A-Za-z_]*[=_-]?\d+\.\d+")
_ENDINGS = (".pth.tar", ".pt.tar", ".safetensors", ".ckpt", ".pth", ".bin", ".pt", ".tar")


def stem(name: str) -> str:
    """The last part of a path without the endings that checkpoints have."""
    last = PurePosixPath(name).name
    for ending in _ENDINGS:
        if last.lower().endswith(ending):
            return last[: -len(ending)]
    return last


def ending(name: str) -> str:
    """What `stem` takes off."""
    last = PurePosixPath(name).name
    return last[len(stem(last)) :]


def from_name(name: str) -> tuple[str, int] | None:
    """The kind (step, epoch or number) and value that a path tells, from its last part, else from the folders above.

    `epoch=3-step=1200.ckpt` is step 1200; decimals (`loss=0.25`) and Lightning's `-v1` are not steps.
    """
    own = _from_part(stem(name), bare=True)
    if own is not None:
        return own
    folders = (_from_part(part, bare=False) for part in reversed(PurePosixPath(name).parts[:-1]))
    return next((found for found in folders if found is not None), None)


def _from_part(part: str, *, bare: bool) -> tuple[str, int] | None:
    """Read one part; `bare` also takes a number that stands alone (`net_7`), but never one of a word (`resnet18`)."""
    part = _METRIC.sub(" ", _VERSION.sub("", part))
    for kind, pattern in (("step", _STEP), ("epoch", _EPOCH), ("number", _COUNTED)):
        found = [match for match in pattern.finditer(part) if _is_word_start(part, match.start())]
        if found:
            return kind, int(found[-1].group(1))
    numbers = _BARE.findall(part) if bare else []
    return ("number", int(numbers[-1])) if numbers else None


def _is_word_start(text: str, position: int) -> bool:
    return position == 0 or not text[position - 1].isalpha()


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """Sorts `epoch_9` before `epoch_10`."""
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", name) if part]


def series(path: str) -> str:
    """What checkpoints of one sequence have in common: the path with every number blotted out."""
    return _NUMBER.sub("#", path)


def all_versions(path: str) -> str:
    """The series without Lightning's `-v1`, which a file gets where an earlier training left one of its name."""
    return series(str(PurePosixPath(path).with_name(_VERSION.sub("", stem(path)) + ending(path))))
