"""When a file may be read: pure bookkeeping of rest, probing with back-off, and of what to report."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rna_watch.watching.reading import Reading

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from rna_watch.layout.identity import FileIdentity
    from rna_watch.watching.scan import Found

_FIRST_RETRY_S = 0.5
_LAST_RETRY_S = 30.0
_POLL_S = 0.05
# the rest of a file that its writer closed or renamed into place; if it goes on to write, that is seen once the file was read
_CLOSED_REST_S = 0.05
# how long the successors of a file that cannot be read wait for it: as long as servers and mounts usually take to return;
# a trainer that keeps its newest three files and saves every 20 s does not delete theirs meanwhile, and they are not pinned
KEPT_PLACE_S = 60.0
# an incomplete file is reported after twice the longest writing time of the run's checkpoints, within these bounds
LEAST_REPORT_S = 10.0
_MOST_REPORT_S = 600.0


@dataclass(slots=True)
class _Entry:
    identity: FileIdentity | None
    since: float  # seen first in its present writing
    changed: float  # seen with this identity
    due: float
    retry_s: float = _FIRST_RETRY_S
    settled: bool = False
    probed: bool = False
    reported: str = ""
    restless: FileIdentity | None = None
    unreadable: float | None = None  # since when it cannot be read
    passed: bool = False  # its successors were let by


class Readiness:
    """Tracks every candidate: it is due once it has rested for `quiet_s`, and again, later and later, while incomplete.

    A candidate that keeps changing becomes due when an incomplete one would be reported, with the identity that was seen
    first: the probe then finds that it is still being written, and reports it. One that cannot be read keeps its place: the
    later ones of its series wait for it, at most a minute. All times are seconds of one monotonic clock, passed in.

    Args:
        quiet_s: how long a file must rest.
        rested_s: returns how long a file that is new to us has rested already.
        reading: the reading of all names; by default that of the candidates.
        at_once: report what is incomplete at once. Otherwise it is reported after twice the longest time that a
            checkpoint took to be written so far (at least 10 s, at most ten minutes).
    """

    def __init__(
        self,
        quiet_s: float,
        rested_s: Callable[[FileIdentity], float] = lambda _: 0.0,
        *,
        reading: Reading | None = None,
        at_once: bool = False,
    ) -> None:
        self._quiet_s = quiet_s
        self._reading = reading or Reading()
        self._rested_s = rested_s
        self._at_once = at_once
        self._longest_s = 0.0
        self._entries: dict[str, _Entry] = {}
        self._open: dict[
            str, _Entry
        ] = {}  # those that are not settled: a folder of thousands is looked at every moment
        self._let_by: list[str] = []
        self._lost: list[tuple[str, int]] = []
        self._none_read_since: float | None = None
        self.changed = -math.inf  # when a candidate was new or another one last

    @property
    def _report_after_s(self) -> float:
        return 0.0 if self._at_once else max(LEAST_REPORT_S, min(2 * self._longest_s, _MOST_REPORT_S))

    def update(self, found: Iterable[Found], now: float, unlisted: Iterable[str] = ()) -> list[str]:
        """Take in a scan; returns the names that were there before and are gone.

        Args:
            found: the scan's candidates.
            now: the clock.
            unlisted: folders that could not be listed: nothing in them is taken for gone.
        """
        current = {each.name: each for each in found}
        self._reading.update(current)
        unseen = tuple(f"{folder}/" for folder in unlisted)
        gone = [name for name in self._entries if name not in current and not f"{name}/".startswith(unseen)]
        for name in gone:
            del self._entries[name]
            lost = self._open.pop(name, None)
            if lost is not None:
                self._lost.append((name, lost.identity.inode if lost.identity else 0))
        for name, each in current.items():
            entry = self._entries.get(name)
            if each.identity is None:
                self._unknown(name, now)
                continue
            if entry is None or entry.identity != each.identity:
                if (
                    entry is not None
                    and entry.settled
                    and entry.identity is not None
                    and entry.identity.same_content(each.identity)
                ):
                    entry.identity = each.identity  # links and permissions change ctime, not content
                    continue
                rested = 0.0 if entry is not None else min(self._rested_s(each.identity), self._quiet_s)
                new = _Entry(each.identity, now, now, now + self._quiet_s - rested)
                if entry is not None and not entry.settled:
                    new.since, new.reported, new.restless = (
                        entry.since,
                        entry.reported,
                        entry.restless or entry.identity,
                    )
                    new.unreadable, new.passed = entry.unreadable, entry.passed
                self._entries[name] = self._open[name] = new
                self.changed = now
        return gone

    def _unknown(self, name: str, now: float) -> None:
        """Keep the place of a file that the system fails to tell of, until a later scan does."""
        entry = self._entries.get(name)
        if entry is None:
            entry = self._entries[name] = self._open[name] = _Entry(None, now, now, math.inf)
        if not entry.settled and entry.unreadable is None:
            entry.unreadable = now

    def due(self, now: float) -> list[tuple[str, FileIdentity]]:
        """Candidates that may be probed now: those whose names tell a step first, in its order, then the others by their time.

        A candidate waits for an older one of its sequence that still rests for the first time; otherwise two files saved
        at nearly the same moment could be taken in the wrong order. A rewritten name (`last`) waits for a numbered one
        that was seen no later, because it may be a second name of that.
        """
        if not any(self._is_due(each, now) for each in self._open.values()):
            return []
        open_ones = sorted(
            (self._reading.order(name, entry.identity.mtime_ns if entry.identity else 0), name)
            for name, entry in self._open.items()
        )
        found: list[tuple[str, FileIdentity]] = []
        held: set[str] = set()
        passed: dict[str, list[tuple[str, FileIdentity]]] = {}  # by series: unreadable ones whose successors go on
        numbered: dict[str, float] = {}  # since when a numbered file of a folder has been resting
        for (rewritten, *_), name in open_ones:
            entry = self._entries[name]
            series = self._reading.of(name).series
            folder = name.rpartition("/")[0]
            waits = series in held or (rewritten and numbered.get(folder, math.inf) <= entry.since)
            keeps = entry.unreadable is not None and now - entry.unreadable < KEPT_PLACE_S
            if entry.unreadable is not None and not keeps and not entry.passed:
                entry.passed = True
                self._let_by.append(name)
            if entry.due <= now and not waits and entry.identity is not None:
                found += passed.pop(series, ())  # it keeps its place if it can be read by now
                found.append((name, entry.identity))
            elif entry.restless is not None and self._is_restless(entry, now):
                found.append((name, entry.restless))
            elif keeps or (not entry.probed and entry.identity is not None):
                held.add(series)
                if not rewritten:
                    numbered[folder] = min(numbered.get(folder, math.inf), entry.since)
            elif entry.passed and entry.identity is not None:
                passed.setdefault(series, []).append((name, entry.identity))
        return found

    def _is_due(self, entry: _Entry, now: float) -> bool:
        """Whether something may be done about a candidate now."""
        return (
            entry.due <= now
            or self._is_restless(entry, now)
            or (entry.unreadable is not None and not entry.passed and now - entry.unreadable >= KEPT_PLACE_S)
        )

    def _is_restless(self, entry: _Entry, now: float) -> bool:
        """Whether it is to be reported that a candidate keeps changing."""
        return entry.restless is not None and not entry.reported and now - entry.since >= self._report_after_s

    def written(self, name: str, now: float) -> None:
        """A candidate was closed by its writer or renamed into place: it rests for a moment only."""
        entry = self._entries.get(name)
        if entry is not None and not entry.settled and not entry.probed:
            entry.due = min(entry.due, now + _CLOSED_REST_S)

    @property
    def waiting(self) -> bool:
        """Whether a file that cannot be read keeps its place."""
        return any(not each.passed and each.unreadable is not None for each in self._open.values())

    def pop_let_by(self) -> list[str]:
        """The files that could not be read for so long that their successors go on without them, each once."""
        found, self._let_by = self._let_by, []
        return found

    def pop_lost(self) -> list[tuple[str, int]]:
        """The candidates that went before they were admitted or refused, with their inodes, each once."""
        found, self._lost = self._lost, []
        return found

    def passed(self, name: str) -> bool:
        """Whether the successors of a file that could not be read went on without it."""
        entry = self._entries.get(name)
        return entry is not None and entry.passed

    def next_due(self, after: float = -math.inf) -> float | None:
        """When the next candidate is due, of those that are due after a moment."""
        times = (entry.due for entry in self._open.values() if entry.due > after)
        return min(times, default=None)

    def settle(self, name: str, *, whole: bool) -> None:
        """Leave a candidate alone until it changes.

        Args:
            name: the candidate's name.
            whole: whether it is a checkpoint; its writing time is remembered then.
        """
        entry = self._entries.get(name)
        if entry is not None:
            entry.settled = True
            self._open.pop(name, None)
            self._none_read_since = None
            if whole:
                self._longest_s = max(self._longest_s, entry.changed - entry.since)

    def postpone(self, name: str, reason: str, now: float, *, unreadable: bool = False) -> bool:
        """Probe an incomplete candidate later; returns whether to report that, once for each reason.

        Args:
            name: the candidate's name.
            reason: why it is incomplete.
            now: the clock.
            unreadable: whether it cannot be read at all, so that it keeps its place.
        """
        entry = self._entries.get(name)
        if entry is None:
            return False
        entry.probed = True
        if unreadable:
            # where nothing at all can be read, the successors' wait is that of the first file
            self._none_read_since = now if self._none_read_since is None else self._none_read_since
            entry.unreadable = self._none_read_since if entry.unreadable is None else entry.unreadable
        elif not entry.passed:
            entry.unreadable = None
        entry.due = now + entry.retry_s
        entry.retry_s = min(entry.retry_s * 2, _LAST_RETRY_S)
        if now - entry.since < self._report_after_s or entry.reported == reason:
            return False
        entry.reported = reason
        return True

    def hold(self, name: str, now: float) -> None:
        """Keep the place of a candidate that is being read; it is due again in a moment."""
        entry = self._entries.get(name)
        if entry is not None:
            entry.due = now + _POLL_S
            entry.unreadable = now if entry.unreadable is None else entry.unreadable

    def waiting_for(self, name: str) -> bool:
        """Whether a candidate could not be read."""
        entry = self._entries.get(name)
        return entry is not None and not entry.settled and entry.unreadable is not None

    def hurry(self, now: float) -> None:
        """Probe what is incomplete once more without a pause, and report it at once from now on."""
        self._at_once = True
        for entry in self._open.values():
            if entry.probed:
                entry.due, entry.retry_s = min(entry.due, now), _FIRST_RETRY_S

    def knows(self, name: str) -> bool:
        """Whether a candidate was there at the last scan."""
        return name in self._entries

    def any(self) -> bool:
        """Whether there was a candidate at the last scan."""
        return bool(self._entries)

    def unsettled(self) -> int:
        """How many candidates are neither admitted nor refused."""
        return len(self._open)

    def rested(self, now: float) -> bool:
        """Whether a candidate is due that was never read."""
        return any(each.due <= now and not each.probed and each.unreadable is None for each in self._open.values())

    def unread(self) -> bool:
        """Whether a candidate that does not grow was never read."""
        return any(
            not each.probed and each.restless is None and each.unreadable is None and each.identity is not None
            for each in self._open.values()
        )

    def resting(self) -> int:
        """How many candidates rest still before they are read for the first time."""
        return sum(not entry.probed for entry in self._open.values())
