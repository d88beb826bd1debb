"""What is ours: reached below our own folders without following a link, named as we name it, of our owner, marked."""

import errno
import os
from pathlib import Path

import pytest

from rna_watch.errors import StoreError, UsageError
from rna_watch.journal import run_paths
from rna_watch.journal.run_paths import RunPaths
from rna_watch.layout import disk, owned
from rna_watch.publishing import output_tree

MANIFEST = '{"schema": 1, "inputs": [], "weights": [], "coefficients": []}'


@pytest.fixture
def paths(tmp_path):
    """A run whose folders are made and claimed."""
    paths = RunPaths(run=tmp_path / "run", output=tmp_path / "run")
    paths.run.mkdir()
    paths.create()
    return paths


@pytest.fixture
def precious(tmp_path):
    """A folder that is not ours, with names like ours in it."""
    folder = tmp_path / "precious"
    (folder / "a.pt.00000000.pinned").mkdir(parents=True)
    for path in (folder / "data", folder / "a.pt.00000000.pinned" / "data", folder / ".rna-watch-x.1-2.tmp"):
        path.write_text("precious")
    return folder


def test_new_folders_are_on_the_disk_by_their_names(tmp_path, monkeypatch):
    """Whoever makes a folder syncs the one that it lies in, of every folder that is made."""
    synced, sync = [], os.fsync

    def fsync(descriptor):
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    RunPaths(run=tmp_path, output=tmp_path / "a" / "b").create()
    output_tree.write_manifest(tmp_path / "a" / "b" / "rna" / "sub" / "folder" / "c.pt", MANIFEST.encode())
    for parent in (".", "a", "a/b", "a/b/.rna-watch", "a/b/rna", "a/b/rna/sub", "a/b/rna/sub/folder"):
        assert str(tmp_path / parent) in synced, parent


def test_a_link_that_moved_is_on_the_disk(paths, monkeypatch):
    """The rename of `best` is followed by its folder: power that goes takes it back nowhere."""
    acts = []
    sync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda file: (acts.append(os.readlink(f"/proc/self/fd/{file}")), sync(file)))
    monkeypatch.setattr(os, "replace", lambda *names, **at: (acts.append(names[1]), replace(*names, **at)))
    assert output_tree.point(paths.models / "best", paths.models / "a.pt")
    assert acts == ["best", str(paths.models)]


@pytest.mark.parametrize("swap", ["state", "pins"])
def test_a_folder_that_becomes_a_link_later_is_not_followed(paths, precious, swap):
    """After the start, too: every act fails in words, and what lies behind the link stays as it is."""
    place = getattr(paths, swap)
    place.rename(paths.run / "away")
    place.symlink_to(precious if swap == "pins" else precious.parent)
    if swap == "state":
        precious.rename(precious.with_name("pins"))
    target = paths.pins / "a.pt.00000000.pinned"
    acts = (
        lambda: disk.remove(target),
        lambda: disk.write_new(paths.pins / "new", b"x"),
        lambda: disk.rename(target, paths.pins / "b"),
        lambda: disk.patching(paths.pins / "data"),
        lambda: disk.appending(paths.pins / "data"),
        lambda: owned.make_folders(paths.pins / "deep" / "er"),
        lambda: disk.hard_link(str(precious), paths.pins / "b"),
    )
    for act in acts:
        with pytest.raises(OSError, match="symbolic link, which is not followed"):
            act()
    disk.sweep(paths.pins)
    assert sorted(os.listdir(paths.pins)) == [".rna-watch-x.1-2.tmp", "a.pt.00000000.pinned", "data"]
    assert (target / "data").read_text() == "precious"


@pytest.mark.parametrize("act", [disk.appending, disk.patching])
def test_what_is_no_regular_file_is_not_written(paths, precious, act):
    """A link, a FIFO or a folder in the place of a file is an error at once; nobody waits for a reader."""
    (paths.state / "link").symlink_to(precious / "data")
    os.mkfifo(paths.state / "pipe")
    for name in ("link", "pipe", "pins"):
        with pytest.raises(OSError, match=r"symbolic link|No such device|did not make it|Is a directory"):
            act(paths.state / name)
    assert (precious / "data").read_text() == "precious"


@pytest.mark.parametrize(
    "name",
    ["lock", "journal.jsonl", "notes.txt", "pins", "pins/a.pt", "scratch/a.pt", "scratch/candidate-x", "a.pinned"],
)
def test_in_the_state_folder_only_what_is_named_as_ours_is_removed(paths, name):
    """Leftovers have names that we give them; all else stays, whoever asks for it."""
    (paths.state / name).parent.mkdir(exist_ok=True)
    if name != "pins":
        (paths.state / name).write_text("mine")
    with pytest.raises(PermissionError):
        disk.remove(paths.state / name)
    assert (paths.state / name).exists()


def test_without_the_mark_no_pin_is_removed(paths):
    """The names alone make nothing ours: a folder that does not carry the mark keeps all that is in it."""
    pin = paths.pins / "a.pt.00000000.pinned"
    pin.mkdir()
    (paths.state / owned.MARK).unlink()
    with pytest.raises(PermissionError):
        disk.remove(pin)
    with owned.at(paths.state / owned.MARK) as (folder, _):
        owned.put_mark(folder)
    disk.remove(pin)
    assert not pin.exists()


def test_a_model_is_ours_by_the_manifest_beside_it(paths):
    """A folder or file without one stays, one inside it or a link to one does not count; with it all three go."""
    model = paths.models / "checkpoint-5"
    (model / "sub").mkdir(parents=True)
    (model / "checkpoint-5.json").write_text(MANIFEST)
    (paths.models / "real.json").write_text(MANIFEST)
    (paths.models / "checkpoint-5.json").symlink_to("real.json")
    output_tree.remove(model)
    assert (model / "checkpoint-5.json").exists()
    (paths.models / "checkpoint-5.json").unlink()
    (paths.models / "checkpoint-5.json").write_text(MANIFEST)
    (paths.models / "checkpoint-5.export.safetensors").touch()
    output_tree.remove(model)
    assert os.listdir(paths.models) == ["real.json"]


def test_a_full_folder_that_is_not_ours_is_not_swapped_out(paths):
    """A folder that got a model's name without its manifest keeps the name and its content."""
    (paths.models / "a").mkdir()
    (paths.models / "a" / "data").write_text("mine")

    def make():
        with disk.replacing(paths.models / "a", durable=True) as temporary:
            owned.make_folders(temporary)

    with pytest.raises(PermissionError, match="did not make it"):
        make()
    assert (paths.models / "a" / "data").read_text() == "mine"
    assert os.listdir(paths.models) == ["a"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_another_owner_s_files_stay(paths):
    """Our names of another user's files stay, but for pins, which may be links to a trainer's files."""
    made = {
        "model": paths.models / "a.pt",
        "draft": paths.models / ".rna-watch-a.pt.1-2.tmp",
        "pin": paths.pins / "a.pt.00000000.pinned",
        "folder": paths.pins / "b.00000000.pinned",
    }
    (paths.models / "a.pt.json").write_text(MANIFEST)
    for name, path in made.items():
        path.mkdir() if name == "folder" else path.write_text("theirs")
        os.chown(path, 12345, 12345)
    for name, path in made.items():
        if name != "pin":
            with pytest.raises(PermissionError):
                disk.remove(path)
            assert path.exists()
    disk.remove(made["pin"])
    assert not made["pin"].exists()
    with pytest.raises(PermissionError):
        disk.appending(made["model"])


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_the_owner_of_new_files_is_what_counts(paths, monkeypatch):
    """Where a server maps us to another user, that user's files are ours, and those of our own number are not."""
    monkeypatch.setattr(owned, "_uid_of_new_files", lambda _: 12345)
    with pytest.raises(UsageError, match=r"belongs to another user \(0; files of ours get 12345\)"):
        owned.claim(paths.state, ["lock"])
    for path in (paths.state, *paths.state.iterdir()):
        os.chown(path, 12345, 12345)
    owned.claim(paths.state, ["lock"])


def test_a_full_disk_is_no_other_user(paths, monkeypatch):
    """The owner cannot be tried out where no file can be made: that is told later, as what it is."""
    real = os.open

    def full(path, flags, *mode, **where):
        if flags & os.O_EXCL:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(path, flags, *mode, **where)

    monkeypatch.setattr(os, "open", full)
    owned.claim(paths.state, ["lock"])


def test_a_draft_is_reached_from_a_process_that_claimed_nothing(tmp_path, precious, monkeypatch):
    """A worker writes below the temporary name without following links; links above it, which a person typed, it follows."""
    monkeypatch.setattr(owned, "_CLAIMED", {})
    (tmp_path / "typed").symlink_to(tmp_path)
    draft = tmp_path / "typed" / ".rna-watch-a.1-2.tmp"
    owned.make_folders(draft / "sub")
    disk.write_new(draft / "sub" / "b", b"old")
    with disk.patching(draft / "sub" / "b") as file:
        file.write(b"new")
    assert Path(tmp_path, ".rna-watch-a.1-2.tmp", "sub", "b").read_bytes() == b"new"
    (draft / "link").symlink_to(precious)
    with pytest.raises(OSError, match="symbolic link"):
        disk.patching(draft / "link" / "data")
    disk.remove(draft)
    assert (precious / "data").read_text() == "precious"


def test_a_mark_that_cannot_be_looked_at_now_makes_no_folder_foreign(paths, monkeypatch):
    """A process that may open no more files has failed for now: it does not say that the folder is somebody else's."""
    real = os.stat

    def fails(path, *arguments, **options):
        if path == owned.MARK:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return real(path, *arguments, **options)

    monkeypatch.setattr(os, "stat", fails)
    with pytest.raises(StoreError, match="may open no more files"):
        run_paths.adopt_pins(paths)
