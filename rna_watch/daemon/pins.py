"""The window store: pinned checkpoints, whose bytes are kept as long as a window may need them, and their layouts."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
from typing import TYPE_CHECKING

from rna_watch.daemon.disk_reserve import FOR_TRAINING
from rna_watch.daemon.order import by_age
from rna_watch.daemon.pinned_file import NONE, held_bytes, pin_checkpoint, unpin
from rna_watch.errors import IncompleteCheckpoint, InputChanged, RefusedCheckpoint, Unreadable
from rna_watch.formats.probe import probe
from rna_watch.formats.recorded_gradient import SUFFIX
from rna_watch.journal import events as e
from rna_watch.layout import disk
from rna_watch.layout.trouble import PASSING, UNREAD_AGAIN, in_words

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from rna_watch.config import RunConfig
    from rna_watch.daemon.disk_reserve import DiskReserve
    from rna_watch.daemon.recorder import Recorder
    from rna_watch.journal.replay import Checkpoint
    from rna_watch.journal.run_paths import RunPaths
    from rna_watch.layout.layout import Layout

_LONGEST_FLAT_BYTES = 180
_CUT_BYTES = 150


class Pins:
    """Pins checkpoints, within a byte budget and the disk reserve, and unpins those that no window needs.

    Args:
        config: the settings `pin`, `store_budget`, `source` and `ignore`.
        paths: where the run, its outputs and the window store lie.
        recorder: journal and state.
        disk_reserve: what must stay free on the disk.
        proceed: called now and then while copying; it raises Cancelled to stop.
    """

    def __init__(
        self,
        config: RunConfig,
        paths: RunPaths,
        recorder: Recorder,
        disk_reserve: DiskReserve,
        proceed: Callable[[], None],
    ) -> None:
        self._config = config
        self._paths = paths
        self._recorder = recorder
        self._disk_reserve = disk_reserve
        self._proceed = proceed
        self._layouts: dict[str, Layout] = {}

    def pin(self, name: str, layout: Layout, size_bytes: int, *, link: bool, patient: bool = False) -> tuple[str, str]:
        """Pin a checkpoint, if that is wanted and there is room; returns how, and the path of its bytes.

        Args:
            name: the checkpoint's name.
            layout: the layout of the file or folder that the trainer wrote.
            size_bytes: its size.
            link: whether a hard link will do, if the setting leaves the choice to us.
            patient: whether to raise where it cannot be pinned for a reason that may pass.

        Raises:
            InputChanged: the file is gone or changed since it was probed.
            Unreadable: it cannot be pinned for a reason that may pass.
        """
        kind, pinned = self._stored(name, layout, size_bytes, link=link, patient=patient)
        self._layouts[name] = pinned
        return kind, layout.path if kind == NONE else os.path.relpath(pinned.path, self._paths.output)

    def _stored(self, name: str, layout: Layout, size_bytes: int, *, link: bool, patient: bool) -> tuple[str, Layout]:
        mode = self._config.pin
        if mode == NONE:
            return NONE, layout
        if not self._disk_reserve.fits(0, size_bytes):
            self._disk_reserve.say_short(size_bytes)
            return NONE, layout
        destination = str(self._paths.pins / f"{_flat(name)}.{layout.fingerprint[:8]}.pinned")
        linked = mode == "link" or (mode == "auto" and link)
        try:
            if not linked and not self._disk_reserve.fits(layout.size_bytes, size_bytes):
                raise OSError(errno.ENOSPC, "too little room left")
            found = pin_checkpoint(layout, destination, link=linked, proceed=self._proceed)
        except (OSError, Unreadable) as error:
            with contextlib.suppress(OSError):
                unpin(destination)
            said = in_words(error) if isinstance(error, OSError) else str(error)
            self._recorder.problem(
                "pin",
                f"{name} could not be pinned ({said}); it is used only while the trainer keeps it",
                "make room, or set `pin: none` if the trainer keeps its checkpoints",
            )
            if patient and (isinstance(error, Unreadable) or error.errno in PASSING):
                raise Unreadable(f"it cannot be pinned: {said}") from error
            return NONE, layout
        self._recorder.solved("pin")
        return found

    def known(self, name: str) -> Layout | None:
        """The layout that a checkpoint was pinned with last, if it is remembered; nothing is read."""
        return self._layouts.get(name)

    def at_hand(self) -> list[str]:
        """The names of the checkpoints whose layouts are remembered."""
        return list(self._layouts)

    def layout(self, checkpoint: Checkpoint) -> Layout | None:
        """The layout of an admitted checkpoint, probed again after a restart.

        None if its bytes are gone or changed, or if the setting `source` names another model in them now.

        Raises:
            Unreadable: they cannot be read for a reason that may pass.
        """
        layout, admitted = self.content(checkpoint), checkpoint.admitted
        return layout if layout is not None and admitted is not None and layout.source == admitted.source else None

    def content(self, checkpoint: Checkpoint) -> Layout | None:
        """The layout of an admitted checkpoint, whichever model of its files the setting `source` names now.

        Raises:
            Unreadable: its files cannot be read for a reason that may pass.
        """
        admitted = checkpoint.admitted
        if admitted is None:
            return None
        known = self._layouts.get(checkpoint.name)
        if known is not None and known.fingerprint == admitted.fingerprint:  # it may have been written again since
            return known
        places = [self._paths.pinned(admitted.pin_path)] if checkpoint.pinned else []
        trouble: OSError | None = None
        for path in (*places, self._paths.run / admitted.path):
            try:
                layout = probe(str(path), self._config.source, self._config.ignore)
            except (OSError, RefusedCheckpoint, IncompleteCheckpoint, InputChanged) as error:
                cause = error if isinstance(error, OSError) else error.__cause__
                trouble = cause if isinstance(cause, OSError) and cause.errno in UNREAD_AGAIN else trouble
                continue
            if layout.fingerprint == admitted.fingerprint:
                self._layouts[checkpoint.name] = layout
                return layout
        if trouble is not None:
            raise Unreadable(f"{checkpoint.name} cannot be read: {in_words(trouble)}") from trouble
        return None

    def forget(self, name: str) -> None:
        """Drop a stale layout."""
        self._layouts.pop(name, None)

    def unpin(self, checkpoint: Checkpoint, reason: str) -> None:
        """Remove a checkpoint's pinned bytes, unless it was admitted again since (and unpinned then)."""
        assert checkpoint.admitted is not None
        current = self._recorder.checkpoint(checkpoint.name)
        if current is None or current.admitted != checkpoint.admitted:
            return
        if checkpoint.admitted.pin != NONE:
            with contextlib.suppress(PermissionError):  # the journal names what is not ours
                unpin(str(self._paths.pinned(checkpoint.admitted.pin_path)))
        self.forget(checkpoint.name)
        self._recorder.record(e.Unpinned(checkpoint=checkpoint.name, reason=reason))

    def release(self, needed: Callable[[], Collection[str]]) -> None:
        """Unpin the checkpoints that no window needs, and the oldest beyond the byte budget.

        Args:
            needed: returns the names that are needed; a checkpoint that another thread admits meanwhile is kept.
        """
        pinned, names, kept = self._pinned(), needed(), []
        for checkpoint in pinned:
            if checkpoint.name in names:
                kept.append(checkpoint)
            else:
                self.unpin(checkpoint, "")
        total = sum(c.admitted.size_bytes for c in kept if c.admitted)
        budget = f"{self._config.store_budget:g} GiB"
        for checkpoint in kept[:-1]:
            if total <= self._config.store_budget * 2**30:
                break
            assert checkpoint.admitted is not None
            total -= checkpoint.admitted.size_bytes
            self._recorder.problem(
                "store-budget",
                f"pinned checkpoints exceed the budget of {budget}; windows become shorter",
                "raise --store-budget, or lower --window",
            )
            self.unpin(checkpoint, f"the window store holds more than its budget of {budget}")

    def keep_room(self) -> None:
        """Unpin checkpoints if the training may need their room; called now and then."""
        self._disk_reserve.keep(
            lambda: [
                (c, held_bytes(str(self._paths.pinned(c.admitted.pin_path)))) for c in self._pinned() if c.admitted
            ],
            lambda checkpoint: self.unpin(checkpoint, FOR_TRAINING),
        )

    def sweep(self) -> None:
        """Remove files of the window store that no record explains (a crash between the act and its record)."""
        explained = {str(self._paths.pinned(c.admitted.pin_path)) for c in self._pinned() if c.admitted}
        for file in self._paths.pins.iterdir():
            if str(file).removesuffix(SUFFIX) not in explained:
                with contextlib.suppress(PermissionError):  # it is not ours
                    disk.remove(file)

    def _pinned(self) -> list[Checkpoint]:
        checkpoints = self._recorder.state.checkpoints
        return by_age([checkpoints[name] for name in list(checkpoints.pinned)])


def _flat(name: str) -> str:
    """A path as one name; a long one is cut and gets a digest."""
    flat = name.replace("_", "__").replace("/", "_s")
    encoded = os.fsencode(flat)
    if len(encoded) <= _LONGEST_FLAT_BYTES:
        return flat
    digest = hashlib.blake2b(encoded, digest_size=8).hexdigest()
    return f"{encoded[:_CUT_BYTES].decode(errors='ignore')}.{digest}"
