"""From a file at rest to a checkpoint of the run: probed, told from second names, given its name and order, pinned."""

from __future__ import annotations

import contextlib
import os
from dataclasses import replace
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from rna_watch.daemon import window_break
from rna_watch.daemon.order import by_age
from rna_watch.daemon.pinned_file import NONE
from rna_watch.daemon.sequences import inside
from rna_watch.daemon.window import state_of
from rna_watch.errors import IncompleteCheckpoint, InputChanged, RefusedCheckpoint, RnaWatchError, Unreadable
from rna_watch.formats.optimizer_state import learning_rate
from rna_watch.formats.probe import probe
from rna_watch.journal import events as e
from rna_watch.journal.replay import RunState, Stage
from rna_watch.layout.agreement import difference
from rna_watch.layout.identity import identify_any
from rna_watch.layout.trouble import UNREAD, in_words
from rna_watch.layout.unmatched import describe, unmatched
from rna_watch.watching import steps
from rna_watch.window.equality import same_values

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rna_watch.config import RunConfig
    from rna_watch.daemon.pins import Pins
    from rna_watch.daemon.rebuilt import Rebuilt
    from rna_watch.daemon.recorder import Recorder
    from rna_watch.daemon.sequences import Sequences
    from rna_watch.journal.replay import Checkpoint
    from rna_watch.layout.identity import FileIdentity
    from rna_watch.layout.layout import Layout

_LONGEST_NAME_BYTES = 205  # systems take 255; `.again`, an export and a temporary name add up to 49


class Admission:
    """Decides what each candidate file is, and records it.

    Args:
        config: the settings `source`, `ignore`, `step`, `every`, `first_step`, `optimizer_order`, `learning_rate_jump`.
        recorder: journal and state.
        sequences: which checkpoints follow each other.
        pins: the window store.
        proceed: called now and then while files are compared; it raises Cancelled to stop that.
        rebuilt: models that no journal records.
        read: reads the layout of a file or folder, as `probe` does.
    """

    def __init__(
        self,
        config: RunConfig,
        recorder: Recorder,
        sequences: Sequences,
        pins: Pins,
        proceed: Callable[[], None],
        rebuilt: Rebuilt,
        read: Callable[[str, str | None, Sequence[str]], Layout] = probe,
    ) -> None:
        self._config = config
        self._recorder = recorder
        self._sequences = sequences
        self._pins = pins
        self._proceed = proceed
        self._rebuilt = rebuilt
        self._read = read
        self._unmatched = config.ignore  # the patterns that no checkpoint has a tensor for, so far
        self._compared: Layout | None = None  # a checkpoint with which they were compared

    def consider(self, name: str, identity: FileIdentity, *, patient: bool = True) -> bool:
        """Admit a file, or record that it is an alias, refused or gone; returns whether it is a checkpoint.

        Args:
            name: path relative to the run directory.
            identity: the file as it rests there.
            patient: whether to wait where it cannot be pinned for a reason that may pass; else it is admitted unpinned.

        Raises:
            IncompleteCheckpoint: the file is not complete; probe it again later.
            Unreadable: it cannot be read, which says nothing of its content; the later ones of its series wait for it.
        """
        if self._known(name, identity):
            return True
        if not self._sequences.reading.matches(name):
            reason = f"--step '{self._config.step}' finds no whole number in its name"
            self._note(
                e.Refused(checkpoint=name, reason=f"{reason}; widen it, or leave such names out with --patterns")
            )
            return False
        try:
            layout = self._read(identity.path, self._config.source, self._config.ignore)
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
        except IncompleteCheckpoint as error:
            if isinstance(error.__cause__, OSError) and error.__cause__.errno in UNREAD:
                raise Unreadable(f"it cannot be read: {in_words(error.__cause__)}") from error
            raise
        except OSError as error:
            raise Unreadable(f"it cannot be read: {in_words(error)}") from error
        self._compare_ignored(layout)
        self._admit(name, layout, identity, patient=patient)
        self.reread()
        return True

    def in_order(self, due: Sequence[tuple[str, FileIdentity]]) -> list[tuple[str, FileIdentity]]:
        """Files that are due, in the order of their steps; files whose names leave that open are asked first.

        Args:
            due: path relative to the run directory, and the file as it rests there.
        """
        reading = self._sequences.reading
        files = dict(due)
        if len(files) > 1:
            by_path = self._recorder.state.checkpoints.by_path
            for name in (each for each in reading.undecided(files) if not by_path(each)):
                with contextlib.suppress(OSError, RnaWatchError):
                    self._sequences.saw(name, self._read(files[name].path, self._config.source, self._config.ignore))
                self._proceed()
        return sorted(due, key=lambda each: reading.order(each[0], each[1].mtime_ns))

    def reread(self) -> None:
        """Record what more names, or what the files hold, have changed: series, steps, and with them where windows begin."""
        changed = self._sequences.reread()
        for event in changed:
            self._recorder.record(event)
        for event in changed:
            checkpoint = self._recorder.checkpoint(event.checkpoint)
            assert checkpoint is not None
            self._begin_window(self._break(self._sequences.before(checkpoint), event.checkpoint), event.checkpoint)

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

    def readmit(self) -> set[str]:
        """Admit again, from pins and files, what was admitted under another setting `source`: it is another model.

        Returns:
            The names that stay as they were admitted: their bytes are gone, or hold no such model.
        """
        stay = set()
        for checkpoint in by_age(self._recorder.checkpoints()):
            admitted, under = checkpoint.admitted, checkpoint.under
            if admitted is None or under is None or under.settings.get("source") == self._config.source:
                continue
            layout = self._pins.content(checkpoint)
            if layout is None:
                stay.add(checkpoint.name)
            elif layout.source != admitted.source:
                newest = self._sequences.newest(admitted.path, admitted.step_kind)
                pin = admitted.pin if checkpoint.pinned else NONE
                self._recorder.record(replace(admitted, source=layout.source, parameters=layout.parameters, pin=pin))
                if newest is not None and newest.under is self._recorder.state.started:  # it was admitted again too
                    self._begin_window(self._break(newest, checkpoint.name), checkpoint.name)
        return stay

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
        wanted = (identity.inode, identity.mtime_ns, identity.size_bytes)
        same = [
            (checkpoint, admitted.path)
            for checkpoint in self._recorder.state.checkpoints.by_inode(identity.inode)
            if (admitted := checkpoint.admitted)
            and (admitted.inode, admitted.mtime_ns, admitted.size_bytes) == wanted
            and (admitted.path == name or checkpoint.stage is not Stage.ALIAS)
        ]
        for checkpoint, _ in same:
            if self._unmatched and checkpoint.pinned:  # after a restart nothing is probed but what a window needs
                self._compare_ignored(self._pins.layout(checkpoint))
        if any(path == name for _, path in same):
            return True
        for checkpoint, path in same:
            if not self._copied(path, name):
                self._note(e.Aliased(checkpoint=name, of=checkpoint.name))
                return True
        return False

    def _copied(self, earlier: str, later: str) -> bool:
        """Whether of two paths of one content the earlier seen is the copy: its name says so, or it lies deeper."""
        one, other = (self._sequences.read(path) for path in (earlier, later))
        if one.step is None or other.step is None:
            return False
        reading = self._sequences.reading
        return reading.order(later)[1:3] < reading.order(earlier)[1:3]

    def _admit(self, path: str, layout: Layout, identity: FileIdentity, *, patient: bool) -> None:
        self._sequences.saw(path, layout)
        kind, step, numbered = self._sequences.order(path, layout)
        again = False
        copies = []
        for checkpoint in self._alike(layout, numbered=numbered):
            admitted = checkpoint.admitted
            if admitted is None or (checkpoint.stage is Stage.ALIAS and admitted.path != path):
                continue
            if admitted.fingerprint != layout.fingerprint and (numbered or not self._same_model(checkpoint, layout)):
                continue
            other_numbered = admitted.checkpoint == admitted.path
            if (path == admitted.path and numbered) or not numbered or not other_numbered or admitted.step == step:
                if path == checkpoint.name and checkpoint.stage is Stage.WAITING:
                    again = True  # it was written again with the same content, and seen half-written in between
                    break
                if admitted.path != path and self._copied(admitted.path, path):
                    copies.append(checkpoint.name)
                    continue
                self._resolve(path, checkpoint.name, known=path == admitted.path)
                return
        name = path if numbered else _with_step(path, kind, step)
        length = len(os.fsencode(PurePosixPath(name).name))
        if length > _LONGEST_NAME_BYTES:
            reason = f"its name is too long: {length} bytes, and its model needs one of at most {_LONGEST_NAME_BYTES}"
            self._note(e.Refused(checkpoint=path, reason=f"{reason}; save under a shorter name"))
            return
        series = self._sequences.of(path, kind)
        self._rebuilt.enter_gone((series, step))
        previous = self._sequences.newest(path, kind)
        replaced = self._recorder.checkpoint(name)
        if replaced is not None and replaced.pinned:
            self._pins.unpin(replaced, "the file was written again")
        read = self._sequences.read(path)
        left_out = self._left_out(series, step)
        try:
            pinned_kind, pinned_path = (
                ("none", "")
                if left_out
                else self._pins.pin(name, layout, identity.size_bytes, link=numbered, patient=patient)
            )
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
                series=series,
                counters=inside(layout),
                told=read.told if numbered or kind != "save" else "the order of writing",
                left_out=left_out,
                learning_rate=learning_rate(layout),
            )
        )
        self._rebuilt.enter(name, layout.fingerprint)
        for copy in copies:
            self._note(e.Aliased(checkpoint=copy, of=name))
        late = previous is not None and _precedes(kind, step, identity, previous)
        self._begin_window("" if again or left_out or late else self._break(previous, name), name)
        self._resolve(path, name, known=True)

    def _alike(self, layout: Layout, *, numbered: bool) -> list[Checkpoint]:
        """The checkpoints that may hold the same model: those of the same content; also those at hand, for a rewritten name."""
        checkpoints = self._recorder.state.checkpoints
        found = checkpoints.by_fingerprint(layout.fingerprint)
        if numbered:
            return found
        at_hand = (checkpoints[name] for name in self._pins.at_hand() if name in checkpoints)
        return by_age({each.name: each for each in (*found, *at_hand)}.values())

    def _begin_window(self, reason: str, name: str) -> None:
        if reason:
            self._recorder.record(e.WindowStarted(checkpoint=name, reason=reason))

    def _left_out(self, series: str, step: int) -> str:
        """Why the settings leave a checkpoint out; "" if it enters."""
        first, every = self._config.first_step, self._config.every
        if first is not None and step < first:
            return f"before --first-step {first}"
        place = self._sequences.place(series, step, first or 0) if every > 1 else 0
        return f"number {place} of its series, which --every {every} leaves out" if place % every else ""

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
            self._recorder.problem("same-step", reason, "name the step with --step, or one run with --patterns")
            return reason
        if reason := window_break.restart(previous.admitted, current.admitted, self._recorder.state.checkpoints):
            return reason
        before, after = self._pins.layout(previous), self._pins.known(name)
        if before is None or after is None:
            return ""
        older, newer = (
            state_of(checkpoint, layout, self._config.optimizer_order)
            for checkpoint, layout in ((previous, before), (current, after))
        )
        return difference(before, after) or window_break.change(older, newer, self._config.learning_rate_jump)


def _precedes(kind: str, step: int, identity: FileIdentity, other: Checkpoint) -> bool:
    """Whether a file was saved before a checkpoint that was admitted before it: its step and its time are smaller."""
    admitted = other.admitted
    return (
        admitted is not None
        and admitted.step_kind == kind
        and step < admitted.step
        and identity.mtime_ns < admitted.mtime_ns
    )


def _with_step(path: str, kind: str, step: int) -> str:
    pure = PurePosixPath(path)
    return str(pure.with_name(f"{steps.stem(path)}.{kind}{step}{steps.ending(path)}"))
