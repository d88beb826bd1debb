"""Patterns of `--ignore` that match no tensor, and the names that they may have meant."""

from __future__ import annotations

import difflib
import shlex
from itertools import islice
from typing import TYPE_CHECKING

from rna_watch.layout.layout import matching

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rna_watch.layout.layout import Layout

_NEAR = 3
_CUTOFF = 0.5
_MOST = 20_000  # names that are compared


def unmatched(patterns: Iterable[str], layouts: Sequence[Layout]) -> tuple[str, ...]:
    """The patterns that match no tensor of any of these checkpoints."""
    return tuple(each for each in patterns if not any(matching(layout, [each]) for layout in layouts))


def describe(patterns: Iterable[str], layout: Layout) -> str:
    """In words, that patterns match no tensor, each with the names of a checkpoint that are near it."""
    names = list(layout.window_names.values())
    return "; ".join(f"--ignore {shlex.quote(each)} matches no tensor; {_near(each, names)}" for each in patterns)


def _near(pattern: str, names: Sequence[str]) -> str:
    """The names near a pattern, or groups of names below a common prefix, such as `head.*`."""
    groups: dict[str, str] = {}
    for name in names:
        parts = name.split(".")
        for count in range(1, len(parts)):
            groups.setdefault(f"{'.'.join(parts[:count])}.*", name)
    known = list(islice(dict.fromkeys([*names, *groups]), _MOST))
    found = difflib.get_close_matches(pattern, known, n=_NEAR, cutoff=_CUTOFF)
    shown = [f"{each} (such as {groups[each]})" if each in groups else each for each in found]
    return f"near it: {', '.join(shown)}" if shown else f"a name of one is {names[0]}"
