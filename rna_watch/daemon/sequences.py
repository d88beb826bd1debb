"""Sequences: which checkpoints of a run follow each other, by their names and by the aliases that were found."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from rna_watch.daemon.order import by_admission
from rna_watch.journal import events as e
from rna_watch.journal.log import read
from rna_watch.journal.replay import PENDING
from rna_watch.watching import steps

if TYPE_CHECKING:
    from pathlib import Path

    from rna_watch.daemon.recorder import Recorder
    from rna_watch.journal.replay import Checkpoint
    from rna_watch.layout.layout import Layout

_LATER = 2**63
_KNOWN_IN_NAME = ("step", "epoch")


class _Proof(NamedTuple):
    """From event `seq` on, a rewritten name is known to belong to the sequence of `path`, counted by `kind`."""

    seq: int
    path: str
    kind: str


class Sequences:
    """Orders the checkpoints of a run into sequences; aliases are read from the journal after a restart."""

    def __init__(self, recorder: Recorder, journal: Path) -> None:
        self._recorder = recorder
        self._proofs: dict[str, list[_Proof]] = {}
        self._known: dict[tuple[str, int, str], str] = {}
        for event in read(journal):
            if isinstance(event, e.Aliased):
                self.prove(event.checkpoint, event.of, event.seq)

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
        numbered, other = (admitted.path, path) if steps.from_name(path) is None else (path, admitted.path)
        self._proofs.setdefault(other, []).append(_Proof(seq, numbered, admitted.step_kind))

    def of(self, path: str, kind: str, seq: int = _LATER) -> str:
        """The pattern of names that identifies a checkpoint's sequence.

        A rewritten name continues the sequence of the file that it was another name of last, so that `last.pt` fills the
        gaps that retention by metric leaves among numbered files.

        Args:
            path: the file, relative to the run directory.
            kind: what counts its steps.
            seq: only aliases found before this event count, so that the past does not change.
        """
        if kind == "save" or steps.from_name(path) is not None:
            return steps.series(path)
        known = self._known.get((path, seq, kind))
        if known is not None:
            return known
        proofs = (proof for proof in reversed(self._proofs.get(path, [])) if proof.seq < seq and proof.kind == kind)
        proof = next(proofs, None)
        found = steps.series(path) if proof is None else self.of(proof.path, kind, proof.seq)
        if seq != _LATER:
            self._known[path, seq, kind] = found
        return found

    def of_admitted(self, admitted: e.Admitted) -> str:
        """The sequence of an admitted checkpoint."""
        return self.of(admitted.path, admitted.step_kind, admitted.seq)

    def order(self, path: str, layout: Layout) -> tuple[str, int, bool]:
        """Kind and value of the step, and whether the name itself holds it (else the trainer rewrites that name)."""
        from_name = steps.from_name(path)
        if from_name is not None:
            kind, value = from_name
            return self._kind_of_number(path, value, layout) if kind == "number" else kind, value, True
        kinds = [kind for kind in _KNOWN_IN_NAME if kind in layout.counters]
        if kinds:
            joined = (kind for kind in kinds if self.of(path, kind) != steps.series(path))
            kind = next(joined, kinds[0])
            return kind, layout.counters[kind], False
        previous = self.newest(path, "save")
        return "save", (previous.admitted.step + 1 if previous and previous.admitted else 1), False

    def _kind_of_number(self, path: str, value: int, layout: Layout) -> str:
        """The kind of a bare number in a name: that of the counter with this value in the file, while that stays the same."""
        inside = [kind for kind in _KNOWN_IN_NAME if layout.counters.get(kind) == value]
        previous = self.newest(path, "number")
        if previous is None or previous.admitted is None:
            return inside[0] if len(inside) == 1 else "number"
        return previous.admitted.step_kind if previous.admitted.step_kind in inside else "number"

    def newest(self, path: str, kind: str) -> Checkpoint | None:
        """The checkpoint admitted last in the same sequence."""
        sequence = self.of(path, kind)
        same = [c for c in self._recorder.checkpoints() if c.admitted and self.of_admitted(c.admitted) == sequence]
        return max(same, key=lambda c: c.admitted.seq if c.admitted else 0, default=None)

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
        members.sort(key=lambda pair: pair[1].seq)
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

    def needed(self, length: int) -> set[str]:
        """The checkpoints that a later window of this many residuals, or a window in work, may hold."""
        sequences: dict[str, list[Checkpoint]] = {}
        for checkpoint in by_admission(self._recorder.checkpoints()):
            repeated = checkpoint.repeats and checkpoint.stage not in PENDING
            if checkpoint.admitted and checkpoint.usable and not repeated:
                sequences.setdefault(self.of_admitted(checkpoint.admitted), []).append(checkpoint)
        names: set[str] = set()
        for members in sequences.values():
            first = next((i for i, c in enumerate(members) if c.stage in PENDING), len(members))
            names |= {c.name for c in members[max(0, first - length) :]}
        return names
