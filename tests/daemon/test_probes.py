"""Reading holds up nothing: pipes, sockets and devices are refused, and what takes too long is left and asked for again."""

from __future__ import annotations

import os
import shutil
import socket
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from rna_watch.daemon import probes
from rna_watch.daemon.probes import Probes, StillReading
from rna_watch.errors import RefusedCheckpoint, RnaWatchError, Unreadable
from rna_watch.formats.probe import probe
from rna_watch.layout.artifacts import is_output
from rna_watch.layout.open_file import OpenFile
from tests.checkpoints import dcp_forms, deepspeed_forms, folder_forms, writers
from tests.daemon.in_process import watch
from tests.daemon.runs import events, train

if TYPE_CHECKING:
    from collections.abc import Callable


def _pipe(path: Path) -> None:
    os.mkfifo(path)


def _socket(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # paths of sockets are short
    try:
        socket.socket(socket.AF_UNIX).bind(path.name)
    finally:
        os.chdir(here)


def _device(path: Path) -> None:
    path.symlink_to("/dev/tty")


@pytest.mark.parametrize("make", [_pipe, _socket, _device], ids=["pipe", "socket", "device"])
def test_what_is_no_regular_file_is_refused_at_once(tmp_path: Path, make: Callable[[Path], None]) -> None:
    """Opened, probed, or asked whether it is ours, it is never waited for."""
    make(tmp_path / "step_1.pt")
    make(tmp_path / "step_1.pt.json")
    with pytest.raises((RefusedCheckpoint, OSError)):
        OpenFile(str(tmp_path / "step_1.pt"))
    with pytest.raises(RefusedCheckpoint):
        probe(str(tmp_path / "step_1.pt"))
    assert not is_output(tmp_path / "step_1.pt")


FOLDERS = folder_forms.FORMS | dcp_forms.FORMS | deepspeed_forms.FORMS


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("form", FOLDERS)
def test_a_pipe_in_place_of_any_file_of_a_folder_is_not_waited_for(tmp_path: Path, form: str) -> None:
    """Whichever file of a checkpoint that is a folder is a pipe, the folder is incomplete, refused, or read without it.

    It is never an error of the system, after which it would be read again and again.
    """
    folder = tmp_path / FOLDERS[form].path.format(1)
    FOLDERS[form].write(folder, writers.model(1), 1)
    names = [path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file()]
    for number, name in enumerate(names):
        harmed = tmp_path / f"harmed{number}" / folder.name
        shutil.copytree(folder, harmed)
        (harmed / name).unlink()
        os.mkfifo(harmed / name)
        said: list[Exception | None] = []
        done = threading.Event()

        def look(harmed: Path = harmed, said: list[Exception | None] = said, done: threading.Event = done) -> None:
            try:
                probe(str(harmed))
            except Exception as error:  # noqa: BLE001 - it is looked at below
                said.append(error)  # noqa: B023 - bound by this very line
            finally:
                done.set()

        threading.Thread(target=look, daemon=True).start()
        assert done.wait(20.0), name
        assert all(isinstance(error, RnaWatchError) and not isinstance(error, Unreadable) for error in said), (
            name,
            said,
        )


class _Slow:
    """The real probe on a file system that does not answer before it is told to."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._real = probes.probe
        self.answers = threading.Event()
        self.asked = 0

    def __call__(self, path: str, *arguments: object) -> object:
        """See `probe`."""
        if path.endswith(self._name):
            self.asked += 1
            self.answers.wait(60.0)
        return self._real(path, *arguments)  # type: ignore[arg-type]


def test_a_reading_that_takes_too_long_is_asked_for_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One thread a file, whose answer counts if it comes, unless the file is another one by then; not more than eight."""
    path = tmp_path / "step_1.pt"
    torch.save({"model": {"weight": torch.ones(3)}}, path)
    slow = _Slow("step_1.pt")
    monkeypatch.setattr(probes, "probe", slow)
    reading = Probes(limit_s=0.0, at_hand_s=0.01)
    for _ in range(3):
        with pytest.raises(Unreadable, match="longer than 0 s"):
            reading.layout(str(path))
    with pytest.raises(StillReading):
        Probes(limit_s=60.0, at_hand_s=0.01).layout(str(path))
    assert slow.asked == 2
    slow.answers.set()
    patient = Probes(at_hand_s=10.0)
    first = patient.layout(str(path))
    assert patient.layout(str(path)) is first
    torch.save({"model": {"weight": torch.zeros(4)}}, path)
    assert patient.layout(str(path)).fingerprint != first.fingerprint
    slow.answers.clear()
    many = Probes(limit_s=60.0, at_hand_s=0.0)
    for number in range(9):
        place = tmp_path / f"{number}" / "step_1.pt"
        place.parent.mkdir()
        shutil.copy(path, place)
        with pytest.raises(Unreadable, match="being read" if number < 8 else "other files"):
            many.layout(str(place))
    slow.answers.set()


def test_a_file_that_hangs_holds_up_no_other_and_no_sign_of_life(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another series is taken meanwhile, the daemon ends when it is asked to, and the file is said to be unreadable."""
    train(tmp_path, count=3)
    torch.save({"model": {"weight": torch.ones(3)}}, tmp_path / "hung_1.pt")
    slow = _Slow("hung_1.pt")
    monkeypatch.setattr(probes, "probe", slow)
    try:
        state = watch(tmp_path, lambda state: "step_3.pt" in state.outputs)
    finally:
        slow.answers.set()
    assert state.stopped is not None
    assert {event.checkpoint for event in events(tmp_path, "admitted")} == {f"step_{n}.pt" for n in (1, 2, 3)}
