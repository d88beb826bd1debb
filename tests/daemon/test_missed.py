"""Checkpoints that live for a moment only: nothing is missed without a record where the file system gives events."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rna_watch.journal.replay import Stage
from tests.daemon.in_process import watch
from tests.daemon.runs import events, train

if TYPE_CHECKING:
    from pathlib import Path

    from rna_watch.journal.replay import RunState


def test_what_is_gone_before_a_look_is_recorded_by_its_name(tmp_path: Path) -> None:
    """A file that was closed and removed at once is recorded as gone; a temporary name that was renamed is not."""
    run = tmp_path / "run"
    train(run, count=3)
    data = (run / "step_3.pt").read_bytes()
    rounds = 0

    def until(state: RunState) -> bool:
        nonlocal rounds
        if "step_3.pt" not in state.outputs:
            return False
        rounds += 1
        short, temporary = run / f"step_{100 + rounds}.pt", run / "new.pt"
        short.write_bytes(data)
        short.unlink()
        temporary.write_bytes(data)
        temporary.rename(run / f"step_{3 + rounds}.pt.done")
        (run / "notes.txt").write_text("no checkpoint")
        (run / "notes.txt").unlink()
        return state.checkpoints.count([Stage.VANISHED]) >= 2

    state = watch(run, until)
    gone = [event.checkpoint for event in events(run, "vanished")]
    assert gone[:2] == ["step_101.pt", "step_102.pt"]
    assert len(set(gone)) == len(gone)
    assert state.checkpoints["step_101.pt"].reason == "gone before it could be used"
