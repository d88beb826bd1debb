"""Sequences: which checkpoints of a run follow each other, by the reading of all names and by the aliases that were found."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, NamedTuple

from rna_watch.daemon.order import by_age
from rna_watch.journal import events as e
from rna_watch.journal.ages import overtakes
from rna_watch.journal.log import read
from rna_watch.journal.replay import PENDING, Stage
from rna_watch.watching.reading import COUNTERS, Reading

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

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
        journal: the file.
        step: the setting `step`.
    """

    def __init__(self, recorder: Recorder, journal: Path, step: str | None = None) -> None:
        self._recorder = recorder
        self._lock = threading.RLock()
        self._reading = Reading(step=step)
        self._fingerprints: dict[str, str] = {}
        self._proofs: dict[str, list[_Proof]] = {}
        self._known: dict[tuple[str, int, str], str] = {}
        for event in read(journal):
            if isinstance(event, e.Admitted):
                kind = event.step_kind if event.path != event.checkpoint else ""
                counters = event.counters or ({kind: event.step} if kind in COUNTERS else {})
                self._reading.update((), {event.path: event.mtime_ns})
                self._saw(event.path, counters, event.fingerprint)
            elif isinstance(event, e.Aliased):
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
        with self._lock:
            changed = self._reading.pop_changed()
        if not changed:
            return []
        self._known.clear()
        found = []
        counts: dict[str, int] = {}
        for checkpoint in by_age(self._recorder.checkpoints()):
            admitted = checkpoint.admitted
            if admitted is None or admitted.path not in changed:
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

    def newest(self, path: str, kind: str) -> Checkpoint | None:
        """The checkpoint admitted last in the same sequence."""
        sequence = self.of(path, kind)
        same = [c for c in self._recorder.checkpoints() if c.admitted and self.of_admitted(c.admitted) == sequence]
        return max(same, key=lambda c: c.admitted.seq if c.admitted else 0, default=None)

    def before(self, checkpoint: Checkpoint) -> Checkpoint | None:
        """The checkpoint of the next smaller step in the same sequence."""
        assert checkpoint.admitted is not None
        sequence, mine = self.of_admitted(checkpoint.admitted), (checkpoint.admitted.step, checkpoint.admitted.seq)
        smaller = [
            (c.admitted.step, c.admitted.seq, c)
            for c in self._recorder.checkpoints()
            if c.admitted and self.of_admitted(c.admitted) == sequence and (c.admitted.step, c.admitted.seq) < mine
        ]
        return max(smaller, key=lambda each: each[:2], default=(0, 0, None))[2]

    def overtaken(self, checkpoint: Checkpoint) -> bool:
        """Whether a checkpoint that was saved after this one, in the same sequence, was admitted before it."""
        mine = checkpoint.admitted
        assert mine is not None
        sequence = self.of_admitted(mine)
        return any(
            overtakes(other, mine)
            for c in self._recorder.checkpoints()
            if (other := c.admitted) and self.of_admitted(other) == sequence
        )

    def place(self, series: str, step: int, first: int) -> int:
        """The place of a step among those of its series from a first step on, counted from 1."""
        members = (c.admitted for c in self._recorder.checkpoints() if c.admitted and c.stage is not Stage.ALIAS)
        return 1 + len({each.step for each in members if each.series == series and first <= each.step < step})

    def history(self, checkpoint: Checkpoint, length: int) -> list[Checkpoint]:
        """The checkpoints that may stand before this one in a window, oldest first, at most `length`.

        They are of the same sequence of names, after its last break (restart, other model), and of smaller steps. The one
        admitted last counts if two have the same step, and the first of those that are equal bit for bit (but for this one).
        """
        assert checkpoint.admitted is not None
        sequence = self.of_admitted(checkpoint.admitted)
        members = [
            (c, c.admitted)
            for c in self._recorder.checkpoints()
            if c.admitted and self.of_admitted(c.admitted) == sequence
        ]
        members.sort(key=lambda pair: pair[0].age)
        generation = 0
        generations: dict[str, int] = {}
        for member, _ in members:
            generation += member.starts_window
            generations[member.name] = generation
        mine = (checkpoint.admitted.step, checkpoint.admitted.seq)
        before = [
            (admitted.step, admitted.seq, member)
            for member, admitted in members
            if member.usable
            and not member.repeats
            and member.name != checkpoint.repeats
            and generations[member.name] == generations[checkpoint.name]
            and (admitted.step, admitted.seq) < mine
        ]
        before.sort(key=lambda item: item[:2])
        own_step = (checkpoint.admitted.step_kind, checkpoint.admitted.step)
        by_step = {(c.admitted.step_kind, step): c for step, _, c in before if c.admitted}
        return [member for step, member in by_step.items() if step != own_step][-length:]

    def needed(self, length: int, in_work: str | None = None) -> set[str]:
        """The checkpoints whose bytes are kept: those of the window in work, and the newest that a later one may hold.

        In each series these are at most the newest `length` + 1, whatever waits.

        Args:
            length: how many residuals a window has.
            in_work: the checkpoint that is worked on.
        """
        sequences: dict[str, list[Checkpoint]] = {}
        for checkpoint in by_age(self._recorder.checkpoints()):
            repeated = checkpoint.repeats and checkpoint.stage not in PENDING
            if checkpoint.admitted and checkpoint.usable and not repeated:
                sequences.setdefault(self.of_admitted(checkpoint.admitted), []).append(checkpoint)
        names: set[str] = set()
        for members in sequences.values():
            first = next((i for i, c in enumerate(members) if c.stage in PENDING), len(members))
            names |= {c.name for c in members[max(0, first - length, len(members) - length - 1) :]}
        current = self._recorder.checkpoint(in_work) if in_work is not None else None
        if current is not None and current.admitted is not None:
            names |= {current.name, *(each.name for each in self.history(current, length))}
        return names
