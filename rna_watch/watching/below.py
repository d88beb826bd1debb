"""The runs below a folder: which of its folders are runs, by what lies in them."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from rna_watch.watching import steps
from rna_watch.watching.discovery import Run, discover, is_role, is_sequence, names_a_run, within

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from rna_watch.watching.discovery import NumberedNames
    from rna_watch.watching.reading import Reading

# folders in which a trainer keeps the checkpoints of one run
_CONTAINER = re.compile(r"^(checkpoints?|ckpts?|weights|models?|saved[_-]models?|snapshots?|states?)$", re.IGNORECASE)


def runs_below(
    names: Mapping[str, int],
    reading: Reading,
    *,
    globs: Sequence[str] = (),
    before: Collection[str] = (),
) -> list[Run]:
    """The runs that these names form, each of them below the folder.

    A folder is a run if it was watched before; if it and its siblings hold checkpoints of one pattern and differ as runs
    do (`discovery`); if it holds a sequence of its own; or if its name says so. A folder of a run's parts (`checkpoints`,
    `best`) is the run above it.

    Args:
        names: paths of checkpoints relative to the folder, and when each last changed (ns).
        reading: how these names are read.
        globs: which folders are runs, relative to the folder, whatever lies in them; empty: as above.
        before: folders that were watched as runs before.
    """
    inside = {name: changed for name, changed in names.items() if "/" in name}
    roots = _matching(inside, globs) if globs else _found(inside, reading, before)
    found = []
    for root in sorted(roots, key=steps.natural_key):
        groups = discover(within(inside, root)).groups
        if groups:
            found.append(Run(folder=root, groups=groups))
    return found


def _matching(names: Mapping[str, int], globs: Sequence[str]) -> set[str]:
    folders = {
        "/".join(parts[:depth]) for name in names for parts in [name.split("/")] for depth in range(1, len(parts))
    }
    return _outermost({each for each in folders if any(_matches(each, glob) for glob in globs)})


def _matches(folder: str, glob: str) -> bool:
    """Whether a folder is meant by a pattern, whose stars stay between slashes."""
    parts, patterns = folder.split("/"), glob.strip("/").split("/")
    return len(parts) == len(patterns) and all(map(fnmatchcase, parts, patterns))


def _found(names: Mapping[str, int], reading: Reading, before: Collection[str]) -> set[str]:
    known = _outermost(set(before))
    discovery = discover(names, reading=reading)
    roots = {run.folder for run in discovery.runs}
    roots |= {
        _whole(group.folder)
        for group in discovery.groups
        if group.folder and not any(_inside(group.folder, root) for root in roots) and _is_run(group)
    }
    return known | {
        root for root in _outermost(roots) if not any(_inside(root, each) or _inside(each, root) for each in known)
    }


def _is_run(group: NumberedNames) -> bool:
    return is_sequence(group) or any(map(names_a_run, group.folder.split("/")))


def _whole(folder: str) -> str:
    """The folder of the run whose checkpoints lie in a folder."""
    parts = folder.split("/")
    while len(parts) > 1 and (_CONTAINER.match(parts[-1]) or is_role(parts[-1])):
        parts.pop()
    return "/".join(parts)


def _outermost(folders: set[str]) -> set[str]:
    return {each for each in folders if not any(each != other and _inside(each, other) for other in folders)}


def _inside(folder: str, root: str) -> bool:
    return folder == root or folder.startswith(f"{root}/")
