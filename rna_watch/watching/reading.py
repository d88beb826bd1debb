"""One reading of all names of a run: which series there are, which number is the step, and what told it.

A name alone says little: the 3 of `netG_4_3.pth` is the step because it varies and the 4 does not; `fold_3` is a run. So
the whole set decides, with the counters that the files hold, and a larger set may decide otherwise.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

from rna_watch.watching.columns import counts_within, is_int, tells_apart, tells_runs
from rna_watch.watching.extension import LEAST, Extension
from rna_watch.watching.slots import Kind, Rank, Slot, slots
from rna_watch.watching.steps import VERSION, ending

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from rna_watch.watching.columns import Rows

COUNTERS = ("step", "epoch")  # the first that tells the files of a series apart counts
_NAMES = {Rank.STEP: "step", Rank.EPOCH: "epoch"}
_ALONE = Rank.FOLDER  # a single name has a step from this rank on
_SETTLED = 3  # so many names with one value: that is no step
_TIMED = 4  # so many files must have been written in the order of a number
_FEW = 8  # counters of so many files are weighed one by one, then each time that their number doubles
_VERSIONS = 64  # of one path, are kept: the first and the last
_ASKED = 5  # files of a group with bare numbers
COPY = re.compile(
    r"(?:^|[^a-z])(?:best|last|latest|final|newest|current|copy|backup|bak|old)(?![a-z])| \(\d+\)(?=\.|/|$)",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Name:
    """What a path is: its series, the kind of its step, the step (None: the name tells none), and what told it."""

    series: str
    kind: str
    step: int | None
    told: str


@dataclass(slots=True)
class _Group:
    """The paths that differ in their slots alone, how they are read, and what more may be read so, by what tells series apart."""

    paths: dict[str, tuple[Slot, ...]] = field(default_factory=dict)
    names: dict[str, Name] | None = None
    known: int = 0
    extensions: dict[tuple[str, ...], Extension] = field(default_factory=dict)


class Reading:
    """Reads names together; more names, and what is found in the files, may change what earlier ones mean.

    Args:
        names: paths relative to the run directory.
        step: the setting `step`: one group is the step, in every path that it matches.
    """

    def __init__(self, names: Iterable[str] = (), step: str | None = None) -> None:
        self._pattern = re.compile(step) if step else None
        self._groups: dict[str, _Group] = defaultdict(_Group)
        self._of: dict[str, str] = {}
        self._counters: dict[str, Mapping[str, int]] = {}
        self._versions: dict[str, list[Mapping[str, int]]] = {}
        self._times: dict[str, int] = {}
        self._changed: set[str] = set()
        self._added: set[str] = set()
        self._said: dict[str, Name] = {}
        self._extensions: list[Extension] = []
        self.update(names)

    def update(self, names: Iterable[str], times: Mapping[str, int] | None = None) -> None:
        """Take in names; those that are known change nothing.

        Args:
            names: paths relative to the run directory.
            times: when some of them were written first, as far as known (ns).
        """
        for path, time_ns in (times or {}).items():
            self._times.setdefault(path, time_ns)
        for path in names:
            if path in self._of:
                continue
            found = slots(path)
            key = _text(path, {slot for slot in found if slot.rank is Rank.RUN})
            self._of[path] = key
            group = self._groups[key]
            group.paths[path] = found
            if (name := self._extended(group, path, found)) is not None:
                assert group.names is not None
                group.names[path] = name
                self._added.add(path)
            else:
                group.names = None
                self._changed.add(key)

    def _extended(self, group: _Group, path: str, found: tuple[Slot, ...]) -> Name | None:
        """How one more path is read, if that changes nothing else."""
        if group.names is None:
            return None
        value = _named(self._pattern, path) if self._pattern else None
        if value is not None:
            return Name(self._blotted(path, found), *value, "--step")
        split = next((each.split for each in group.extensions.values()), ())
        extension = group.extensions.get(tuple(found[c].text for c in split))
        if extension is None or not extension.takes(found, self._times.get(path)):
            return None
        step = found[extension.step].value
        return Name(self._blotted(path, found, split), extension.kind, step, extension.told)

    def found_inside(self, path: str, counters: Mapping[str, int], *, again: bool = False) -> None:
        """Take in what a file says of itself.

        Args:
            path: relative to the run directory.
            counters: the step and epoch inside.
            again: whether the path was written again, with other content.
        """
        self.update([path])
        versions = self._versions.setdefault(path, [])
        if versions and not again and versions[-1] == counters:
            return
        if again or not versions:
            versions.append(counters)
            del versions[_VERSIONS // 2 : len(versions) - _VERSIONS // 2]
        else:
            versions[-1] = counters
        self._counters[path] = counters
        group = self._groups[self._of[path]]
        group.known += 1
        again = again and (len(group.paths) < LEAST or self._rewritten(path, len(group.paths)))
        if (
            again
            or group.known & (group.known - 1) == 0
            or group.known <= _FEW
            or not self._agrees(group, path, counters)
        ):
            group.names = None
            self._changed.add(self._of[path])

    def _agrees(self, group: _Group, path: str, counters: Mapping[str, int]) -> bool:
        """Whether what a file says of itself leaves what the counters tell of its group as it is."""
        name = group.names.get(path) if group.names and group.extensions else None
        return name is None or name.step is None or counters.get(name.kind, name.step) == name.step

    def of(self, path: str) -> Name:
        """How a path is read, in the company of all names so far."""
        self.update([path])
        group = self._groups[self._of[path]]
        return self._names(group)[path]

    def _names(self, group: _Group) -> dict[str, Name]:
        if group.names is None:
            self._extensions = []
            group.names = self._read(group.paths)
            known = self._extensions if len(group.paths) >= LEAST else []
            group.extensions = {tuple(each.first[c].text for c in each.split): each for each in known}
        return group.names

    def pop_changed(self) -> set[str]:
        """The paths whose reading may have changed since this was asked last."""
        groups = [self._names(self._groups[key]) for key in self._changed]
        paths = self._added | {path for names in groups for path, name in names.items() if self._said.get(path) != name}
        self._said |= {path: self.of(path) for path in paths}
        self._changed.clear()
        self._added.clear()
        return paths

    def order(self, path: str, changed_ns: int = 0) -> tuple[bool, bool, int, str, int, int, str]:
        """A key that sorts paths as they are to be taken.

        Those whose names tell the step come first; originals before copies (`best_`, `backup/`); then each series by its
        steps, those that only the files tell too; last by time.
        """
        name = self.of(path)
        inside = self._counters.get(path, {}).get(name.kind, 0)
        copy = COPY.search(path) is not None
        if name.step is None:
            return True, copy, 0, name.series if inside else "", inside, changed_ns, path
        return False, copy, path.count("/"), name.series, name.step, 0, path

    def step_in_folder(self, path: str) -> bool:
        """Whether no number of a path's last part can be its step, so that a folder's may be."""
        own = [slot for slot in slots(path) if not slot.in_folder and slot.kind is Kind.INTEGER]
        return not any(slot.rank >= Rank.NAMED for slot in own)

    def undecided(self, paths: Iterable[str]) -> list[str]:
        """Those of these paths whose files should be asked for their counters before any is taken.

        All of a group whose names tell no step, and some of one where only bare numbers do.
        """
        groups: dict[str, list[str]] = defaultdict(list)
        for path in paths:
            name = self.of(path)
            weak = name.step is None or max(slot.rank for slot in slots(path)) <= Rank.COUNTED
            if weak and path not in self._counters and len(self._groups[self._of[path]].paths) > 1:
                groups[self._of[path]].append(path)
        asked: list[str] = []
        for group in groups.values():
            some = group if self.of(group[0]).step is None else group[:: max(1, len(group) // _ASKED)]
            asked += some
        return asked

    def matches(self, path: str) -> bool:
        """Whether the setting `step`, if there is one, names the step of a path."""
        return self._pattern is None or _named(self._pattern, path) is not None

    def _read(self, paths: Mapping[str, tuple[Slot, ...]]) -> dict[str, Name]:
        names: dict[str, Name] = {}
        rest: dict[str, tuple[Slot, ...]] = {}
        for path, found in paths.items():
            value = _named(self._pattern, path) if self._pattern else None
            if value is not None:
                names[path] = Name(self._blotted(path, found), *value, "--step")
            else:
                rest[path] = found
        kept = {path for path in rest if len(self._versions.get(path, ())) > 1 and self._rewritten(path, len(rest))}
        for path in kept if len(rest) > 1 else ():
            names |= self._inside([path], lambda path: path)
        together = {path: found for path, found in rest.items() if path not in names}
        if together:
            names |= self._together(together, (), rewritten=bool(kept))
        return names

    def _rewritten(self, path: str, count: int) -> bool:
        """Whether a path is a name that the training writes again and again, whatever numbers stand in it.

        A path that is written again may also be that of a restart. It is a rewritten name if what it holds counts on, if
        it is written a third time, or if it is alone and its number names neither step nor epoch; never if the file agrees
        with its name.
        """
        versions = self._versions.get(path, [])
        if len(versions) < 2:
            return False
        older, newer = versions[-2:]
        numbers = [slot for slot in slots(path) if slot.kind is Kind.INTEGER and slot.rank >= _ALONE]
        if any(
            abs(slot.value - inside) <= 1
            for slot in numbers
            for version in versions[-2:]
            for inside in version.values()
        ):
            return False
        if any(kind in older and newer.get(kind, -1) > older[kind] for kind in COUNTERS) or len(versions) > 2:
            return True
        return count == 1 and max((slot.rank for slot in numbers), default=Rank.RUN) < Rank.EPOCH

    def _together(
        self, paths: Mapping[str, tuple[Slot, ...]], split: tuple[int, ...], *, rewritten: bool = False
    ) -> dict[str, Name]:
        """Read paths of one template.

        Args:
            paths: their slots, equally many.
            split: the columns that tell series apart and are equal here.
            rewritten: no number of these is a step.
        """
        rows = list(paths.items())
        texts = [[slot.text for slot in found] for _, found in rows]
        columns = len(texts[0])
        varying = [c for c in range(columns) if len({row[c] for row in texts}) > 1]
        runs = next((c for c in varying if tells_runs(rows, texts, c)), None)
        if runs is not None:
            return self._apart(rows, runs, split)
        chosen = None if rewritten else self._column(rows, varying)
        if chosen is None:
            return self._inside(paths, lambda path: self._blotted(path, paths[path], split))
        chosen, within = counts_within(rows, varying, chosen)
        if within is None and (apart := tells_apart(rows, texts, varying, chosen)) is not None:
            repeated = len({found[chosen].value for _, found in rows}) < len(rows)
            return self._apart(rows, apart, split, extends=repeated)
        kind = _NAMES.get(rows[0][1][chosen].rank, "number")
        told = f"the {kind} in the name"
        values = {path: found[chosen].value for path, found in rows}
        if within is not None:
            pairs = {path: (found[chosen].value, found[within].value) for path, found in rows}
            place = {pair: number for number, pair in enumerate(sorted(set(pairs.values())), 1)}
            values = {path: place[pair] for path, pair in pairs.items()}
            kind, told = "number", "the place among the names, by two of their numbers"
        elif kind == "number":
            kind = self._kind(rows, chosen)
        if within is None and len(split) <= 1 and len(rows) >= LEAST // 2:
            self._extensions.append(Extension.of(rows, self._times, split=split, step=chosen, kind=kind, told=told))
        return {path: Name(self._blotted(path, found, split), kind, values[path], told) for path, found in rows}

    def _apart(self, rows: Rows, column: int, split: tuple[int, ...], *, extends: bool = True) -> dict[str, Name]:
        parts: dict[str, dict[str, tuple[Slot, ...]]] = defaultdict(dict)
        for path, found in rows:
            parts[found[column].text][path] = found
        names: dict[str, Name] = {}
        for part in parts.values():
            names |= self._together(part, (*split, column))
        if not extends:
            self._extensions = []
        return names

    def _column(self, rows: Rows, varying: Sequence[int]) -> int | None:
        """The column that holds the step; None if none does, or if what the files hold contradicts all."""
        least = _ALONE if len(rows) == 1 else Rank.IN_WORD
        usable = [c for c in range(len(rows[0][1])) if is_int(rows, c) and rows[0][1][c].rank >= least]
        among = [c for c in usable if c in varying]
        if not among:
            if len(rows) >= _SETTLED:
                return None
            among = [c for c in usable if rows[0][1][c].rank >= _ALONE]
        told = {c: self._agreement(rows, c) for c in among}
        among = [c for c in among if told[c] >= 0]

        def strength(c: int) -> tuple[int, bool, int, bool, int]:
            values, rank = [found[c].value for _, found in rows], rows[0][1][c].rank
            unique = len(set(values)) == len(values) and rank >= Rank.BATCH
            return told[c], unique, rank, self._grows_with_time(rows, c), c

        return max(among, key=strength, default=None)

    def _grows_with_time(self, rows: Rows, column: int) -> bool:
        """Whether a column grows from each file to the next one written: times tell only where names leave it open.

        Copies and downloads scramble times or make them equal, so a few files, or one that is out of order, tell nothing.
        """
        written = sorted((self._times[path], found[column].value) for path, found in rows if path in self._times)
        if len(written) < max(len(rows), _TIMED):
            return False
        return all(a[0] < b[0] and a[1] < b[1] for a, b in pairwise(written))

    def _agreement(self, rows: Rows, column: int) -> int:
        """1 if a column goes with the counters inside, -1 if these contradict it, 0 if they say nothing."""
        known = [(found[column].value, self._counters[path]) for path, found in rows if self._counters.get(path)]
        if not known:
            return 0
        rank = rows[0][1][column].rank
        if len(known) == 1:
            value, counters = known[0]
            near = any(abs(value - each) <= 1 for each in counters.values())
            return 0 if near or rank > Rank.BARE or len(rows) > 1 else -1
        for kind in COUNTERS:
            pairs = sorted((value, counters[kind]) for value, counters in known if kind in counters)
            ups = sum(b[1] > a[1] for a, b in pairwise(pairs) if b[0] > a[0])
            downs = sum(b[1] < a[1] for a, b in pairwise(pairs) if b[0] > a[0])
            if ups > downs:
                return 1
            if downs > ups and all(value != inside for value, inside in pairs):
                return -1
        return 0

    def _kind(self, rows: Rows, column: int) -> str:
        """What a bare number counts: what the counter of that value in every file does."""
        known = [(found[column].value, self._counters[path]) for path, found in rows if path in self._counters]
        kinds = [kind for kind in COUNTERS if known and all(value == inside.get(kind) for value, inside in known)]
        return kinds[0] if len(kinds) == 1 else "number"

    def _inside(self, paths: Iterable[str], series: Callable[[str], str]) -> dict[str, Name]:
        """Read paths whose names tell no step: by the first counter inside that tells them apart."""
        paths = list(paths)
        known = [each for path in paths for each in self._versions.get(path, ()) if each]
        kinds = [kind for kind in COUNTERS if any(kind in each for each in known)]
        varying = (kind for kind in kinds if len({each.get(kind) for each in known}) > 1)
        kind = next(varying, kinds[0] if kinds else "")
        told = f"the {kind} in the file" if kind else "the order of writing"
        return {path: Name(series(path), kind, None, told) for path in paths}

    def _blotted(self, path: str, found: Sequence[Slot], split: Sequence[int] = ()) -> str:
        if not split:
            return self._of[path]
        return _text(path, {slot for c, slot in enumerate(found) if slot.rank is Rank.RUN or c in split})


def _named(pattern: re.Pattern[str], path: str) -> tuple[str, int] | None:
    match = pattern.search(path)
    if match is None or not (text := match.group(1) or "").isdecimal():
        return None
    ranks = {slot.start: slot.rank for slot in slots(path)}
    return _NAMES.get(ranks.get(match.start(1), Rank.BARE), "number"), int(text)


def _text(path: str, kept: set[Slot]) -> str:
    """A path with `#` for each slot that is not kept, and for the number of Lightning's `-v1`."""
    parts: list[str] = []
    at = 0
    for slot in slots(path):
        parts += [path[at : slot.start], slot.text if slot in kept else "#"]
        at = slot.end
    folders, slash, last = path.rpartition("/")
    end = ending(last)
    named = last.removesuffix(end)
    body = VERSION.sub("", named)
    whole = len(folders) + len(slash) + len(body)
    return "".join([*parts, path[at:whole], "" if body == named else "-v#", end])
