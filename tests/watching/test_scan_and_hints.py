"""The scan of real folders, and the hints of the real watchdog."""

from __future__ import annotations

import errno
import json
import os
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from watchdog.events import (
    DirCreatedEvent,
    FileClosedEvent,
    FileCreatedEvent,
    FileDeletedEvent,
    FileMovedEvent,
    FileSystemEvent,
)
from watchdog.observers.api import BaseObserver

from rna_watch.errors import UsageError
from rna_watch.layout import bounded_json
from rna_watch.watching import scan as scanning
from rna_watch.watching.hints import Hints, _Handler
from rna_watch.watching.scan import network_file_system, scan

if TYPE_CHECKING:
    from rna_watch.layout.identity import FileIdentity


def _write(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    return path


def _scan(run: Path, *patterns: str) -> list[str]:
    found, problems = scan(run, patterns=patterns, exclude=(run / "rna", run / ".rna-watch"))
    assert problems == []
    return [each.name for each in found]


def test_what_looks_like_a_checkpoint_is_found_and_nothing_else(tmp_path: Path) -> None:
    """Usual endings, also in sub-folders; not hidden or temporary files, other files, or what trainers save next to a model."""
    for name in ("a.pt", "b.ckpt", "sub/c.safetensors", "d.pth.tar", "e.BIN"):
        _write(tmp_path / name)
    for name in (
        ".f.pt",
        ".tmpAbCdEf",
        "g.pt.tmp",
        "h.txt",
        "optimizer.pt",
        "optimizer_2.bin",
        "rng_state_0.pth",
        ".x/i.pt",
    ):
        _write(tmp_path / name)
    assert _scan(tmp_path) == ["a.pt", "b.ckpt", "d.pth.tar", "e.BIN", "sub/c.safetensors"]
    assert _scan(tmp_path, "*.txt", "sub/*") == ["h.txt", "sub/c.safetensors"]


def test_our_outputs_are_never_inputs(tmp_path: Path) -> None:
    """Not in the output tree, not through a link into it, and not next to a manifest, wherever that lies."""
    _write(tmp_path / "rna" / "a.pt")
    _write(tmp_path / ".rna-watch" / "window" / "b.pt")
    (tmp_path / "best.pt").symlink_to("rna/a.pt")
    _write(tmp_path / "old" / "c.pt")
    manifest = {"schema": 1, "inputs": [], "weights": [], "coefficients": []}
    (tmp_path / "old" / "c.pt.json").write_text(json.dumps(manifest))
    _write(tmp_path / "d.pt")
    (tmp_path / "d.pt.json").write_text('{"loss": 1}')
    assert _scan(tmp_path) == ["d.pt"]


def test_links_that_lead_nowhere_and_loops_are_passed_over(tmp_path: Path) -> None:
    """A dangling link is no file, and a folder that links to its parent is not entered."""
    _write(tmp_path / "a.pt")
    (tmp_path / "gone.pt").symlink_to("nowhere.pt")
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "itself.pt").symlink_to("itself.pt")
    assert _scan(tmp_path) == ["a.pt"]


def test_a_run_directory_that_is_not_there_is_told(tmp_path: Path) -> None:
    """A missing folder, or a file in its place, is wrong usage."""
    with pytest.raises(UsageError, match="does not exist"):
        scan(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="no folder"):
        scan(_write(tmp_path / "file"))


def test_a_table_of_damaged_manifests_hides_nothing(tmp_path: Path) -> None:
    """A JSON file next to a checkpoint that is cut off, of another kind or nested without end makes no output of it."""
    for number, text in enumerate(("{", "[]", '"schema"', "[" * 100_000, "")):
        _write(tmp_path / f"{number}.pt")
        (tmp_path / f"{number}.pt.json").write_text(text)
    assert len(_scan(tmp_path)) == 5


def test_folders_are_entered_to_a_depth(tmp_path: Path) -> None:
    """Six folders deep is looked at (outputs/DATE/TIME/lightning_logs/version_0/checkpoints), seven is not."""
    for depth in range(9):
        _write(tmp_path.joinpath(*"abcdefgh"[:depth], "x.pt"))
    assert _scan(tmp_path) == ["/".join([*"abcdef"[:depth], "x.pt"]) for depth in range(6, -1, -1)]


def test_events_wake_and_our_own_files_do_not(tmp_path: Path) -> None:
    """A file written or renamed into the folder wakes; what we write ourselves does not."""
    woken = threading.Event()
    (tmp_path / "rna").mkdir()
    hints = Hints(tmp_path, woken.set, [tmp_path / "rna"])
    assert hints.start() == ""
    try:
        assert hints.alive()
        _write(tmp_path / "a.pt")
        assert woken.wait(10)
        outside = _write(tmp_path.parent / f"{tmp_path.name}-outside.pt")
        woken.clear()
        outside.rename(tmp_path / "b.pt")
        assert woken.wait(10)
        _write(tmp_path / "c.pt")
        while woken.wait(1.0):  # the last echoes of c.pt
            woken.clear()
        _write(tmp_path / "rna" / "ours.pt")
        assert not woken.wait(1.0)
    finally:
        hints.stop()
    assert not hints.alive()


def test_a_folder_that_cannot_be_watched_is_a_reason_not_an_error(tmp_path: Path) -> None:
    """Scans go on without events, and the reason is reported."""
    hints = Hints(tmp_path / "nowhere", lambda: None, [])
    assert "scans find checkpoints all the same" in hints.start()
    assert not hints.alive()
    hints.stop()


def test_a_system_without_watches_left_is_a_reason_not_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reason is reported if the limit of inotify is reached, as with many runs on a host."""

    def schedule(*_arguments: object, **_options: object) -> None:
        raise OSError(errno.ENOSPC, "inotify watch limit reached")

    monkeypatch.setattr(BaseObserver, "schedule", schedule)
    hints = Hints(tmp_path, lambda: None, [])
    assert hints.start() == "no file system events (inotify watch limit reached); scans find checkpoints all the same"
    assert not hints.alive()


@pytest.mark.parametrize(
    ("event", "wakes"),
    [
        (FileCreatedEvent("/run/a.pt"), True),
        (FileCreatedEvent(b"/run/a\xff.pt"), True),
        (FileMovedEvent("/elsewhere/a.pt", "/run/a.pt"), True),
        (FileMovedEvent("/run/a.pt", "/run/rna/a.pt"), False),
        (DirCreatedEvent("/run/rna"), False),
        (FileClosedEvent("/run/rna/a.pt"), False),
        (FileClosedEvent("/run/rnaway.pt"), True),
        (FileClosedEvent("/run/a.pt"), True),
        (FileDeletedEvent("/run/a.pt"), True),
    ],
    ids=lambda event: f"{event.event_type} {event.src_path!r}" if hasattr(event, "src_path") else str(event),
)
def test_which_events_wake(event: FileSystemEvent, wakes: bool) -> None:
    """All but what happens in our own folders, in names of any bytes."""
    woken = []
    handler = _Handler(lambda: woken.append(None), ["/run/rna"])
    handler.dispatch(event)
    assert bool(woken) is wakes


def test_reads_and_writes_are_not_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A training that reads its data below the run, or logs there, costs the daemon nothing: no event of that reaches it."""
    told: list[FileSystemEvent] = []
    monkeypatch.setattr(_Handler, "on_any_event", lambda _, event: told.append(event))
    _write(tmp_path / "data.pt")
    hints = Hints(tmp_path, lambda: None, [])
    log = (tmp_path / "data.pt").open("ab", buffering=0)
    assert hints.start() == ""
    try:
        for _ in range(100):
            (tmp_path / "data.pt").read_bytes()
            list(tmp_path.iterdir())
            log.write(b"a line")
        _write(tmp_path / "last.pt")
        until = time.monotonic() + 10
        while not any(isinstance(each, FileClosedEvent) for each in told) and time.monotonic() < until:
            time.sleep(0.01)
    finally:
        hints.stop()
        log.close()
    assert {os.fspath(each.src_path) for each in told} <= {str(tmp_path), str(tmp_path / "last.pt")}
    assert any(isinstance(each, FileClosedEvent) for each in told)
    assert len(told) < 20


MOUNTS = """\
22 1 254:0 / / rw,relatime - ext4 /dev/vda rw
30 22 0:25 / /scratch rw shared:1 - lustre 10.0.0.1@o2ib:/scratch rw
31 30 0:26 / /scratch/local rw - xfs /dev/nvme0n1 rw
32 22 0:27 / /mnt/my\\040data\\134x rw - nfs4 server:/export rw
33 22 0:28 / /home rw - autofs systemd-1 rw
34 33 0:29 / /home rw - fuse.sshfs host: rw
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/data/run", None),
        ("/scratch", "lustre"),
        ("/scratch/run", "lustre"),
        ("/scratchy/run", None),
        ("/scratch/local/run", None),
        ("/mnt/my data\\x/run", "nfs4"),
        ("/home/me/run", "fuse.sshfs"),
    ],
)
def test_network_file_systems_are_known_by_the_innermost_mount(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, kind: str | None
) -> None:
    """The mount that holds the path counts among nested and stacked ones, with blanks in names or without."""
    (tmp_path / "mountinfo").write_text(MOUNTS)
    monkeypatch.setattr(scanning, "_MOUNTS", tmp_path / "mountinfo")
    assert network_file_system(Path(path)) == kind


def test_a_system_that_tells_no_mounts_is_taken_as_local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is claimed without /proc; the folder of this test is on no network."""
    assert network_file_system(tmp_path) is None
    monkeypatch.setattr(scanning, "_MOUNTS", tmp_path / "mountinfo")
    assert network_file_system(tmp_path) is None


def test_an_unreadable_sub_folder_is_told_and_the_rest_is_found(tmp_path: Path) -> None:
    """One folder without permission does not hide the others."""
    if os.geteuid() == 0:
        pytest.skip("root may read everything")
    _write(tmp_path / "a.pt")
    _write(tmp_path / "closed" / "b.pt").parent.chmod(0)
    found, problems = scan(tmp_path)
    assert [each.name for each in found] == ["a.pt"]
    assert "closed cannot be read" in problems[0]


def test_what_the_system_fails_to_tell_of_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that cannot be looked at stays a candidate, a folder that cannot be listed is named; what is gone is not."""
    for name in ("a.pt", "b.pt", "gone.pt", "in/c.pt"):
        _write(tmp_path / name)
    real, list_real = scanning.identify, os.scandir

    def identify(path: str) -> FileIdentity:
        """The real one on a file system that fails for one file, and that another one just left."""
        if path.endswith(("b.pt", "gone.pt")):
            code = errno.EIO if path.endswith("b.pt") else errno.ENOENT
            raise OSError(code, os.strerror(code))
        return real(path)

    def scandir(path: str) -> object:
        """The real one on a file system that fails for one folder."""
        if str(path).endswith("/in"):
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return list_real(path)

    monkeypatch.setattr(scanning, "identify", identify)
    monkeypatch.setattr(os, "scandir", scandir)
    unlisted: set[str] = set()
    found, problems = scan(tmp_path, unlisted=unlisted)
    assert {each.name: each.identity is None for each in found} == {"a.pt": False, "b.pt": True}
    assert unlisted == {"in"}
    assert [os.strerror(code) in said for said, code in zip(problems, (errno.EIO, errno.ESTALE), strict=True)] == [
        True
    ] * 2


@pytest.mark.parametrize("folder", [False, True])
def test_what_may_be_a_model_of_ours_is_not_taken_where_that_cannot_be_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: bool
) -> None:
    """Nor is it gone: its manifest cannot be opened at the moment. Others beside it are found."""
    _write(tmp_path / "a.pt")
    ours = _write(tmp_path / "model" / "b.pt").parent if folder else _write(tmp_path / "model.pt")
    _write(Path(f"{ours}.json"))
    real = bounded_json.read_bytes

    def read_bytes(path: Path) -> bytes:
        if path == Path(f"{ours}.json"):
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return real(path)

    monkeypatch.setattr(bounded_json, "read_bytes", read_bytes)
    unlisted: set[str] = set()
    found, problems = scan(tmp_path, unlisted=unlisted)
    assert [each.name for each in found] == ["a.pt"]
    assert unlisted == {ours.name}
    assert problems == [f"{'the folder ' * folder}{ours} cannot be read: {os.strerror(errno.EMFILE)}"]


def test_used_up_inotify_instances_leave_scans(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The observer itself cannot be made then: that is the answer of `start`, and nothing is left behind."""

    def refuse() -> BaseObserver:
        """The real constructor, once a user has its 128 instances."""
        raise OSError(errno.EMFILE, "inotify instance limit reached")

    monkeypatch.setattr("rna_watch.watching.hints.Observer", refuse)
    hints = Hints(tmp_path, lambda: None, [])
    assert "inotify instance limit reached" in hints.start()
    assert not hints.alive()
    hints.stop()
