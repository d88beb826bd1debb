"""From a file at rest to a checkpoint of the run: probed, told from second names, given its name and order, pinned."""

from __future__ import annotations

import os
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from rna_watch.daemon import window_break
from rna_watch.daemon.window import state_of
from rna_watch.errors import IncompleteCheckpoint, InputChanged, RefusedCheckpoint
from rna_watch.formats.probe import probe
from rna_watch.journal import events as e
from rna_watch.journal.replay import RunState, Stage
from rna_watch.layout.identity import identify_any
from rna_watch.layout.layout import difference
from rna_watch.layout.unmatched import describe, unmatched
from rna_watch.watching import steps
from rna_watch.window.equality import same_values

if TYPE_CHECKING:
    from collections.abc import Callable

    from rna_watch.config import RunConfig
    from rna_watch.daemon.pins import Pins
    from rna_watch.daemon.recorder import Recorder
    from rna_watch.daemon.sequences import Sequences
    from rna_watch.journal.replay import Checkpoint
    from rna_watch.layout.identity import FileIdentity
    from rna_watch.layout.layout import Layout

_LONGEST_NAME_BYTES = 205  # systems take 255; `.again`, an export and a temporary name add up to 49


class Admission:
    """Decides what each candidate file is, and records it.

    Args:
        config: the settings `source`, `ignore`, `optimizer_order` and `learning_rate_jump`.
        recorder: journal and state.
        sequences: which checkpoints follow each other.
        pins: the window store.
        proceed: called now and then while files are compared; it raises Cancelled to stop that.
    """

    def __init__(
        self, config: RunConfig, recorder: Recorder, sequences: Sequences, pins: Pins, proceed: Callable[[], None]
    ) -> None:
        self._config = config
        self._recorder = recorder
        self._sequences = sequences
        self._pins = pins
        self._proceed = proceed
        self._unmatched = config.ignore  # the patterns that no checkpoint has a tensor for, so far
        self._compared: Layout | None = None  # a checkpoint with which they were compared

    def consider(self, name: str, identity: FileIdentity) -> bool:
        """Admit a file, or record that it is an alias, refused or gone; returns whether it is a checkpoint.

        Args:
            name: path relative to the run directory.
            identity: the file as it rests there.

        Raises:
            IncompleteCheckpoint: the file is not complete; probe it again later.
        """
        if self._known(name, identity):
            return True
        try:
            layout = probe(identity.path, self._config.source, self._config.ignore)
            if not identify_any(identity.path).same_content(identity):
                raise IncompleteCheckpoint("it is being written")
        except FileNotFoundError as error:
            if os.path.isdir(identity.path):  # noqa: PTH112 - a string crosses process boundaries
                raise IncompleteCheckpoint("it is being written, or removed") from error
            self._note(e.Vanished(checkpoint=name))
            return False
        except InputChanged as error:
            raise IncompleteCheckpoint("it is being written") from error
        except RefusedCheckpoint as error:
            self._note(e.Refused(checkpoint=name, reason=str(error)))
            return False
        except OSError as error:
            reason = f"it cannot be read: {error.strerror or error}; check the disk or mount"
            raise IncompleteCheckpoint(reason) from error
        self._compare_ignored(layout)
        self._admit(name, layout, identity)
        return True

    def report_unmatched(self) -> None:
        """Report the patterns of tensors to ignore that match none of any checkpoint so far; called when those at hand are in."""
        if not self._unmatched:
            self._recorder.solved("ignore")
        elif self._compared is not None:
            what = describe(self._unmatched, self._compared)
            self._recorder.problem("ignore", what, "correct the pattern and start again, or take it back")

    def _compare_ignored(self, layout: Layout | None) -> None:
        if layout is None or not self._unmatched:
            return
        left = unmatched(self._unmatched, [layout])
        if self._compared is None or left != self._unmatched:
            self._compared = layout
        self._unmatched = left

    def _note(self, event: e.Vanished | e.Refused | e.Aliased) -> None:
        """Record what a file is, unless that was recorded of it last."""
        before = self._recorder.checkpoint(event.checkpoint)
        probe_state = RunState()
        probe_state.apply(event)
        after = probe_state.checkpoints[event.checkpoint]
        if before is None or (before.stage, before.reason) != (after.stage, after.reason):
            self._recorder.record(event)
            if isinstance(event, e.Aliased):
                self._sequences.prove(event.checkpoint, event.of, self._recorder.state.recent[-1].seq)

    def _known(self, name: str, identity: FileIdentity) -> bool:
        """Whether the journal already has the file, under this path or, a hard link, under another."""
        for checkpoint in self._recorder.checkpoints():
            admitted = checkpoint.admitted
            if admitted is None:
                continue
            same = (admitted.inode, admitted.mtime_ns, admitted.size_bytes) == (
                identity.inode,
                identity.mtime_ns,
                identity.size_bytes,
            )
            if same:
                if self._unmatched and checkpoint.pinned:  # after a restart nothing is probed but what a window needs
                    self._compare_ignored(self._pins.layout(checkpoint))
                if admitted.path != name:
                    self._note(e.Aliased(checkpoint=name, of=checkpoint.name))
                return True
        return False

    def _admit(self, path: str, layout: Layout, identity: FileIdentity) -> None:
        kind, step, numbered = self._sequences.order(path, layout)
        again = False
        for checkpoint in self._recorder.checkpoints():
            admitted = checkpoint.admitted
            if admitted is None:
                continue
            if admitted.fingerprint != layout.fingerprint and (numbered or not self._same_model(checkpoint, layout)):
                continue
            other_numbered = admitted.checkpoint == admitted.path
            if (path == admitted.path and numbered) or not numbered or not other_numbered or admitted.step == step:
                if path == checkpoint.name and checkpoint.stage is Stage.WAITING:
                    again = True  # it was written again with the same content, and seen half-written in between
                    break
                self._resolve(path, checkpoint.name, known=path == admitted.path)
                return
        name = path if numbered else _with_step(path, kind, step)
        length = len(os.fsencode(PurePosixPath(name).name))
        if length > _LONGEST_NAME_BYTES:
            reason = f"its name is too long: {length} bytes, and its model needs one of at most {_LONGEST_NAME_BYTES}"
            self._note(e.Refused(checkpoint=path, reason=f"{reason}; save under a shorter name"))
            return
        previous = self._sequences.newest(path, kind)
        replaced = self._recorder.checkpoint(name)
        if replaced is not None and replaced.pinned:
            self._pins.unpin(replaced, "the file was written again")
        try:
            pinned_kind, pinned_path = self._pins.pin(name, layout, identity.size_bytes, link=numbered)
        except InputChanged as error:
            raise IncompleteCheckpoint("it is being written") from error
        self._recorder.record(
            e.Admitted(
                checkpoint=name,
                path=path,
                step=step,
                step_kind=kind,
                format=layout.format,
                source=layout.source,
                size_bytes=identity.size_bytes,
                parameters=layout.parameters,
                fingerprint=layout.fingerprint,
                inode=identity.inode,
                mtime_ns=identity.mtime_ns,
                pin=pinned_kind,
                pin_path=pinned_path,
            )
        )
        reason = "" if again else self._break(previous, name)
        if reason:
            self._recorder.record(e.WindowStarted(checkpoint=name, reason=reason))
        self._resolve(path, name, known=True)

    def _resolve(self, path: str, name: str, *, known: bool) -> None:
        """Record that a file is a checkpoint of another name; if that is `known`, only if its path has another record."""
        if path != name and (not known or self._recorder.checkpoint(path) is not None):
            self._note(e.Aliased(checkpoint=path, of=name))

    def _same_model(self, checkpoint: Checkpoint, layout: Layout) -> bool:
        """Whether two files name the same step and hold the same model, whatever else differs.

        Lightning saves `last.ckpt` right after the numbered file, and records in it that it did (measured, 2.6.6).
        """
        known = self._pins.known(checkpoint.name)
        return (
            known is not None
            and bool(layout.counters)
            and (known.counters, known.source) == (layout.counters, layout.source)
            and same_values(known, layout, self._proceed)
        )

    def _break(self, previous: Checkpoint | None, name: str) -> str:
        """Why the history before a checkpoint cannot be used with it ("" if it can)."""
        current = self._recorder.checkpoint(name)
        if previous is None or previous.admitted is None or current is None or current.admitted is None:
            return ""
        if reason := window_break.same_step(previous.admitted, current.admitted):
            self._recorder.problem("same-step", reason, "if they are of two runs, name one run with --patterns")
            return reason
        if reason := window_break.restart(previous.admitted, current.admitted, self._recorder.checkpoints()):
            return reason
        before, after = self._pins.layout(previous), self._pins.known(name)
        if before is None or after is None:
            return ""
        older, newer = (
            state_of(checkpoint, layout, self._config.optimizer_order)
            for checkpoint, layout in ((previous, before), (current, after))
        )
        return difference(before, after) or window_break.change(older, newer, self._config.learning_rate_jump)


def _with_step(path: str, kind: str, step: int) -> str:
    pure = PurePosixPath(path)
    return str(pure.with_name(f"{steps.stem(path)}.{kind}{step}{steps.ending(path)}"))
