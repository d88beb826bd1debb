"""Steps and epochs in names, and the natural order of names."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import PurePosixPath

from rna_watch.formats import registry

_STEP = re.compile(r"(?:global[_-]?step|steps?|iter(?:ation)?s?|it|ba|batch|updates?)[=_\-.]?(\d+)", re.IGNORECASE)
_EPOCH = re.compile(r"(?:epochs?|ep|e)[=_\-.]?(\d+)", re.IGNORECASE)
_COUNTED = re.compile(r"(?:checkpoint|ckpt|chkpt|model|net|weights|snapshot|save|state)s?[=_\-.]?(\d+)", re.IGNORECASE)
_BARE = re.compile(r"(?<![A-Za-z0-9])(\d+)")
_APART = re.compile(  # tells runs, ranks or seeds apart
    r"(?:ranks?|seeds?|folds?|runs?|workers?|shards?|trials?|version)[=_\-.]?(\d+)", re.IGNORECASE
)
_VERSION = re.compile(r"-v\d+$")
_FAIRSEQ = re.compile(r"(?:checkpoint|ckpt)_\d+_(\d+)(?!\d)", re.IGNORECASE)  # epoch and updates
_DATE = re.compile(
    r"(?<!\d)20\d\d([-_.]?)(?:0[1-9]|1[0-2])\1(?:0[1-9]|[12]\d|3[01])"
    r"(?:(?:[T_ .-]?(?:[01]\d|2[0-3])(?:[0-5]\d){2}|[T_ .-](?:[01]\d|2[0-3])([-_:.h])[0-5]\d(?:\2[0-5]\d)?)(?:\.\d+)?"
    r"|T?(?:[01]\d|2[0-3])[0-5]\d)?(?!\d)"
)
_HASH = re.compile(  # names a content or a run: a UUID, or hexadecimal digits, letters among them; `ba10000` is a step
    r"(?<![A-Za-z0-9])(?:[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
    r"|(?!(?:e|ba)?\d+(?![A-Za-z0-9]))(?=[a-f]*\d)[0-9a-f]{7,})(?![A-Za-z0-9])",
    re.IGNORECASE,
)
_VARIES = re.compile(rf"{_HASH.pattern}|\d+", re.IGNORECASE)
_METRIC = re.compile(r"[=_-]?[A-Za-z_]*[=_-]?\d+\.\d+")
_ARCHIVE = ".tar"  # only with a pattern that asks for it


def stem(name: str) -> str:
    """The last part of a path without the ending of a checkpoint."""
    last = PurePosixPath(name).name
    return last.removesuffix(ending(last))


def ending(name: str) -> str:
    """What `stem` removes: the longest ending of a format that the name has, as it is spelled there; "" if it has none."""
    found = [each for each in (*registry.endings(), _ARCHIVE) if name.lower().endswith(each)]
    return name[-max(map(len, found)) :] if found else ""


def from_name(name: str) -> tuple[str, int] | None:
    """The kind (step, epoch or number) and value of a path, from its last part, else from the folders above.

    `epoch=3-step=1200.ckpt` is step 1200; decimals (`loss=0.25`), dates, hashes and Lightning's `-v1` are not steps.
    """
    own = _from_part(stem(name), bare=True)
    if own is not None:
        return own
    folders = (_from_part(part, bare=False) for part in reversed(PurePosixPath(name).parts[:-1]))
    return next((found for found in folders if found is not None), None)


def _from_part(part: str, *, bare: bool) -> tuple[str, int] | None:
    found = _step(part, bare=bare)
    return (found[0], int(found[1].group(1))) if found is not None else None


def _step(part: str, *, bare: bool) -> tuple[str, re.Match[str]] | None:
    """Read one part; `bare` also takes a number that stands alone (`net_7`), but never one inside a word (`resnet18`)."""
    part = _blank(_HASH, _blank(_VERSION, part))
    undated = _blank(_METRIC, _blank(_DATE, part))
    part = _blank(_METRIC, part)
    for kind, pattern, text in (
        ("step", _STEP, part),
        ("epoch", _EPOCH, part),
        ("number", _FAIRSEQ, undated),
        ("number", _COUNTED, undated),
    ):
        found = [match for match in pattern.finditer(text) if _is_word_start(text, match.start())]
        if found:
            return kind, found[-1]
    numbers = list(_BARE.finditer(undated)) if bare else []
    apart = _apart(undated)
    counting = [match for match in numbers if match.start(1) not in apart] or numbers
    return ("number", counting[-1]) if counting else None


def _apart(text: str) -> set[int]:
    """Where the numbers begin that tell runs, ranks or seeds apart."""
    return {match.start(1) for match in _APART.finditer(text) if _is_word_start(text, match.start())}


def _blank(pattern: re.Pattern[str], text: str) -> str:
    """Replace what matches by spaces, so that everything else keeps its place."""
    return pattern.sub(lambda match: " " * len(match.group()), text)


def _is_word_start(text: str, position: int) -> bool:
    return position == 0 or not text[position - 1].isalpha()


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """A key that sorts `epoch_9` before `epoch_10`."""
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", name) if part]


@lru_cache(maxsize=4096)
def series(path: str) -> str:
    """What the paths of one sequence have in common: the path with `#` for each number and hash.

    Numbers that tell ranks, seeds, folds or runs apart are kept (`rank0_step5`), except one that is the step (`run_5`).
    """
    if not _APART.search(path):
        return _VARIES.sub("#", path)
    *folders, last = path.split("/")
    return "/".join([*(_blotted(each, bare=False) for each in folders), _blotted(last, bare=True)])


def _blotted(part: str, *, bare: bool) -> str:
    step = _step(stem(part) if bare else part, bare=bare)
    kept = _apart(part) - ({step[1].start(1)} if step is not None else set())
    return _VARIES.sub(lambda match: match.group() if match.start() in kept else "#", part)


def all_versions(path: str) -> str:
    """The series without Lightning's `-v1`, which a file gets if an earlier training left one of its name."""
    return series(str(PurePosixPath(path).with_name(_VERSION.sub("", stem(path)) + ending(path))))
