"""Sequences: which checkpoints of a run follow each other, by the reading of all names and by the aliases that were found."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, NamedTuple

from rna_watch.daemon.order import by_age
from rna_watch.journal import events as e
from rna_watch.journal.ages import overtakes
from rna_watch.journal.checkpoints import Series
from rna_watch.journal.replay import PENDING, Stage
from rna_watch.layout.memory import unsearched
from rna_watch.watching.reading import COUNTERS, Reading

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rna_watch.daemon.recorder import Recorder
    from rna_watch.journal.replay import Checkpoint
    from rna_watch.layout.layout import Layout
    from rna_watch.watching.reading import Name

_LATER = 2**63


def inside(layout: Layout) -> dict[str, int]:
    """The step and epoch that a checkpoint holds; where it names neither, what its optimizers count."""
    steps = layout.optimizer_steps
    return layout.counters or ({} if steps is None else {"step": steps})


class _Proof(NamedTuple):
    """From event `seq` on, a rewritten name is known to belong to the sequence of `path`, counted by `kind`."""

    seq: int
    path: str
    kind: str


class Sequences:
    """Orders the checkpoints of a run into sequences; what was found is read from the journal after a restart.

    Args:
        recorder: journal and state.
        step: the setting `step`.
    """

    @unsearched()
    def __init__(self, recorder: Recorder, step: str | None = None) -> None:
        self._recorder = recorder
        self._lock = threading.RLock()
        self._reading = Reading(step=step)
        self._fingerprints: dict[str, str] = {}
        self._proofs: dict[str, list[_Proof]] = {}
        self._known: dict[tuple[str, int, str], str] = {}
        for event in recorder.state.told:
            if isinstance(event, e.Admitted):
                kind = event.step_kind if event.path != event.checkpoint else ""
                counters = event.counters or ({kind: event.step} if kind in COUNTERS else {})
                self._reading.update((), {event.path: event.mtime_ns})
                self._saw(event.path, counters, event.fingerprint)
            else:
                self.prove(event.checkpoint, event.of, event.seq)

    def update(self, times: Mapping[str, int]) -> None:
        """Take in the names that a scan found, and when each was written (ns)."""
        with self._lock:
            self._reading.update(times, times)

    def saw(self, path: str, layout: Layout) -> None:
        """Take in what a complete file holds."""
        with self._lock:
            self._saw(path, inside(layout), layout.fingerprint)

    def _saw(self, path: str, counters: Mapping[str, int], fingerprint: str) -> None:
        again = self._fingerprints.get(path, fingerprint) != fingerprint
        self._reading.found_inside(path, counters, again=again)
        self._fingerprints[path] = fingerprint

    def read(self, path: str) -> Name:
        """How a path is read now."""
        with self._lock:
            return self._reading.of(path)

    @property
    def reading(self) -> Reading:
        """The reading of all names, for the thread that watches."""
        return self._reading

    def prove(self, path: str, of: str, seq: int) -> None:
        """Remember that a file was another name of a checkpoint; a rewritten name (`last`) continues that sequence.

        Args:
            path: the file, relative to the run directory.
            of: the checkpoint's name.
            seq: the number of the event that says so.
        """
        checkpoint = self._recorder.checkpoint(of)
        admitted = checkpoint.admitted if checkpoint is not None else None
        if admitted is None or admitted.path == path:
            return
        numbered, other = (admitted.path, path) if self.read(path).step is None else (path, admitted.path)
        self._proofs.setdefault(other, []).append(_Proof(seq, numbered, admitted.step_kind))

    def of(self, path: str, kind: str, seq: int = _LATER) -> str:
        """The series of a checkpoint.

        A rewritten name continues the sequence of the file that it was another name of last, so that `last.pt` fills the
        gaps that retention by metric leaves among numbered files.

        Args:
            path: the file, relative to the run directory.
            kind: what counts its steps.
            seq: only aliases found before this event count, so that the past does not change.
        """
        name = self.read(path)
        if kind == "save" or name.step is not None:
            return name.series
        known = self._known.get((path, seq, kind))
        if known is not None:
            return known
        proofs = (proof for proof in reversed(self._proofs.get(path, [])) if proof.seq < seq and proof.kind == kind)
        proof = next(proofs, None)
        found = name.series if proof is None else self.of(proof.path, kind, proof.seq)
        if seq != _LATER:
            self._known[path, seq, kind] = found
        return found

    def of_admitted(self, admitted: e.Admitted) -> str:
        """The sequence of an admitted checkpoint."""
        return admitted.series or self.of(admitted.path, admitted.step_kind, admitted.seq)

    def order(self, path: str, layout: Layout) -> tuple[str, int, bool]:
        """Kind and value of the step, and whether the name itself holds it (else the trainer rewrites that name)."""
        name = self.read(path)
        if name.step is not None:
            return name.kind, name.step, True
        counters = inside(layout)
        kinds = [kind for kind in (name.kind, *COUNTERS) if kind in counters]
        if kinds:
            joined = (kind for kind in kinds if self.of(path, kind) != name.series)
            kind = next(joined, kinds[0])
            return kind, counters[kind], False
        previous = self.newest(path, "save")
        return "save", (previous.admitted.step + 1 if previous and previous.admitted else 1), False

    def reread(self) -> list[e.Reread]:
        """The admitted checkpoints whose series or step is another now, in the order of their steps."""
        with self._lock, unsearched():
            changed = self._reading.pop_changed()
        if not changed:
            return []
        self._known.clear()
        found = []
        counts: dict[str, int] = {}
        among = (each for path in changed for each in self._recorder.state.checkpoints.by_path(path))
        for checkpoint in by_age(among):
            admitted = checkpoint.admitted
            if admitted is None:
                continue
            name = self.read(admitted.path)
            kind, step = admitted.step_kind, admitted.step
            counts[name.series] = counts.get(name.series, 0) + 1
            if name.step is not None:
                if self._fingerprints.get(admitted.path) == admitted.fingerprint:
                    kind, step = name.kind, name.step
            elif name.kind in admitted.counters:
                kind, step = name.kind, admitted.counters[name.kind]
            elif kind != "save" and admitted.checkpoint == admitted.path:
                kind, step = "save", counts[name.series]
            series = self.of(admitted.path, kind, admitted.seq)
            if (series, kind, step) != (admitted.series, admitted.step_kind, admitted.step):
                found.append(
                    e.Reread(checkpoint=checkpoint.name, series=series, step_kind=kind, step=step, told=name.told)
                )
        return sorted(found, key=lambda event: (event.series, event.step))

    def _series(self, sequence: str) -> Series:
        """The checkpoints of a sequence; those that 0.1.0 recorded name no series of their own."""
        checkpoints = self._recorder.state.checkpoints
        unnamed = checkpoints.of_series("").admitted
        if not unnamed:
            return checkpoints.of_series(sequence)
        found = Series()
        for _, _, name, _ in [*unnamed, *(checkpoints.of_series(sequence).admitted if sequence else ())]:
            checkpoint = checkpoints[name]
            if checkpoint.admitted is not None and self.of_admitted(checkpoint.admitted) == sequence:
                found.add(checkpoint)
        return found

    def newest(self, path: str, kind: str) -> Checkpoint | None:
        """The checkpoint admitted last in the same sequence."""
        admitted = self._series(self.of(path, kind)).seqs
        return self._recorder.checkpoint(admitted[-1][1]) if admitted else None

    def before(self, checkpoint: Checkpoint) -> Checkpoint | None:
        """The checkpoint of the next smaller step in the same sequence."""
        mine = checkpoint.admitted
        assert mine is not None
        name = next(self._series(self.of_admitted(mine)).below(mine.step, mine.seq), None)
        return self._recorder.checkpoint(name) if name is not None else None

    def overtaken(self, checkpoint: Checkpoint) -> bool:
        """Whether a checkpoint that was saved after this one, in the same sequence, was admitted before it."""
        mine = checkpoint.admitted
        assert mine is not None
        above = self._series(self.of_admitted(mine)).above(mine.step)
        return any(
            overtakes(other, mine)
            for name in above
            if (found := self._recorder.checkpoint(name)) is not None and (other := found.admitted) is not None
        )

    def place(self, series: str, step: int, first: int) -> int:
        """The place of a step among those of its series from a first step on, counted from 1."""
        checkpoints = self._recorder.state.checkpoints
        below = ((each, name) for each, _, name, _ in list(checkpoints.of_series(series).steps) if first <= each < step)
        return 1 + len({each for each, name in below if checkpoints[name].stage is not Stage.ALIAS})

    def history(self, checkpoint: Checkpoint, length: int) -> list[Checkpoint]:
        """The checkpoints that may stand before this one in a window, oldest first, at most `length`.

        They are of the same sequence of names, after its last break (restart, other model), and of smaller steps. The one
        admitted last counts if two have the same step, and the first of those that are equal bit for bit (but for this one).
        """
        mine = checkpoint.admitted
        assert mine is not None
        found: dict[tuple[str, int], Checkpoint] = {}
        for name in self._series(self.of_admitted(mine)).behind(mine.step, mine.seq, checkpoint.age) if length else ():
            member = self._recorder.checkpoint(name)
            if member is None or member.admitted is None or not member.usable:
                continue
            step = (member.admitted.step_kind, member.admitted.step)
            if member.repeats or name == checkpoint.repeats or step == (mine.step_kind, mine.step):
                continue
            found.setdefault(step, member)
            if len(found) == length:
                break
        return list(found.values())[::-1]

    def needed(self, length: int, in_work: str | None = None) -> set[str]:
        """The checkpoints whose bytes are kept: those of the window in work, and the newest that a later one may hold.

        In each series these are at most the newest `length` + 1, whatever waits.

        Args:
            length: how many residuals a window has.
            in_work: the checkpoint that is worked on.
        """
        checkpoints = self._recorder.state.checkpoints
        waits = {self.of_admitted(c.admitted) for c in checkpoints.of_stages(PENDING) if c.admitted}
        legacy = {self.of_admitted(c.admitted) for c in self._unnamed() if c.admitted}
        names: set[str] = set()
        for sequence in {*checkpoints.series(), *legacy, *waits} - {""}:
            count = length + (sequence in waits)
            for _, _, name, _ in reversed(list(self._series(sequence).admitted)):
                checkpoint = checkpoints[name]
                repeated = checkpoint.repeats and checkpoint.stage not in PENDING
                if count > 0 and checkpoint.usable and not repeated:
                    names.add(name)
                    count -= 1
                if count <= 0:
                    break
        current = self._recorder.checkpoint(in_work) if in_work is not None else None
        if current is not None and current.admitted is not None:
            names |= {current.name, *(each.name for each in self.history(current, length))}
        return names

    def _unnamed(self) -> list[Checkpoint]:
        checkpoints = self._recorder.state.checkpoints
        return [checkpoints[name] for _, _, name, _ in checkpoints.of_series("").admitted]
