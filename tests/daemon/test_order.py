"""The order of work, over made states."""

from __future__ import annotations

from typing import Any

import pytest

from rna_watch.daemon.order import next_in_line
from rna_watch.journal import events as e
from rna_watch.journal.checkpoints import Checkpoints
from rna_watch.journal.replay import PENDING, Checkpoint, Stage


def made(name: str, step: int, **fields: Any) -> e.Admitted:
    """The admission of a checkpoint."""
    told = {"step_kind": "step", "format": "torch zip", "source": "", "size_bytes": 1, "parameters": 1, "seq": step}
    told |= {"fingerprint": name, "inode": step, "mtime_ns": step, "pin": "link", "pin_path": name}
    return e.Admitted(**{"checkpoint": name, "path": name, "step": step} | told | fields)


def checkpoint_of(admitted: e.Admitted, **fields: Any) -> Checkpoint:
    """What is known of a checkpoint right after its admission."""
    own = {
        "name": admitted.checkpoint,
        "stage": Stage.READY,
        "admitted": admitted,
        "age": (admitted.seq, admitted.step),
    }
    return Checkpoint(**own | fields)


def _checkpoint(name: str, step: int, **fields: Any) -> Checkpoint:
    return checkpoint_of(made(name, step), **fields)


@pytest.mark.parametrize("stage", Stage)
def test_what_is_pending_is_worked_on_and_nothing_else_but_old_failures(stage: Stage) -> None:
    """A checkpoint on its way is next; one that failed for good before this process began is tried once more."""
    checkpoints = [_checkpoint("a.pt", 1, stage=stage)]
    wanted = "a.pt" if stage in PENDING else None
    assert next_in_line(Checkpoints(checkpoints), {"a.pt"}, 1e9) == wanted
    assert next_in_line(Checkpoints(checkpoints), set(), 1e9) == ("a.pt" if stage is Stage.FAILED else wanted)


def test_the_oldest_goes_first_by_its_last_admission() -> None:
    """A name that was written again is the newest, whatever its place; what waits for room lets the others by."""
    checkpoints = [_checkpoint("again.pt", 9), _checkpoint("b.pt", 4), _checkpoint("c.pt", 5)]
    assert next_in_line(Checkpoints(checkpoints), set(), 0.0) == "b.pt"
    assert next_in_line(Checkpoints(checkpoints), set(), 0.0, lambda name: name == "b.pt") == "c.pt"
    assert next_in_line(Checkpoints(checkpoints), set(), 0.0, lambda name: name != "again.pt") == "again.pt"
    assert next_in_line(Checkpoints(checkpoints), set(), 0.0, lambda _: True) is None


@pytest.mark.parametrize(("attempts", "pause_s"), [(1, 2.0), (2, 4.0), (5, 32.0), (6, 60.0), (20, 60.0)])
def test_one_that_failed_waits_longer_each_time_and_others_wait_with_it(attempts: int, pause_s: float) -> None:
    """The pause doubles up to a minute, from the last error on; a new process does not wait."""
    checkpoints = [_checkpoint("a.pt", 1, attempts=attempts), _checkpoint("b.pt", 2)]
    assert next_in_line(Checkpoints(checkpoints), {"a.pt"}, pause_s - 0.1) is None
    assert next_in_line(Checkpoints(checkpoints), {"a.pt"}, pause_s) == "a.pt"
    assert next_in_line(Checkpoints(checkpoints), set(), 0.0) == "a.pt"
