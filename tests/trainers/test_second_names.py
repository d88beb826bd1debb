"""Names that show a checkpoint a second time, and what they prove: admission and readiness, without a daemon."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from rna_watch.journal.replay import Stage
from rna_watch.layout.identity import FileIdentity
from rna_watch.watching.readiness import Readiness
from rna_watch.watching.scan import Found
from tests.daemon.test_admission import Folder

if TYPE_CHECKING:
    from pathlib import Path


def _history(folder: Folder, name: str) -> list[str]:
    newest = folder.recorder.checkpoint(name)
    assert newest is not None
    return [checkpoint.name for checkpoint in folder.sequences.history(newest, 9)]


def _found(name: str, mtime: int = 1) -> Found:
    identity = FileIdentity(path=name, inode=1, size_bytes=10, mtime_ns=mtime, ctime_ns=mtime)
    return Found(name=name, identity=identity)


def test_the_same_model_beside_other_notes_is_one(folder: Folder) -> None:
    """Lightning's first last.ckpt differs from the numbered file in what its callback notes; it is the same checkpoint."""
    folder.save("epoch=0-step=10.ckpt", 1.0, global_step=10, callbacks={"last": ""})
    folder.save("last.ckpt", 1.0, global_step=10, callbacks={"last": "last.ckpt"})
    folder.save("other.ckpt", 2.0, global_step=10)
    for name in ("epoch=0-step=10.ckpt", "last.ckpt", "other.ckpt"):
        folder.consider(name)
    assert folder.stages() == {
        "epoch=0-step=10.ckpt": Stage.READY,
        "last.ckpt": Stage.ALIAS,
        "other.step10.ckpt": Stage.READY,
    }


@pytest.mark.parametrize("restarted", [False, True])
def test_a_rewritten_name_fills_the_gaps_of_the_numbered_ones(folder: Folder, restarted: bool) -> None:
    """Saves that only `last` showed are in its windows once it was another name of a numbered file, after a restart too."""
    for epoch in range(1, 7):
        folder.save("last.pt", float(epoch), epoch=epoch)
        if epoch != 4:
            folder.save(f"checkpoint-{epoch}.pt", float(epoch), epoch=epoch)
            folder.consider(f"checkpoint-{epoch}.pt")
        if restarted and epoch == 3:
            folder = Folder(folder.path)
        folder.consider("last.pt")
    names = [f"checkpoint-{epoch}.pt" if epoch != 4 else "last.epoch4.pt" for epoch in range(1, 6)]
    assert _history(folder, "checkpoint-6.pt") == names
    assert not any(checkpoint.starts_window for checkpoint in folder.recorder.checkpoints())


def test_two_rewritten_names_of_one_run_are_one_sequence(folder: Folder) -> None:
    """`best` and `last`, taken now under one name and now under the other, stand in one window."""
    for epoch, names in enumerate((("best", "last"), ("last",), ("best", "last"), ("last",)), start=1):
        for name in names:
            folder.save(f"{name}.pt", float(epoch), epoch=epoch)
            folder.consider(f"{name}.pt")
    assert _history(folder, "last.epoch4.pt") == ["best.epoch1.pt", "last.epoch2.pt", "best.epoch3.pt"]


def test_without_a_proof_names_stay_apart(folder: Folder) -> None:
    """`ema.pt` next to numbered files, never the same as one of them, is a sequence of its own."""
    for epoch in (1, 2, 3):
        folder.save(f"checkpoint-{epoch}.pt", float(epoch), epoch=epoch)
        folder.save("ema.pt", epoch + 0.5, epoch=epoch)
        folder.consider(f"checkpoint-{epoch}.pt")
        folder.consider("ema.pt")
    assert _history(folder, "ema.epoch3.pt") == ["ema.epoch1.pt", "ema.epoch2.pt"]
    assert _history(folder, "checkpoint-3.pt") == ["checkpoint-1.pt", "checkpoint-2.pt"]


def test_what_was_before_the_proof_stays_where_it_was(folder: Folder) -> None:
    """A leftover `last` of an earlier training is in no window of the next one, though the name then shows that one."""
    folder.save("last.pt", 0.5, epoch=2)
    folder.consider("last.pt")
    for epoch in (1, 2, 3):
        folder.save(f"checkpoint-{epoch}.pt", float(epoch), epoch=epoch)
        folder.save("last.pt", float(epoch), epoch=epoch)
        folder.consider(f"checkpoint-{epoch}.pt")
        folder.consider("last.pt")
    assert _history(folder, "checkpoint-3.pt") == ["checkpoint-1.pt", "checkpoint-2.pt"]


def test_a_name_that_was_seen_half_written_is_resolved(folder: Folder) -> None:
    """What was said of `last.pt` while it was incomplete does not stand in the status for good."""
    (folder.path / "last.pt").touch()
    readiness_says = "it is empty"
    from rna_watch.journal import events as e

    folder.recorder.record(e.Waiting(checkpoint="last.pt", reason=readiness_says))
    folder.save("last.pt", 1.0, epoch=1)
    folder.consider("last.pt")
    assert folder.stages() == {"last.pt": Stage.ALIAS, "last.epoch1.pt": Stage.READY}
    folder.save("step_1.pt", 2.0)
    folder.consider("step_1.pt")
    folder.recorder.record(e.Waiting(checkpoint="step_1.pt", reason=readiness_says))
    folder.save("step_1.pt", 2.0)
    folder.consider("step_1.pt")
    assert folder.stages()["step_1.pt"] is Stage.READY
    assert not folder.recorder.checkpoints()[-1].starts_window


def test_a_rewritten_name_waits_for_a_numbered_one() -> None:
    """checkpoint.pth, quick to write, is not probed before model_5.pth, which was seen no later and still rests."""
    readiness = Readiness(1.0, lambda identity: 0.8 if identity.path == "checkpoint.pth" else 0.0)
    readiness.update([_found("model_5.pth")], 0.0)
    readiness.update([_found("model_5.pth", 2), _found("checkpoint.pth")], 0.2)
    assert readiness.due(0.5) == []
    assert [name for name, _ in readiness.due(1.3)] == ["model_5.pth", "checkpoint.pth"]


def test_a_file_that_never_rests_is_due_once_as_it_was() -> None:
    """Changing for longer than is quietly waited for, a file is offered in its first state, so that it is reported once."""
    readiness = Readiness(1.0)
    for tick in range(20):
        assert readiness.due(0.5 * tick) == []
        readiness.update([_found("ckpt.pt", tick)], 0.5 * tick)
    ((name, identity),) = readiness.due(10.0)
    assert (name, identity.mtime_ns) == ("ckpt.pt", 0)
    assert readiness.postpone(name, "it is being written", 10.0)
    readiness.update([_found("ckpt.pt", 20)], 10.5)
    assert readiness.due(11.0) == []
    assert [found.mtime_ns for _, found in readiness.due(11.5)] == [20]


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """An empty run."""
    return Folder(tmp_path)
