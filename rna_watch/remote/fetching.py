"""Checkpoints fetched into a folder of ours, whole and within bounds, and removed from it when they are done."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from rna_watch.errors import RnaWatchError
from rna_watch.journal import snapshot
from rna_watch.journal.replay import PENDING, Stage
from rna_watch.layout import disk, owned
from rna_watch.remote import listing
from rna_watch.remote.store import PART_BYTES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from rna_watch.config import RunConfig
    from rna_watch.journal.checkpoint import Checkpoint
    from rna_watch.journal.run_paths import RunPaths
    from rna_watch.remote.listing import Remote
    from rna_watch.remote.record import Record
    from rna_watch.remote.store import Object, Store

_AT_ONCE = 4  # parts on their way
_FREE_SHARE = 0.5  # of what is free on the disk, for one batch of `once`


class Fetching:
    """Fetches checkpoints of one run.

    Args:
        store: where they lie.
        config: the settings `window` and `patterns`.
        paths: the run's paths; `run` is the folder that they are fetched into.
        record: what was fetched.
    """

    def __init__(self, store: Store, config: RunConfig, paths: RunPaths, record: Record) -> None:
        self._store = store
        self._paths = paths
        self._record = record
        self._patterns = config.patterns
        self._block = config.window + 1
        self._listed: list[Remote] = []
        self._known: Mapping[str, Checkpoint] = {}

    def waiting(self) -> list[Remote]:
        """The checkpoints that were not fetched yet, or were written anew, oldest first."""
        self._known = snapshot.fold(self._paths.journal).state.checkpoints if self._paths.journal.exists() else {}
        self._listed = listing.checkpoints(self._store.objects(), self._patterns)
        return [each for each in self._listed if self._record.fetched.get(each.name) != each.version]

    def newest(self) -> list[Remote]:
        """Fetch the newest ones, if no more than a window is left to do; older ones come when there is time. Returns them."""
        waiting = self.waiting()
        left = self._left_to_do()
        batch = waiting[-max(0, self._block - len(left)) :] if len(left) < self._block else []
        self._fetch_all(batch)
        self._remove_done()
        return batch

    def oldest(self) -> list[Remote]:
        """Fetch the oldest ones, as many as the disk takes with room to spare, at least a window. Returns them."""
        batch: list[Remote] = []
        room_bytes = disk_free_bytes(self._paths.run) * _FREE_SHARE
        for each in self.waiting():
            if len(batch) >= self._block and sum(one.size_bytes for one in batch) + each.size_bytes > room_bytes:
                break
            batch.append(each)
        self._fetch_all(batch)
        self._remove_done()
        return batch

    def _left_to_do(self) -> list[str]:
        """The names of those that were fetched and are on their way, or were not seen yet."""
        return [name for name in self._there() if self._stage(name) is None or self._stage(name) in PENDING]

    def _there(self) -> list[str]:
        return [name for name in self._record.fetched if os.path.lexists(self._paths.run / name)]

    def _stage(self, name: str) -> Stage | None:
        found = self._known.get(name)
        return found.stage if found is not None else None

    def _remove_done(self) -> None:
        """Remove what was fetched and is done, but for a window before the first that is not, and forget what is gone."""
        there, left = self._there(), set(self._left_to_do())
        first = next((number for number, name in enumerate(there) if name in left), len(there))
        for name in there[: max(0, first - self._block)]:
            if self._stage(name) is not Stage.WAITING:
                disk.remove(self._paths.run / name)
        listed = {each.name for each in self._listed} | set(self._there())
        self._record.fetched = {name: version for name, version in self._record.fetched.items() if name in listed}

    def _fetch_all(self, batch: Sequence[Remote]) -> None:
        for each in batch:
            try:
                for one in each.objects:
                    self._fetch(one)
            except FileNotFoundError:
                continue  # the trainer's retention was faster
            self._record.fetched.pop(each.name, None)  # the order is that of fetching
            self._record.fetched[each.name] = each.version
            self._record.save()

    def _fetch(self, one: Object) -> None:
        """Fetch an object by ranges, and let it take its name when it is whole and unchanged.

        Raises:
            FileNotFoundError: it is gone.
            RnaWatchError: the store does not answer, or it is written anew meanwhile.
        """
        path = self._paths.run / one.name
        owned.make_folders(path.parent)
        starts = range(0, one.size_bytes, PART_BYTES)
        with disk.replacing(path, durable=False) as temporary:
            with disk.create(temporary) as file, ThreadPoolExecutor(_AT_ONCE) as pool:

                def part(start: int) -> None:
                    data = self._store.read(one.name, start, min(start + PART_BYTES, one.size_bytes))
                    disk.write_all(file.fileno(), memoryview(data), start)

                list(pool.map(part, starts))
                size = os.fstat(file.fileno()).st_size
            now = self._store.look(one.name)
            if now is None:
                raise FileNotFoundError(one.name)
            if now.version != one.version or size != one.size_bytes:
                raise RnaWatchError(f"{one.name} was written anew while it was fetched; it is fetched again")
            if one.changed_s:
                os.utime(temporary, (time.time(), one.changed_s))


def disk_free_bytes(path: Path) -> int:
    """Bytes that are free on the disk of a folder."""
    found = os.statvfs(path)
    return found.f_bavail * found.f_frsize
