"""The checkpoints of a run by their names, and what finds some of them without a look at all of them."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections import Counter
from itertools import compress
from typing import TYPE_CHECKING, Any

from rna_watch.journal.ages import NEVER
from rna_watch.journal.checkpoint import PENDING, Checkpoint, Stage, packed

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from rna_watch.journal import events as e
    from rna_watch.journal.ages import Age
    from rna_watch.journal.table import Table

_FEW = 16
UNPACKED = 64  # the bulk of so many that changed last stays as it is


class Series:
    """The admitted checkpoints of one series, sorted: `admitted` as (*age, name, seq), `steps` as (step, seq, name, age).

    `breaks` has the ages of those with which a window starts, `seqs` the names as they were admitted: (seq, name).
    """

    __slots__ = ("admitted", "breaks", "seqs", "steps")

    def __init__(self) -> None:
        self.admitted: list[tuple[int, int, str, int]] = []
        self.steps: list[tuple[int, int, str, Age]] = []
        self.breaks: list[Age] = []
        self.seqs: list[tuple[int, str]] = []

    def add(self, checkpoint: Checkpoint) -> None:
        """Take a checkpoint in."""
        assert checkpoint.admitted is not None
        age, name, seq = checkpoint.age, checkpoint.name, checkpoint.admitted.seq
        insort(self.admitted, (*age, name, seq))
        insort(self.seqs, (seq, name))
        insort(self.steps, (checkpoint.admitted.step, seq, name, age))
        if checkpoint.starts_window:
            insort(self.breaks, age)

    def remove(self, checkpoint: Checkpoint) -> None:
        """Leave a checkpoint out again."""
        assert checkpoint.admitted is not None
        age, name, seq = checkpoint.age, checkpoint.name, checkpoint.admitted.seq
        _discard(self.admitted, (*age, name, seq))
        _discard(self.seqs, (seq, name))
        _discard(self.steps, (checkpoint.admitted.step, seq, name, age))
        if checkpoint.starts_window:
            _discard(self.breaks, age)

    def below(self, step: int, seq: int) -> Iterator[str]:
        """Those of smaller steps, or of the same step and admitted before, the largest step first."""
        at = bisect_left(self.steps, (step, seq))
        return (name for _, _, name, _ in reversed(self.steps[:at]))

    def newest_first(self) -> Iterator[str]:
        """All, from the one that was saved last; mostly a few of them are asked for."""
        few = [name for _, _, name, _ in self.admitted[-_FEW:]]
        yield from reversed(few)
        yield from (name for _, _, name, _ in reversed(list(self.admitted)) if name not in few)

    def earlier(self, age: Age) -> Iterator[str]:
        """Those that were saved before, the newest first."""
        return (name for _, _, name, _ in reversed(self.admitted[: bisect_left(self.admitted, age)]))

    def above(self, step: int) -> list[str]:
        """Those of larger steps, the smallest first."""
        return [name for _, _, name, _ in self.steps[bisect_left(self.steps, (step + 1,)) :]]

    def behind(self, step: int, seq: int, age: Age) -> Iterator[str]:
        """As `below`, of those between the same two starts of windows as an age."""
        generation = bisect_right(self.breaks, age)
        first = self.breaks[generation - 1] if generation else NEVER
        end = self.breaks[generation] if generation < len(self.breaks) else None
        low = bisect_left(self.admitted, first)
        high = len(self.admitted) if end is None else bisect_left(self.admitted, end)
        at = bisect_left(self.steps, (step, seq))
        if high - low < at:
            among = sorted((own, number, name) for _, own, name, number in self.admitted[low:high])
            return (name for _, _, name in reversed(among[: bisect_left(among, (step, seq))]))
        return (name for _, _, name, own in reversed(self.steps[:at]) if first <= own and (end is None or own < end))


class Checkpoints(dict[str, Checkpoint]):
    """The checkpoints, in the order in which they were first seen.

    Every change goes through `[name] = checkpoint`, which keeps the indexes; another thread may read meanwhile. What changed
    longest ago, and is not to be worked on, is packed.
    """

    def __init__(self, made: Iterable[Checkpoint] = ()) -> None:
        super().__init__()
        self.stages: dict[Stage, dict[str, None]] = {stage: {} for stage in Stage}
        self.pinned: dict[str, None] = {}
        self.left_behind: dict[str, None] = {}
        self.trained: dict[str, None] = {}
        self.verdicts: Counter[tuple[bool | None, bool | None]] = Counter()  # better than the original, beyond noise
        self.admitted: list[tuple[int, int, str]] = []
        self._series: dict[str, Series] = {}
        self._paths: dict[str, tuple[str, ...]] = {}
        self._fingerprints: dict[str, tuple[str, ...]] = {}
        self._inodes: dict[int, tuple[str, ...]] = {}
        self._unpacked: dict[str, None] = {}
        for each in made:
            self[each.name] = each

    @classmethod
    def of_table(cls, table: Table) -> Checkpoints:
        """Those of a table; the indexes are made at once, which is faster than one by one."""
        made = cls()
        columns, admitted = table.columns, table.admitted
        rows = table.checkpoints()
        dict.update(made, zip(columns["name"], rows, strict=True))
        if len(made) < len(rows):
            raise ValueError("two checkpoints have one name")
        names, stages = columns["name"], columns["stage"]
        for stage in set(stages):
            made.stages[stage] = dict.fromkeys(name for name, each in zip(names, stages, strict=True) if each is stage)
        made.pinned = dict.fromkeys(compress(names, columns["pinned"]))
        made.trained = dict.fromkeys(compress(names, table.trained))
        for_now = compress(zip(names, stages, strict=True), columns["for_now"])
        made.left_behind = dict.fromkeys(name for name, stage in for_now if stage is Stage.SKIPPED)
        members: dict[str, list[tuple[str, int, Age, bool]]] = {}
        for each in zip(names, columns["admitted"], columns["age"], columns["starts_window"], strict=True):
            if each[1] is not None:
                members.setdefault(admitted["series"][each[1]], []).append(each)
        steps, seqs = admitted["step"], admitted["seq"]
        for key, found in members.items():
            made._series[key] = series = Series()
            series.admitted = sorted((*age, name, seqs[place]) for name, place, age, _ in found)
            series.seqs = sorted((seqs[place], name) for name, place, _, _ in found)
            series.steps = sorted((steps[place], seqs[place], name, age) for name, place, age, _ in found)
            series.breaks = sorted(age for _, _, age, starts_window in found if starts_window)
        made.admitted = sorted((*age, name) for found in members.values() for name, _, age, _ in found)
        known = [(name, place) for name, place in zip(names, columns["admitted"], strict=True) if place is not None]
        made._paths = _grouped(admitted["path"], known)
        made._fingerprints = _grouped(admitted["fingerprint"], known)
        made._inodes = _grouped(admitted["inode"], known)
        verdicts = filter(None, columns["verdict"])
        made.verdicts.update((each.better_than_original, each.significant) for each in verdicts)
        return made

    def __setitem__(self, name: str, new: Checkpoint) -> None:
        """Put a checkpoint in the place of what was known of it."""
        old = self.get(name)
        super().__setitem__(name, new)  # before the indexes: whoever finds its name in one finds it here
        if old is None or old.stage is not new.stage:
            if old is not None:
                self.stages[old.stage].pop(name, None)
            self.stages[new.stage][name] = None
        if new.admitted != (old and old.admitted) or (old is not None and old.starts_window != new.starts_window):
            self._index(name, old, new)
        _mark(self.pinned, name, new.pinned)
        _mark(self.left_behind, name, new.left_behind)
        _mark(self.trained, name, new.trained)
        for each, count in ((old, -1), (new, 1)):
            if each is not None and each.verdict:
                self.verdicts[each.verdict.better_than_original, each.verdict.significant] += count
        if new.brief is None:
            self._unpacked.pop(name, None)
            self._unpacked[name] = None
            if len(self._unpacked) > UNPACKED:
                self._pack(next(iter(self._unpacked)))

    def _pack(self, name: str) -> None:
        del self._unpacked[name]
        if self[name].stage not in PENDING:
            super().__setitem__(name, packed(self[name]))

    def stored(self, before: Checkpoint, after: Checkpoint) -> None:
        """Put the same checkpoint, packed elsewhere, in its place, if it is packed and nothing changed it meanwhile."""
        if self.get(before.name) is before and before.brief is not None:
            super().__setitem__(before.name, after)

    def _index(self, name: str, old: Checkpoint | None, new: Checkpoint) -> None:
        if old is not None and (before := old.admitted) is not None:
            series = self._series[before.series]
            series.remove(old)
            if not series.admitted:
                del self._series[before.series]
            _discard(self.admitted, (*old.age, name))
            for found, key in self._keys(before):
                found[key] = tuple(each for each in found[key] if each != name)
                if not found[key]:
                    del found[key]
        if (admitted := new.admitted) is not None:
            self._series.setdefault(admitted.series, Series()).add(new)
            insort(self.admitted, (*new.age, name))
            for found, key in self._keys(admitted):
                found[key] = (*found.get(key, ()), name)

    def _keys(self, admitted: e.Admitted) -> tuple[tuple[dict[Any, tuple[str, ...]], object], ...]:
        return (
            (self._paths, admitted.path),
            (self._fingerprints, admitted.fingerprint),
            (self._inodes, admitted.inode),
        )

    def series(self) -> list[str]:
        """The series, in the order in which they were found."""
        return list(self._series)

    def of_series(self, series: str) -> Series:
        """The admitted checkpoints of a series; none if there is no such series."""
        return self._series.get(series) or Series()

    def of_stages(self, stages: Iterable[Stage]) -> list[Checkpoint]:
        """All that are at one of these stages."""
        found = [(self[name], stage) for stage in stages for name in list(self.stages[stage])]
        return [checkpoint for checkpoint, stage in found if checkpoint.stage is stage]  # not one that moves just now

    def count(self, stages: Iterable[Stage]) -> int:
        """How many are at one of these stages."""
        return sum(len(self.stages[stage]) for stage in stages)

    def better(self) -> tuple[int, int, int, int]:
        """Over the models that were compared with their originals: how many, better, beyond noise, and not compared with it."""
        found = [(each, beyond, count) for (each, beyond), count in list(self.verdicts.items()) if each is not None]
        better = [(beyond, count) for each, beyond, count in found if each]
        return (
            sum(count for _, _, count in found),
            sum(count for _, count in better),
            sum(count for beyond, count in better if beyond),
            sum(count for beyond, count in better if beyond is None),
        )

    def by_path(self, path: str) -> list[Checkpoint]:
        """Those that were admitted from a path."""
        return [self[name] for name in self._paths.get(path, ())]

    def by_fingerprint(self, fingerprint: str) -> list[Checkpoint]:
        """Those of this content."""
        return [self[name] for name in self._fingerprints.get(fingerprint, ())]

    def by_inode(self, inode: int) -> list[Checkpoint]:
        """Those that were admitted from this inode."""
        return [self[name] for name in self._inodes.get(inode, ())]

    def newest(self, count: int) -> list[Checkpoint]:
        """So many that were saved last, oldest first."""
        return [self[name] for _, _, name in self.admitted[-count:]] if count > 0 else []

    def newest_first(self) -> Iterator[Checkpoint]:
        """All admitted checkpoints, from the one that was saved last."""
        return (self[name] for _, _, name in reversed(list(self.admitted)))


def _grouped(keys: list[Any], known: list[tuple[str, int]]) -> dict[Any, tuple[str, ...]]:
    """Names by the keys at their places, in their order."""
    found: dict[Any, tuple[str, ...]] = {keys[place]: (name,) for name, place in known}
    if len(found) < len(known):  # some have one key
        found = {}
        for name, place in known:
            found[keys[place]] = (*found.get(keys[place], ()), name)
    return found


def _mark(among: dict[str, None], name: str, wanted: bool) -> None:
    if wanted:
        among[name] = None
    else:
        among.pop(name, None)


def _discard(found: list[Any], value: object) -> None:
    at = bisect_left(found, value)
    if at < len(found) and found[at] == value:
        del found[at]
