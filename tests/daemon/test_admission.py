"""From files to checkpoints: aliases, names, order, pins; with real files and the real journal, without a daemon."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import torch

from rna_watch.config import RunConfig
from rna_watch.daemon.admission import Admission
from rna_watch.daemon.disk_reserve import DiskReserve
from rna_watch.daemon.pins import Pins
from rna_watch.daemon.rebuilt import Rebuilt
from rna_watch.daemon.recorder import Recorder
from rna_watch.daemon.sequences import Sequences
from rna_watch.errors import IncompleteCheckpoint
from rna_watch.journal import events as e
from rna_watch.journal import log
from rna_watch.journal.replay import Stage
from rna_watch.journal.run_paths import RunPaths
from rna_watch.layout.identity import identify

if TYPE_CHECKING:
    from pathlib import Path


class Folder:
    """A run directory with an `Admission` and a window store on it."""

    def __init__(self, path: Path, **settings: object) -> None:
        self.path = path
        self.paths = RunPaths(run=path, output=path)
        self.paths.create()
        self.recorder = Recorder(self.paths.journal)
        config = RunConfig(**settings)
        self.sequences = Sequences(self.recorder, config.step)
        self.pins = Pins(config, self.paths, self.recorder, DiskReserve(config, path, self.recorder), lambda: None)
        self.admission = Admission(
            config, self.recorder, self.sequences, self.pins, lambda: None, Rebuilt(self.recorder, self.paths)
        )

    def save(self, name: str, value: float, **beside: object) -> None:
        """Write a checkpoint."""
        content = {"model": {"weight": torch.full((3,), value)}, **beside}
        torch.save(content, self.path / name)

    def consider(self, name: str) -> None:
        """Look at a file."""
        self.admission.consider(name, identify(str(self.path / name)))

    def stages(self) -> dict[str, Stage]:
        """Every known name and its stage."""
        return {checkpoint.name: checkpoint.stage for checkpoint in self.recorder.checkpoints()}

    def finish(self, name: str) -> None:
        """Pretend that the pipeline is done with a checkpoint."""
        self.recorder.record(e.Finished(checkpoint=name, reason="done"))


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """An empty run."""
    return Folder(tmp_path)


def test_other_names_of_a_checkpoint_are_one(folder: Folder) -> None:
    """A hard link (timm), a symbolic link (Lightning), a second save of the same content (torchvision): all aliases."""
    folder.save("model_4.pth", 1.0, epoch=4)
    os.link(folder.path / "model_4.pth", folder.path / "model_best.pth")
    (folder.path / "last.pth").symlink_to("model_4.pth")
    folder.save("checkpoint.pth", 1.0, epoch=4)
    for name in ("model_4.pth", "model_best.pth", "last.pth", "checkpoint.pth"):
        folder.consider(name)
    assert folder.stages() == {
        "model_4.pth": Stage.READY,
        "model_best.pth": Stage.ALIAS,
        "last.pth": Stage.ALIAS,
        "checkpoint.pth": Stage.ALIAS,
    }


def test_equal_content_under_two_steps_is_two_checkpoints(folder: Folder) -> None:
    """A training that stands still writes equal files; each step is its own."""
    for step in (1, 2):
        folder.save(f"step_{step}.pt", 1.0)
        folder.consider(f"step_{step}.pt")
    assert list(folder.stages().values()) == [Stage.READY, Stage.READY]


def test_a_rewritten_name_gets_the_step_from_inside_else_a_count(folder: Folder) -> None:
    """`last.pt` becomes `last.step500.pt`, `last.epoch3.pt`, or, where nothing is inside, `last.save1.pt`."""
    folder.save("last.pt", 1.0, global_step=500, epoch=3)
    folder.consider("last.pt")
    folder.save("net.pt", 2.0, epoch=3)
    folder.consider("net.pt")
    for value in (3.0, 4.0):
        folder.save("bare.pt", value)
        folder.consider("bare.pt")
    assert list(folder.stages()) == ["last.step500.pt", "net.epoch3.pt", "bare.save1.pt", "bare.save2.pt"]


def test_windows_follow_steps_not_arrival_and_not_the_alphabet(folder: Folder) -> None:
    """step_9 comes before step_10, and a late older file finds its place."""
    for step in (9, 10, 12):
        folder.save(f"step_{step}.pt", float(step))
        os.utime(folder.path / f"step_{step}.pt", (step, step))
        folder.consider(f"step_{step}.pt")
    folder.save("step_11.pt", 11.0)
    os.utime(folder.path / "step_11.pt", (11, 11))
    folder.consider("step_11.pt")
    newest = folder.recorder.checkpoint("step_12.pt")
    assert newest is not None
    assert [c.name for c in folder.sequences.history(newest, 5)] == ["step_9.pt", "step_10.pt", "step_11.pt"]
    assert [c.name for c in folder.sequences.history(newest, 2)] == ["step_10.pt", "step_11.pt"]


def test_two_sequences_in_one_folder_do_not_mix(folder: Folder) -> None:
    """Generator and discriminator, saved side by side, have windows of their own."""
    for step in (1, 2, 3):
        for name in (f"G_{step}.pt", f"D_{step}.pt"):
            folder.save(name, float(step), network=name)
            folder.consider(name)
    newest = folder.recorder.checkpoint("D_3.pt")
    assert newest is not None
    assert [c.name for c in folder.sequences.history(newest, 5)] == ["D_1.pt", "D_2.pt"]


def test_numbered_files_are_linked_and_rewritten_ones_copied(folder: Folder) -> None:
    """A pinned numbered file shares its inode with the original, a pinned `last.pt` does not; both outlive it."""
    folder.save("step_1.pt", 1.0)
    folder.save("last.pt", 2.0, step=2)
    for name in ("step_1.pt", "last.pt"):
        inode = (folder.path / name).stat().st_ino
        folder.consider(name)
        admitted = folder.recorder.checkpoints()[-1].admitted
        assert admitted is not None
        pinned = folder.path / admitted.pin_path
        assert (pinned.stat().st_ino == inode) == (admitted.pin == "link")
        (folder.path / name).unlink()
        layout = folder.pins.layout(folder.recorder.checkpoints()[-1])
        assert layout is not None
        assert layout.path == str(pinned)
    assert [c.admitted.pin for c in folder.recorder.checkpoints() if c.admitted] in (
        ["link", "copy"],
        ["link", "reflink"],
    )


def test_what_no_window_can_need_is_unpinned(folder: Folder) -> None:
    """Of eight that wait the newest six stay pinned for windows of five residuals, beside the window in work; then five."""
    for step in range(1, 9):
        folder.save(f"step_{step}.pt", float(step))
        folder.consider(f"step_{step}.pt")
    folder.pins.release(lambda: folder.sequences.needed(5, "step_1.pt"))
    steps = [1, *range(3, 9)]
    assert [c.name for c in folder.recorder.checkpoints() if c.pinned] == [f"step_{step}.pt" for step in steps]
    assert len(list(folder.paths.pins.iterdir())) == 7
    for step in range(1, 9):
        folder.finish(f"step_{step}.pt")
    folder.pins.release(lambda: folder.sequences.needed(5))
    assert [c.name for c in folder.recorder.checkpoints() if c.pinned] == [f"step_{step}.pt" for step in range(4, 9)]
    assert len(list(folder.paths.pins.iterdir())) == 5


def test_what_is_admitted_meanwhile_stays_pinned(folder: Folder) -> None:
    """The main thread may pin a checkpoint between the question what is needed and the unpinning of the rest."""
    folder.save("step_1.pt", 1.0)
    folder.save("step_2.pt", 2.0)
    folder.consider("step_1.pt")

    def needed() -> set[str]:
        folder.consider("step_2.pt")
        return set()

    folder.pins.release(needed)
    assert [c.name for c in folder.recorder.checkpoints() if c.pinned] == ["step_2.pt"]


def test_the_store_keeps_its_byte_budget_and_says_so(tmp_path: Path) -> None:
    """Beyond the budget the oldest pins go first, and a problem says that windows become shorter."""
    folder = Folder(tmp_path, store_budget=3000 / 2**30)
    for step in range(1, 5):
        folder.save(f"step_{step}.pt", float(step))
        folder.consider(f"step_{step}.pt")
    folder.pins.release(lambda: folder.sequences.needed(5))
    pinned = [c for c in folder.recorder.checkpoints() if c.pinned]
    assert pinned[-1].name == "step_4.pt"
    assert sum(c.admitted.size_bytes for c in pinned if c.admitted) <= 3000
    assert "store-budget" in folder.recorder.state.problems


def test_a_rewrite_under_a_link_is_noticed(folder: Folder) -> None:
    """A numbered file that is rewritten in place after all changes its linked bytes: they are not used."""
    folder.save("step_1.pt", 1.0)
    folder.consider("step_1.pt")
    checkpoint = folder.recorder.checkpoint("step_1.pt")
    assert checkpoint is not None
    folder.pins.forget("step_1.pt")
    folder.save("step_1.pt", 7.0)
    assert folder.pins.layout(checkpoint) is None
    folder.consider("step_1.pt")
    again = folder.recorder.checkpoint("step_1.pt")
    assert again is not None
    assert again.admitted != checkpoint.admitted
    assert folder.pins.layout(again) is not None


def test_a_file_that_changes_under_the_probe_waits(folder: Folder) -> None:
    """A file that is not the one that rested is not admitted."""
    folder.save("step_1.pt", 1.0)
    rested = identify(str(folder.path / "step_1.pt"))
    shutil.copy(folder.path / "step_1.pt", folder.path / "other")
    (folder.path / "other").replace(folder.path / "step_1.pt")
    with pytest.raises(IncompleteCheckpoint, match="being written"):
        folder.admission.consider("step_1.pt", rested)
    assert folder.stages() == {}


def test_what_the_journal_knows_is_not_told_again(folder: Folder) -> None:
    """The same files add no line after a restart: not the admitted, not the alias, not the refused."""
    folder.save("step_1.pt", 1.0)
    os.link(folder.path / "step_1.pt", folder.path / "best.pt")
    (folder.path / "notes.pt").write_text(
        "a text of more than sixty-four bytes, so that it can be told from a beginning"
    )
    names = ("step_1.pt", "best.pt", "notes.pt")
    for name in names:
        folder.consider(name)
    count = len(folder.paths.journal.read_bytes().splitlines())
    again = Folder(folder.path)
    for name in names:
        again.consider(name)
    assert len(folder.paths.journal.read_bytes().splitlines()) == count


def test_the_store_is_swept_of_what_no_record_explains(folder: Folder) -> None:
    """A pinned file whose record was lost in a crash is removed; explained ones stay."""
    folder.save("step_1.pt", 1.0)
    folder.consider("step_1.pt")
    (folder.paths.pins / "step__9.pt.00000000.pinned").touch()
    folder.pins.sweep()
    assert [path.name.startswith("step__1.pt") for path in folder.paths.pins.iterdir()] == [True]


def test_dates_are_ordered_by_the_counter_inside(folder: Folder) -> None:
    """A date in a name is no step, however the name spells it, so its checkpoints are one sequence and nothing went back."""
    for minute, step in ((10, 100), (11, 200), (12, 300)):
        name = f"model_20240131_10{minute}00.pt"
        folder.save(name, float(step), step=step)
        folder.consider(name)
    newest = folder.recorder.checkpoint("model_20240131_101200.step300.pt")
    assert newest is not None
    assert [c.admitted.step for c in folder.sequences.history(newest, 5) if c.admitted] == [100, 200]
    assert not any(c.starts_window for c in folder.recorder.checkpoints())


def test_names_that_are_hashes_are_one_sequence_in_the_order_they_were_written(folder: Folder) -> None:
    """Letters and digits of a hash are no epochs, whatever they spell, and no hash has a window of its own."""
    names = ["e4da3b7f.pt", "c81e728d.pt", "1679091c.pt"]
    for order, name in enumerate(names):
        folder.save(name, float(order))
        os.utime(folder.path / name, (order + 1, order + 1))
        folder.consider(name)
    newest = folder.recorder.checkpoint("1679091c.save3.pt")
    assert newest is not None
    before = folder.sequences.history(newest, 5)
    assert [c.name for c in before] == ["e4da3b7f.save1.pt", "c81e728d.save2.pt"]
    assert not any(c.starts_window for c in folder.recorder.checkpoints())


def test_two_names_of_one_step_are_told(folder: Folder) -> None:
    """A new window names two files that differ in what is no step, and does not call it a restart."""
    for step, loss, saved in ((5, 1, 2), (5, 2, 2), (6, 3, 3), (6, 4, 1)):
        name = f"step{step}_loss0.{loss}.pt"
        folder.save(name, float(loss))
        os.utime(folder.path / name, (saved, saved))
        folder.consider(name)
    told = [
        f"step{s}_loss0.{a}.pt and step{s}_loss0.{b}.pt have the same step {s}" for s, a, b in ((5, 1, 2), (6, 3, 4))
    ]
    events = list(log.read(folder.paths.journal))
    assert [event.reason for event in events if isinstance(event, e.WindowStarted)] == told
    assert [event.what for event in events if isinstance(event, e.Problem)] == told


def test_no_window_holds_a_step_twice(folder: Folder) -> None:
    """The one admitted last of two names of one step is used, in whatever order they came."""
    for order, (step, loss) in enumerate(((4, 1), (6, 1), (4, 2), (5, 1), (6, 2))):
        name = f"step{step}_loss0.{loss}.pt"
        folder.save(name, float(order))
        os.utime(folder.path / name, (9 - order, 9 - order))
        folder.consider(name)
    newest = folder.recorder.checkpoint("step6_loss0.2.pt")
    assert newest is not None
    names = [c.name for c in folder.sequences.history(newest, 5)]
    assert names == ["step4_loss0.2.pt", "step5_loss0.1.pt"]


def test_runs_in_one_folder_do_not_mix(folder: Folder) -> None:
    """Numbers that tell runs apart give series of their own, also where a first file did not show it yet."""
    for run in (0, 1):
        for step in (0, 100, 200):
            folder.save(f"a{run}_step{step}.pt", step + run / 2)
            folder.consider(f"a{run}_step{step}.pt")
    for run in (0, 1):
        newest = folder.recorder.checkpoint(f"a{run}_step200.pt")
        assert newest is not None
        assert [c.name for c in folder.sequences.history(newest, 5)] == [f"a{run}_step0.pt", f"a{run}_step100.pt"]
        assert newest.admitted is not None
        assert newest.admitted.series == f"a{run}_step#.pt"


def test_what_a_later_name_shows_is_recorded(folder: Folder) -> None:
    """`epoch2_1.pt` is epoch 2 until `epoch2_2.pt` comes; a restart of the daemon reads the same."""
    for number in (1, 2, 3):
        folder.save(f"epoch2_{number}.pt", float(number))
        folder.consider(f"epoch2_{number}.pt")
    again = [event for event in log.read(folder.paths.journal) if isinstance(event, e.Reread)]
    assert [(event.checkpoint, event.step_kind, event.step) for event in again] == [("epoch2_1.pt", "number", 1)]
    recorder = Recorder(folder.paths.journal)
    steps = {c.name: c.admitted.step for c in recorder.checkpoints() if c.admitted}
    assert steps == {f"epoch2_{number}.pt": number for number in (1, 2, 3)}
    assert Sequences(recorder).reread() == []


def test_the_copy_is_the_alias_in_whatever_order_they_are_seen(folder: Folder) -> None:
    """The original keeps its place in its series; a file that is both is an alias of nothing."""
    for number in (1, 2, 3):
        folder.save(f"epoch_{number}.pth", float(number))
    shutil.copy(folder.path / "epoch_3.pth", folder.path / "best_epoch_3.pth")
    os.link(folder.path / "epoch_2.pth", folder.path / "epoch_2 (1).pth")
    for name in ("best_epoch_3.pth", "epoch_2 (1).pth", "epoch_1.pth", "epoch_2.pth", "epoch_3.pth"):
        folder.consider(name)
    aliases = {name for name, stage in folder.stages().items() if stage is Stage.ALIAS}
    assert aliases == {"best_epoch_3.pth", "epoch_2 (1).pth"}
    for name in ("best_epoch_3.pth", "epoch_2 (1).pth", "epoch_3.pth"):
        folder.consider(name)
    newest = folder.recorder.checkpoint("epoch_3.pth")
    assert newest is not None
    assert [c.name for c in folder.sequences.history(newest, 5)] == ["epoch_1.pth", "epoch_2.pth"]
    assert {name for name, stage in folder.stages().items() if stage is Stage.ALIAS} == aliases


def test_folds_are_runs_of_their_own(folder: Folder) -> None:
    """Ten files of a cross-validation are ten series, and no window holds two."""
    for fold in range(1, 11):
        folder.save(f"model_fold_{fold}.pth", float(fold))
        folder.consider(f"model_fold_{fold}.pth")
    for checkpoint in folder.recorder.checkpoints():
        assert folder.sequences.history(checkpoint, 5) == []


def test_the_order_is_that_of_the_epochs_inside(folder: Folder) -> None:
    """Names that hold an accuracy alone are taken by what the files say, whatever alphabet and times do."""
    for accuracy, epoch in ((93, 4), (94, 1), (95, 3), (96, 2)):
        folder.save(f"net_{accuracy}.pth", float(epoch), epoch=epoch)
        os.utime(folder.path / f"net_{accuracy}.pth", (100 - accuracy, 100 - accuracy))
    names = [path.name for path in sorted(folder.path.glob("*.pth"))]
    folder.sequences.update(dict.fromkeys(names, 0))
    ordered = folder.admission.in_order([(name, identify(str(folder.path / name))) for name in names])
    assert [name for name, _ in ordered] == ["net_94.pth", "net_96.pth", "net_95.pth", "net_93.pth"]
    for name, identity in ordered:
        folder.admission.consider(name, identity)
    assert not any(c.starts_window for c in folder.recorder.checkpoints())
    assert [c.step for c in folder.recorder.checkpoints()] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("settings", "taken"),
    [
        ({"every": 2}, [20, 40]),
        ({"first_step": 30}, [30, 40, 50]),
        ({"every": 2, "first_step": 20}, [30, 50]),
    ],
)
def test_some_checkpoints_enter(tmp_path: Path, settings: dict[str, object], taken: list[int]) -> None:
    """Each K-th of a series from a step on; the others are recorded with the reason and take no pin."""
    folder = Folder(tmp_path, **settings)
    for step in (10, 20, 30, 40, 50):
        folder.save(f"step_{step}.pt", float(step))
        folder.consider(f"step_{step}.pt")
    assert [c.step for c in folder.recorder.checkpoints() if c.usable] == taken
    left = [c for c in folder.recorder.checkpoints() if not c.usable]
    assert {c.stage for c in left} == {Stage.SKIPPED}
    assert all("--every" in c.reason or "--first-step" in c.reason for c in left)
    assert not any(c.pinned for c in left)
    assert len(list(folder.paths.pins.iterdir())) == len(taken)


def test_a_name_that_the_step_does_not_match_is_refused(tmp_path: Path) -> None:
    """The setting `step` is told in the reason."""
    folder = Folder(tmp_path, step=r"x(\d+)")
    for name in ("a_1_x5.pt", "a_1.pt"):
        folder.save(name, 1.0)
        folder.consider(name)
    assert folder.stages() == {"a_1_x5.pt": Stage.READY, "a_1.pt": Stage.REFUSED}
    refused = folder.recorder.checkpoint("a_1.pt")
    assert refused is not None
    assert r"--step 'x(\d+)'" in refused.reason


_STOPPED = """
import os, signal
from rna_watch.cli import main
from rna_watch.daemon import probes
real = probes.probe
def probe(*arguments, **options):
    os.kill(os.getpid(), signal.SIGTERM)
    return real(*arguments, **options)
probes.probe = probe
main()
"""


def test_a_signal_while_files_are_asked_for_their_order_ends_the_daemon_in_order(tmp_path: Path) -> None:
    """SIGTERM comes before anything was taken: the end is recorded with its reason, and nothing is shown of our inside."""
    folder = Folder(tmp_path)
    for number in range(4):
        folder.save(f"net_acc0.9{number}.pth", float(number), epoch=number)
    folder.recorder.close()
    command = [sys.executable, "-c", _STOPPED, "start", str(tmp_path), "--foreground", "--engine", "local"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.splitlines()[-1].endswith("stopped: signal SIGTERM")
    stopped = [event for event in log.read(folder.paths.journal) if isinstance(event, e.Stopped)]
    assert [event.reason for event in stopped] == ["signal SIGTERM"]
