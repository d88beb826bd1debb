"""From a file at rest to a checkpoint of the run: probe, recognise aliases, name, order, pin."""

from __future__ import annotations

import hashlib
import os
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from rna_watch.acceleration.residuals import window_break
from rna_watch.daemon.disk_reserve import LET_GO, DiskReserve
from rna_watch.daemon.pinned_file import NONE, held_bytes, pin_checkpoint, unpin
from rna_watch.daemon.sequences import Sequences
from rna_watch.errors import IncompleteCheckpoint, InputChanged, RefusedCheckpoint
from rna_watch.formats.probe import probe
from rna_watch.formats.recorded_gradient import SUFFIX
from rna_watch.journal import events as e
from rna_watch.journal.replay import PENDING, RunState, Stage
from rna_watch.layout.identity import identify_any
from rna_watch.layout.layout import difference
from rna_watch.watching import steps
from rna_watch.window.companions import training_state
from rna_watch.window.equality import same_values

if TYPE_CHECKING:
    from collections.abc import Callable

    from rna_watch.acceleration.residuals import TrainingState
    from rna_watch.config import RunConfig
    from rna_watch.daemon.recorder import Recorder
    from rna_watch.journal.replay import Checkpoint
    from rna_watch.journal.run_paths import RunPaths
    from rna_watch.layout.identity import FileIdentity
    from rna_watch.layout.layout import Layout

_LONGEST_NAME_BYTES = 205  # systems take 255: its model, with `.again`, an export and a temporary name, needs 49 more
_LONGEST_FLAT_BYTES = 180
_CUT_BYTES = 150


class Admission:
    """Decides what each candidate file is, and tells the recorder.

    `layouts` keeps the layout of every admitted checkpoint still pinned, by name, as the pinned file has it.
    """

    def __init__(self, config: RunConfig, paths: RunPaths, recorder: Recorder, proceed: Callable[[], None]) -> None:
        self._config = config
        self._paths = paths
        self._recorder = recorder
        self._proceed = proceed
        self.layouts: dict[str, Layout] = {}
        self.sequences = Sequences(recorder, paths.journal)
        self.disk_reserve = DiskReserve(config, paths, recorder)

    def consider(self, name: str, identity: FileIdentity) -> None:
        """Admit a file, or record that it is an alias, refused or gone.

        Args:
            name: path below the run directory.
            identity: the file as it rests there.

        Raises:
            IncompleteCheckpoint: it is not complete; probe it again later.
        """
        if self._known(name, identity):
            return
        try:
            layout = probe(identity.path, self._config.source)
            if not identify_any(identity.path).same_content(identity):
                raise IncompleteCheckpoint("it is being written")
        except FileNotFoundError as error:
            if os.path.isdir(identity.path):  # noqa: PTH112 - a string crosses process boundaries
                raise IncompleteCheckpoint("it is being written, or removed") from error
            self._note(e.Vanished(checkpoint=name))
            return
        except InputChanged as error:
            raise IncompleteCheckpoint("it is being written") from error
        except RefusedCheckpoint as error:
            self._note(e.Refused(checkpoint=name, reason=str(error)))
            return
        except OSError as error:
            reason = f"it cannot be read: {error.strerror or error}; check the disk or mount"
            raise IncompleteCheckpoint(reason) from error
        self._admit(name, layout, identity)

    def _note(self, event: e.Vanished | e.Refused | e.Aliased) -> None:
        """Record what a file is, unless that is what was said of it last."""
        before = self._recorder.checkpoint(event.checkpoint)
        probe_state = RunState()
        probe_state.apply(event)
        after = probe_state.checkpoints[event.checkpoint]
        if before is None or (before.stage, before.reason) != (after.stage, after.reason):
            self._recorder.record(event)
            if isinstance(event, e.Aliased):
                self.sequences.prove(event.checkpoint, event.of, self._recorder.state.recent[-1].seq)

    def _known(self, name: str, identity: FileIdentity) -> bool:
        """Whether the file is what the journal already has under this path or (a hard link) another."""
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
                if admitted.path != name:
                    self._note(e.Aliased(checkpoint=name, of=checkpoint.name))
                return True
        return False

    def _admit(self, path: str, layout: Layout, identity: FileIdentity) -> None:
        kind, step, numbered = self.sequences.order(path, layout)
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
                    again = True  # it was seen half-written a second time, and is what it was before
                    break
                self._resolve(path, checkpoint.name, known=path == admitted.path)
                return
        name = path if numbered else _with_step(path, kind, step)
        length = len(os.fsencode(PurePosixPath(name).name))
        if length > _LONGEST_NAME_BYTES:
            reason = f"its name is too long: {length} bytes, and its model needs one of at most {_LONGEST_NAME_BYTES}"
            self._note(e.Refused(checkpoint=path, reason=f"{reason}; save under a shorter name"))
            return
        previous = self.sequences.newest(path, kind)
        replaced = self._recorder.checkpoint(name)
        if replaced is not None and replaced.pinned:
            self._unpin(replaced, "the file was written again")
        try:
            pinned_kind, pinned_path = self._pin(name, layout, identity.size_bytes, link=numbered)
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
        reason = "" if again else self._break(previous, name, step, identity.mtime_ns)
        if reason:
            self._recorder.record(e.WindowStarted(checkpoint=name, reason=reason))
        self._resolve(path, name, known=True)

    def _resolve(self, path: str, name: str, *, known: bool) -> None:
        """Record that a file is a checkpoint of another name; one admitted from it only where something else was said."""
        if path != name and (not known or self._recorder.checkpoint(path) is not None):
            self._note(e.Aliased(checkpoint=path, of=name))

    def _same_model(self, checkpoint: Checkpoint, layout: Layout) -> bool:
        """Whether two files tell the same step and hold the same model, whatever else differs.

        Lightning saves `last.ckpt` right after the numbered file, and notes in it that it did (measured, 2.6.6).
        """
        known = self.layouts.get(checkpoint.name)
        return (
            known is not None
            and bool(layout.counters)
            and (known.counters, known.source) == (layout.counters, layout.source)
            and same_values(known, layout, self._proceed)
        )

    def _break(self, previous: Checkpoint | None, name: str, step: int, mtime_ns: int) -> str:
        """Why the history before a checkpoint cannot be used with it ("" if it can)."""
        if previous is None or previous.admitted is None:
            return ""
        current = self._recorder.checkpoint(name)
        if self._same_step(previous, current):
            what = f"{previous.name} and {name} tell the same {previous.admitted.step_kind} {step}"
            self._recorder.problem("same-step", what, "if they are of two runs, name one run with --patterns")
            return what
        if step <= previous.admitted.step and mtime_ns > previous.admitted.mtime_ns:
            return f"the run went back from {previous.admitted.step_kind} {previous.admitted.step} to {step}: a restart"
        aside = self.sequences.begun_again(previous.admitted, name, mtime_ns)
        if aside:
            return f"{aside} was saved after {previous.name}, though it is no later step: a restart"
        before, after = self.layout(previous), self.layouts.get(name)
        if before is None or after is None or current is None:
            return ""
        return difference(before, after) or window_break(
            self.state(previous, before), self.state(current, after), self._config.learning_rate_jump
        )

    @staticmethod
    def _same_step(previous: Checkpoint, current: Checkpoint | None) -> bool:
        before, after = previous.admitted, current.admitted if current is not None else None
        return (
            before is not None
            and after is not None
            and before.path != after.path
            and (before.step_kind, before.step) == (after.step_kind, after.step)
        )

    def state(self, checkpoint: Checkpoint, layout: Layout) -> TrainingState:
        """What a checkpoint tells of its training."""
        admitted = checkpoint.admitted
        assert admitted is not None
        return training_state(layout, admitted.step, admitted.step_kind, self._config.optimizer_order)

    def _pin(self, name: str, layout: Layout, size_bytes: int, *, link: bool) -> tuple[str, str]:
        mode = self._config.pin
        if mode != NONE:
            destination = str(self._paths.window / f"{_flat(name)}.{layout.fingerprint[:8]}.pinned")
            linked = mode == "link" or (mode == "auto" and link)
            if not self.disk_reserve.fits(0, size_bytes):
                self.disk_reserve.say_short(size_bytes)
                self.layouts[name] = layout
                return NONE, layout.path
            try:
                if not linked and not self.disk_reserve.fits(layout.size_bytes, size_bytes):
                    raise OSError(28, "too little room left")
                kind, pinned = pin_checkpoint(layout, destination, link=linked, proceed=self._proceed)
            except OSError as error:
                unpin(destination)
                self._recorder.problem(
                    "pin",
                    f"{name} could not be pinned ({error.strerror or error}); it is used only while the trainer keeps it",
                    "make room, or set `pin: none` if the trainer keeps its checkpoints",
                )
            else:
                self._recorder.solved("pin")
                self.layouts[name] = pinned
                return kind, os.path.relpath(destination, self._paths.output)
        self.layouts[name] = layout
        return NONE, layout.path

    def layout(self, checkpoint: Checkpoint) -> Layout | None:
        """The layout of an admitted checkpoint, probed again after a restart; None if its bytes are gone or changed."""
        admitted = checkpoint.admitted
        if admitted is None:
            return None
        known = self.layouts.get(checkpoint.name)
        if known is not None and known.fingerprint == admitted.fingerprint:  # it may have been written again since
            return known
        places = [self._paths.output / admitted.pin_path] if checkpoint.pinned else []
        for path in (*places, self._paths.run / admitted.path):
            try:
                layout = probe(str(path), self._config.source)
            except (OSError, RefusedCheckpoint, IncompleteCheckpoint, InputChanged):
                continue
            if layout.fingerprint == admitted.fingerprint:
                self.layouts[checkpoint.name] = layout
                return layout
        return None

    def forget(self, name: str) -> None:
        """Drop a layout that turned out stale."""
        self.layouts.pop(name, None)

    def release(self, window: int) -> None:
        """Let go of pinned checkpoints that no later window can need, and of the oldest beyond the byte budget."""
        needed: set[str] = set()
        by_series: dict[str, list[Checkpoint]] = {}
        pinned = self._pinned()
        for checkpoint in self._by_admission():
            if checkpoint.admitted and checkpoint.usable:
                by_series.setdefault(self.sequences.of_admitted(checkpoint.admitted), []).append(checkpoint)
        for members in by_series.values():
            first_pending = next((i for i, c in enumerate(members) if c.stage in PENDING), len(members))
            needed |= {c.name for c in members[max(0, min(first_pending, len(members)) - window) :]}
        for checkpoint in pinned:
            if checkpoint.name not in needed:
                self._unpin(checkpoint, "")
        kept = [c for c in pinned if c.name in needed]
        total = sum(c.admitted.size_bytes for c in kept if c.admitted)
        budget = self._config.store_budget * 2**30
        for checkpoint in kept[:-1]:
            if total <= budget:
                break
            assert checkpoint.admitted is not None
            total -= checkpoint.admitted.size_bytes
            self._recorder.problem(
                "store-budget",
                f"pinned checkpoints exceed the budget of {self._config.store_budget:g} GiB; windows become shorter",
                "raise --store-budget, or lower --window",
            )
            self._unpin(checkpoint, f"the window store holds more than its budget of {self._config.store_budget:g} GiB")

    def keep_room(self) -> None:
        """Let go of pinned checkpoints where the training may need their room; to be called now and then."""
        self.disk_reserve.keep(
            lambda: [
                (c, held_bytes(str(self._paths.output / c.admitted.pin_path))) for c in self._pinned() if c.admitted
            ],
            lambda checkpoint: self._unpin(checkpoint, LET_GO),
        )

    def _by_admission(self) -> list[Checkpoint]:
        """All checkpoints, the newest last; a name that is written again is the newest, though it keeps its place elsewhere."""
        return sorted(self._recorder.checkpoints(), key=lambda c: c.admitted.seq if c.admitted else 0)

    def _pinned(self) -> list[Checkpoint]:
        return [checkpoint for checkpoint in self._by_admission() if checkpoint.pinned and checkpoint.admitted]

    def _unpin(self, checkpoint: Checkpoint, reason: str) -> None:
        assert checkpoint.admitted is not None
        current = self._recorder.checkpoint(checkpoint.name)
        if current is None or current.admitted is not checkpoint.admitted:
            return  # it was admitted again since, and let go of then
        if checkpoint.admitted.pin != NONE:
            unpin(str(self._paths.output / checkpoint.admitted.pin_path))
        self.forget(checkpoint.name)
        self._recorder.record(e.Unpinned(checkpoint=checkpoint.name, reason=reason))

    def sweep(self) -> None:
        """Remove files of the window store that no record explains (a crash between the act and its record)."""
        explained = {
            str(self._paths.output / c.admitted.pin_path)
            for c in self._recorder.checkpoints()
            if c.pinned and c.admitted
        }
        for file in self._paths.window.iterdir():
            if str(file).removesuffix(SUFFIX) not in explained:
                unpin(str(file))


def _flat(name: str) -> str:
    """A path as one name; of a long one the beginning, and a digest."""
    flat = name.replace("_", "__").replace("/", "_s")
    encoded = os.fsencode(flat)
    if len(encoded) <= _LONGEST_FLAT_BYTES:
        return flat
    digest = hashlib.blake2b(encoded, digest_size=8).hexdigest()
    return f"{encoded[:_CUT_BYTES].decode(errors='ignore')}.{digest}"


def _with_step(path: str, kind: str, step: int) -> str:
    pure = PurePosixPath(path)
    return str(pure.with_name(f"{steps.stem(path)}.{kind}{step}{steps.ending(path)}"))
